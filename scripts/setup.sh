#!/usr/bin/env bash
# Makes sure that everything the Makefile needs is there: installs Debian packages where that is
# allowed, else names what is missing in one line. Python tools go into a private environment.
set -euo pipefail
venv=${1:-.venv}
part=${2:-} # `docs`: what only the documentation needs, too
cd "$(dirname "$0")/.."

declare -A package=([gcc]=gcc [g++]=g++ [clang]=clang [valgrind]=valgrind [nm]=binutils [python3]=python3 [cmake]=cmake
    [ninja]=ninja-build [pkg-config]=pkg-config [abidiff]=abigail-tools)
[[ $part != docs ]] || package+=([doxygen]=doxygen)
missing=()
for tool in "${!package[@]}"; do
    command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
if command -v python3 >/dev/null && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3-venv)
fi
if ((${#missing[@]})); then
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "mq needs: ${missing[*]}. Install them (Debian: sudo apt-get install ${missing[*]}) and run this again." >&2
        exit 1
    fi
fi
if ! command -v cargo >/dev/null; then
    echo "mq needs Rust 1.89 or newer: install it with rustup and run this again." >&2
    exit 1
fi

# The environment is made anew when what it should hold changes. (scripts/docs.sh adds its own tools.)
stamp="$venv/requirements.sha256"
wanted=$(sha256sum scripts/requirements.txt)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/requirements.txt
    echo "$wanted" >"$stamp"
fi
