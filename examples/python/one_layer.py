"""Quantizes one linear layer to INT8, and writes the quantized values over its weight."""

import mq
import numpy as np

rng = np.random.default_rng(0)
weight = rng.standard_normal((64, 32), dtype=np.float32)
batches = [rng.standard_normal((8, 32), dtype=np.float32) for _ in range(4)]

model = mq.Model()
fc = model.add_linear("fc", weight)  # borrowed, not copied


def forward_loop():
    """The calibration set on its way through the model, which calls the taps."""
    for x in batches:
        fc.forward(x)  # or: fc.input(x), a product of your own, fc.output(y)


model.quantize("INT8_DEFAULT_CFG", forward_loop)
model.print_quant_summary()

y = fc.forward(batches[0])  # with quantized input and weight
print(
    f"relative error of the output: {np.abs(y - batches[0] @ weight.T).max() / np.abs(y).max():.4f}"
)

model.fold_weight()  # from now on `weight` holds the quantized values
assert np.array_equal(fc.weight(), weight)
