#!/usr/bin/env bash
# Builds everything that is run on a GPU into one folder, target/cuda-bundle: tests, benchmarks, library, Python package,
# and run.sh (scripts/cuda_run.sh), which needs neither Rust nor a compiler nor the sources. `make cuda-bundle` packs it
# for another machine: x86-64 or aarch64 as this one, with a C library no older than this one's.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/cuda-bundle
rm -rf "$out"
mkdir -p "$out"/{bin,benches,tests,bindings,target/release}

# Names and files of what cargo has built.
executables() {
    python3 -c '
import json, sys
for line in sys.stdin:
    entry = json.loads(line)
    if entry.get("executable") and entry["profile"]["test"] | ("bench" in entry["target"]["kind"]):
        kind = entry["target"]["kind"]
        print("lib" if "bench" not in kind and "test" not in kind else entry["target"]["name"], entry["executable"])
'
}
take() { # what cargo is told, the prefix of the name
    local prefix=$1
    shift
    cargo "$@" --locked --no-run --message-format=json | executables | while read -r name file; do
        strip -o "$out/bin/$prefix$name" "$file"
    done
}
take "" test --lib --test golden --test 'cuda_*' --test requantize
take bench_ bench --bench cuda --bench cuda_products
cargo build --release --locked
strip -o "$out/target/release/libmq.so" target/release/libmq.so
ln -s libmq.so "$out/target/release/libmq.so.0.1"

objects=target/abi-cuda
mkdir -p "$objects"
rm -f "$objects"/*.o
for source in tests/c/*.c; do
    [[ $source == */quickstart.c ]] || gcc -std=c99 -D_POSIX_C_SOURCE=200809L -O1 -g -Iinclude -c "$source" \
        -o "$objects/$(basename "$source" .c).o"
done
gcc "$objects"/*.o -o "$out/bin/harness" -Ltarget/release -lmq -Wl,-rpath,"\$ORIGIN/../target/release" -lpthread -lm

cp -r bindings/python "$out/bindings/python"
cp -r tests/python tests/torch tests/torch_cuda "$out/tests/"
cp benches/cuda_*.py "$out/benches/"
cp Cargo.toml "$out/" # has the version
find "$out" \( -name __pycache__ -o -name '*.egg-info' -o -name build \) -prune -exec rm -rf {} +
rm -f "$out/bindings/python/mq/libmq.so"
cp scripts/cuda_run.sh "$out/run.sh"
cp scripts/cublas_folder.sh "$out/"
git log -1 --format='commit %h of %cs' >"$out/commit" 2>/dev/null || echo "not from a checkout" >"$out/commit"
git diff --quiet HEAD 2>/dev/null || echo "with changes that are not committed" >>"$out/commit"
