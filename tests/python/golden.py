"""Reads the golden files: a .json of cases, and the .safetensors with the tensors they name."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "data" / "golden"
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I32": np.int32}


class Golden:
    """The cases of one file, and its tensors by name."""

    def __init__(self, name):
        self.cases = json.loads((FOLDER / f"{name}.json").read_text())["cases"]
        raw = (FOLDER / f"{name}.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        self._index = json.loads(raw[8 : 8 + length])
        self._data = raw[8 + length :]

    def __contains__(self, name):
        return name in self._index

    def names(self):
        return [name for name in self._index if name != "__metadata__"]

    def tensor(self, name):
        """A new, writable array."""
        entry = self._index[name]
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(self._data[begin:end], DTYPES[entry["dtype"]])
        return flat.reshape(entry["shape"]).copy()


def bits(array):
    """The array's bytes as integers: equal means to the last bit, the sign of zero included."""
    return np.ascontiguousarray(array).view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])


def assert_same_bits(got, want, what=""):
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    different = (bits(got) != bits(want)) & ~(np.isnan(got) & np.isnan(want))  # NaN payloads vary
    assert not different.any(), (
        f"{what}: {different.sum()} of {got.size} differ, first got "
        f"{got[different][0]!r}, want {want[different][0]!r}"
    )
