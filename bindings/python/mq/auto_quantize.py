"""The search for the format of every layer: the verbs of a `Model` about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Union

from . import _lib, configuration, search_host
from ._lib import interface as abi
from ._lib import search
from .registry import Registry

#: {"effective_bits": 4.8} or {"max_cost": x}, with "cost_model" and "cost"; or the same as JSON.
Constraints = Union[Mapping[str, Any], str]


class AutoQuantize(Registry):
    """Searches the format of every layer, and chooses under a budget."""

    def auto_quantize(
        self,
        constraints: Constraints | None = None,
        quantization_formats: Sequence[configuration.Config | None] | str | None = None,
        data_loader: Iterable[Any] | None = None,
        forward_step: Callable[[Any], Any] | None = None,
        loss_func: Callable[[Any, Any], float] | None = None,
        backward: Callable[[Any, Any], object] | None = None,
        forward_backward_step: Callable[[Any], float] | None = None,
        num_calib_steps: int | None = None,
        num_score_steps: int | None = None,
        disabled_layers: str | Sequence[str] | None = None,
        verbose: bool = False,
        method: str = "gradient",
        grouping_rules: Sequence[str] | Mapping[str, Sequence[str]] | str | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        cost: search_host.Cost | None = None,
        logits: Callable[[Any, Any], Any] | None = None,
        all_layers: bool = False,
    ) -> dict[str, Any]:
        """Calibrates every format, scores each for every layer, and keeps the best choice.

        Searched are linear layers, convolutions, and others with a weight and a `forward`; all
        other quantizers are off afterwards. The score of a format is the sum over steps of
        `(dL/dy * change of y) ** 2`, as in the reference; the choice has the least total score that
        the constraints allow.

            def backward(output, batch):
                g = 2 * (output - batch.target)
                fc2.grad(g)
                fc1.grad((g @ w2) * (hidden > 0))

            state = model.auto_quantize(
                {"effective_bits": 6.0}, ["INT4_AWQ_CFG", "INT8_DEFAULT_CFG"], loader,
                forward_step=run, loss_func=loss, backward=backward)

        Args:
            constraints: {"effective_bits": 4.8} (bits of a weight's element on average, where 16 is
                unquantized; the default), or {"max_cost": x} in the unit of the costs; optionally
                "cost_model" ("weight", or "active_moe": elements of experts count
                `active_moe_expert_ratio`) and "cost" ({"active_moe_expert_ratio": 0.25,
                "excluded_module_name_patterns": ["*lm_head*"]}).
            quantization_formats: names of presets, configurations, and None (no quantization).
                Their patterns see bare names: "*weight_quantizer" reaches every searched layer.
                Default: ["NVFP4_AWQ_LITE_CFG", "FP8_DEFAULT_CFG"].
            data_loader: batches of any kind. It is iterated anew for every pass, and must then
                bring the same ones: a list, a DataLoader, but no generator.
            forward_step: `forward_step(batch)` runs the model, calling `Layer.input`, and returns
                its output.
            loss_func: `loss_func(output, batch)` returns the loss, a number.
            backward: `backward(output, batch)` runs back from that loss, calling `Layer.grad` with
                its gradient at the output of every layer. (There is no autograd here.)
            forward_backward_step: `forward_backward_step(batch)` does all three and returns the
                loss, in place of `loss_func` and `backward`.
            num_calib_steps: batches that the formats are calibrated on; those with AWQ take a
                quarter. Default: 512, or all of a shorter loader that has a length.
            num_score_steps: batches that they are scored on. Default: 128, likewise.
            disabled_layers: a wildcard, or a list of them, of names of layers that stay
                unquantized, and with them the layers of their groups.
            verbose: tell of every choice through the log.
            method: "gradient"; "gram": the expected square of the change from statistics of the
                inputs, without a backward pass; "fisher": that, weighed with squared gradients,
                faster than "gradient"; both are for linear layers. Or "kl_div": the divergence of
                the logits, without a backward pass, but with a forward for every format of every
                group.
            grouping_rules: regular expressions whose first captured group is the key of a group of
                layers that get one format; they go behind the default rules (q, k, v; gate, up;
                experts). {"prepend": [...]} puts them before, {"replace": [...]} in their place.
            checkpoint: path of a file that keeps the search: one that was stopped goes on from
                there, and a finished one is solved for other constraints without functions and
                data, when the formats and both numbers of steps are given as before. It stays.
            cost: `cost(layer, format, elements)`, what a layer with so many elements of weight
                costs under a format ("NONE": unquantized) in any unit: latency, bytes, energy.
                Default: elements times bits, over 16.
            logits: `logits(output, batch)` returns the logits `[..., classes]` for "kl_div", a
                float32, float16 or bfloat16 array. Default: the output itself.
            all_layers: every layer that is not disabled gets one of the formats.

        Returns:
            `auto_quantize_state()`.

        Raises:
            ConfigError: constraints, formats, rules or patterns that are not valid, or a budget
                below what the most compressed formats reach (the text says how much that is).
            InvalidArgumentError: a function is missing, or a gradient or input has a wrong shape.
            StateError: the model is quantized, data ends early, the backward pass did not call
                `Layer.grad`, or the checkpoint is of another search.
            NumericError: a loss, gradient, activation, weight or cost is NaN or Inf.
            UnsupportedError, OutOfMemoryError, CancelledError: as `quantize`.
            Whatever the functions or the loader raise, unchanged. The model is then as before.
        """
        texts = {
            "constraints": _json_or_none(constraints),
            "quantization_formats": _json_or_none(quantization_formats),
            "disabled_layers": _patterns(disabled_layers),
            "grouping_rules": _json_or_none(grouping_rules),
            "method": method,
            "checkpoint": None if checkpoint is None else os.fsdecode(checkpoint),
        }
        calib = search_host.steps(num_calib_steps, "num_calib_steps", 512, data_loader)
        score = search_host.steps(num_score_steps, "num_score_steps", 128, data_loader)
        options = search.options(texts, calib, score, verbose, all_layers)
        host = search_host.host(
            data_loader,
            forward_step,
            loss_func,
            backward,
            forward_backward_step,
            logits,
            self._owner.follow,
        )
        with self._in_place() as model:
            _lib.call_verb(abi.mq_auto_quantize, model, options, host, search_host.cost(cost))
        return self.auto_quantize_state()

    def auto_quantize_solve(
        self, constraints: Constraints | Sequence[Constraints], dry_run: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Solves the search anew for other constraints, without data, and puts it into effect.

        Args:
            constraints: as in `auto_quantize`; in a dry run also a list of them. After a search
                with `cost` only the budget may change.
            dry_run: only tell; the model stays as it is.

        Returns:
            {"recipe": the format by group, "constraints": {"effective_bits", "cost"}, "score",
            "is_satisfied"}; a list of those for a list.

        Raises:
            ConfigError: as `auto_quantize`.
            StateError: without a search, or when weights are folded or compressed.
        """
        text = configuration.to_json(constraints)
        with self._in_place() as model:
            if not dry_run:
                _lib.call(abi.mq_auto_quantize_solve, model, text, 0, None, 0, None)
            told = _lib.text_from(abi.mq_auto_quantize_solve, model, text, abi.SOLVE_DRY_RUN)
        best: dict[str, Any] | list[dict[str, Any]] = json.loads(told)
        return best

    def auto_quantize_state(self) -> dict[str, Any]:
        """What the search found, as a new dict that `json.dump` can write for `mq.report`.

        It has the reference's keys: "candidate_stats" (by "<first layer of the group>.quant_recipe"
        {"formats", "scores", "costs", "module_names", ...}, in ascending bits), "best" (as
        `auto_quantize_solve` tells it), "method", "cost_model", "disabled_layers",
        "quantizer_states" and more; and "curve", the optimum over all budgets, a list of {"cost",
        "effective_bits", "score"}.

        Raises:
            StateError: without a search.
        """
        with self._owner as model:
            text = _lib.text_from(abi.mq_auto_quantize_state, model)
        state: dict[str, Any] = json.loads(text)
        return state

    def auto_quantize_config(self, constraints: Constraints | None = None) -> dict[str, Any]:
        """The configuration that gives `quantize` the choice of the search.

        Args:
            constraints: as in `auto_quantize_solve`; None: the choice that is in effect.

        Returns:
            {"quant_cfg": a list that names every quantizer, "algorithm": that of the formats, or
            a list of them with the "layers" that each is for}.

        Raises:
            ConfigError, StateError: as `auto_quantize_solve`.
        """
        text = _json_or_none(constraints)
        with self._owner as model:
            told = _lib.text_from(abi.mq_auto_quantize_config, model, text)
        config: dict[str, Any] = json.loads(told)
        return config


def _json_or_none(value: object) -> str | None:
    return None if value is None else configuration.to_json(value)


def _patterns(patterns: str | Sequence[str] | None) -> str | None:
    one = isinstance(patterns, str)  # a wildcard, where elsewhere text is JSON
    return json.dumps(patterns) if one else _json_or_none(patterns)
