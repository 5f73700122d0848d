"""The progress bar: when there is one, what it shows, and that it ends."""

import io
import sys

import numpy as np
import pytest

import mq
from mq.progress_bar import Plain

from network import INT8, forward_loop, matrix

STEPS = [mq.Progress("observe", "", 0, 2), mq.Progress("observe", "", 2, 2)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def model_with(**options):
    model = mq.Model(threads=1, **options)
    model.add_linear("a", matrix(6, 8))
    model.add_linear("b", matrix(4, 6))
    return model


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


def test_there_is_a_bar_on_a_terminal(monkeypatch, without_tqdm):
    monkeypatch.setattr(sys, "stderr", Terminal())
    model_with().quantize(INT8, forward_loop)
    shown = sys.stderr.getvalue()
    assert "mq: observing 1/1" in shown
    assert "mq: solving" in shown
    assert "b.input_quantizer" in shown
    assert shown.endswith("\n")
    assert all(len(line) <= 80 for line in shown.replace("\r", "\n").split("\n"))


@pytest.mark.parametrize("stderr", [io.StringIO(), None])
def test_there_is_none_elsewhere(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    model_with().quantize(INT8, forward_loop)
    model_with(progress=False).quantize(INT8, forward_loop)
    assert stderr is None or stderr.getvalue() == ""


def test_it_can_be_turned_off_and_on(monkeypatch, without_tqdm):
    monkeypatch.setattr(sys, "stderr", Terminal())
    model_with(progress=False).quantize(INT8, forward_loop)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model_with(progress=True).quantize(INT8, forward_loop)
    assert "mq: observing" in sys.stderr.getvalue()


def test_its_line_ends_when_the_verb_fails(monkeypatch, without_tqdm):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model = model_with(progress=True)

    def loop():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.quantize(INT8, loop)
    assert sys.stderr.getvalue().endswith("\n")
    sys.stderr.truncate(0)
    model.quantize(INT8, forward_loop)
    assert "mq: observing" in sys.stderr.getvalue()


def test_tqdm_shows_it_where_it_is_installed(monkeypatch):
    bars = []

    class Bar(Plain):
        def __init__(self, total, desc, file, leave):
            super().__init__(desc, total, io.StringIO())
            self.is_closed = False
            bars.append(self)

        def close(self):
            self.is_closed = True

    monkeypatch.setitem(sys.modules, "tqdm", type(sys)("tqdm"))
    module = type(sys)("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    model_with(progress=True).quantize(INT8, forward_loop)
    assert {bar._label for bar in bars} == {"mq: observing", "mq: solving"}
    assert all(bar.is_closed for bar in bars)
    assert all(bar.n <= bar.total for bar in bars)
    assert bars[-1].n == bars[-1].total


def test_the_plain_line_is_written_over():
    file = io.StringIO()
    line = Plain("mq: solving", 3, file)
    for name in ("a." * 50, "b"):
        line.set_postfix_str(name, refresh=False)
        line.update(1)
    line.close()
    first, second, third = file.getvalue().split("\r")
    assert first == ""
    assert len(second) == 79
    assert third.rstrip() == "mq: solving 2/3 b"
    assert third.endswith("\n")


@pytest.mark.parametrize("choice", ["yes", 1, object()])
def test_other_choices_are_refused(choice):
    with pytest.raises(TypeError, match="expected a function, True, False or None"):
        mq.Model(progress=choice)


def test_a_search_shows_its_scores(monkeypatch, without_tqdm):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model = model_with(progress=True)
    a, b = model.layers.values()
    ones = np.ones((5, 4), np.float32)

    def run(x):
        return b.forward(a.forward(x))

    def backward(y, x):
        b.grad(ones)
        a.grad(ones @ b.weight())

    model.auto_quantize(
        {"effective_bits": 8.0},
        ["INT8_DEFAULT_CFG"],
        [matrix(5, 8, seed) for seed in range(3)],
        forward_step=run,
        loss_func=lambda y, x: y.sum(),
        backward=backward,
    )
    assert "mq: scoring 3/3" in sys.stderr.getvalue()
