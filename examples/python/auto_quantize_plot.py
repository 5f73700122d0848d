"""Finds the format of every layer within a budget of bits, and draws the search.

    python examples/python/auto_quantize_plot.py search.html

The network is a small classifier in numpy. The library asks for two things beside its layers: a
forward pass, and a backward pass that tells each layer the gradient at its output. What it finds is
written as a page with plots.
"""

import sys

import mq
import numpy as np
from mq import report

SHAPES = {"embed": (48, 32), "mixer.up": (96, 48), "mixer.down": (48, 96), "head": (10, 48)}
FORMATS = ["MXFP4_DEFAULT_CFG", "INT8_DEFAULT_CFG"]


class Classifier:
    """Linear layers with relu between them; the loss is the cross entropy of its answers."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = {
            name: rng.standard_normal(shape, dtype=np.float32) * np.float32(shape[1] ** -0.5)
            for name, shape in SHAPES.items()
        }
        self.model = mq.Model()
        for name, weight in self.weights.items():
            self.model.add_linear(name, weight)  # borrowed, not copied

    def forward(self, batch):
        """The logits. `forward` of a layer is its taps around the product."""
        x = batch["x"]
        self.inputs = {}
        for name, layer in self.model.layers.items():
            self.inputs[name] = x
            x = layer.forward(x)
            if name != "head":
                x = np.maximum(x, 0)
        return x

    def loss(self, logits, batch):
        """The mean cross entropy."""
        chosen = np.arange(len(logits)), batch["label"]
        return float(-np.log(softmax(logits)[chosen]).mean())

    def backward(self, logits, batch):
        """Gives every layer the gradient of the loss at its output, from the last to the first."""
        g = softmax(logits)
        g[np.arange(len(logits)), batch["label"]] -= 1
        g /= len(logits)
        for name, layer in reversed(self.model.layers.items()):
            layer.grad(g)
            g = (g @ self.weights[name]) * (self.inputs[name] > 0)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def batches(count, seed=1):
    rng = np.random.default_rng(seed)
    return [
        {
            "x": rng.standard_normal((16, 32), dtype=np.float32),
            "label": rng.integers(0, 10, 16),
        }
        for _ in range(count)
    ]


def main(page):
    network = Classifier()
    state = network.model.auto_quantize(
        {"effective_bits": 6.0},
        FORMATS,
        data_loader=batches(8),
        forward_step=network.forward,
        loss_func=network.loss,
        backward=network.backward,
    )
    for group, format in state["best"]["recipe"].items():
        print(f"{group.removesuffix('.quant_recipe'):12} {format}")
    report.write_report(state, page)

    # Other budgets are answered from the same scores, without data.
    for bits in (4.5, 8.0):
        best = network.model.auto_quantize_solve({"effective_bits": bits}, dry_run=True)
        print(f"{bits} bits: score {best['score']:.3g}")
    return state


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "search.html")
