"""mq's side: taps in hooks of the host's own block, on the memory of torch."""

from contextlib import ExitStack

import block
import mq
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


class Search:
    """A search over a host of its own; `run` may be called once."""

    def __init__(self, host, batches, scored, loss, method="gradient"):
        self._method = method
        self._host, self._batches, self._scored, self._loss = host, batches, scored, loss
        self._model = None
        self._state = None

    def run(self, formats, effective_bits, threads):
        self._model = mq.Model(threads=threads)
        with ExitStack() as hooks:
            for name, linear in block.linears(self._host):
                parent, leaf = name.rsplit(".", 1)
                group = SHARED_INPUT.get(leaf)
                layer = self._model.add_linear(
                    name,
                    linear.weight.detach().numpy(),
                    shared_input_group=group and f"{parent}.{group}",
                )
                hooks.callback(linear.register_forward_pre_hook(input_hook(layer)).remove)
                hooks.callback(linear.register_forward_hook(output_hook(layer)).remove)
            self._state = self._model.auto_quantize(
                constraints={"effective_bits": effective_bits},
                quantization_formats=formats,
                data_loader=self._batches,
                forward_step=self._forward,
                forward_backward_step=self._forward_backward,
                num_calib_steps=len(self._batches),
                num_score_steps=self._scored,
                method=self._method,
            )

    def _forward(self, batch):
        block.run(self._host, batch)

    def _forward_backward(self, batch):
        loss = self._loss(self._host(batch.clone().requires_grad_()), batch)
        loss.backward()
        return loss.item()

    def found(self):
        stats = self._state["candidate_stats"]
        return {
            "scores": {group: of["scores"] for group, of in stats.items()},
            "choice": self._state["best"]["recipe"],
            "score": self._state["best"]["score"],
        }

    def close(self):
        self._model.close()


def input_hook(layer):
    def hook(_module, arguments):
        # Observes only, as mq_layer_input() with a NULL `out`; Layer.input() also copies.
        _lib.call(abi.mq_layer_input, layer._handle, arguments[0].detach().numpy(), None)

    return hook


def output_hook(layer):
    def hook(_module, _arguments, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: layer.grad(gradient.contiguous().numpy()))

    return hook
