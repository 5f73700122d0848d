#!/usr/bin/env bash
# Everything that a GPU proves: `make test-cuda`. scripts/cuda_run.sh says what it needs; PyTorch is that of
# `make test-torch`, or of MQ_TORCH_PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
export MQ_TORCH_PYTHON=${MQ_TORCH_PYTHON:-$PWD/target/torch/venv/bin/python}
[[ ${MQ_WITHOUT_TORCH:-0} == 1 || -n $(command -v "$MQ_TORCH_PYTHON") ]] || {
    echo "test_cuda.sh: no $MQ_TORCH_PYTHON: run make test-torch, set MQ_TORCH_PYTHON, or leave it out with MQ_WITHOUT_TORCH=1" >&2
    exit 1
}
scripts/cuda_bundle.sh
target/cuda-bundle/run.sh test "$@"
