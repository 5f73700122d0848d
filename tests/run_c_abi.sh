#!/usr/bin/env bash
# Everything that speaks C, against a built library: the headers alone, the exported symbols, the C
# harness (shared, static, under valgrind), the quickstart, and the C++ wrapper.
#
# Usage: tests/run_c_abi.sh LIBDIR      LIBDIR holds libmq.so and libmq.a, as target/release does
# MQ_REQUIRE_CLANG=1 makes a missing clang an error. Needs gcc, g++, binutils and valgrind.
set -euo pipefail
libdir=$(cd "${1:?usage: $0 LIBDIR}" && pwd)
cd "$(dirname "$0")/.."
out=$PWD/target/abi
soname=libmq.so.0.1
warnings=(-Wall -Wextra -Werror -pedantic)
# What a Rust static library needs of the system.
system_libs=(-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc)
valgrind=(valgrind -q --num-callers=40 --leak-check=full
    --show-leak-kinds=definite,indirect,possible
    --errors-for-leak-kinds=definite,indirect,possible
    --error-exitcode=9 --suppressions=tests/valgrind.supp)

step() { printf -- '-- %s\n' "$*"; }
fail() {
    printf 'run_c_abi.sh: %s\n' "$*" >&2
    exit 1
}

rm -rf "$out"
mkdir -p "$out/obj" "$out/lib"
# The loader asks for the SONAME; an installed library has a link of that name.
ln -s "$libdir/libmq.so" "$out/lib/$soname"
ln -s "$libdir/libmq.so" "$out/lib/libmq.so"
# Set here, so that no library from elsewhere is tested by mistake.
export LD_LIBRARY_PATH=$out/lib

compilers=("gcc g++")
if command -v clang >/dev/null && command -v clang++ >/dev/null; then
    compilers+=("clang clang++")
elif [[ ${MQ_REQUIRE_CLANG:-0} == 1 ]]; then
    fail "clang is not installed, but MQ_REQUIRE_CLANG=1"
else
    echo "clang is not installed: its part is left out"
fi

