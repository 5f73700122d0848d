"""AWQ of one block of a Llama-8B on a GPU: mq beside the reference, in one process.

    python benches/cuda_awq.py target/bench/cuda_awq.json [--algorithm awq_clip]

mq is measured twice: as it is by default, and with its own kernels alone (`MQ_CUBLAS_NEVER`).

The host is the same torch block on both sides (bfloat16, random weights with outlier channels);
mq's taps are called from forward pre-hooks, on torch's memory and stream. What counts is the whole
call, the host's forward passes included, and what it costs beyond one pass of the host. Calls take
turns; medians. The reference is measured where it is installed. `--help` shows how to make it less.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes as ct
import io
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, Callable

import torch
from mq import _lib, preset
from mq._lib import interface as abi
from torch import nn
from torch.nn import functional

from cuda_compare import view

ROUNDS = 3
SEQUENCES_IN_BATCH = 1
#: Layers that read the same activation.
SHARED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}


class Block(nn.Module):
    """A decoder layer with grouped queries, without rotary positions: AWQ sees no difference."""

    def __init__(self, hidden: int, inner: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, width = heads, groups, hidden // heads * groups
        self.input_norm, self.inner_norm = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, width, bias=False)
        self.v_proj = nn.Linear(hidden, width, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.input_norm(x)
        q = self.q_proj(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (
            p(y).unflatten(-1, (self.groups, -1)).transpose(1, 2)
            for p in (self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        y = self.inner_norm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(y)) * self.up_proj(y))


def channels(count: int, outliers: float) -> torch.Tensor:
    magnitude = torch.exp(0.5 * torch.randn(count))
    magnitude[torch.randperm(count)[: max(1, count // 100)]] *= outliers
    return magnitude


def make(options: argparse.Namespace) -> tuple[Block, list[torch.Tensor]]:
    torch.manual_seed(20261129)
    model = Block(options.hidden, options.inner, options.heads, options.groups)
    model = model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(channels(options.hidden, outliers=8))
        else:
            parameter.normal_().mul_(parameter.shape[1] ** -0.5)
            parameter.mul_(channels(parameter.shape[1], outliers=4))
    shape = (SEQUENCES_IN_BATCH, options.tokens, options.hidden)
    magnitudes = channels(options.hidden, outliers=20)
    data = [
        (torch.randn(shape) * magnitudes).to("cuda", torch.bfloat16)
        for _ in range(options.sequences // SEQUENCES_IN_BATCH)
    ]
    return model.to("cuda", torch.bfloat16), data


def run(model: nn.Module, data: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for x in data:
            model(x)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_children() if name.endswith("_proj")}


def config(algorithm: str, preset: dict[str, Any]) -> dict[str, Any]:
    """A preset of INT4 weights, calibrated by another algorithm."""
    return {**copy.deepcopy(preset), "algorithm": algorithm}


def ours(
    model: Block, data: list[torch.Tensor], algorithm: str, cublas: int = abi.CUBLAS_DEFAULT
) -> dict[str, Any]:
    """Registers the layers and quantizes; name → what was searched for."""
    options = abi.ContextOptions()
    _lib.call(abi.mq_context_options_init, options, ct.sizeof(options))
    options.device, options.cublas = abi.Device(abi.DEVICE_CUDA, 0), cublas
    options.cuda_stream = torch.cuda.current_stream().cuda_stream
    context = _lib.handle_from(abi.mq_context_create, options)
    handle = _lib.handle_from(abi.mq_model_create, context)
    hooks, weights = [], []

    def tap(layer: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            _lib.call(abi.mq_layer_input, layer, view(arguments[0].contiguous()), None)

        return hook

    for name, module in linears(model).items():
        desc = abi.LayerDesc()
        _lib.call(abi.mq_layer_desc_init, desc, ct.sizeof(desc))
        weights.append(view(module.weight))
        desc.kind, desc.name = abi.LAYER_KINDS["linear"], name.encode()
        desc.weight = ct.pointer(weights[-1])
        group = SHARED.get(name)
        desc.shared_input_group = group and group.encode()
        layer = _lib.handle_from(abi.mq_model_add_layer, handle, desc)
        hooks.append(module.register_forward_pre_hook(tap(layer)))

    def forward(_user_data: object) -> int:
        run(model, data)
        return 0

    callback = abi.ForwardFn(None, abi.FORWARD(forward), abi.RELEASE())
    try:
        text = json.dumps(config(algorithm, preset("INT4_AWQ_CFG")))
        _lib.call(abi.mq_quantize, handle, text, callback)
        found = {}
        for name in linears(model):
            role = "weight" if algorithm == "awq_clip" else "input"
            path = f"{name}.{role}_quantizer"
            quantizer = _lib.handle_from(abi.mq_model_find_quantizer, handle, path)
            numbers = _lib.amax_of if role == "weight" else _lib.pre_quant_scale_of
            found[name] = torch.from_numpy(numbers(quantizer)).flatten()
        return found
    finally:
        for hook in hooks:
            hook.remove()
        _lib.call(abi.mq_model_destroy, handle)
        abi.mq_context_destroy(context)


def theirs(model: Block, data: list[torch.Tensor], algorithm: str) -> dict[str, Any]:
    import modelopt.torch.quantization as mtq

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq.quantize(model, config(algorithm, mtq.INT4_AWQ_CFG), lambda m: run(m, data))
    return {
        name: (
            module.weight_quantizer.amax
            if algorithm == "awq_clip"
            else module.input_quantizer.pre_quant_scale
        )
        .float()
        .cpu()
        .flatten()
        for name, module in model.named_children()
        if name.endswith("_proj")
    }


def seconds(work: Callable[[], object]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="where the report goes")
    for name, default in (
        ("hidden", 4096),
        ("inner", 14336),
        ("heads", 32),
        ("groups", 8),
        ("sequences", 128),
        ("tokens", 512),
        ("rounds", ROUNDS),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--algorithm", choices=("awq_lite", "awq_clip", "awq_full"), default="awq_lite"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    model, data = make(options)
    sides: dict[str, Callable[[Block, list[torch.Tensor]], dict[str, Any]]] = {
        "mq": lambda m, x: ours(m, x, options.algorithm),
        "mq_without_cublas": lambda m, x: ours(m, x, options.algorithm, abi.CUBLAS_NEVER),
    }
    try:
        import modelopt

        sides["reference"] = lambda m, x: theirs(m, x, options.algorithm)
    except ImportError:
        print("NOT COMPARED: the reference is not installed")
    times: dict[str, list[float]] = {"host": [], **{side: [] for side in sides}}
    results: dict[str, dict[str, Any]] = {}
    for work in sides.values():  # what is loaded late is loaded
        work(copy.deepcopy(model), data[:1])
    for _ in range(options.rounds):
        times["host"].append(seconds(lambda: run(model, data))[0])
        for side, work in sides.items():
            mine = copy.deepcopy(model)
            took, results[side] = seconds(lambda work=work, mine=mine: work(mine, data))
            times[side].append(took)
            print(f"{side}: {took:.3f} s", flush=True)
            del mine
    report: dict[str, Any] = {
        "bench": "cuda_awq",
        "sizes": {k: v for k, v in vars(options).items() if k != "path"},
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "seconds": {side: statistics.median(each) for side, each in times.items()},
    }
    middle = report["seconds"]
    print(
        f"host's forward {middle['host']:.3f} s; "
        + ", ".join(f"{side} {middle[side]:.3f} s" for side in sides)
    )
    if "reference" in sides:
        report["reference_version"] = modelopt.__version__
        beyond = {side: middle[side] - middle["host"] for side in sides}
        report["ratio"] = middle["reference"] / middle["mq"]
        report["ratio_beyond_host"] = beyond["reference"] / beyond["mq"]
        report["largest_difference"] = {
            name: float(((mine - results["reference"][name]) / mine).abs().max())
            for name, mine in results["mq"].items()
        }
        print(
            f"ratio {report['ratio']:.1f}, beyond the host {report['ratio_beyond_host']:.1f}; "
            f"largest relative difference of what was found: {report['largest_difference']}"
        )
    options.path.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
