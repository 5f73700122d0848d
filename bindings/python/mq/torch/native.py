"""The library's model of a torch module: tensors of torch, a CUDA device, torch's stream."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any, Callable

import torch

from .. import _lib, progress_bar
from .._handle import ModelHandle
from .._lib import interface as abi
from .._lib import memory
from ..errors import StateError
from ..model import Model
from . import presets, tensors

_LOGGER = logging.getLogger("mq")
_UNMATCHED = re.compile(r"`([^`]*)` matches no quantizer$")


def _log(level: int, text: str) -> None:
    """Writes a line of the library's.

    Configurations begin as presets, whose rules fit any model: that some match nothing is no news.
    """
    unmatched = _UNMATCHED.search(text)
    if unmatched and unmatched[1] in presets.patterns():
        level = logging.DEBUG
    _LOGGER.log(level, text)


class _DeviceHandle(ModelHandle):
    """Owns an mq_model, whose work goes on torch's stream."""

    def __init__(self, device: torch.device) -> None:
        index = device.index if device.type == "cuda" else None
        super().__init__(0, _log, 0, progress_bar.chosen(None), index)
        self._device = device
        self._ordered = threading.Lock()

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """What is called inside is put on torch's current stream of this thread."""
        if self._device.type != "cuda":
            yield
            return
        stream = torch.cuda.current_stream(self._device).cuda_stream
        with self._ordered:  # the stream belongs to the context, which all threads share
            _lib.call(abi.mq_context_set_cuda_stream, self._context, stream or None)
            yield


class Native(Model):
    """A `Model` whose tensors are torch's, in host memory or that of one CUDA device."""

    _owner: _DeviceHandle

    def __init__(self, device: torch.device) -> None:
        # Not that of Model: the tensors are torch's, and so is the stream.
        self._owner = _DeviceHandle(device)
        self._layers = {}
        self._weights: dict[int, object] = {}

    def register(
        self,
        kind: str,
        name: str,
        class_name: str,
        weight: torch.Tensor | None,
        convolution: dict[str, tuple[int, ...]],
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    ) -> int:
        """Registers a layer and returns its handle; the memory of the weight is kept alive."""
        view = None if weight is None else tensors.view(weight)
        arrays: dict[str, Any] = {"weight": view}
        names: dict[str, str | None] = {"name": name, "class_name": class_name}
        struct = None
        if forward is not None:
            compute = forward

            def write(x: abi.Tensor, w: abi.Tensor, y: abi.Tensor) -> None:
                with torch.no_grad():
                    found = compute(tensors.borrowed(x), tensors.borrowed(w))
                    tensors.borrowed(y).copy_(found)

            struct = memory.layer_forward(write)
        with self._owner as model:
            code = abi.LAYER_KINDS[kind]
            handle, kept = _lib.add_layer(model, code, arrays, names, 0, convolution, struct)
            self._owner.borrow(kept)
        self._weights[handle] = view
        return handle

    def release(self, layer: int) -> None:
        """Lets go of the memory of a weight that is packed."""
        self._weights.pop(layer, None)

    def pass_through(
        self, function: Any, handle: int, x: torch.Tensor, out: torch.Tensor | None
    ) -> None:
        """Calls a tap on a checked, contiguous tensor; `out` None: it only observes."""
        result = None if out is None else tensors.view(out)
        with self._owner, self._owner.stream():
            _lib.call(function, handle, tensors.view(x), result)

    def weight_of(self, layer: int, out: torch.Tensor) -> None:
        """The registered weight as the quantized layer uses it, or a packed one, unpacked."""
        with self._owner, self._owner.stream():
            _lib.call(abi.mq_layer_weight, layer, tensors.view(out))

    def requantized(self, layer: int, weight: torch.Tensor, out: torch.Tensor) -> None:
        """The same of another weight, under the scales of the calibration."""
        kept = abi.SCALES["keep"]
        with self._owner, self._owner.stream():
            _lib.call(abi.mq_requantize_into, layer, tensors.view(weight), tensors.view(out), kept)

    def is_packed(self, layer: int) -> bool:
        """Whether the weight of a layer is packed."""
        with self._owner:
            try:
                _lib.call(abi.mq_layer_packed, layer, "weight", abi.Tensor())
            except StateError:
                return False
        return True

    def follow_stream(self) -> None:
        """Puts what verbs do on torch's current stream."""
        with self._owner, self._owner.stream():
            pass

    def gradient(self, layer: int, gradient: torch.Tensor) -> None:
        """The gradient of the loss at the layer's output, for a search."""
        with self._owner, self._owner.stream():
            _lib.call(abi.mq_layer_grad, layer, tensors.view(gradient))
