#!/usr/bin/env bash
# Measures: mq's kernels against a plain copy, a product of matrices and PyTorch, its calibration and its search for
# formats against NVIDIA Model Optimizer. `make bench`. Both get an environment of their own (several gigabytes each):
# MQ_BENCH_TORCH=0 and MQ_BENCH_REFERENCE=0 leave them out.
set -euo pipefail
cd "$(dirname "$0")/.."
out=target/bench
mkdir -p "$out"

cargo bench --locked --bench kernels --bench histogram --bench gram --bench search --bench knapsack
parts=("$out/kernels.json" "$out/histogram.json" "$out/gram.json" "$out/search.json" "$out/knapsack.json")
export PYTHONPATH=bindings/python MQ_LIBRARY=target/release/libmq.so PYTHONUNBUFFERED=1

# environment FOLDER REQUIREMENTS MODULES: makes it unless these modules import.
environment() {
    if [[ ! -x $1/bin/python ]] || ! "$1/bin/python" -W ignore -c "import $3" 2>/dev/null; then
        python3 -m venv "$1"
        "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
    fi
}

if [[ ${MQ_BENCH_TORCH:-1} != 0 ]]; then
    environment "$out/venv" benches/requirements.txt torch,ml_dtypes
    "$out/venv/bin/python" benches/torch_compare.py "$out/torch.json"
    parts+=("$out/torch.json")
fi
if [[ ${MQ_BENCH_REFERENCE:-1} != 0 ]]; then
    environment "$out/venv-reference" benches/calibration/requirements.txt \
        modelopt.torch.quantization
    "$out/venv-reference/bin/python" -W ignore benches/calibration "$out/calibration.json"
    "$out/venv-reference/bin/python" -W ignore benches/auto_quantize "$out/auto_quantize.json" \
        2>"$out/auto_quantize.log"
    parts+=("$out/calibration.json" "$out/auto_quantize.json")
fi
python3 - "$out/report.json" "${parts[@]}" <<'PY'
import json
import sys

rows = [row for part in sys.argv[2:] for row in json.load(open(part, encoding="utf-8"))]
json.dump(rows, open(sys.argv[1], "w", encoding="utf-8"), indent=2)
print(f"{len(rows)} rows in {sys.argv[1]}")
PY
