"""A search for formats that fails: the error, and a model that is as it was."""

import math

import numpy as np
import pytest

import mq

from searched import FORMATS, Network

LEAST = "cannot be lower than the num_bits of most aggressive quantization format"
BAD_INPUT = {
    "a budget below the formats": ({"bits": 3.0}, mq.ConfigError, LEAST),
    "a budget that layers are too wide for": (
        {"bits": 4.0, "disabled_layers": "up"},
        mq.ConfigError,
        "minimum achievable effective bits is",
    ),
    "a budget above 16": ({"bits": 17.0}, mq.ConfigError, "between 0 and 16"),
    "a budget of NaN": ({"bits": math.nan}, ValueError, "not JSON compliant"),
    "an unknown constraint": ({"constraints": {"bits": 4}}, mq.ConfigError, '"bits"'),
    "two budgets": (
        {"constraints": {"effective_bits": 8, "max_cost": 8}},
        mq.ConfigError,
        "both given",
    ),
    "an unknown format": ({"formats": ["INT9_CFG"]}, mq.ConfigError, "INT9_CFG"),
    "no format": ({"formats": [None]}, mq.ConfigError, "holds no format"),
    "a format that is no format": ({"formats": [3]}, mq.ConfigError, r"formats\[0\]"),
    "an unknown method": ({"method": "hessian"}, mq.ConfigError, "hessian"),
    "a rule that is no expression": (
        {"grouping_rules": ["^(up"]},
        mq.ConfigError,
        "no regular expression",
    ),
    "a rule without a group": ({"grouping_rules": ["^up"]}, mq.ConfigError, "captures nothing"),
    "a pattern that is no text": ({"disabled_layers": [1]}, mq.ConfigError, "disabled_layers"),
    "data that ends early": ({"num_calib_steps": 5}, mq.StateError, "no batch 4"),
    "data that ends early in scoring": ({"num_score_steps": 5}, mq.StateError, "no batch 4"),
    "no data": ({"data_loader": []}, mq.InvalidArgumentError, "num_calib_steps is 0"),
    "no steps": ({"num_score_steps": 0}, ValueError, "num_score_steps is 0"),
    "a loss that is NaN": ({"loss_func": lambda *_: math.nan}, mq.NumericError, "loss of step 0"),
    "a loss that is none": ({"loss_func": lambda *_: None}, TypeError, "real number"),
    "no loss": ({"loss_func": None}, mq.InvalidArgumentError, "loss_func"),
    "no backward": ({"backward": None}, mq.InvalidArgumentError, "backward"),
    "no forward": ({"forward_step": None}, mq.InvalidArgumentError, "forward_step"),
    "no loader": ({"data_loader": None}, TypeError, "data_loader is None"),
    "a loader that is none": ({"data_loader": 3}, TypeError, "not iterable"),
    "a function that is none": ({"forward_step": "run"}, TypeError, "forward_step is a str"),
    "a cost that is none": ({"cost": 3}, TypeError, "cost is a int"),
    "a negative cost": ({"cost": lambda *_: -1.0}, mq.NumericError, "-1"),
    "a cost of NaN": ({"cost": lambda *_: math.nan}, mq.NumericError, "NaN"),
    "logits that are none": (
        {"method": "kl_div", "logits": lambda *_: None},
        TypeError,
        "what logits returned is a NoneType",
    ),
    "taps that are not called": ({"forward_step": lambda batch: batch}, mq.StateError, "tap"),
    "a backward pass without taps": (
        {"backward": lambda *_: None},
        mq.StateError,
        "got no gradient",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_nothing_changes(case):
    changes, error, text = BAD_INPUT[case]
    network = Network()
    before = network.model.summary_json()
    with pytest.raises(error, match=text):
        network.search(**changes)
    assert network.is_untouched()
    assert network.model.summary_json() == before
    with pytest.raises(mq.StateError, match="no search"):
        network.model.auto_quantize_state()
    network.search()  # and it can be mended


@pytest.mark.parametrize("batches", [4, 8])
def test_a_generator_cannot_begin_again(batches):
    network = Network(batches)
    loader = (batch for batch in network.loader)
    with pytest.raises(mq.StateError, match="no batch 0 for num_score_steps"):
        network.search(data_loader=loader, num_calib_steps=4, num_score_steps=4)
    assert network.is_untouched()


@pytest.mark.parametrize(
    ("g", "error", "text"),
    [
        (np.zeros((6, 23), np.float32), mq.InvalidArgumentError, r"gradient of shape \[6, 23\]"),
        (
            np.full((6, 24), np.nan, np.float32),
            mq.NumericError,
            "layer `up`.*scores need finite gradients",
        ),
    ],
)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_gradient_that_fails_fails_the_search(g, error, text, swallowed):
    network = Network()

    def backward(output, batch):
        try:
            network.model.layers["up"].grad(g)
        except mq.MqError:
            if not swallowed:
                raise

    with pytest.raises(error, match=text):
        network.search(backward=backward)
    assert network.is_untouched()


def test_more_gradients_than_inputs_are_refused():
    network = Network()

    def backward(output, batch):
        network.backward(output, batch)
        network.backward(output, batch)

    with pytest.raises(mq.StateError, match="down"):
        network.search(backward=backward)
    assert network.is_untouched()


class StopHere(BaseException):
    """An exception that `except Exception` does not catch."""


@pytest.mark.parametrize(
    "function", ["forward_step", "loss_func", "backward", "forward_backward_step", "cost", "logits"]
)
@pytest.mark.parametrize("at", [0, 1])
def test_what_a_function_raises_comes_out(function, at):
    network = Network()
    error = StopHere(function)
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) > at:
            raise error
        normal = {"forward_step": network.forward, "loss_func": network.loss}
        normal.update(backward=network.backward, logits=lambda output, batch: output)
        normal.update(cost=lambda layer, name, elements: 1.0, forward_backward_step=both)
        return normal[function](*arguments)

    def both(batch):
        output = network.forward(batch)
        network.backward(output, batch)
        return network.loss(output, batch)

    changes = {function: stop, "method": "kl_div" if function == "logits" else "gradient"}
    with pytest.raises(StopHere) as caught:
        network.search(**changes)
    assert caught.value is error
    assert len(calls) == at + 1
    assert network.is_untouched()


def test_what_a_loader_raises_comes_out():
    class Loader:
        def __iter__(self):
            yield network.loader[0]
            raise StopHere

    network = Network()
    with pytest.raises(StopHere):
        network.search(data_loader=Loader())
    assert network.is_untouched()


def test_a_quantized_model_is_not_searched():
    network = Network()
    network.model.quantize("INT8_WEIGHT_ONLY_CFG")
    before = network.model.summary_json()
    with pytest.raises(mq.StateError, match="quantized already"):
        network.search()
    assert network.model.summary_json() == before
    assert network.steps == []


def test_a_choice_needs_a_search_and_its_weights():
    network = Network()
    model = network.model
    for verb in (model.auto_quantize_state, model.auto_quantize_config):
        with pytest.raises(mq.StateError, match="no search"):
            verb()
    with pytest.raises(mq.StateError, match="no search"):
        model.auto_quantize_solve({"effective_bits": 8})
    network.search()
    before = model.auto_quantize_state()
    for constraints in ({"effective_bits": 2}, {"bits": 8}, "not JSON"):
        with pytest.raises(mq.ConfigError):
            model.auto_quantize_solve(constraints)
    with pytest.raises(mq.ConfigError):
        model.auto_quantize_solve([{"effective_bits": 8}])  # a list is for a dry run
    assert model.auto_quantize_state() == before
    model.fold_weight()
    with pytest.raises(mq.StateError, match="folded"):
        model.auto_quantize_solve({"effective_bits": 4})
    assert model.auto_quantize_solve({"effective_bits": 4}, dry_run=True)["is_satisfied"]
    assert model.auto_quantize_state() == before


def test_the_model_is_busy_during_a_search():
    network = Network()
    seen = []

    def forward(batch):
        for verb in (network.model.auto_quantize_state, network.model.fold_weight, network.search):
            with pytest.raises(mq.BusyError):
                verb()
            seen.append(verb)
        return network.forward(batch)

    network.search(forward_step=forward, num_calib_steps=1, num_score_steps=1)
    assert len(seen) == 6


def test_a_search_is_cancelled():
    network = Network()

    def loss(output, batch):
        network.model.cancel()
        return 1.0

    with pytest.raises(mq.CancelledError):
        network.search(loss_func=loss)
    assert network.is_untouched()


def test_a_host_needs_nothing_that_is_not_used():
    network = Network()
    with pytest.raises(mq.InvalidArgumentError, match="host is NULL, but the search needs"):
        network.model.auto_quantize(None, FORMATS)
    state = network.search(loss_func=None, backward=None, method="kl_div")
    assert state["method"] == "kl_div"
