"""Saves a quantized network into two files, and loads it where nothing is calibrated.

    python examples/python/saving.py network

`network.json` has what the calibration found, `network.npz` the weights, which are folded: they
hold their quantized values.
"""

import sys

import mq
import numpy as np

SHAPES = {"up": (64, 32), "down": (32, 64)}


def register(weights):
    """A model over these arrays, which it borrows."""
    model = mq.Model()
    for name, weight in weights.items():
        model.add_linear(name, weight)
    return model


def run(model, x):
    for layer in model.layers.values():
        x = np.maximum(layer.forward(x), 0)
    return x


def save(path, model, weights):
    model.fold_weight()
    model.save(f"{path}.json")
    np.savez(f"{path}.npz", **weights)


def load(path):
    """The model, ready to run."""
    weights = dict(np.load(f"{path}.npz"))
    model = register(weights)
    model.load(f"{path}.json")  # in place of quantize
    return model


def main(path):
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    batches = [rng.standard_normal((8, 32), dtype=np.float32) for _ in range(4)]

    model = register(weights)
    model.quantize("INT8_SMOOTHQUANT_CFG", lambda: [run(model, x) for x in batches])
    save(path, model, weights)
    expected = run(model, batches[0])

    assert np.array_equal(run(load(path), batches[0]), expected)
    print("the loaded network gives the same bits")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "network")
