"""A quantized torch module and the library's model of it: which belongs to which, and when."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Callable, cast

import torch
from torch import nn

from .._lib import interface as abi
from ..errors import BusyError, StateError, Status, UnsupportedError
from . import attention, state, tensors
from .attention import Attention
from .forward import LayerForward, Phase, Record
from .layers import class_name, convolution, kind_of
from .native import Native
from .slot import Slot

_ATTRIBUTE = "_mq_session"
#: The name of a module that is quantized by itself, not as a part of another.
ROOT = "model"


class Session:
    """What is in effect on one quantized module, the root.

    The library's model is made when it is needed, and anew, with the quantizers as they were, when
    weights have changed place, dtype or device. So a copy, also an unpickled one, is a session
    without one.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.forwards = [
            LayerForward(self, name or ROOT, module)
            for name, module in root.named_modules()
            if kind_of(module) is not None
        ]
        self.attentions = [
            Attention(self, name or ROOT, module) for name, module in attention.find(root)
        ]
        self._begin(None)

    def _begin(self, kept: dict[str, Any] | None) -> None:
        self._kept = kept
        self._handed_out: object = None
        self._native: Native | None = None
        self._records: dict[str, Record] = {}
        self._attention_slots: dict[str, list[Slot]] = {}
        self._lock = threading.RLock()
        self._verb = threading.Lock()
        self.phase = Phase.READY
        #: Whether the forward pass that runs is that of a step of scoring.
        self.is_scoring = False
        #: The outputs of a scoring step whose gradients have not come yet.
        self._awaited: dict[object, tuple[Record, torch.Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            kept = self._kept if self._native is None else self.export()
            # torch hands tensors to another process as files, which close when these are gone.
            self._handed_out = kept
        shared = {"root": self.root, "forwards": self.forwards, "attentions": self.attentions}
        return {**shared, "kept": kept}

    def __setstate__(self, given: dict[str, Any]) -> None:
        self.root, self.forwards = given["root"], given["forwards"]
        self.attentions = given["attentions"]
        self._begin(given["kept"])

    # Modules.

    def _parts(self) -> list[LayerForward | Attention]:
        return [*self.forwards, *self.attentions]

    def insert(self) -> None:
        """Puts quantizers around the modules."""
        if not self.forwards and not self.attentions:
            raise ValueError(
                f"{type(self.root).__name__} holds no module that can be quantized, such as "
                "nn.Linear (subclasses with a forward of their own are left alone)"
            )
        inserted: list[LayerForward | Attention] = []
        try:
            for part in self._parts():
                part.insert()
                inserted.append(part)
        except BaseException:
            for part in inserted:
                part.remove()
            raise
        setattr(self.root, _ATTRIBUTE, self)

    def remove(self) -> None:
        """Gives the modules back as they were, but for weights that were folded or packed."""
        for part in self._parts():
            part.remove()
        vars(self.root).pop(_ATTRIBUTE, None)
        self._close()

    # The library's model.

    @property
    def native(self) -> Native:
        """The library's model."""
        self._ensure_bound()
        return cast(Native, self._native)

    def _ensure_bound(self) -> None:
        if self._native is None:
            with self._lock:
                if self._native is None:
                    self._bind(self._kept)

    def _bind(self, kept: dict[str, Any] | None) -> None:
        """Makes the library's model of the modules as they are."""
        weights = {part.name: part.weight for part in self._with_weight()}
        for name, weight in weights.items():
            tensors.check_weight(weight, f"the weight of {name}")
        native = Native(_device(weights))
        records = {part.name: _register(native, part) for part in self.forwards}
        slots = {
            part.name: [_host_slot(native, part, name) for name in attention.QUANTIZERS]
            for part in self.attentions
        }
        if kept is not None:
            state.restore(native, kept)
        for slot in _all_slots(records, slots):
            slot.refresh()
        # Only now, for forward passes on other threads go on with the old ones until here.
        self._records, self._attention_slots = records, slots
        self._native, self._kept = native, None

    def load(self, kept: dict[str, Any]) -> None:
        """Makes it with quantizers that `export` told of."""
        state.check(kept)
        self._bind(kept)

    def _close(self) -> None:
        native, self._native = self._native, None
        self._records, self._attention_slots = {}, {}
        if native is not None:
            native.close()

    def _rebind(self) -> None:
        """Makes it anew, of weights that have moved. The old one goes when nobody uses it."""
        if self.phase is not Phase.READY:
            raise StateError(
                Status.MQ_ERR_STATE,
                "a weight was moved, replaced or converted while the model is being calibrated; "
                "do that before. Hooks that make a weight anew in every forward (weight_norm, "
                "pruning) must be removed before the model is quantized",
            )
        self._bind(self.export())

    def export(self) -> dict[str, Any]:
        """What the quantizers are and hold, as plain Python values and tensors."""
        packed = [name for name, record in self._all_records() if record.packed is not None]
        if packed:
            raise UnsupportedError(
                Status.MQ_ERR_UNSUPPORTED,
                f"the weight of {packed[0]} is compressed: the model can neither be copied, moved "
                "nor saved any more; do that before compress()",
            )
        names = [slot.name for slot in self._slots()]
        return state.export(self.native, names)

    def _with_weight(self) -> list[LayerForward]:
        return [part for part in self.forwards if part.kind.compute is not None]

    def _all_records(self) -> list[tuple[str, Record]]:
        return list(self._records.items())

    def _slots(self) -> list[Slot]:
        self._ensure_bound()
        return _all_slots(self._records, self._attention_slots)

    def record(self, part: LayerForward) -> Record:
        """A module as the library knows it, whose weight is the one that the module holds now."""
        self._ensure_bound()
        record = self._records[part.name]
        if record.registered is None:
            return record
        weight = part.weight
        same = record.is_at(weight)
        if same or (self.phase is Phase.READY and record.fits(weight) and not record.is_folded):
            return record
        with self._lock:
            self._rebind()
        return self._records[part.name]

    def attention_slots(self, name: str) -> list[Slot]:
        """The quantizers of an attention module."""
        self._ensure_bound()
        return self._attention_slots[name]

    def refresh(self) -> None:
        """Reads from the library what a verb may have changed."""
        for slot in self._slots():
            slot.refresh()
        self._let_go_of_packed()

    def _let_go_of_packed(self) -> None:
        """Empties parameters whose weights the library has packed, but for shared ones."""
        packed = [
            (part, record)
            for part, record in self.layers()
            if record.packed is None and record.native.is_packed(record.handle)
        ]
        if not packed:
            return
        uses = Counter(
            parameter.untyped_storage().data_ptr()
            for _, parameter in self.root.named_parameters(remove_duplicate=False)
        )
        for part, record in packed:
            weight, known = part.weight, cast(torch.Tensor, record.registered)
            record.packed = (known.shape, known.dtype, known.device)
            record.registered = None
            record.left = weight
            record.native.release(record.handle)
            if uses[weight.untyped_storage().data_ptr()] == 1:
                weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)

    # Verbs.

    @contextlib.contextmanager
    def verb(self, phase: Phase = Phase.READY) -> Iterator[Native]:
        """The library's model for a verb, over the weights as they are just now."""
        if not self._verb.acquire(blocking=False):
            raise BusyError(
                Status.MQ_ERR_BUSY,
                "the model is busy: another verb is working on it (forward passes are all that is "
                "allowed meanwhile)",
            )
        try:
            native = self._settled()
            self.phase = phase
            try:
                yield native
            finally:
                self.phase = Phase.READY
                self.refresh()
        finally:
            self._verb.release()

    def _settled(self) -> Native:
        """The library's model, over the weights as they are just now."""
        with self._lock:
            native = self.native
            for part in self._with_weight():
                record = self._records[part.name]
                if record.registered is not None and not record.is_at(part.weight):
                    self._rebind()
                    native = self.native
                    break
            native.follow_stream()
        return native

    def layers(self) -> list[tuple[LayerForward, Record]]:
        """The modules with a weight, as both sides know them."""
        return [(part, self._records[part.name]) for part in self._with_weight()]

    # Scoring.

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step of scoring: a forward pass and its gradients."""
        self.is_scoring = True
        try:
            yield
            self._settle_gradients()
        finally:
            self.is_scoring = False
            self._awaited.clear()

    def await_gradient(self, record: Record, y: torch.Tensor) -> None:
        """Hands the gradient of an output on to the search when it comes."""
        native, key = record.native, object()
        self._awaited[key] = (record, y.detach())

        def hook(gradient: torch.Tensor) -> None:
            if self._awaited.pop(key, None) is not None:
                native.gradient(record.handle, tensors.activation(gradient, "a gradient"))

        if y.requires_grad:
            y.register_hook(hook)

    def _settle_gradients(self) -> None:
        """Outputs that the loss does not depend on have a gradient of zero."""
        for record, y in reversed(list(self._awaited.values())):
            record.native.gradient(record.handle, torch.zeros_like(y).contiguous())


def _all_slots(records: dict[str, Record], attention_slots: dict[str, list[Slot]]) -> list[Slot]:
    """Every quantizer, in the order of registration."""
    of_modules = [slot for record in records.values() for slot in record.slots]
    return of_modules + [slot for slots in attention_slots.values() for slot in slots]


def session_of(model: nn.Module) -> Session | None:
    """The session of a module that `quantize` got; None for another one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    return vars(plain_module(model)).get(_ATTRIBUTE)


def plain_module(model: nn.Module) -> nn.Module:
    """The module itself, of what torch.compile() made of it."""
    return vars(model)["_modules"].get("_orig_mod", model)


def _device(weights: dict[str, torch.Tensor]) -> torch.device:
    """The one CUDA device that weights are on, else the CPU."""
    found: dict[torch.device, str] = {}
    for name, weight in weights.items():
        if weight.device.type == "cuda":
            found.setdefault(weight.device, name)
    if len(found) > 1:
        (one, at_one), (other, at_other), *_ = found.items()
        raise UnsupportedError(
            Status.MQ_ERR_UNSUPPORTED,
            f"{at_one} is on {one}, but {at_other} on {other}: a model on several GPUs cannot be "
            "quantized; move it to one, or quantize its parts one by one",
        )
    return next(iter(found), torch.device("cpu"))


def _register(native: Native, part: LayerForward) -> Record:
    kind, name = part.kind, part.name
    weight = None if kind.compute is None else part.weight.detach()
    steps = convolution(part.module, kind)
    handle = native.register(
        kind.name, name, class_name(part.module), weight, steps or {}, _layer_forward(part, steps)
    )
    input_slot = Slot(native, f"{name}.input_quantizer", abi.mq_layer_input, handle)
    output_slot = Slot(native, f"{name}.output_quantizer", abi.mq_layer_output, handle)
    weight_slot = None
    if weight is not None:
        weight_slot = Slot(native, f"{name}.weight_quantizer", None, handle)
    return Record(native, handle, input_slot, output_slot, weight_slot, weight)


def _layer_forward(
    part: LayerForward, steps: dict[str, tuple[int, ...]] | None
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """What torch computes for the library, which cannot: on the stream of the tap."""
    module, compute = part.module, part.kind.compute
    if compute is None or not part.kind.has_input or steps is not None:
        return None
    function = compute
    return lambda x, weight: cast(torch.Tensor, function(module, x, weight))


def _host_slot(native: Native, part: Attention, quantizer: str) -> Slot:
    name = f"{part.name}.{quantizer}"
    made = native.add_quantizer(name, class_name=type(part.module).__name__)
    return Slot(native, name, abi.mq_quantizer_forward, made._handle)
