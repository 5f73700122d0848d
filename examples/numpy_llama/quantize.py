"""Quantizes a Llama that runs in numpy, and prints its perplexity before and after.

python examples/numpy_llama/quantize.py                          # INT8_DEFAULT_CFG
python examples/numpy_llama/quantize.py --config INT4_AWQ_CFG --sequences 100
"""

import argparse
from pathlib import Path

import numpy as np

import mq

from llama import Llama, perplexity

MODELS = Path(__file__).resolve().parents[1] / "tiny_llama"
#: Projections that a runtime computes as one product, and so with one scale.
FUSED = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "gate_proj": "up",
    "up_proj": "up",
}


class QuantizedLlama(Llama):
    """A Llama whose matrix products pass the taps of mq."""

    def __init__(self, directory):
        super().__init__(directory)
        self.mq = mq.Model()
        self._taps = {}
        for name, weight in self.linears().items():  # borrowed, not copied
            parent, _, last = name.rpartition(".")
            group = f"{parent}.{FUSED[last]}" if last in FUSED else None
            self._taps[name] = self.mq.add_linear(
                name, weight, fused_group=group, shared_input_group=group
            )

    def product(self, name, x):
        """The product with its input and weight as mq has them."""
        tap = self._taps[name]
        return tap.output(tap.input(x) @ tap.weight().T)


def sequences(path, length):
    """A text as sequences of tokens: a token is a byte."""
    return np.fromfile(path, np.uint8).reshape(-1, length).astype(np.int64)


def main():
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=MODELS / "model", help="its directory")
    parser.add_argument("--config", default="INT8_DEFAULT_CFG", help="a preset of mq")
    parser.add_argument("--sequences", type=int, help="of the test text; default: all")
    arguments = parser.parse_args()

    model = QuantizedLlama(arguments.model)
    calibration = sequences(MODELS / "model" / "calib.bin", model.context)
    test = sequences(MODELS / "model" / "test.bin", model.context)[: arguments.sequences]
    print(f"{'before':24} {perplexity(model, test):.6f}", flush=True)

    def forward_loop():
        for first in range(0, len(calibration), 16):
            model.forward(calibration[first : first + 16])

    model.mq.quantize(arguments.config, forward_loop)
    model.mq.fold_weight()  # the quantized values are now in model.weights
    print(f"{arguments.config:24} {perplexity(model, test):.6f}")


if __name__ == "__main__":
    main()
