#!/usr/bin/env bash
# Measures: mq's kernels against a plain copy and a product of matrices, and against PyTorch. `make bench`.
# PyTorch goes into an environment of its own (several gigabytes); MQ_BENCH_TORCH=0 leaves it out.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/bench
mkdir -p "$out"

cargo bench --locked --bench kernels --bench histogram --bench gram --bench search
parts=("$out/kernels.json" "$out/histogram.json" "$out/gram.json" "$out/search.json")
if [[ ${MQ_BENCH_TORCH:-1} != 0 ]]; then
    venv="$out/venv"
    if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c 'import torch, ml_dtypes' 2>/dev/null; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r benches/requirements.txt
    fi
    PYTHONPATH=bindings/python MQ_LIBRARY=target/release/libmq.so \
        "$venv/bin/python" benches/torch_compare.py "$out/torch.json"
    parts+=("$out/torch.json")
fi
python3 - "$out/report.json" "${parts[@]}" <<'PY'
import json
import sys

rows = [row for part in sys.argv[2:] for row in json.load(open(part, encoding="utf-8"))]
json.dump(rows, open(sys.argv[1], "w", encoding="utf-8"), indent=2)
print(f"{len(rows)} rows in {sys.argv[1]}")
PY
