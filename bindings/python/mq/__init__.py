"""Post-training quantization inside the program that already holds the model.

The flow:

    model = mq.Model()
    layer = model.add_linear("fc", weight)  # borrowed, not copied
    model.quantize("INT8_DEFAULT_CFG", lambda: layer.forward(calibration_data))
    y = layer.forward(x)  # now with quantized input and weight
    model.fold_weight()  # writes the quantized values into `weight`
"""

from ._fake_quant import fake_quant
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
from .layer import Layer
from .model import Model
from .outcome import CheckReport, Progress
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
    "Progress",
    "Quantizer",
    "StateError",
    "Status",
    "UnsupportedError",
    "__version__",
    "fake_quant",
    "preset",
    "presets",
]
