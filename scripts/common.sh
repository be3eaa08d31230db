# Shared by the scripts: finding the top folder, installing what is missing, counting.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1

say() { printf '%s\n' "$*"; }

# install_packages NAME...: Debian packages that are not there yet, as root or through sudo; otherwise says which.
install_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null || return 0 # another system: cmake will say what it cannot find
    for name in "$@"; do
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing: ${missing[*]}"
    local as=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            say "not root and no sudo; please run: apt-get install ${missing[*]}" >&2
            return 1
        fi
        as=(sudo)
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${as[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    "${as[@]}" apt-get update >/dev/null 2>&1
    "${as[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null || {
        say "could not install: ${missing[*]}" >&2
        return 1
    }
}

build_packages=(gcc libc6-dev make cmake pkg-config libjansson-dev libmicrohttpd-dev libedit-dev)
jobs=$(nproc 2>/dev/null || echo 2)

# ctest_counts LOG: sets n_passed and n_failed from the output of ctest.
ctest_counts() {
    local total
    n_passed=0 n_failed=1
    total=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$1" | tail -n 1)
    [ -n "$total" ] || return 0
    n_failed=$(sed -n 's/.*, \([0-9]*\) tests failed out of.*/\1/p' "$1" | tail -n 1)
    n_passed=$((total - n_failed))
}
