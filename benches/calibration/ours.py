"""mq's side: taps in forward pre-hooks of the host's own block, on the memory of torch."""

from contextlib import ExitStack

import block
import mq
from measure import Clock
from mq import _lib
from mq._lib import interface as abi

#: Layers that read the same activation.
SHARED_INPUT = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}


class NotBuiltError(Exception):
    """This version does not have the algorithm (yet), or not even its name."""


class Calibration:
    """A model of mq's over a host; `run` may be called once."""

    def __init__(self, host, threads):
        self.host = host
        #: In the taps, and in the forward passes with their taps. What is left is the solving.
        self.taps = Clock()
        self.passes = Clock()
        self.forwards = 0
        self._model = mq.Model(threads=threads)

    def run(self, config, data):
        """Registers the layers and quantizes: what mtq.quantize does in one call, too."""
        with ExitStack() as hooks:
            for name, linear in block.linears(self.host):
                parent, leaf = name.rsplit(".", 1)
                group = SHARED_INPUT.get(leaf)
                layer = self._model.add_linear(
                    name,
                    linear.weight.detach().numpy(),
                    shared_input_group=group and f"{parent}.{group}",
                )
                handle = linear.register_forward_pre_hook(self._tap(layer))
                hooks.callback(handle.remove)
            try:
                self._model.quantize(config, lambda: self._forward(data))
            except (mq.UnsupportedError, mq.ConfigError) as error:
                raise NotBuiltError(str(error)) from error

    def values(self):
        """`{(layer, what): array}` of everything that was chosen."""
        found = {}
        for name, _ in block.linears(self.host):
            weight = self._model.quantizer(f"{name}.weight_quantizer")
            taken = self._model.quantizer(f"{name}.input_quantizer")
            found[name, "weight amax"] = weight.amax
            found[name, "input amax"] = taken.amax
            found[name, "pre_quant_scale"] = taken.pre_quant_scale
        return {key: value for key, value in found.items() if value is not None}

    def close(self):
        self._model.close()

    def _tap(self, layer):
        def hook(_module, arguments):
            with self.taps:
                # Observes only, as mq_layer_input() with a NULL `out`; Layer.input() also copies.
                _lib.call(abi.mq_layer_input, layer._handle, arguments[0].numpy(), None)

        return hook

    def _forward(self, data):
        with self.passes:
            block.run(self.host, data)
        self.forwards += 1


def config(case):
    """The configuration of a case: that of a preset, with the algorithm of the case."""
    wanted = mq.preset(case.preset)
    if case.ours is not None:
        wanted["algorithm"] = case.ours
    return wanted
