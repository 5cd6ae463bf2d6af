#!/usr/bin/env bash
# Builds a sandbox image; does nothing when it is there and neither sandbox/image/ nor this script has changed.
#
#   deploy/sandbox_image.sh [core|full]
#
#   core (default)   Python, C, C++, Bash                          → stillhouse-sandbox:core, 0.5 GB
#   full             and JavaScript, Java, Go, Rust                → stillhouse-sandbox:full, 1.8 GB
#
#   STILLHOUSE_BASE_IMAGE      a Debian image to begin with (default: debian:bookworm-slim); where it can't be pulled,
#                              and this is a Debian host, the base is made of packages with mmdebstrap
#
# A new language: an entry in sandbox/image/languages.py, and its package below. Needs a running Docker engine
# (deploy/setup.sh sees to that).
set -euo pipefail

variant=${1:-core}
case $variant in
    core) packages=(python3 gcc g++ libc6-dev) ;;
    full) packages=(python3 gcc g++ libc6-dev nodejs openjdk-17-jdk-headless golang-go rustc) ;;
    *) echo "sandbox image: expected core or full, got $variant" >&2; exit 2 ;;
esac
image=stillhouse-sandbox:$variant
suite=bookworm
base=stillhouse-base:$suite-$variant
pulled=${STILLHOUSE_BASE_IMAGE:-debian:$suite-slim}
here=$(cd "$(dirname "$0")" && pwd)
folder=$(cd "$here/../sandbox/image" && pwd)
label=org.stillhouse.sandbox.content

say() { echo "sandbox image: $*"; }
die() { echo "sandbox image: $*" >&2; exit 1; }
docker_up() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
docker_up || die "the Docker engine does not answer; start it (dockerd, or systemctl start docker)"

content=$( (cd "$folder" && LC_ALL=C find . -maxdepth 1 -type f \( -name '*.py' -o -name Dockerfile \) -print0 \
    | LC_ALL=C sort -z | xargs -0 sha256sum; echo "$pulled ${packages[*]}") | sha256sum | cut -c1-16)
content_of() { docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null || true; }
if [ "$(content_of "$image")" = "$content" ]; then
    say "$image is up to date ($content)"
    exit 0
fi
old=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)

# Not BuildKit: its client plug-in is often missing, and these builds need none of it.
build() { DOCKER_BUILDKIT=0 docker build --quiet "$@"; }

from_pulled() {
    timeout 300 docker pull --quiet "$pulled" >/dev/null 2>&1 || docker image inspect "$pulled" >/dev/null 2>&1 || return 1
    say "making $base on $pulled"
    build --label "$label=${packages[*]}" --tag "$base" - <<EOF
FROM $pulled
RUN mkdir -p /usr/share/man/man1 && apt-get update -qq \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${packages[*]} \\
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
EOF
}

from_packages() {
    if ! command -v mmdebstrap >/dev/null; then
        { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
            || die "$pulled can't be pulled, and mmdebstrap is missing; install it, or set STILLHOUSE_BASE_IMAGE"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null
    fi
    say "making $base of Debian packages (about 30 s; full: a minute)"
    local root
    root=$(mktemp --suffix .tar)
    trap 'rm -f "$root"' RETURN
    # Without documentation, translations and package lists: nothing in the container reads them. (The JDK's
    # packages fail where there is no folder for manual pages.)
    mmdebstrap --quiet --variant=essential --include="$(IFS=,; echo "${packages[*]}")" \
        --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1"/usr/share/man/man1' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' \
        "$suite" "$root"
    docker import --change "LABEL $label=\"${packages[*]}\"" "$root" "$base" >/dev/null
}

[ "$(content_of "$base")" = "${packages[*]}" ] || from_pulled || from_packages

if ! log=$(build --network none --build-arg "BASE=$base" --label "$label=$content" --tag "$image" "$folder" 2>&1); then
    echo "$log" >&2
    die "docker build failed"
fi
# The version before this one, unless a container still runs on it.
[ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
say "built $image ($content) on $base"
