#!/usr/bin/env bash
# The library without the cargo feature `cuda`: its size, its symbols, and what it says where a GPU is named.
# Builds it into target/cpu-only.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/cpu-only
limit=5000000
fail() {
    printf 'cpu_only.sh: %s\n' "$*" >&2
    exit 1
}

cargo build --release --locked --lib --no-default-features --target-dir "$out"
library=$out/release/libmq.so
strip -s "$library" -o "$out/stripped.so"
size=$(stat -c %s "$out/stripped.so")
echo "without CUDA, stripped: $size bytes"
((size < limit)) || fail "the stripped library has $size bytes, expected fewer than $limit"
if grep -F libcuda "$out/stripped.so" >/dev/null; then fail "the library looks for the CUDA driver"; fi
sed '/^ *#/d' include/mq.h | tr '\n' ' ' | grep -oE 'MQ_API[^(;]*\(' | grep -oE 'mq_[a-z0-9_]+ *\($' | tr -d ' (' |
    sort >"$out/declared"
nm -D --defined-only "$library" | awk '{ print $3 }' | sort | diff "$out/declared" - >&2 ||
    fail "the functions of include/mq.h (<) and of this library (>) differ"

ln -sfn libmq.so "$out/release/libmq.so.$(sed -n 's/^version = "\([0-9]*\.[0-9]*\)\..*/\1/p' Cargo.toml | head -n 1)"
gcc -std=c99 -Wall -Wextra -Werror -pedantic -Iinclude tests/packaging/cpu_only.c -L"$out/release" -lmq \
    -Wl,-rpath,"$out/release" -o "$out/cpu_only"
"$out/cpu_only"
echo "without CUDA: passed"
