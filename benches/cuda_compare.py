"""Taps of mq on a GPU beside the same arithmetic in PyTorch, and in the reference if installed.

    python benches/cuda_compare.py target/bench/cuda_compare.json

Every pair is timed in turn, round after round, with events on one stream; the ratio is the median
over rounds of (their time) / (mq's time), so more than 1 is in favour of mq. Both work on torch's
own memory and stream.
"""

from __future__ import annotations

import ctypes as ct
import json
import statistics
import sys
from pathlib import Path
from typing import Any, Callable

import torch
from mq import _lib
from mq._lib import interface as abi

ROUNDS = 21
COLUMNS = 4096
SIZES = (1 << 20, 64 << 20, 1 << 30)
DTYPES = {torch.float32: (2, 32), torch.bfloat16: (4, 16)}

Work = Callable[[], object]


def view(tensor: torch.Tensor) -> abi.Tensor:
    """A tensor of torch's as mq sees it; it must outlive the view."""
    code, bits = DTYPES[tensor.dtype]
    shape = (ct.c_int64 * tensor.dim())(*tensor.shape)
    device = abi.Device(abi.DEVICE_CUDA, tensor.device.index or 0)
    dtype = abi.DType(code, bits, 1)
    return abi.Tensor(tensor.data_ptr(), device, tensor.dim(), dtype, shape, None, 0)


class Layer:
    """A model of one layer in mq, whose input has these attributes."""

    def __init__(self, attributes: dict[str, Any], x: torch.Tensor) -> None:
        options = abi.ContextOptions()
        _lib.call(abi.mq_context_options_init, options, ct.sizeof(options))
        options.device = abi.Device(abi.DEVICE_CUDA, x.device.index or 0)
        options.cuda_stream = torch.cuda.current_stream().cuda_stream
        self.context = _lib.handle_from(abi.mq_context_create, options)
        self.model = _lib.handle_from(abi.mq_model_create, self.context)
        self.weight = torch.zeros(1, x.shape[-1], dtype=x.dtype, device=x.device)
        desc = abi.LayerDesc()
        _lib.call(abi.mq_layer_desc_init, desc, ct.sizeof(desc))
        weight = view(self.weight)
        desc.kind, desc.name, desc.weight = abi.LAYER_KINDS["linear"], b"a", ct.pointer(weight)
        self.layer = _lib.handle_from(abi.mq_model_add_layer, self.model, desc)
        config = {
            "quant_cfg": {"*input_quantizer": attributes, "default": {"enable": False}},
            "algorithm": "max",
        }
        self.x, self.out = x, torch.empty_like(x)
        self.views = view(self.x), view(self.out)

        def forward(_user_data: object) -> int:
            return int(abi.mq_layer_input(self.layer, self.views[0], None))

        callback = abi.ForwardFn(None, abi.FORWARD(forward), abi.RELEASE())
        _lib.call(abi.mq_quantize, self.model, json.dumps(config).encode(), callback)

    def __call__(self) -> None:
        abi.mq_layer_input(self.layer, *self.views)

    def close(self) -> None:
        _lib.call(abi.mq_model_synchronize, self.model)
        _lib.call(abi.mq_model_destroy, self.model)
        abi.mq_context_destroy(self.context)


def milliseconds(work: Work, repeats: int) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        work()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / repeats


def pair(ours: Work, theirs: Work, repeats: int) -> tuple[float, float, float]:
    for _ in range(3):
        milliseconds(ours, repeats)
        milliseconds(theirs, repeats)
    times = [(milliseconds(ours, repeats), milliseconds(theirs, repeats)) for _ in range(ROUNDS)]
    ratio = statistics.median(b / a for a, b in times)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio


def torch_int8(x: torch.Tensor) -> Work:
    amax = float(x.abs().amax())
    return lambda: torch.fake_quantize_per_tensor_affine(x, amax / 127, 0, -128, 127)


def torch_fp8(x: torch.Tensor) -> Work:
    scale = 448 / x.abs().amax().float()
    return lambda: ((x * scale).to(torch.float8_e4m3fn).to(x.dtype) / scale).to(x.dtype)


def reference(x: torch.Tensor, attributes: dict[str, Any]) -> Work | None:
    """The reference's TensorQuantizer on the same tensor, calibrated; None: not installed."""
    try:
        from modelopt.torch.quantization.config import QuantizerAttributeConfig
        from modelopt.torch.quantization.nn import TensorQuantizer
    except ImportError:
        return None
    blocks = attributes.get("block_sizes")
    if blocks:
        blocks = {(int(k) if k.lstrip("-").isdigit() else k): v for k, v in blocks.items()}
        blocks = {k: tuple(v) if isinstance(v, list) else v for k, v in blocks.items()}
    bits = attributes["num_bits"]
    config = dict(attributes, num_bits=tuple(bits) if isinstance(bits, list) else bits)
    if blocks:
        config["block_sizes"] = blocks
    quantizer = TensorQuantizer(QuantizerAttributeConfig(**config)).to(x.device)
    quantizer.amax = x.abs().amax()
    return lambda: quantizer(x)


NVFP4 = {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}
MXFP8 = {"-1": 32, "type": "dynamic", "scale_bits": [8, 0]}
ROWS: list[tuple[str, dict[str, Any], Callable[[torch.Tensor], Work] | None]] = [
    ("INT8, per tensor", {"num_bits": 8, "axis": None}, torch_int8),
    ("FP8, per tensor", {"num_bits": [4, 3], "axis": None}, torch_fp8),
    ("NVFP4, dynamic blocks", {"num_bits": [2, 1], "block_sizes": NVFP4}, None),
    ("MXFP8", {"num_bits": [4, 3], "block_sizes": MXFP8}, None),
]


def main() -> None:
    report: list[dict[str, Any]] = []
    for dtype in DTYPES:
        for size in SIZES:
            rows = size // dtype.itemsize // COLUMNS
            x = torch.randn(rows, COLUMNS, device="cuda").to(dtype)
            repeats = max(1, min(200, (64 << 20) // size))
            for name, attributes, in_torch in ROWS:
                rivals = {
                    "torch": in_torch(x) if in_torch else None,
                    "reference": reference(x, attributes),
                }
                layer = Layer(attributes, x)
                for rival, work in rivals.items():
                    if work is None:
                        continue
                    with torch.no_grad():
                        ours, theirs, ratio = pair(layer, work, repeats)
                    row = {"bench": "cuda_compare", "row": name, "dtype": str(dtype), "bytes": size}
                    row |= {"rival": rival, "ratio": ratio}
                    row |= {"microseconds": ours * 1e3, "rival_microseconds": theirs * 1e3}
                    row |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
                    report.append(row)
                    print(
                        f"{name:24} {dtype!s:15} {size:>11} {rival:10} {ours * 1e3:>9.2f} us, "
                        f"theirs {theirs * 1e3:>9.2f} us, ratio {ratio:.2f}"
                    )
                layer.close()
    Path(sys.argv[1]).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
