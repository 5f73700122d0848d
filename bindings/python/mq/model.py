"""The caller's model as the library knows it, and the verbs on it."""

from __future__ import annotations

import json
import os
from typing import Any

from . import _lib, callbacks, configuration, tensors
from ._lib import interface as abi
from .auto_quantize import AutoQuantize
from .outcome import CheckReport
from .saving import Saving


class Model(AutoQuantize, Saving):
    """Names, borrowed arrays and quantizers of a model that the caller holds and runs.

    Register the layers, then `quantize`, then run the model again: its taps (`Layer.input`,
    `Layer.weight`, `Layer.output`, `Quantizer.forward`) now fake-quantize.

    One registration or verb at a time: another one meanwhile, also from inside a callback, raises
    BusyError. Taps may be called from any thread at any time. A verb that fails, or whose callback
    raises, leaves the model as it was.

    Args:
        threads: threads the library may use, the caller's included; 0: one for each CPU.
        log: called with a level of the `logging` module and one line of text, on the thread of the
            call that has something to say; `logging.getLogger("mq").log` fits. What it raises goes
            to `sys.unraisablehook`.
        memory_limit: most bytes that the statistics and the work memory of a calibration may take,
            beside the caller's arrays and the scales it results in; None: no limit. Where one pass
            of the forward loop would need more, there are several (see `plan`), which must bring
            the same data; the results are the same.
        progress: a function, called with a `Progress`, on the thread of the verb, when a pass of
            the forward loop begins or ends, when a layer is solved, and when a step is scored. A
            true value stops the verb, which raises MqError (MQ_ERR_CALLBACK); so does an exception,
            which the verb raises unchanged. True: a progress bar on stderr, of the package tqdm if
            it is installed. False: nothing. None: the bar if stderr is a terminal.
        device: the CUDA device that arrays may be on, beside host memory: "cuda", "cuda:1", an
            index, or a `torch.device`. Work on it is put on the stream that the library of the
            array works on at the time of the call; use one stream at a time. Default: none.
        cublas: whether large products on that device may be made by cuBLAS, which is looked for at
            run time. False: never; they are then the same bytes on every GPU. True: where it is
            found; the log says so. None: what this version takes for the best, which is True and
            may change.

    Ctrl-C stops `quantize`, `calibrate` and `auto_quantize` like an exception in a callback: at the
    next one, which comes at least after every layer.
    """

    def quantize(
        self,
        config: configuration.Config,
        forward_loop: callbacks.ForwardLoop | None = None,
    ) -> Model:
        """Gives the quantizers their formats and calibrates them.

        Args:
            config: the name of a preset ("INT8_DEFAULT_CFG"), a dict with "quant_cfg" (a list of
                entries, or a mapping) and "algorithm", or that dict as JSON. On a quantized model
                it is applied on top.
            forward_loop: `forward_loop(model)` or `forward_loop()`, runs the calibration set
                through the taps; not called when no quantizer waits for it. None: weights are
                calibrated, activations are quantized dynamically.

        Returns:
            The model itself.

        Raises:
            ConfigError: the configuration is not valid, or nothing matches it.
            UnsupportedError: names a preset, format or algorithm that this version lacks.
            NumericError: NaN or Inf, with the name of the layer.
            InvalidArgumentError: no `forward_loop`, but an algorithm that needs one.
            StateError: no tokens passed the taps, a later pass brought others than the first, fewer
                than `min_tokens`, or a resume file that is of something else (`set_calibration`).
            OutOfMemoryError: `memory_limit` is too low for one layer alone; says what it needs.
            CancelledError: `cancel` was called.
            Whatever `forward_loop` or `progress` raises, unchanged.
        """
        callback = callbacks.forward(forward_loop, self)
        with self._in_place() as model:
            _lib.call_verb(abi.mq_quantize, model, configuration.config_text(config), callback)
        return self

    def calibrate(
        self,
        algorithm: configuration.Algorithm = "max",
        forward_loop: callbacks.ForwardLoop | None = None,
    ) -> Model:
        """Calibrates the enabled quantizers of a quantized model.

        A second calibration takes the maximum over both data sets; `reset_amax` starts anew.

        Args:
            algorithm: "max", {"method": ...}, a list of those run one after the other, or None.
            forward_loop: as in `quantize`.

        Returns and raises as `quantize`; StateError before it.
        """
        callback = callbacks.forward(forward_loop, self)
        with self._in_place() as model:
            _lib.call_verb(abi.mq_calibrate, model, configuration.to_json(algorithm), callback)
        return self

    def set_calibration(
        self, min_tokens: int = 0, resume_file: str | os.PathLike[str] | None = None
    ) -> None:
        """Sets how `quantize` and `calibrate` work from now on.

        Args:
            min_tokens: they raise StateError when fewer tokens pass an enabled quantizer of
                activations; its text names those. 0: none is refused, and those that no token
                reached are filled: from the other experts of their `expert_group`, else from the
                layers of their `shared_input_group` or `fused_group`, else they stay without an
                amax and quantize dynamically.
            resume_file: path of a file that keeps what a calibration has finished: one that was
                killed, cancelled or failed goes on from there when the same verb is called on the
                same model again. It is removed when the verb succeeds. None: no file.

        Raises:
            BusyError: inside a verb.
        """
        if not 0 <= min_tokens < 2**64:
            raise ValueError(f"min_tokens is {min_tokens}, expected 0 or more")
        path = None if resume_file is None else os.fsdecode(resume_file)
        with self._owner as model:
            _lib.set_calibration_options(model, min_tokens, path)

    def plan(self, config: configuration.Config | configuration.Algorithm) -> dict[str, Any]:
        """What `quantize` or `calibrate` would do, before anything runs.

        Args:
            config: what `quantize` takes, or (after it) what `calibrate` takes.

        Returns:
            {"forwards": how often the forward loop runs, "peak_bytes": the most memory of all
            passes, "memory_limit_bytes", "passes": a list of {"algorithm", "peak_bytes",
            "statistics_bytes", "workspace_bytes", "observed": [{"layers" or "quantizers",
            "channels", "statistics", "bytes"}]}, "without_data": weights that need no pass, by
            algorithm}. Bytes are an upper bound.

        Raises:
            ConfigError, UnsupportedError: as the verbs.
            OutOfMemoryError: `memory_limit` is too low for one layer alone; says what it needs.
            StateError: an algorithm before `quantize`.
        """
        with self._owner as model:
            text = _lib.text_from(abi.mq_plan, model, configuration.to_json(config))
        plan: dict[str, Any] = json.loads(text)
        return plan

    def check(self) -> CheckReport:
        """Checks whether what a calibration left can be deployed; changes nothing.

        Every scale finite, positive and in range, one scale for what is computed as one, every
        quantizer reached by data, every name resolved. Also measures the error of the quantizers,
        which takes as long as quantizing every weight once.

        Raises:
            StateError: before `quantize`. NumericError: NaN or Inf in a weight.
        """
        with self._in_place() as model:
            count = _lib.size_from(abi.mq_model_quantizer_count, model)
            room = 4096 + 512 * count  # asking for the length would check everything twice
            text = _lib.text_from(abi.mq_check, model, None, capacity=room)
        return CheckReport.from_json(text)

    def fold_pre_quant_scale(self) -> int:
        """Moves what activations are multiplied with into what produces them.

        SmoothQuant and AWQ give activations factors (`Quantizer.pre_quant_scale`). They are written
        into the registered arrays of the norm, or the weight and bias of the producer, that
        `add_layer` named; afterwards they cost nothing. All registered readers of an activation get
        the same factors, the mean of theirs; a weight whose factors change is scaled and calibrated
        accordingly. No tap may run meanwhile.

        Returns:
            How many layers no longer multiply their input; 0: there was nothing to fold.

        Raises:
            StateError: before `quantize`; for layers of different sizes; for weights that are
                folded, compressed or shared, so that they cannot change any more.
            NotFoundError: a producer that is no layer.
            NumericError: a value would leave the range of its dtype.
            ValueError: the bias of a producer is read-only. Nothing changes then.
        """
        for layer in self._layers.values():
            source = self._layers.get(layer._producer or "")
            if source is not None and source._bias is not None:
                what = f"the bias of {source.name}"
                tensors.check_writable(source._bias, what, "fold_pre_quant_scale")
        with self._in_place() as model:
            return _lib.size_from(abi.mq_fold_pre_quant_scale, model, 0)

    def cancel(self) -> None:
        """Stops the `quantize` or `calibrate` that is running: it raises CancelledError.

        Soon: between two layers, between parts of a large layer, and at the next tap. The model is
        then as it was before. May be called from any thread, also in a callback. When nothing is
        running, nothing happens.
        """
        with self._owner as model:
            _lib.call(abi.mq_cancel, model)

    def fold_weight(self, keep_attrs: bool = False) -> None:
        """Writes the fake-quantized weights into the registered arrays; disables their quantizers.

        A folded weight equals what `Layer.weight` gave before, bit for bit. Layers whose weight
        quantizer is disabled stay as they are, so folding twice changes nothing.

        Args:
            keep_attrs: the weight quantizers keep their amax.

        Raises:
            StateError: before `quantize`. NumericError: no weight is changed.
            ValueError: an array was made read-only since it was registered.
        """
        for layer in self._layers.values():
            if layer._weight is not None:
                tensors.check_writable(layer._weight, f"the weight of {layer.name}", "fold_weight")
        with self._in_place() as model:
            flags = abi.FOLD_KEEP_ATTRIBUTES if keep_attrs else 0
            _lib.call(abi.mq_fold_weight, model, flags)

    def compress(
        self, config: configuration.Attributes | str | None = None, allow_no_match: bool = False
    ) -> int:
        """Packs weights with their calibrated scales, into memory of the library's.

        `Layer.weight` then unpacks. The registered arrays are no longer used. Weights on a GPU are
        packed there.

        Args:
            config: which weights, `{pattern: bool}` over the names of weight quantizers, as a dict
                or JSON; None for all that are enabled.
            allow_no_match: packing nothing is no error.

        Returns:
            How many weights were packed.

        Raises:
            StateError: a weight has no amax yet, or is packed already. UnsupportedError: its format
            has no packed form. NotFoundError: nothing was packed. Nothing changes then.
        """
        text = None if config is None else configuration.to_json(config)
        with self._in_place() as model:
            flags = _match_flags(allow_no_match)
            return _lib.size_from(abi.mq_compress, model, text, None, flags)

    def enable_quantizer(self, select: callbacks.Selection, allow_no_match: bool = False) -> int:
        """Enables quantizers.

        Args:
            select: a wildcard such as "*input_quantizer" (fnmatch over the whole dotted name), or a
                function of the name that gives true or false.
            allow_no_match: selecting nothing is no error.

        Returns:
            How many were selected. The input quantizer of an embedding counts, but stays disabled.

        Raises:
            NotFoundError: nothing was selected. StateError: before `quantize`.
            Whatever the function raises; nothing changes then.
        """
        plain, filtered = abi.mq_enable_quantizer, abi.mq_enable_quantizer_if
        return self._select(plain, filtered, select, _match_flags(allow_no_match))

    def disable_quantizer(self, select: callbacks.Selection, allow_no_match: bool = False) -> int:
        """Disables quantizers; as `enable_quantizer`."""
        plain, filtered = abi.mq_disable_quantizer, abi.mq_disable_quantizer_if
        return self._select(plain, filtered, select, _match_flags(allow_no_match))

    def set_quantizer_attributes(
        self,
        select: callbacks.Selection,
        attributes: configuration.Attributes,
        replace: bool = False,
        allow_no_match: bool = False,
    ) -> int:
        """Changes attributes of quantizers.

        The amax stays where the granularity (axis, block_sizes) does.

        Args:
            select: as in `enable_quantizer`.
            attributes: such as {"num_bits": (4, 3)}. A dict goes to every member of a sequential
                quantizer, a list needs a sequential one of that length.
            replace: attributes that are not given go back to their defaults; a dict makes a plain
                quantizer, a list a sequential one.
            allow_no_match: as in `enable_quantizer`.

        Returns:
            How many were selected.

        Raises:
            ConfigError, UnsupportedError, and as `enable_quantizer`; nothing changes then.
        """
        text = configuration.to_json(attributes)
        flags = _match_flags(allow_no_match) | (abi.REPLACE_ATTRIBUTES if replace else 0)
        plain, filtered = abi.mq_set_quantizer_attributes, abi.mq_set_quantizer_attributes_if
        return self._select(plain, filtered, select, flags, text)

    def postprocess_amax(
        self, pattern: str, fn: callbacks.AmaxFunction, allow_no_match: bool = False
    ) -> int:
        """Lets a function change the amax of quantizers.

        Args:
            pattern: a wildcard, as in `enable_quantizer`. Quantizers without an amax are passed
                over.
            fn: takes a float32 array of the shape of `Quantizer.amax`; gives the new one of the
                same shape, or None when it changed it in place. Finite and not negative.
            allow_no_match: as in `enable_quantizer`.

        Returns:
            How many quantizers matched and have an amax.

        Raises:
            NumericError: a value is negative, NaN or Inf.
            Whatever `fn` raises; ValueError when it changes the shape. Nothing changes then.
        """
        wildcard = callbacks.wildcard(pattern)
        callback = callbacks.amax(fn, self._amax_shapes())
        with self._owner as model:
            return _lib.size_from(
                abi.mq_postprocess_amax, model, wildcard, callback, _match_flags(allow_no_match)
            )

    def reset_amax(self, pattern: str = "*", allow_no_match: bool = False) -> int:
        """Forgets the amax and the collected statistics of quantizers.

        Args:
            pattern: a wildcard, as in `enable_quantizer`.
            allow_no_match: as in `enable_quantizer`.

        Returns and raises as `enable_quantizer`.
        """
        wildcard = callbacks.wildcard(pattern)
        with self._owner as model:
            flags = _match_flags(allow_no_match)
            return _lib.size_from(abi.mq_reset_amax, model, wildcard, flags)

    def summary(self) -> str:
        """One line of text for each quantizer, and their number, as the reference prints it."""
        with self._owner as model:
            return _lib.text_from(abi.mq_print_quant_summary, model, abi.SUMMARY_TEXT)

    def summary_json(self) -> dict[str, Any]:
        """Everything about the layers and quantizers, as a new dict."""
        with self._owner as model:
            text = _lib.text_from(abi.mq_print_quant_summary, model, abi.SUMMARY_JSON)
        summary: dict[str, Any] = json.loads(text)
        return summary

    def print_quant_summary(self) -> None:
        """Prints `summary`."""
        print(self.summary(), end="")

    def _select(
        self,
        by_wildcard: Any,
        by_filter: Any,
        select: callbacks.Selection,
        flags: int,
        *attributes: str,
    ) -> int:
        chosen = callbacks.selection(select)
        function = by_wildcard if isinstance(chosen, str) else by_filter
        with self._owner as model:
            return _lib.size_from(function, model, chosen, *attributes, flags)

    def _amax_shapes(self) -> dict[str, tuple[int, ...]]:
        amaxes = {name: quantizer.amax for name, quantizer in self.quantizers().items()}
        return {name: amax.shape for name, amax in amaxes.items() if amax is not None}


def _match_flags(allow_no_match: bool) -> int:
    return abi.ALLOW_NO_MATCH if allow_no_match else 0
