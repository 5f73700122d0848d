"""The search for the format of every layer: scores against numpy, choices against all choices."""

import functools
import gc
import json
import weakref

import numpy as np
import pytest

import mq
import mq.report

from golden import assert_same_bits
from network import matrix
from searched import FORMATS, INT4_WEIGHT, SHAPES, Network, optimum

W4, W8, A8 = {"num_bits": 4, "axis": 0}, {"num_bits": 8, "axis": 0}, {"num_bits": 8}


def fake(x, attributes, amax=None):
    return mq.fake_quant(x, attributes, amax)


def scores(state, name):
    return state["candidate_stats"][f"{name}.quant_recipe"]["scores"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scores_are_the_squares_of_gradient_times_change(dtype):
    network = Network(dtype=dtype)
    want = {name: np.zeros(2) for name in SHAPES}
    amax = dict.fromkeys(SHAPES, 0.0)
    for batch in network.loader:
        network.forward(batch)
        for name, x in network.hidden.items():
            amax[name] = max(amax[name], np.abs(x).max())
    for batch in network.loader:
        gradients = network.gradients(network.forward(batch))
        for name, weight in network.weights.items():
            x, g = network.hidden[name], gradients[name].astype(np.float64)
            w, y = weight.astype(np.float64), x.astype(np.float64) @ weight.astype(np.float64).T
            w4, w8 = fake(weight, W4), fake(weight, W8).astype(np.float64)
            x8 = fake(x, A8, np.float32(amax[name])).astype(np.float64)
            want[name] += [
                np.square(g * (x.astype(np.float64) @ (w4.astype(np.float64) - w).T)).sum(),
                np.square(g * (x8 @ w8.T - y)).sum(),
            ]
    network.steps.clear()
    state = network.search()
    assert network.steps == ["forward"] * 4 + ["forward", "backward"] * 4
    for name in SHAPES:
        np.testing.assert_allclose(scores(state, name)[:2], want[name], rtol=1e-4)
        assert scores(state, name)[2] == 0.0


def test_every_budget_gets_the_best_of_all_choices():
    network = Network()
    state = network.search(bits=16.0)
    assert state["best"]["score"] == 0.0
    assert state["num_calib_steps"] == state["num_score_steps"] == 4
    seen = set()
    for bits in (4.0, 5.0, 6.5, 8.0, 9.0, 11.0, 14.0, 16.0):
        want_score, want_cost = optimum(state, bits)
        told = network.model.auto_quantize_solve({"effective_bits": bits}, dry_run=True)
        assert network.model.auto_quantize_state() == state
        best = network.model.auto_quantize_solve({"effective_bits": bits})
        assert best == told == network.model.auto_quantize_state()["best"]
        assert best["score"] == pytest.approx(want_score, rel=1e-9)
        assert best["constraints"]["cost"] <= bits / 16 * state["cost_denominator"]
        assert best["constraints"]["effective_bits"] <= bits
        assert want_cost <= best["constraints"]["cost"] * (1 + 1e-12)
        state = network.model.auto_quantize_state()
        seen.add(json.dumps(best["recipe"]))
    assert len(seen) > 3
    both = [{"effective_bits": 4.0}, {"effective_bits": 8.0}]
    told = network.model.auto_quantize_solve(both, dry_run=True)
    assert told == [network.model.auto_quantize_solve(one, dry_run=True) for one in both]
    assert len(network.steps) == 12  # no data was asked for again


def test_the_report_takes_a_state():
    assert "up" in mq.report.render(Network().search())


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("named", [False, True])
def test_divergences_are_those_of_numpy(named):
    network = Network()
    amax = dict.fromkeys(SHAPES, 0.0)
    for batch in network.loader:
        network.forward(batch)
        for name, x in network.hidden.items():
            amax[name] = max(amax[name], np.abs(x).max())

    def run(batch, changed, weights, inputs):
        x = batch
        for name, weight in network.weights.items():
            is_changed = name == changed
            x = inputs(x, name) if is_changed else x
            x = x @ (fake(weight, weights) if is_changed else weight).T
            x = x if name == "down" else np.maximum(x, 0)
        return log_softmax(x)

    int4 = {"weights": W4, "inputs": lambda x, name: x}
    int8 = {"weights": W8, "inputs": lambda x, name: fake(x, A8, np.float32(amax[name]))}
    logits = {"forward_step": lambda batch: {"logits": network.forward(batch)}}
    logits["logits"] = lambda output, batch: output["logits"]
    changes = logits if named else {}
    state = network.search(method="kl_div", loss_func=None, backward=None, **changes)
    for name in SHAPES:
        want = []
        for recipe in (int4, int8):
            pairs = [
                (run(batch, None, **recipe), run(batch, name, **recipe)) for batch in network.loader
            ]
            want.append(sum((np.exp(p) * (p - q)).sum() for p, q in pairs))
        np.testing.assert_allclose(scores(state, name)[:2], want, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["gram", "fisher"])
def test_scores_from_second_moments_are_what_they_stand_for(method):
    network = Network()
    backward = {} if method == "fisher" else {"loss_func": None, "backward": None}
    state = network.search(method=method, **backward)
    assert state["method"] == method
    assert ("backward" in network.steps) == (method == "fisher")
    # The model is quantized now: by hand with the weights as they were.
    twin = Network()
    gradients = {name: [] for name in SHAPES}
    inputs = {name: [] for name in SHAPES}
    for batch in twin.loader:
        output = twin.forward(batch)
        for name, g in twin.gradients(output).items():
            gradients[name].append(g)
            inputs[name].append(twin.hidden[name])
    for name, weight in twin.weights.items():
        x = np.concatenate(inputs[name]).astype(np.float64)
        change = x @ (fake(weight, W4).astype(np.float64) - weight).T
        squares = np.square(change).sum(axis=0)
        if method == "fisher":
            squares *= np.square(np.concatenate(gradients[name], dtype=np.float64)).mean(axis=0)
        # INT4 weights alone are exact; formats of inputs are not measured by batches alike.
        np.testing.assert_allclose(scores(state, name)[0], squares.sum(), rtol=1e-3)


def convolved(x, w, stride, padding, dilation):
    """A convolution of `[batch, in, h, w]` in float64, by the definition."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *((p, p) for p in padding)))
    extents = [
        (x.shape[2 + at] - dilation[at] * (w.shape[2 + at] - 1) - 1) // stride[at] + 1
        for at in range(2)
    ]
    y = np.zeros((len(x), len(w), *extents))
    for i, j in np.ndindex(w.shape[2:]):
        rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (extents[0] - 1) + 1, stride[0])
        columns = j * dilation[1]
        columns = slice(columns, columns + stride[1] * (extents[1] - 1) + 1, stride[1])
        y += np.einsum("nchw,oc->nohw", x[:, :, rows, columns], w[:, :, i, j].astype(np.float64))
    return y


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((2, 1), (1, 3), (1, 2))]
)
def test_a_convolution_moves_as_it_was_registered(stride, padding, dilation):
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((6, 3, 3, 2)).astype(np.float32)
    batches = [rng.standard_normal((2, 3, 9, 8)).astype(np.float32) for _ in range(2)]
    both = [np.broadcast_to(value, 2) for value in (stride, padding, dilation)]
    y = [convolved(x, weight, *both) for x in batches]
    gradients = [rng.standard_normal(one.shape).astype(np.float32) for one in y]
    steps = {"stride": stride, "padding": padding, "dilation": dilation}
    model = mq.Model()
    conv = model.add_layer("conv2d", "conv", weight, **steps)

    def backward(at):
        conv.input(batches[at])
        conv.grad(gradients[at])
        return 1.0

    state = model.auto_quantize(
        {"effective_bits": 16},
        [INT4_WEIGHT],
        range(2),
        forward_step=lambda at: conv.input(batches[at]),
        forward_backward_step=backward,
    )
    change = [convolved(x, fake(weight, W4), *both) - y for x, y in zip(batches, y)]
    want = sum(np.square(g * dy).sum() for g, dy in zip(gradients, change))
    np.testing.assert_allclose(scores(state, "conv"), [want, 0.0], rtol=1e-4)


def test_a_step_of_a_convolution_must_fit_its_kind():
    model = mq.Model()
    weight = np.ones((2, 2, 3, 3), np.float32)
    for steps in ({"stride": 0}, {"padding": (1, 1, 1)}, {"dilation": -1}, {"padding": 2**32}):
        with pytest.raises(ValueError, match="2 of them for conv2d"):
            model.add_layer("conv2d", "a", weight, **steps)
    with pytest.raises(ValueError, match="a linear layer has none"):
        model.add_layer("linear", "a", matrix(2, 2), stride=2)
    with pytest.raises(TypeError):
        model.add_layer("conv2d", "a", weight, stride=1.5)
    with pytest.raises(TypeError, match="forward is a int"):
        model.add_layer("generic", "a", weight, forward=1)
    model.add_layer("conv2d", "a", weight, stride=np.int64(2), padding=[1, 2])


def generic(name, weight, forward, batches, gradients):
    model = mq.Model()
    layer = model.add_layer("generic", name, weight, forward=forward)

    def backward(at):
        layer.input(batches[at])
        layer.grad(gradients[at])
        return 1.0

    search = functools.partial(
        model.auto_quantize,
        {"effective_bits": 16},
        ["INT8_DEFAULT_CFG"],
        range(len(batches)),
        forward_step=lambda at: layer.input(batches[at]),
        forward_backward_step=backward,
    )
    return model, search


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_layer_may_be_computed_by_python(dtype):
    pytest.importorskip("ml_dtypes")
    weight = matrix(4, 8, 1, dtype)
    batches = [matrix(5, 8, seed, dtype) for seed in (2, 3)]
    gradients = [matrix(5, 8, seed, dtype) for seed in (4, 5)]
    seen = []

    def forward(x, w):
        assert x.dtype == w.dtype == np.dtype(dtype)
        seen.append((x, w))
        return (x.astype(np.float32) * w.astype(np.float32).sum(0)).astype(x.dtype)

    _, search = generic("scale", weight, forward, batches, gradients)
    state = search()
    assert len(seen) == 4
    assert_same_bits(seen[0][0], batches[0])  # a copy that stays, not the library's memory
    assert_same_bits(seen[0][1], weight)
    want = 0.0
    for g, (x, w), (x8, w8) in zip(gradients, seen[::2], seen[1::2]):
        change = forward(x8, w8).astype(np.float64) - forward(x, w).astype(np.float64)
        want += np.square(g.astype(np.float64) * change).sum()
    np.testing.assert_allclose(scores(state, "scale"), [want, 0.0], rtol=1e-4)


def test_what_the_forward_of_a_layer_raises_comes_out():
    batches, gradients = [matrix(5, 8)], [matrix(5, 8)]
    error = KeyError("mine")

    def fail(x, weight):
        raise error

    model, search = generic("scale", matrix(4, 8), fail, batches, gradients)
    with pytest.raises(KeyError) as caught:
        search()
    assert caught.value is error
    with pytest.raises(mq.StateError):
        model.auto_quantize_state()
    narrow = generic("scale", matrix(4, 8), lambda x, w: x[:2], batches, gradients)[1]
    with pytest.raises(ValueError, match=r"forward of scale gave the shape \(2, 8\)"):
        narrow()


def test_layers_of_a_group_get_one_format():
    network = Network()
    state = network.search(bits=7.0, grouping_rules=[r"^(\w*?)(?:up|middle)$"])
    groups = state["candidate_stats"]
    assert [group["module_names"] for group in groups.values()] == [["up", "middle"], ["down"]]
    apart = Network().search(bits=7.0)
    want = np.add(scores(apart, "up"), scores(apart, "middle"))
    np.testing.assert_allclose(scores(state, "up"), want, rtol=1e-9)
    replaced = Network().search(bits=7.0, grouping_rules={"replace": [r"^()(?:up|down)$"]})
    assert replaced["grouping_rules"] == [r"^()(?:up|down)$"]
    assert list(replaced["candidate_stats"]) == ["up.quant_recipe", "middle.quant_recipe"]


@pytest.mark.parametrize("disabled", ["*d*e", ["middle", "nothing*"]])
def test_disabled_layers_stay_unquantized(disabled):
    network = Network()
    state = network.search(bits=9.5, disabled_layers=disabled)
    group = state["candidate_stats"]["middle.quant_recipe"]
    assert group["formats"] == ["NONE(effective-bits: 16.0)"]
    assert group["is_fixed"]
    assert not network.model.quantizer("middle.weight_quantizer").enabled
    assert state["best"]["constraints"]["effective_bits"] <= 9.5


def test_all_layers_get_a_format_when_that_is_asked_for():
    lines = []
    network = Network(log=lambda level, text: lines.append(text))
    state = network.search(bits=16.0, all_layers=True, verbose=True)
    assert set(state["best"]["recipe"].values()) == {"INT8_DEFAULT_CFG(effective-bits: 8.0)"}
    assert sum("best recipe for" in line for line in lines) == 3


def test_costs_may_be_latencies():
    seen = []
    latencies = {"CUSTOM_0": 1.0, "INT8_DEFAULT_CFG": 2.0, "NONE": 5.0}

    def cost(layer, format_name, elements):
        seen.append((layer, elements))
        return latencies[format_name] * (10 if layer == "down" else 1)

    network = Network()
    state = network.search(constraints={"max_cost": 24}, cost=cost)
    assert set(seen) == {(name, weight.size) for name, weight in network.weights.items()}
    assert state["candidate_stats"]["down.quant_recipe"]["costs"] == [10.0, 20.0, 50.0]
    assert state["cost_model"] == "callback"
    assert state["best"]["constraints"]["cost"] <= 24
    assert network.model.auto_quantize_solve({"max_cost": 12})["constraints"]["cost"] == 12
    with pytest.raises(mq.ConfigError, match="cheapest formats of all layers cost 12"):
        network.model.auto_quantize_solve({"max_cost": 11})


def test_a_stopped_search_goes_on_from_its_checkpoint(tmp_path):
    whole, stopped, resumed, finished = (Network() for _ in range(4))
    want = whole.search()
    path = tmp_path / "search.bin"
    calls = []

    def backward(output, batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        stopped.backward(output, batch)

    with pytest.raises(KeyboardInterrupt):
        stopped.search(checkpoint=path, backward=backward)
    assert stopped.is_untouched()
    assert resumed.search(checkpoint=str(path)) == want
    assert resumed.steps == ["forward", "backward"] * 2
    other = whole.model.auto_quantize_solve({"effective_bits": 5.0})
    steps = {"num_calib_steps": 4, "num_score_steps": 4}
    state = finished.model.auto_quantize({"effective_bits": 5.0}, FORMATS, checkpoint=path, **steps)
    assert finished.steps == []
    assert state == whole.model.auto_quantize_state()
    assert state["best"] == other
    with pytest.raises(mq.StateError, match="does not match this search"):
        Network().search(checkpoint=path, num_score_steps=3)


def test_a_configuration_gives_another_model_the_same_weights():
    searched, configured = Network(), Network()
    searched.search(bits=7.0)
    lower = searched.model.auto_quantize_config({"effective_bits": 4.0})
    config = searched.model.auto_quantize_config()
    assert lower != config
    assert config["algorithm"]["method"] == "max"
    configured.model.quantize(config, lambda: [configured.forward(x) for x in configured.loader])
    x = matrix(3, 16, 9)
    for name, layer in searched.model.layers.items():
        assert_same_bits(configured.model.layers[name].weight(), layer.weight())
    assert_same_bits(configured.forward(x), searched.forward(x))


def test_a_gradient_outside_a_search_does_nothing():
    network = Network()
    network.backward(network.forward(network.loader[0]), None)
    assert network.is_untouched()
    network.model.layers["up"].grad(np.full((1, 2), np.nan, np.float32))
    with pytest.raises(TypeError, match="g has dtype float64"):
        network.model.layers["up"].grad(np.zeros((1, 24)))


def test_a_loader_is_iterated_once_for_every_pass():
    class Loader:
        def __init__(self, batches):
            self.batches, self.passes = batches, 0

        def __iter__(self):
            self.passes += 1
            return iter(self.batches)

    for method in ("gradient", "kl_div"):
        network = Network()
        loader = Loader(network.loader)
        steps = {"num_calib_steps": 4, "num_score_steps": 3}
        network.search(method=method, data_loader=loader, **steps)
        assert loader.passes == 2


def test_a_search_is_freed_without_the_cycle_collector():
    gc.disable()
    try:
        network = Network()
        network.search()
        alive = [weakref.ref(weight) for weight in network.weights.values()]
        del network
        assert all(reference() is None for reference in alive)

        class Forward:
            def __call__(self, x, weight):
                return x

        forward = Forward()
        model, search = generic("scale", matrix(4, 8), forward, [matrix(5, 8)], [matrix(5, 8)])
        search()
        alive = weakref.ref(forward)
        del search, forward
        assert alive() is not None
        model.close()
        assert alive() is None
    finally:
        gc.enable()
