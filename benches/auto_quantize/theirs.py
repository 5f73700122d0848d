"""The reference's side: mtq.auto_quantize on a copy of the host."""

import contextlib
import io
import warnings

import modelopt
import modelopt.torch.quantization as mtq
import torch

VERSION = modelopt.__version__


class Search:
    """A search over a host of its own; `run` may be called once."""

    def __init__(self, host, batches, scored, loss):
        self._host, self._batches, self._scored, self._loss = host, batches, scored, loss
        self._state = None

    def run(self, formats, effective_bits, _threads):
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            _, self._state = mtq.auto_quantize(
                self._host,
                constraints={"effective_bits": effective_bits},
                quantization_formats=formats,
                data_loader=self._batches,
                forward_step=lambda model, batch: model(batch),
                loss_func=self._loss,
                num_calib_steps=len(self._batches),
                num_score_steps=self._scored,
                verbose=False,
            )

    def found(self):
        stats = self._state["candidate_stats"]
        return {
            "scores": {group: [float(s) for s in of["scores"]] for group, of in stats.items()},
            "choice": {group: str(name) for group, name in self._state["best"]["recipe"].items()},
            "score": float(self._state["best"]["score"]),
        }

    def close(self):
        torch.set_grad_enabled(True)
