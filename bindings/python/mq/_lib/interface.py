"""The mirror of mq.h: loads libmq, and declares its structures and functions once.

`tests/python/test_interface.py` compares it with the header, name by name and type by type.
"""

from __future__ import annotations

import ctypes as ct
import os
import sys
from pathlib import Path
from typing import Any

from .. import _version

Handle = ct.c_void_p
DEVICE_CPU = 1
DEVICE_CUDA = 2
CUBLAS_DEFAULT = 0
CUBLAS_NEVER = 1
CUBLAS_IF_FOUND = 2
#: numpy's name of a dtype -> DLPack's code and bits.
DTYPES = {"float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16)}
MAX_RANK = 8
NORM_ADDS_ONE = 1
ALLOW_NO_MATCH = 1
REPLACE_ATTRIBUTES = 2
FOLD_KEEP_ATTRIBUTES = 1
SUMMARY_TEXT = 0
SUMMARY_JSON = 1
LOG_WARNING = 1
AUTO_QUANTIZE_VERBOSE = 1
AUTO_QUANTIZE_ALL_LAYERS = 2
SOLVE_DRY_RUN = 1
#: mq_layer_kind, under the names of the package.
LAYER_KINDS = {
    "linear": 1,
    "conv1d": 2,
    "conv2d": 3,
    "conv3d": 4,
    "conv_transpose1d": 5,
    "conv_transpose2d": 6,
    "conv_transpose3d": 7,
    "embedding": 8,
    "generic": 9,
}


#: What mq_requantize_into() does with the scales.
SCALES = {"keep": 0, "refresh": 1}


class Device(ct.Structure):
    _fields_ = [("device_type", ct.c_int32), ("device_id", ct.c_int32)]


class DType(ct.Structure):
    _fields_ = [("code", ct.c_uint8), ("bits", ct.c_uint8), ("lanes", ct.c_uint16)]


class Tensor(ct.Structure):
    _fields_ = [
        ("data", ct.c_void_p),
        ("device", Device),
        ("ndim", ct.c_int32),
        ("dtype", DType),
        ("shape", ct.POINTER(ct.c_int64)),
        ("strides", ct.POINTER(ct.c_int64)),
        ("byte_offset", ct.c_uint64),
    ]


FORWARD = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p)
FILTER = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_char_p, ct.POINTER(ct.c_int32))
PROCESS = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_char_p, ct.POINTER(ct.c_float), ct.c_size_t)
ALLOCATE = ct.CFUNCTYPE(
    ct.c_int32,
    ct.c_void_p,
    ct.c_char_p,
    ct.c_char_p,
    ct.c_size_t,
    ct.POINTER(ct.c_void_p),
)
LAYER_FORWARD = ct.CFUNCTYPE(
    ct.c_int32, ct.c_void_p, ct.POINTER(Tensor), ct.POINTER(Tensor), ct.POINTER(Tensor)
)
DATA = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_uint64, ct.POINTER(ct.c_int32))
STEP = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_uint64)
LOSS = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_uint64, ct.POINTER(ct.c_double))
LOGITS = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.c_uint64, ct.POINTER(Tensor))
COST = ct.CFUNCTYPE(
    ct.c_int32, ct.c_void_p, ct.c_char_p, ct.c_char_p, ct.c_uint64, ct.POINTER(ct.c_double)
)


class Progress(ct.Structure):
    _fields_ = [
        ("phase", ct.c_char_p),
        ("layer", ct.c_char_p),
        ("done", ct.c_uint64),
        ("total", ct.c_uint64),
    ]


PROGRESS = ct.CFUNCTYPE(ct.c_int32, ct.c_void_p, ct.POINTER(Progress))
LOG = ct.CFUNCTYPE(None, ct.c_void_p, ct.c_int32, ct.c_char_p)
RELEASE = ct.CFUNCTYPE(None, ct.c_void_p)
DEVICE_ALLOCATE = ct.CFUNCTYPE(ct.c_void_p, ct.c_void_p, ct.c_size_t, ct.c_void_p)
DEVICE_FREE = ct.CFUNCTYPE(None, ct.c_void_p, ct.c_void_p, ct.c_size_t, ct.c_void_p)


class ForwardFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("forward", FORWARD), ("release", RELEASE)]


class FilterFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("filter", FILTER), ("release", RELEASE)]


class AmaxFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("process", PROCESS), ("release", RELEASE)]


class BufferFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("allocate", ALLOCATE), ("release", RELEASE)]


class LayerForwardFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("forward", LAYER_FORWARD), ("release", RELEASE)]


class AutoQuantizeFn(ct.Structure):
    _fields_ = [
        ("user_data", ct.c_void_p),
        ("data", DATA),
        ("forward_step", STEP),
        ("loss", LOSS),
        ("backward", STEP),
        ("forward_backward_step", LOSS),
        ("logits", LOGITS),
        ("release", RELEASE),
    ]


class LayerCostFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("cost", COST), ("release", RELEASE)]


class LogFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("log", LOG), ("release", RELEASE)]


class ProgressFn(ct.Structure):
    _fields_ = [("user_data", ct.c_void_p), ("progress", PROGRESS), ("release", RELEASE)]


class DeviceMemoryFn(ct.Structure):
    _fields_ = [
        ("user_data", ct.c_void_p),
        ("allocate", DEVICE_ALLOCATE),
        ("free", DEVICE_FREE),
        ("release", RELEASE),
    ]


class ContextOptions(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_uint32),
        ("num_threads", ct.c_uint32),
        ("log", LogFn),
        ("memory_limit_bytes", ct.c_uint64),
        ("progress", ProgressFn),
        ("device", Device),
        ("cuda_context", ct.c_void_p),
        ("cuda_stream", ct.c_void_p),
        ("device_memory", DeviceMemoryFn),
        ("cublas", ct.c_uint32),
        ("reserved", ct.c_uint32),
    ]


class LayerDesc(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_uint32),
        ("kind", ct.c_int32),
        ("name", ct.c_char_p),
        ("class_name", ct.c_char_p),
        ("weight", ct.POINTER(Tensor)),
        ("bias", ct.POINTER(Tensor)),
        ("fused_group", ct.c_char_p),
        ("shared_input_group", ct.c_char_p),
        ("expert_group", ct.c_char_p),
        ("norm_gain", ct.POINTER(Tensor)),
        ("norm_bias", ct.POINTER(Tensor)),
        ("producer", ct.c_char_p),
        ("norm_flags", ct.c_uint32),
        ("reserved", ct.c_uint32),
        ("forward", ct.POINTER(LayerForwardFn)),
        ("conv_stride", ct.c_uint32 * 3),
        ("conv_padding", ct.c_uint32 * 3),
        ("conv_dilation", ct.c_uint32 * 3),
        ("reserved2", ct.c_uint32),
    ]


class CalibrationOptions(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_uint32),
        ("reserved", ct.c_uint32),
        ("min_tokens", ct.c_uint64),
        ("resume_file", ct.c_char_p),
    ]


class AutoQuantizeOptions(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("constraints", ct.c_char_p),
        ("quantization_formats", ct.c_char_p),
        ("disabled_layers", ct.c_char_p),
        ("grouping_rules", ct.c_char_p),
        ("method", ct.c_char_p),
        ("checkpoint", ct.c_char_p),
        ("num_calib_steps", ct.c_uint64),
        ("num_score_steps", ct.c_uint64),
    ]


class CheckReport(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_uint32),
        ("errors", ct.c_uint32),
        ("warnings", ct.c_uint32),
        ("quantizers", ct.c_uint32),
        ("enabled", ct.c_uint32),
        ("unseen", ct.c_uint32),
        ("fewest_tokens", ct.c_uint64),
    ]


def _load() -> ct.CDLL:
    """MQ_LIBRARY if it is set, else the library that came with the package."""
    name = {"darwin": "libmq.dylib", "win32": "mq.dll"}.get(sys.platform, "libmq.so")
    path = os.environ.get("MQ_LIBRARY") or str(Path(__file__).resolve().parents[1] / name)
    try:
        return ct.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load libmq from {path}: {error}; install the package, or set MQ_LIBRARY to "
            "the path of the library"
        ) from error


_LIBRARY = _load()


