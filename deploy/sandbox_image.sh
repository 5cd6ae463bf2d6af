#!/usr/bin/env bash
# Builds the sandbox image; does nothing when it is there and sandbox/image/ has not changed.
#
#   STILLHOUSE_SANDBOX_IMAGE   name of the image        default: stillhouse-sandbox:core
#   STILLHOUSE_BASE_IMAGE      a base image to pull that has python3, gcc and g++ (e.g. python:3.11-bookworm);
#                              default, and where it can't be pulled: one made from Debian packages
#
# Needs a running Docker engine (deploy/setup.sh sees to that).
set -euo pipefail

image=${STILLHOUSE_SANDBOX_IMAGE:-stillhouse-sandbox:core}
suite=bookworm
packages=python3,gcc,g++,libc6-dev
base=stillhouse-base:$suite-core
folder=$(cd "$(dirname "$0")/../sandbox/image" && pwd)
label=org.stillhouse.sandbox.content

docker_up() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
docker_up || { echo "sandbox image: the Docker engine does not answer; start it (dockerd, or systemctl start docker)" >&2; exit 1; }

content=$( (cd "$folder" && LC_ALL=C find . -maxdepth 1 -type f \( -name '*.py' -o -name Dockerfile \) -print0 \
    | LC_ALL=C sort -z | xargs -0 sha256sum; echo "${STILLHOUSE_BASE_IMAGE:-$base $packages}") | sha256sum | cut -c1-16)

have=$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$image" 2>/dev/null || true)
if [ "$have" = "$content" ]; then
    echo "sandbox image: $image is up to date ($content)"
    exit 0
fi

old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)

make_base() {
    docker image inspect "$base" >/dev/null 2>&1 && return
    if ! command -v mmdebstrap >/dev/null; then
        [ "$(id -u)" = 0 ] || { echo "sandbox image: install mmdebstrap, or set STILLHOUSE_BASE_IMAGE" >&2; exit 1; }
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
    fi
    echo "sandbox image: making $base from Debian packages (about 30 s)"
    # Without documentation, translations and package lists: nothing in the container reads them.
    mmdebstrap --quiet --variant=essential --include="$packages" \
        --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        "$suite" - | docker import - "$base" >/dev/null
}

if [ -n "${STILLHOUSE_BASE_IMAGE:-}" ] && timeout 120 docker pull -q "$STILLHOUSE_BASE_IMAGE" >/dev/null 2>&1; then
    base=$STILLHOUSE_BASE_IMAGE
else
    make_base
fi

# Not BuildKit: its client plug-in is often missing, and one COPY needs none of it.
if ! log=$(DOCKER_BUILDKIT=0 docker build --quiet --network none --build-arg "BASE=$base" \
        --label "$label=$content" --tag "$image" "$folder" 2>&1); then
    echo "sandbox image: docker build failed:" >&2
    echo "$log" >&2
    exit 1
fi
# The version before this one, unless a container still runs on it.
[ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
echo "sandbox image: built $image ($content) on $base"
