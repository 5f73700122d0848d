#!/usr/bin/env bash
# Builds the mock driver with all kernels of one unit, target/emulator/libcuda.so.1, and the link libcuda.so; beside it
# the mock of cuBLAS, libcublas.so.12. For tests of what is missing, in folders of their own: without_cublas has the driver
# alone, cublas_without_workspace a cuBLAS that lacks a function.
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

# wait_for_all: ends the script if a compiler failed.
wait_for_all() {
    local pid
    for pid in "${pids[@]}"; do
        wait "$pid"
    done
    pids=() running=0
}

# link_library LIBRARY SONAME MAP FLAGS...: of what was compiled last.
link_library() {
    local library=$1 soname=$2 map=$3
    shift 3
    if ((changed)) || [[ ! -f $library || $map -nt $library ]]; then
        mkdir -p "$(dirname "$library")"
        "$compiler" -shared -pthread -o "$library.new" "${linked[@]}" -Wl,-soname,"$soname" \
            -Wl,--version-script="$map" -Wl,--no-undefined "$@"
        mv "$library.new" "$library"
    fi
}

linked=() pids=() changed=0
compile "$unit" "$objects/kernels.o" -x c++
for source in "$here"/*.cpp; do
    compile "$source" "$objects/$(basename "$source" .cpp).o"
done
wait_for_all
link_library "$out/libcuda.so.1" libcuda.so.1 "$here/exports.map" -ldl
ln -sf libcuda.so.1 "$out/libcuda.so"

linked=() changed=0
for source in "$here"/cublas/*.cpp; do
    compile "$source" "$objects/cublas_$(basename "$source" .cpp).o"
done
wait_for_all
link_library "$out/libcublas.so.12" libcublas.so.12 "$here/cublas/exports.map" -L"$out" -lcuda
link_library "$out/cublas_without_workspace/libcublas.so.12" libcublas.so.12 \
    "$here/cublas/without_workspace.map" -L"$out" -lcuda
mkdir -p "$out/without_cublas"
ln -sf ../libcuda.so.1 "$out/without_cublas/libcuda.so.1"
