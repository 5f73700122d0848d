"""The programs that the documentation shows run, and do what it says of them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"


def load(name):
    """The names of an example, which is not run as a program."""
    return runpy.run_path(str(EXAMPLES / name))


def run(name, *arguments):
    """What an example prints, as a program of its own."""
    path = os.pathsep.join(part for part in sys.path if part)
    program = [sys.executable, "-X", "dev", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_layer_is_quantized():
    printed = run("one_layer.py")
    assert "fc.weight_quantizer" in printed
    error = float(printed.rpartition("relative error of the output: ")[2])
    assert 0 < error < 0.02


def test_a_saved_network_gives_the_same_bits(tmp_path):
    assert "the same bits" in run("saving.py", tmp_path / "network")


def test_what_is_saved_is_what_the_bits_come_from(tmp_path):
    """Another amax in the file is another output: it was not luck that the bits agreed."""
    example, path = load("saving.py"), tmp_path / "network"
    example["main"](path)
    x = np.ones((1, 32), np.float32)
    before = example["run"](example["load"](path), x)
    state = json.loads(path.with_suffix(".json").read_text())
    for quantizer in state["quantizers"]:
        if quantizer["name"] == "up.input_quantizer":
            quantizer["amax"]["values"] = [value / 2 for value in quantizer["amax"]["values"]]
    path.with_suffix(".json").write_text(json.dumps(state))
    assert not np.array_equal(example["run"](example["load"](path), x), before)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    example = load("auto_quantize_plot.py")
    page = tmp_path_factory.mktemp("search") / "search.html"
    return example, example["main"](page), page.read_text()


def test_the_search_keeps_its_budget(search):
    _, state, _ = search
    assert state["best"]["is_satisfied"]
    assert state["best"]["constraints"]["effective_bits"] <= 6.0


def test_the_page_of_the_search_has_its_plots(search):
    example, _, page = search
    assert page.count("<svg") >= 2
    assert all(name in page for name in example["SHAPES"])


def test_the_gradients_of_the_search_are_those_of_its_loss(search):
    """Against differences of the loss, for the output of one layer."""
    example, _, _ = search
    network, batch = example["Classifier"](), example["batches"](1)[0]
    given, layer = {}, network.model.layers["head"]

    class Recorder:
        def __init__(self, name):
            self.grad = lambda g: given.__setitem__(name, g)

    logits = network.forward(batch)
    network.model = type("M", (), {"layers": {name: Recorder(name) for name in example["SHAPES"]}})
    network.backward(logits, batch)
    assert layer.name == "head"
    step = np.zeros_like(logits, np.float64)
    step[3, 7] = 1e-3
    up, down = (network.loss(logits + sign * step, batch) for sign in (1, -1))
    assert given["head"][3, 7] == pytest.approx((up - down) / 2e-3, rel=1e-3)
    weight, x = network.weights["embed"].copy(), batch["x"]
    # Of the first layer: what a step of one of its outputs does to the loss.
    bias = np.zeros(len(weight))
    bias[5] = 1e-5

    def loss(sign):
        h = np.maximum(x.astype(np.float64) @ weight.T + sign * bias, 0)
        h = np.maximum(h @ network.weights["mixer.up"].T, 0)
        h = np.maximum(h @ network.weights["mixer.down"].T, 0)
        return network.loss(h @ network.weights["head"].T, batch)

    assert given["embed"][:, 5].sum() == pytest.approx((loss(1) - loss(-1)) / 2e-5, rel=1e-3)
