"""The reference's side: mtq.quantize on a copy of the host."""

import contextlib
import copy
import io
import warnings

import block
import modelopt
import modelopt.torch.quantization as mtq
from cases import HISTOGRAM_BINS
from modelopt.torch.quantization.calib import HistogramCalibrator
from modelopt.torch.quantization.model_calib import (
    enable_stats_collection,
    finish_stats_collection,
    weight_only_quantize,
)
from modelopt.torch.quantization.nn import TensorQuantizer

VERSION = modelopt.__version__


class Calibration:
    """A model of the reference's, the host itself; `run` may be called once."""

    def __init__(self, host):
        self.host = host
        self.forwards = 0

    def run(self, case, data):
        config = copy.deepcopy(getattr(mtq, case.preset))
        config["algorithm"] = case.theirs or config["algorithm"]
        with quiet():
            if case.name == "entropy":
                self._entropy(config, data)
            else:
                mtq.quantize(self.host, config, lambda model: self._forward(model, data))

    def values(self):
        """`{(layer, what): array}` of everything that was chosen."""
        found = {}
        for name, module in block.linears(self.host):
            taken = module.input_quantizer
            found[name, "weight amax"] = module.weight_quantizer.amax
            found[name, "input amax"] = taken.amax
            found[name, "pre_quant_scale"] = taken.pre_quant_scale
        return {key: value.numpy() for key, value in found.items() if value is not None}

    def _entropy(self, config, data):
        """Its documented way: no name of an algorithm leads to the histogram calibrator."""
        mtq.quantize(self.host, {**config, "algorithm": None})
        weights, inputs = (self._quantizers(end) for end in ("weight_quantizer", "input_quantizer"))
        for taken in inputs:
            taken._calibrator = HistogramCalibrator(num_bins=HISTOGRAM_BINS)
        enable_stats_collection(self.host)
        weight_only_quantize(self.host)
        # The calibrator of the weights knows no method; they are finished before the forward.
        for weight in weights:
            finish_stats_collection(weight)
            weight.disable_quant()
        self._forward(self.host, data)
        for taken in inputs:
            finish_stats_collection(taken, method="entropy")
        for weight in weights:
            weight.enable_quant()

    def _quantizers(self, end):
        return [
            module
            for name, module in self.host.named_modules()
            if name.endswith(end) and isinstance(module, TensorQuantizer) and module.is_enabled
        ]

    def _forward(self, model, data):
        block.run(model, data)
        self.forwards += 1


@contextlib.contextmanager
def quiet():
    """Without its progress messages."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
