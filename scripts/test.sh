#!/usr/bin/env bash
# Runs every test: Rust, the header and symbols, the C harness (plain, valgrind, AddressSanitizer), the C++ wrapper, what
# is installed, the Python package, the example engine on the real model, the CUDA kernels against their sources, the
# documentation, and the lints. `make test`; MQ_OFFLINE=1 where the Python package index cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$PWD/.venv/bin/python"
release="$PWD/target/release"

step() { printf '\n== %s\n' "$*"; }

step "lints"
scripts/lint.sh
step "Rust tests"
cargo test --workspace --locked
step "CUDA kernels are what their sources give"
cargo xtask kernels --check
step "CUDA kernels and the host side, on the emulator"
cuda/emulator/build.sh
# valgrind has one thread: the C tests go beside what compiles, with libraries that nothing compiles anew.
mkdir -p target/logs target/tested
cp "$release"/libmq.so "$release"/libmq.a target/tested/
MQ_REQUIRE_CLANG=1 tests/run_c_abi.sh "$PWD/target/tested" >target/logs/c_abi.log 2>&1 &
c_tests=$!
trap 'kill "$c_tests" 2>/dev/null || true' EXIT
cuda/emulator/run_tests.sh
on_emulator() { LD_LIBRARY_PATH="$PWD/target/emulator" MQ_REQUIRE_CUDA=1 "$@"; }
# As `make test-cuda` and `make bench-cuda` run it; PyTorch with CUDA and compute-sanitizer need a GPU.
scripts/cuda_bundle.sh
export MQ_ON_EMULATOR=1 MQ_WITHOUT_TORCH=1 MQ_WITHOUT_SANITIZER=1 MQ_STEP_SECONDS=1800
on_emulator target/cuda-bundle/run.sh test
# Whether the benchmark runs; its times mean nothing here.
MQ_BENCH_BYTES=65536 MQ_BENCH_ROUNDS=1 MQ_BENCH_SWEEP_ROWS=4 MQ_BENCH_COLUMNS=96 MQ_BENCH_ROWS=64 \
    on_emulator target/cuda-bundle/run.sh bench
# Every launch three times, in other orders of threads: a missing barrier shows.
MQ_MOCK_CHECK=1 on_emulator target/cuda-bundle/run.sh test golden cuda_model cuda_compress cuda_search
MQ_MOCK_CHECK=1 on_emulator target/cuda-bundle/bin/lib clipping quadratic
step "ABI, installed packages, and the library without CUDA"
tests/packaging/abi.sh
tests/packaging/run.sh "$release"
tests/packaging/cpu_only.sh
step "C and Python tests under AddressSanitizer"
tests/run_asan.sh
step "Python tests"
"$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps ./bindings/python
"$python" -X dev -m pytest -q -rs tests/python
on_emulator "$python" -X dev -m pytest -q tests/python/test_gpu_arrays.py
step "C and C++ tests, also under valgrind"
wait "$c_tests" || { cat target/logs/c_abi.log; exit 1; }
trap - EXIT
cat target/logs/c_abi.log
step "PyTorch tests"
if "$python" -W ignore -c "import torch, transformers" 2>/dev/null; then
    "$python" -m pytest -q tests/torch
else
    echo "SKIPPED: $(<tests/torch/count) PyTorch tests (torch is not installed; make test-torch)"
fi
step "documentation"
[[ ${MQ_OFFLINE:-0} == 1 ]] || scripts/setup.sh .venv docs
scripts/docs.sh
[[ ${MQ_OFFLINE:-0} == 1 ]] ||
    MQ_LIBRARY="$release/libmq.so" PYTHONPATH=bindings/python "$python" -m pytest -q tests/docs
step "example engine"
make --no-print-directory -C examples/tiny_llama test
step "all passed"
