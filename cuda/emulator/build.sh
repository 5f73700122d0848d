#!/usr/bin/env bash
# Builds the mock driver with all kernels of one unit: target/emulator/libcuda.so.1, and the link libcuda.so.
#     cuda/emulator/build.sh [UNIT.cu [FOLDER]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
unit=${1:-$root/src/kernels/cuda/all.cu}
out=${2:-$root/target/emulator}
objects=$out/objects
mkdir -p "$objects"
# One build at a time: tests that run side by side may all ask for it.
exec 9>"$objects/lock"
flock 9

flags=(-std=c++17 -O2 -g -fPIC -ffp-contract=off -fno-fast-math -fvisibility=hidden -fno-gnu-unique -pthread
    -Wall -Wextra -Werror -Wno-unknown-pragmas -DMQ_EMULATOR -I"$here" -I"$(dirname "$unit")")
compiler=${CXX:-g++}

# is_current OBJECT: built after everything it was made of, and by this script.
is_current() {
    [[ -f $1 && -f $1.d && ! $here/build.sh -nt $1 ]] || return 1
    local file
    while read -r file; do
        [[ -n $file && (! -e $file || $file -nt $1) ]] && return 1
    done < <(sed -e 's/^[^:]*: *//' -e 's/ *\\$//' "$1.d" | tr ' ' '\n')
    return 0
}

running=0
compile() { # SOURCE OBJECT FLAGS...
    local source=$1 object=$2
    shift 2
    linked+=("$object")
    is_current "$object" && return
    changed=1
    "$compiler" "${flags[@]}" -MMD -MF "$object.d" "$@" -c "$source" -o "$object" &
    pids+=($!)
    running=$((running + 1))
    if ((running >= 2)); then
        wait "${pids[0]}"
        pids=("${pids[@]:1}")
        running=$((running - 1))
    fi
}

linked=() pids=() changed=0
compile "$unit" "$objects/kernels.o" -x c++
for source in "$here"/*.cpp; do
    compile "$source" "$objects/$(basename "$source" .cpp).o"
done
for pid in "${pids[@]}"; do
    wait "$pid"
done
library=$out/libcuda.so.1
if ((changed)) || [[ ! -f $library || $here/exports.map -nt $library ]]; then
    "$compiler" -shared -pthread -o "$library.new" "${linked[@]}" -Wl,-soname,libcuda.so.1 \
        -Wl,--version-script="$here/exports.map" -Wl,--no-undefined -ldl
    mv "$library.new" "$library"
    ln -sf libcuda.so.1 "$out/libcuda.so"
fi
