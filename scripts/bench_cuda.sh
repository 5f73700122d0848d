#!/usr/bin/env bash
# Measures taps on a GPU: against a device-to-device copy, and beside PyTorch and NVIDIA Model Optimizer where the Python
# that MQ_BENCH_PYTHON names (default: python3) has them with CUDA. `make bench-cuda`; docs/benchmarks.md says how to
# read it.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/bench
git log -1 --format='commit %h of %cs'
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
cargo bench --locked --bench cuda
python=${MQ_BENCH_PYTHON:-python3}
folder=$(scripts/cublas_folder.sh "$python")
LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" cargo bench --locked --bench cuda_products
if "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    export PYTHONPATH=bindings/python MQ_LIBRARY=target/release/libmq.so
    "$python" benches/cuda_compare.py target/bench/cuda_compare.json
    "$python" benches/cuda_awq.py target/bench/cuda_awq.json
else
    echo "NOT COMPARED: $python has no PyTorch with CUDA (MQ_BENCH_PYTHON names another)"
fi
