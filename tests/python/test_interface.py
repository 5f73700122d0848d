"""The declarations of the package against include/mq.h: every function, structure and constant."""

import ctypes as ct
import re
from pathlib import Path

import pytest

import mq
from mq._lib import interface

HEADER = (Path(__file__).resolve().parents[2] / "include" / "mq.h").read_text()
CODE = re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER, flags=re.DOTALL)
STRUCTS = {
    "mq_device": interface.Device,
    "mq_dtype": interface.DType,
    "mq_tensor": interface.Tensor,
    "mq_forward_fn": interface.ForwardFn,
    "mq_filter_fn": interface.FilterFn,
    "mq_amax_fn": interface.AmaxFn,
    "mq_buffer_fn": interface.BufferFn,
    "mq_log_fn": interface.LogFn,
    "mq_device_memory_fn": interface.DeviceMemoryFn,
    "mq_progress": interface.Progress,
    "mq_progress_fn": interface.ProgressFn,
    "mq_context_options": interface.ContextOptions,
    "mq_layer_desc": interface.LayerDesc,
    "mq_calibration_options": interface.CalibrationOptions,
    "mq_layer_forward_fn": interface.LayerForwardFn,
    "mq_auto_quantize_options": interface.AutoQuantizeOptions,
    "mq_auto_quantize_fn": interface.AutoQuantizeFn,
    "mq_layer_cost_fn": interface.LayerCostFn,
    "mq_check_report": interface.CheckReport,
}
SCALARS = {
    "mq_status": ct.c_int32,
    "int32_t": ct.c_int32,
    "int64_t": ct.c_int64,
    "uint8_t": ct.c_uint8,
    "uint16_t": ct.c_uint16,
    "uint32_t": ct.c_uint32,
    "uint64_t": ct.c_uint64,
    "size_t": ct.c_size_t,
    "float": ct.c_float,
    "double": ct.c_double,
    **STRUCTS,
}
FUNCTIONS = {
    name: (result, arguments)
    for result, name, arguments in re.findall(
        r"MQ_API\s+([\w\s]+?[\s*]+)(mq_\w+)\(([^)]*)\);", CODE
    )
}


def ctype(declaration):
    """The ctypes type of a C declaration, such as "const char *name"."""
    words = re.findall(r"\w+|\*", re.sub(r"\b(const|struct)\b", "", declaration))
    base, stars = words[0], words.count("*")
    if base == "void":
        return (None, ct.c_void_p, ct.POINTER(ct.c_void_p))[stars]
    if base == "char":
        return ct.c_char_p
    if base in SCALARS:
        return ct.POINTER(SCALARS[base]) if stars else SCALARS[base]
    return ct.c_void_p if stars == 1 else ct.POINTER(ct.c_void_p)  # an opaque handle


def test_every_function_of_the_header_is_declared():
    assert len(FUNCTIONS) == HEADER.count("MQ_API ") + HEADER.count("MQ_API\n") - 2
    declared = {name for name in vars(interface) if name.startswith("mq_")}
    assert declared == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_types_of_the_header(name):
    result, arguments = FUNCTIONS[name]
    function = getattr(interface, name)
    wanted = [] if arguments.strip() == "void" else arguments.split(",")
    assert list(function.argtypes) == [ctype(argument) for argument in wanted]
    assert function.restype == ctype(result)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_structure_has_the_fields_of_the_header(name):
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", CODE, re.DOTALL).group(1)
    fields = STRUCTS[name]._fields_
    members = [member.strip() for member in body.split(";") if member.strip()]
    assert len(fields) == len(members)
    for (field, kind), member in zip(fields, members):
        function = re.fullmatch(r"(\w+ \*?)\(\*(\w+)\)\((.*)\)", member, re.DOTALL)
        if function:
            result, member_name, arguments = function.groups()
            assert kind._restype_ == ctype(result)
            assert list(kind._argtypes_) == [ctype(entry) for entry in arguments.split(",")]
        else:
            member_name, count = re.search(r"(\w+)(?:\[(\d+)\])?$", member).groups()
            assert kind == (ctype(member) * int(count) if count else ctype(member))
        assert field == member_name


def enumerators(name):
    body = re.search(rf"enum {name}\b.*?{{(.*?)}};", CODE, re.DOTALL).group(1)
    return {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", body)}


def test_enumerations_and_constants_are_those_of_the_header():
    assert {status.name: int(status) for status in mq.Status} == enumerators("mq_status")
    kinds = {f"MQ_LAYER_{name.upper()}": code for name, code in interface.LAYER_KINDS.items()}
    assert kinds == enumerators("mq_layer_kind")
    assert enumerators("mq_log_level")["MQ_LOG_WARNING"] == interface.LOG_WARNING
    defines = dict(re.findall(r"#define MQ_(\w+) (\d+)\n", CODE))
    named = [
        "ABI_VERSION",
        "MAX_RANK",
        "DEVICE_CPU",
        "DEVICE_CUDA",
        "CUBLAS_DEFAULT",
        "CUBLAS_NEVER",
        "CUBLAS_IF_FOUND",
        "ALLOW_NO_MATCH",
        "REPLACE_ATTRIBUTES",
        "SUMMARY_TEXT",
    ]
    named += ["AUTO_QUANTIZE_VERBOSE", "AUTO_QUANTIZE_ALL_LAYERS", "SOLVE_DRY_RUN"]
    for name in [*named, "SUMMARY_JSON", "FOLD_KEEP_ATTRIBUTES", "NORM_ADDS_ONE"]:
        assert getattr(interface, name) == int(defines[name])
    ieee, brain = int(defines["DTYPE_FLOAT"]), int(defines["DTYPE_BFLOAT"])
    assert interface.DTYPES["float32"] == (ieee, 32)
    assert interface.DTYPES["float16"] == (ieee, 16)
    assert interface.DTYPES["bfloat16"] == (brain, 16)
    version = [int(defines[f"VERSION_{part}"]) for part in ("MAJOR", "MINOR", "PATCH")]
    assert mq.__version__.split("-")[0] == ".".join(map(str, version))


def test_status_names_are_those_of_the_library():
    for status in mq.Status:
        assert interface.mq_status_name(status).decode() == status.name
