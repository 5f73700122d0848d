"""A network with its own backward pass, for the tests of the search for formats."""

import itertools

import numpy as np

import mq

from network import matrix

INT4_WEIGHT = {  # with a tuple, as Python configurations may have
    "quant_cfg": (
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "axis": 0}},
    ),
    "algorithm": "max",
}
FORMATS = [INT4_WEIGHT, "INT8_DEFAULT_CFG", None]
SHAPES = {"up": (24, 16), "middle": (16, 24), "down": (5, 16)}


class Network:
    """Three linear layers with relu between them; the loss is the squared sum of the output."""

    def __init__(self, batches=4, dtype=np.float32, **model):
        self.model = mq.Model(threads=2, **model)
        self.weights = {
            name: matrix(*shape, seed, dtype) for seed, (name, shape) in enumerate(SHAPES.items())
        }
        for name, weight in self.weights.items():
            self.model.add_linear(name, weight)
        self.loader = [matrix(6, 16, 100 + seed, dtype) for seed in range(batches)]
        self.steps = []
        self.hidden = {}

    def forward(self, batch):
        self.steps.append("forward")
        x = batch
        for name, layer in self.model.layers.items():
            self.hidden[name] = x
            x = layer.input(x).astype(np.float32) @ layer.weight().astype(np.float32).T
            x = (x if name == "down" else np.maximum(x, 0)).astype(batch.dtype)
        return x

    def loss(self, output, batch):
        return np.square(output, dtype=np.float64).sum()

    def gradients(self, output):
        """dL/dy of every layer, by name."""
        g, found = 2 * output.astype(np.float32), {}
        for name in reversed(list(SHAPES)):
            found[name] = g.astype(output.dtype)
            g = (g @ self.weights[name].astype(np.float32)) * (self.hidden[name] > 0)
        return found

    def backward(self, output, batch):
        self.steps.append("backward")
        for name, g in self.gradients(output).items():
            self.model.layers[name].grad(g)

    def search(self, bits=8.0, formats=FORMATS, **changes):
        """`auto_quantize` with the functions of this network, but for what changes."""
        given = {
            "constraints": {"effective_bits": bits},
            "quantization_formats": formats,
            "data_loader": self.loader,
            "forward_step": self.forward,
            "loss_func": self.loss,
            "backward": self.backward,
            **changes,
        }
        return self.model.auto_quantize(**given)

    def is_untouched(self):
        """Whether the taps pass everything as they did before the first verb."""
        x = matrix(3, 16, 7)
        layers = self.model.layers
        inputs = np.array_equal(layers["up"].input(x), x)
        return inputs and all(
            np.array_equal(layers[name].weight(), weight) for name, weight in self.weights.items()
        )


def optimum(state, bits):
    """Score and cost of the best choice within a budget, by trying all of them."""
    groups = list(state["candidate_stats"].values())
    limit = bits / 16 * state["cost_denominator"]
    choices = []
    for chosen in itertools.product(*(range(len(group["formats"])) for group in groups)):
        pairs = list(zip(groups, chosen))
        cost = sum(group["costs"][at] for group, at in pairs)
        if cost <= limit * (1 + 1e-12):
            choices.append((sum(group["scores"][at] for group, at in pairs), cost))
    return min(choices)