def _declare(name: str, *argtypes: Any, restype: Any = ct.c_int32) -> Any:
    try:
        function = getattr(_LIBRARY, name)
    except AttributeError:
        if name == "mq_version":
            raise ImportError(f"{_LIBRARY._name} is no libmq: it has no function {name}") from None
        raise ImportError(
            f"{_LIBRARY._name} is older than this package: it has no function {name}; install both "
            "from one version"
        ) from None
    function.argtypes, function.restype = argtypes, restype
    return function


mq_version = _declare("mq_version", restype=ct.c_uint32)
if mq_version() != _version.as_number():
    raise ImportError(
        f"{_LIBRARY._name} is version {mq_version():#08x}, but this package is version "
        f"{_version.__version__} and needs {_version.as_number():#08x}"
    )
ABI_VERSION = 1
mq_abi_version = _declare("mq_abi_version", restype=ct.c_uint32)
if mq_abi_version() != ABI_VERSION:
    raise ImportError(
        f"{_LIBRARY._name} has version {mq_abi_version()} of the ABI, but this package needs "
        f"{ABI_VERSION}; install both from one version"
    )

_Text, _Int, _Flags, _Size = ct.c_char_p, ct.c_int32, ct.c_uint32, ct.c_size_t
_HandleOut, _IntOut, _SizeOut = ct.POINTER(Handle), ct.POINTER(ct.c_int32), ct.POINTER(ct.c_size_t)
_TensorIn, _Floats = ct.POINTER(Tensor), ct.POINTER(ct.c_float)
_Options, _Desc = ct.POINTER(ContextOptions), ct.POINTER(LayerDesc)
_Calibration, _Report = ct.POINTER(CalibrationOptions), ct.POINTER(CheckReport)
_Forward, _Filter, _Amax = ct.POINTER(ForwardFn), ct.POINTER(FilterFn), ct.POINTER(AmaxFn)
_Search, _Host = ct.POINTER(AutoQuantizeOptions), ct.POINTER(AutoQuantizeFn)
_TEXT_OUT = (_Text, _Size, _SizeOut)

