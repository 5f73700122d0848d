"""Writes tests/data/torch_reference.json: what NVIDIA Model Optimizer computes on these models.

Needs nvidia-modelopt 0.47 beside scripts/requirements-torch.txt; the tests do not.

    PYTHONPATH=tests/torch python tests/torch/make_reference.py
"""

import contextlib
import copy
import io
import json
import sys
import warnings
from pathlib import Path

import modelopt
import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.nn import TensorQuantizer

from compared import GRADIENTS, PRESETS, SEARCHES, described, gradients, search_arguments
from networks import NETWORKS, loop

OUT = Path(__file__).parents[1] / "data" / "torch_reference.json"


def quantized(name, preset):
    make, data, compute = NETWORKS[name]
    model, batches = make(), data()
    mtq.quantize(model, copy.deepcopy(getattr(mtq, preset)), loop(compute, batches))
    return model, compute, batches


def case(name, preset):
    model, compute, batches = quantized(name, preset)
    found = {}
    for quantizer, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and module.is_enabled:
            found[quantizer] = {
                "amax": described(module.amax),
                "pre_quant_scale": described(module.pre_quant_scale),
            }
    with torch.no_grad():
        output = compute(model, batches[0])
    return {"quantizers": found, "output": described(output)}


def gradient_case(name, preset):
    model, compute, batches = quantized(name, preset)
    return gradients(model, compute, batches[0])


def search_case(name, effective_bits, formats):
    make, _, _ = NETWORKS[name]
    _, state = mtq.auto_quantize(make(), **search_arguments(name, effective_bits, formats))
    return {
        "scores": {
            key: [float(s) for s in of["scores"]] for key, of in state["candidate_stats"].items()
        },
        "costs": {
            key: [float(c) for c in of["costs"]] for key, of in state["candidate_stats"].items()
        },
        "choice": {key: str(recipe) for key, recipe in state["best"]["recipe"].items()},
    }


def main():
    warnings.simplefilter("ignore")
    made = {"version": modelopt.__version__, "torch": torch.__version__}
    with contextlib.redirect_stdout(io.StringIO()):
        made["quantized"] = {
            name: {preset: case(name, preset) for preset in presets}
            for name, presets in PRESETS.items()
        }
        made["gradients"] = [
            {"network": name, "preset": preset, "values": gradient_case(name, preset)}
            for name, preset in GRADIENTS
        ]
        made["searches"] = [search_case(*arguments) for arguments in SEARCHES]
    OUT.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(OUT, OUT.stat().st_size, file=sys.stderr)


if __name__ == "__main__":
    main()
