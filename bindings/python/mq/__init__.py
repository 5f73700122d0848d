"""Post-training quantization inside the program that already holds the model.

The flow:

    model = mq.Model()
    layer = model.add_linear("fc", weight)  # borrowed, not copied
    model.quantize("INT8_DEFAULT_CFG", lambda: layer.forward(calibration_data))
    y = layer.forward(x)  # now with quantized input and weight
    model.fold_weight()  # writes the quantized values into `weight`
"""

from ._version import __version__
from .configuration import preset, presets
from .errors import (
    AlreadyExistsError,
    BusyError,
    CancelledError,
    ConfigError,
    CudaError,
    InvalidArgumentError,
    MqError,
    NotFoundError,
    NumericError,
    OutOfMemoryError,
    StateError,
    Status,
    UnsupportedError,
)
from .functional import amax, fake_quant, histogram_amax
from .layer import Layer
from .model import Model
from .outcome import CheckReport, Progress
from .packing import Packed, pack, unpack
from .quantizer import Quantizer

__all__ = [
    "AlreadyExistsError",
    "BusyError",
    "CancelledError",
    "CheckReport",
    "ConfigError",
    "CudaError",
    "InvalidArgumentError",
    "Layer",
    "Model",
    "MqError",
    "NotFoundError",
    "NumericError",
    "OutOfMemoryError",
    "Packed",
    "Progress",
    "Quantizer",
    "StateError",
    "Status",
    "UnsupportedError",
    "__version__",
    "amax",
    "fake_quant",
    "histogram_amax",
    "pack",
    "preset",
    "presets",
    "unpack",
]
