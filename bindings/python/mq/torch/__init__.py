"""Quantization of PyTorch models, in place, with the names of `modelopt.torch.quantization`.

    import mq.torch as mtq  # instead of: import modelopt.torch.quantization as mtq


    def forward_loop(model):
        for batch in calibration_data:
            model(batch)


    model = mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop)
    mtq.print_quant_summary(model)
    model(x)  # fake-quantized; gradients pass straight through
    mtq.fold_weight(model)  # the quantized weights, in the parameters

**What is quantized.** Modules whose forward is that of one of these classes: nn.Linear,
nn.Conv1d to 3d, nn.ConvTranspose1d to 3d and nn.Embedding (input, weight, output), nn.LayerNorm,
`nn.BatchNorm*`,
`nn.InstanceNorm*`, nn.LeakyReLU and the pools (input, output); and what the attention of Hugging
Face models multiplies (`q_bmm_quantizer`, `k_bmm_quantizer`, `v_bmm_quantizer`). Quantizers have
the reference's names, `<module>.weight_quantizer`, and the presets their meaning.
`quantizers(model)` tells what each holds.

**How.** Every module keeps its class, its parameters and the keys of its `state_dict`; its
`forward` is replaced by one with quantizers, which works on torch's own memory (float32, float16,
bfloat16; host memory or one CUDA device, on torch's current stream). Weights are quantized in every
forward from the parameter as it is then, so a model can be trained on. SmoothQuant and AWQ do not
write to parameters before `fold_weight`.

**Copies.** `copy.deepcopy`, `pickle` and `torch.save(model)` take the quantizers along; so do
`quantizer_state` and `load_quantizer_state`, beside the `state_dict`. `model.to(...)` and
`load_state_dict(..., assign=True)` are noticed at the next call.

**Threads.** Forward passes may run on any number of threads. One verb at a time: another one
meanwhile raises mq.BusyError.

**Errors.** A verb that fails, or whose functions raise, leaves the model as it was; what they raise
comes out unchanged. The library's errors are `mq.MqError`.

Log lines of the library go to the logger "mq". `docs/from_modelopt.md` lists what is different.
"""

from __future__ import annotations

from typing import Any

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(f"mq.torch needs PyTorch: pip install libmq[torch] ({_error})") from _error

from . import config, presets
from .config import choices, need_calibration
from .verbs import (
    Quantizer,
    auto_quantize,
    calibrate,
    compress,
    disable_quantizer,
    enable_quantizer,
    fold_weight,
    load_quantizer_state,
    postprocess_amax,
    print_quant_summary,
    quantize,
    quantizer_state,
    quantizers,
    set_quantizer_attribute,
    set_quantizer_by_cfg,
    unquantize,
)

__all__ = [
    "Quantizer",
    "auto_quantize",
    "calibrate",
    "choices",
    "compress",
    "config",
    "disable_quantizer",
    "enable_quantizer",
    "fold_weight",
    "load_quantizer_state",
    "need_calibration",
    "postprocess_amax",
    "print_quant_summary",
    "quantize",
    "quantizer_state",
    "quantizers",
    "set_quantizer_attribute",
    "set_quantizer_by_cfg",
    "unquantize",
]
__all__ += presets.names()


def __getattr__(name: str) -> Any:
    try:
        return presets.constant(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted(__all__)