step "headers alone"
for pair in "${compilers[@]}"; do
    read -r cc cxx <<<"$pair"
    for standard in c99 c11; do
        echo '#include "mq.h"' | "$cc" -std=$standard "${warnings[@]}" -fsyntax-only -Iinclude -x c -
    done
    for standard in c++11 c++17; do
        echo '#include "mq.h"' | "$cxx" -std=$standard "${warnings[@]}" -fsyntax-only -Iinclude -x c++ -
    done
    for header in include/mq.hpp include/mq/*.hpp; do # each includes what it needs
        echo "#include \"${header#include/}\"" | "$cxx" -std=c++17 "${warnings[@]}" -fsyntax-only -Iinclude -x c++ -
    done
done

step "exported symbols"
sed '/^ *#/d' include/mq.h | tr '\n' ' ' | grep -oE 'MQ_API[^(;]*\(' |
    grep -oE 'mq_[a-z0-9_]+ *\($' | tr -d ' (' | sort >"$out/declared"
[[ -s $out/declared ]] || fail "no MQ_API functions found in include/mq.h"
nm -D --defined-only "$libdir/libmq.so" | awk '{ print $3 }' | sort >"$out/exported"
diff "$out/declared" "$out/exported" >&2 ||
    fail "include/mq.h (<) and the symbols of libmq.so (>) differ"
readelf -d "$libdir/libmq.so" | grep -F "Library soname: [$soname]" >/dev/null ||
    fail "the SONAME of libmq.so is not $soname"
echo "$(wc -l <"$out/declared") functions, $soname"

step "C harness"
compile_c() { gcc -std=c99 -D_POSIX_C_SOURCE=200809L "${warnings[@]}" -O1 -g -Iinclude -c "$1" -o "$2"; }
for source in tests/c/*.c; do
    compile_c "$source" "$out/obj/$(basename "$source" .c).o"
done
mv "$out/obj/quickstart.o" "$out/"
# The linker's own list of what the harness calls, so that a comment does not count as a test.
nm -u "$out"/obj/*.o | awk '/ mq_/ { print $2 }' | sort -u >"$out/called"
comm -23 "$out/declared" "$out/called" >"$out/untested"
[[ ! -s $out/untested ]] || fail "not called by tests/c: $(tr '\n' ' ' <"$out/untested")"
gcc "$out"/obj/*.o -o "$out/harness" -L"$libdir" -lmq -lpthread -lm
gcc "$out"/obj/*.o "$libdir/libmq.a" "${system_libs[@]}" -o "$out/harness_static"

step "harness, shared library"
"$out/harness"
for isa in scalar avx2; do
    step "harness, MQ_ISA=$isa"
    MQ_ISA=$isa "$out/harness"
done
step "harness, static library"
"$out/harness_static"
step "harness, CUDA on the emulator"
cuda/emulator/build.sh
LD_LIBRARY_PATH="$out/lib:$PWD/target/emulator" MQ_REQUIRE_CUDA=1 "$out/harness" cuda
step "harness, valgrind" # its 3.19 does not know AVX-512
MQ_ISA=avx2 "${valgrind[@]}" "$out/harness"

step "quickstart"
gcc "$out/quickstart.o" -o "$out/quickstart" -L"$libdir" -lmq
"$out/quickstart" | tee "$out/quickstart.txt"
[[ $(<"$out/quickstart.txt") == "amax 2, 1.5 became 1.49606" ]] || fail "the quickstart printed something else"

step "quickstart of C++"
g++ -std=c++17 "${warnings[@]}" -Iinclude examples/one_layer.cpp -o "$out/one_layer_cpp" -L"$libdir" -lmq
"$out/one_layer_cpp" | tee "$out/one_layer_cpp.txt"
printf 'amax 2, 1.5 became 1.49606\n0.25 became 0.251969\n' | cmp - "$out/one_layer_cpp.txt" ||
    fail "the quickstart of C++ printed something else"

for pair in "${compilers[@]}"; do
    read -r _ cxx <<<"$pair"
    step "C++ wrapper, $cxx"
    mkdir -p "$out/obj-$cxx"
    for source in tests/cpp/*.cpp; do
        "$cxx" -std=c++17 "${warnings[@]}" -O1 -g -Iinclude -c "$source" \
            -o "$out/obj-$cxx/$(basename "$source" .cpp).o"
    done
    "$cxx" "$out/obj-$cxx"/*.o -o "$out/wrapper-$cxx" -L"$libdir" -lmq -lpthread
    "$out/wrapper-$cxx"
done
# As for the harness: what the wrapper does not reach, or its tests do not, is named.
nm -u "$out"/obj-g++/*.o | awk '/ mq_/ { print $2 }' | sort -u >"$out/wrapped"
comm -23 "$out/declared" "$out/wrapped" >"$out/unwrapped"
[[ ! -s $out/unwrapped ]] || fail "not called by mq.hpp and tests/cpp: $(tr '\n' ' ' <"$out/unwrapped")"
# Every struct that carries its size is in the test of older and newer callers.
sed 's|/\*.*||; s|^ \*.*||' include/mq.h | awk '/^typedef struct mq_/ { name = $3 } /uint32_t struct_size;/ { print name }' |
    sort -u >"$out/sized"
[[ -s $out/sized ]] || fail "no struct with struct_size found in include/mq.h"
while read -r name; do
    grep -q "\"$name\"" tests/c/test_sizes.c || fail "$name carries its size, but is not in tests/c/test_sizes.c"
done <"$out/sized"
step "C++ wrapper, valgrind"
MQ_ISA=avx2 "${valgrind[@]}" "$out/wrapper-g++"
echo "C ABI: all steps passed"
