#!/usr/bin/env bash
# Everything that a GPU proves: `make test-cuda`. Needs an NVIDIA driver for CUDA 12.0 or later and a GPU from compute
# capability 7.5 on; nothing is skipped (MQ_REQUIRE_CUDA=1). compute-sanitizer comes with the CUDA toolkit;
# MQ_WITHOUT_SANITIZER=1 leaves its part out. cuBLAS comes with PyTorch or the toolkit; MQ_WITHOUT_CUBLAS=1 leaves its out.
set -euo pipefail
cd "$(dirname "$0")/.."
export MQ_REQUIRE_CUDA=1

step() { printf '\n== %s\n' "$*"; }

step "the GPU"
nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv
step "kernels, golden vectors, models, streams and graphs"
cargo test --locked --lib
cargo test --locked --test golden -- --nocapture
cargo test --locked --test 'cuda_*' --test requantize
step "the C ABI on the GPU"
out=target/abi-cuda
mkdir -p "$out"
rm -f "$out"/*.o
for source in tests/c/*.c; do
    [[ $source == */quickstart.c ]] || gcc -std=c99 -D_POSIX_C_SOURCE=200809L -O1 -g -Iinclude -c "$source" \
        -o "$out/$(basename "$source" .c).o"
done
gcc "$out"/*.o -o "$out/harness" -Ltarget/release -lmq -Wl,-rpath,"$PWD/target/release" -lpthread -lm
ln -sf libmq.so target/release/libmq.so.0.1
"$out/harness" cuda

step "PyTorch on the GPU"
# An environment with torch, transformers and pytest: that of `make test-torch`, or MQ_TORCH_PYTHON.
torch_python=${MQ_TORCH_PYTHON:-target/torch/venv/bin/python}
[[ -n $(command -v "$torch_python") ]] || {
    echo "test_cuda.sh: no $torch_python: run make test-torch, or set MQ_TORCH_PYTHON" >&2
    exit 1
}
"$torch_python" -W ignore -m pytest -q tests/torch_cuda
PYTHONPATH=bindings/python MQ_LIBRARY=$PWD/target/release/libmq.so \
    "$torch_python" -X dev -m pytest -q tests/python/test_gpu_arrays.py

step "cuBLAS"
if [[ ${MQ_WITHOUT_CUBLAS:-0} == 1 ]]; then
    echo "LEFT OUT: MQ_WITHOUT_CUBLAS=1"
else
    folder=$(scripts/cublas_folder.sh "$torch_python")
    for tests in "--lib cublas" "--test cuda_cublas"; do
        # shellcheck disable=SC2086 # words
        LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" MQ_REQUIRE_CUBLAS=1 \
            cargo test --locked $tests -- --nocapture
    done
fi

step "compute-sanitizer"
if [[ ${MQ_WITHOUT_SANITIZER:-0} == 1 ]]; then
    echo "LEFT OUT: MQ_WITHOUT_SANITIZER=1"
else
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    [[ -x $sanitizer ]] || {
        echo "test_cuda.sh: compute-sanitizer is missing: install the CUDA toolkit, or set MQ_WITHOUT_SANITIZER=1" >&2
        exit 1
    }
    tests=$(cargo test --locked --lib --no-run 2>&1 | sed -n 's/.*(\(target[^)]*\)).*/\1/p')
    for tool in memcheck racecheck; do
        step "compute-sanitizer, $tool"
        "$sanitizer" --tool "$tool" --error-exitcode 9 "$tests" --test-threads 1 kernels::
    done
fi
step "all passed"
