#!/usr/bin/env bash
# Measures taps on a GPU: against a device-to-device copy, and beside PyTorch and NVIDIA Model Optimizer where the Python
# that MQ_BENCH_PYTHON names (default: python3) has them with CUDA. `make bench-cuda`; docs/benchmarks.md says how to
# read it.
set -euo pipefail
cd "$(dirname "$0")/.."
export MQ_TORCH_PYTHON=${MQ_BENCH_PYTHON:-python3}
if ! "$MQ_TORCH_PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    echo "NOT COMPARED: $MQ_TORCH_PYTHON has no PyTorch with CUDA (MQ_BENCH_PYTHON names another)"
    export MQ_WITHOUT_TORCH=1
fi
scripts/cuda_bundle.sh
target/cuda-bundle/run.sh bench "$@"
