#!/usr/bin/env bash
# Tests mq.torch. `make test-torch`. PyTorch gets an environment of its own: the wheels without CUDA (200 MB) where
# their index can be reached, else those of PyPI (2.3 GB to load, 4.5 GB on disk).
# MQ_TORCH_INDEX names another index for torch; it may be empty.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/torch/venv
requirements=scripts/requirements-torch.txt
index=${MQ_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts "$@"; }

# What torch asks for without triton, which only its compiler uses, and a gigabyte is.
needed_by_torch() {
    "$venv/bin/python" - <<'PY'
import importlib.metadata

from pip._vendor.packaging.requirements import Requirement

for text in importlib.metadata.requires("torch"):
    needed = Requirement(text)
    if needed.name != "triton" and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
PY
}

reachable() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1/torch/" 2>/dev/null
}

stamp="$venv/requirements.sha256"
wanted=$(sha256sum "$requirements" scripts/test_torch.sh)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    torch=$(grep '^torch==' "$requirements")
    if [[ -n $index ]] && reachable "$index"; then
        pip --index-url "$index" --no-deps "$torch"
    else
        pip --no-deps "$torch"
    fi
    needed_by_torch >"$venv/needed.txt"
    # torch is there already; what it asks for is in needed.txt.
    pip -r "$venv/needed.txt" -r <(grep -v '^torch==' "$requirements")
    echo "$wanted" >"$stamp"
fi

# The count is what `make test` says it has skipped.
export MQ_LIBRARY=${MQ_LIBRARY:-$PWD/target/release/libmq.so} HF_HUB_OFFLINE=1
MQ_TORCH_COUNT=$PWD/tests/torch/count "$venv/bin/python" -X dev -W ignore -m pytest -q -rs tests/torch
