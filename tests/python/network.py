"""Small models for the tests."""

import numpy as np

import mq

INT8 = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8}},
    ],
    "algorithm": "max",
}


def matrix(rows, columns, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)


def two_layers(dtype=np.float32):
    """A model with the linear layers "a" [6, 8] and "b" [4, 6], and its weights."""
    weights = {"a": matrix(6, 8, 1, dtype), "b": matrix(4, 6, 2, dtype)}
    model = mq.Model(threads=2)
    for name, weight in weights.items():
        model.add_linear(name, weight)
    return model, weights


def forward_loop(model):
    """Two batches through the layers, one after the other."""
    for seed in (3, 4):
        a, b = model.layers.values()
        weight = a.weight()
        b.forward(a.forward(matrix(5, 8, seed, weight.dtype)))