mq_last_error_message = _declare("mq_last_error_message", restype=_Text)
mq_status_name = _declare("mq_status_name", _Int, restype=_Text)
mq_context_options_init = _declare("mq_context_options_init", _Options, ct.c_uint32)
mq_context_create = _declare("mq_context_create", _Options, _HandleOut)
mq_context_destroy = _declare("mq_context_destroy", Handle, restype=None)
mq_context_set_cuda_stream = _declare("mq_context_set_cuda_stream", Handle, ct.c_void_p)
mq_model_create = _declare("mq_model_create", Handle, _HandleOut)
mq_model_destroy = _declare("mq_model_destroy", Handle)
mq_model_synchronize = _declare("mq_model_synchronize", Handle)
mq_layer_desc_init = _declare("mq_layer_desc_init", _Desc, ct.c_uint32)
mq_model_add_layer = _declare("mq_model_add_layer", Handle, _Desc, _HandleOut)
mq_model_add_quantizer = _declare("mq_model_add_quantizer", Handle, _Text, _Text, _HandleOut)
mq_model_find_layer = _declare("mq_model_find_layer", Handle, _Text, _HandleOut)
mq_model_find_quantizer = _declare("mq_model_find_quantizer", Handle, _Text, _HandleOut)
mq_model_quantizer_count = _declare("mq_model_quantizer_count", Handle, _SizeOut)
mq_model_quantizer_at = _declare("mq_model_quantizer_at", Handle, _Size, _HandleOut)
mq_layer_input = _declare("mq_layer_input", Handle, _TensorIn, _TensorIn)
mq_layer_output = _declare("mq_layer_output", Handle, _TensorIn, _TensorIn)
mq_layer_grad = _declare("mq_layer_grad", Handle, _TensorIn)
mq_layer_weight = _declare("mq_layer_weight", Handle, _TensorIn)
mq_requantize_into = _declare("mq_requantize_into", Handle, _TensorIn, _TensorIn, _Int)
mq_quantizer_forward = _declare("mq_quantizer_forward", Handle, _TensorIn, _TensorIn)
mq_quantize = _declare("mq_quantize", Handle, _Text, _Forward)
mq_calibrate = _declare("mq_calibrate", Handle, _Text, _Forward)
mq_fold_weight = _declare("mq_fold_weight", Handle, _Flags)
mq_compress = _declare("mq_compress", Handle, _Text, ct.POINTER(BufferFn), _Flags, _SizeOut)
mq_layer_packed = _declare("mq_layer_packed", Handle, _Text, _TensorIn)
mq_enable_quantizer = _declare("mq_enable_quantizer", Handle, _Text, _Flags, _SizeOut)
mq_disable_quantizer = _declare("mq_disable_quantizer", Handle, _Text, _Flags, _SizeOut)
mq_enable_quantizer_if = _declare("mq_enable_quantizer_if", Handle, _Filter, _Flags, _SizeOut)
mq_disable_quantizer_if = _declare("mq_disable_quantizer_if", Handle, _Filter, _Flags, _SizeOut)
mq_set_quantizer_attributes = _declare(
    "mq_set_quantizer_attributes", Handle, _Text, _Text, _Flags, _SizeOut
)
mq_set_quantizer_attributes_if = _declare(
    "mq_set_quantizer_attributes_if", Handle, _Filter, _Text, _Flags, _SizeOut
)
mq_postprocess_amax = _declare("mq_postprocess_amax", Handle, _Text, _Amax, _Flags, _SizeOut)
mq_reset_amax = _declare("mq_reset_amax", Handle, _Text, _Flags, _SizeOut)
mq_print_quant_summary = _declare("mq_print_quant_summary", Handle, _Int, *_TEXT_OUT)
mq_calibration_options_init = _declare("mq_calibration_options_init", _Calibration, ct.c_uint32)
mq_model_set_calibration_options = _declare(
    "mq_model_set_calibration_options", Handle, _Calibration
)
mq_plan = _declare("mq_plan", Handle, _Text, *_TEXT_OUT)
mq_check = _declare("mq_check", Handle, _Report, *_TEXT_OUT)
mq_fold_pre_quant_scale = _declare("mq_fold_pre_quant_scale", Handle, _Flags, _SizeOut)
mq_cancel = _declare("mq_cancel", Handle)
mq_auto_quantize_options_init = _declare("mq_auto_quantize_options_init", _Search, ct.c_uint32)
mq_auto_quantize = _declare("mq_auto_quantize", Handle, _Search, _Host, ct.POINTER(LayerCostFn))
mq_auto_quantize_solve = _declare("mq_auto_quantize_solve", Handle, _Text, _Flags, *_TEXT_OUT)
mq_auto_quantize_state = _declare("mq_auto_quantize_state", Handle, *_TEXT_OUT)
mq_auto_quantize_config = _declare("mq_auto_quantize_config", Handle, _Text, *_TEXT_OUT)
mq_quantizer_name = _declare("mq_quantizer_name", Handle, *_TEXT_OUT)
mq_quantizer_is_enabled = _declare("mq_quantizer_is_enabled", Handle, _IntOut)
mq_quantizer_attributes = _declare("mq_quantizer_attributes", Handle, *_TEXT_OUT)
mq_quantizer_amax = _declare(
    "mq_quantizer_amax",
    Handle,
    _Floats,
    _Size,
    _SizeOut,
    ct.POINTER(ct.c_int64),
    ct.POINTER(ct.c_uint32),
)
mq_quantizer_set_amax = _declare("mq_quantizer_set_amax", Handle, _TensorIn)
mq_quantizer_pre_quant_scale = _declare(
    "mq_quantizer_pre_quant_scale", Handle, _Floats, _Size, _SizeOut
)
mq_quantizer_set_pre_quant_scale = _declare("mq_quantizer_set_pre_quant_scale", Handle, _TensorIn)
mq_fake_quant = _declare("mq_fake_quant", Handle, _TensorIn, _Text, _TensorIn, _TensorIn)
mq_preset_count = _declare("mq_preset_count", restype=_Size)
mq_preset_name = _declare("mq_preset_name", _Size, *_TEXT_OUT)
mq_preset_json = _declare("mq_preset_json", _Text, *_TEXT_OUT)
