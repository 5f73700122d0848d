"""What surrounds a calibration: progress, memory, resuming, plans, checks, cancelling, folding."""

import gc
import threading
import weakref

import numpy as np
import pytest

import mq

from golden import assert_same_bits
from network import INT8, forward_loop, matrix, two_layers

AWQ = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "block_sizes": {-1: 8}}},
    ],
    "algorithm": "awq_lite",
}
CONFIGS = {
    "max": INT8,
    "histogram": {**INT8, "algorithm": {"method": "histogram", "amax_method": "mse"}},
    "mse": {**INT8, "algorithm": "mse"},
    "smoothquant": "INT8_SMOOTHQUANT_CFG",
    "awq_lite": AWQ,
    "awq_clip": {**AWQ, "algorithm": "awq_clip"},
    "awq_full": {**AWQ, "algorithm": "awq_full"},
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


class Network:
    """A norm, "up" [16, 8] that reads it, and "down" [4, 16] that reads what "up" computes."""

    def __init__(self, dtype=np.float32, **options):
        self.gain = matrix(1, 8, 1, dtype)[0]
        self.norm_bias = matrix(1, 8, 2, dtype)[0]
        self.bias = matrix(1, 16, 3, dtype)[0]
        self.x = matrix(12, 8, 4, dtype)
        self.x[:, 2] *= 25
        self.passes = 0
        self.model = mq.Model(**options)
        self.up = self.model.add_linear(
            "up",
            matrix(16, 8, 5, dtype),
            self.bias,
            norm=self.gain,
            norm_bias=self.norm_bias,
            norm_adds_one=True,
        )
        self.down = self.model.add_linear("down", matrix(4, 16, 6, dtype), producer="up")

    def forward(self):
        self.passes += 1
        normed = self.x * (1 + self.gain) + self.norm_bias
        return self.down.forward(self.up.forward(normed.astype(self.x.dtype)))


def test_progress_reaches_its_totals(config):
    steps = []
    network = Network(progress=steps.append)
    network.model.quantize(config, network.forward)
    assert all(isinstance(step, mq.Progress) for step in steps)
    observed = [step for step in steps if step.phase == "observe"]
    assert [(step.done, step.total, step.layer) for step in observed] == [(0, 1, ""), (1, 1, "")]
    solved = [step for step in steps if step.phase == "solve"]
    assert [step.done for step in solved] == list(range(1, solved[0].total + 1))
    assert all(step.layer for step in solved)
    assert len(solved) + len(observed) == len(steps)


def test_progress_reaches_its_total_without_a_forward_loop():
    steps = []
    Network(progress=steps.append).model.quantize(INT8)
    names = [(step.done, step.total, step.layer) for step in steps]
    assert names == [(1, 2, "up.weight_quantizer"), (2, 2, "down.weight_quantizer")]


def test_a_true_value_of_progress_stops_the_verb(config):
    calls = []
    network = Network(progress=lambda step: calls.append(step) or len(calls) == 3)
    before = network.model.summary_json()
    with pytest.raises(mq.MqError, match="progress") as caught:
        network.model.quantize(config, network.forward)
    assert caught.value.status == mq.Status.MQ_ERR_CALLBACK
    assert len(calls) == 3
    assert network.model.summary_json() == before
    network.model.quantize(config, network.forward)


@pytest.mark.parametrize("loop", [True, False])
def test_an_exception_in_progress_arrives_as_it_is(loop):
    class StopHere(BaseException):
        pass

    cause, error = KeyError("cause"), StopHere()
    raising = True

    def progress(step):
        if raising and step.phase == "solve":
            raise error from cause

    network = Network(progress=progress)
    before = network.model.summary_json()
    with pytest.raises(StopHere) as caught:
        network.model.quantize(INT8, network.forward if loop else None)
    assert caught.value is error
    assert error.__cause__ is cause
    assert network.model.summary_json() == before
    raising = False
    with pytest.raises(mq.NotFoundError):  # it does not come back
        network.model.quantizer("nobody")
    network.model.quantize(INT8, network.forward)


def test_progress_of_several_threads_keeps_its_exceptions_apart():
    barrier = threading.Barrier(4)

    def progress(step):
        barrier.wait(10)
        raise ValueError(threading.get_ident())

    networks = [Network(threads=1, progress=progress) for _ in range(4)]
    caught = {}

    def run(network):
        try:
            network.model.quantize(INT8, network.forward)
        except ValueError as error:
            caught[threading.get_ident()] = error.args[0]

    threads = [threading.Thread(target=run, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 4
    assert all(ident == raised for ident, raised in caught.items())


def test_progress_keeps_nothing_alive():
    gc.disable()
    try:
        network = Network(progress=lambda step: None)
        network.model.quantize(INT8, network.forward)
        alive = weakref.ref(network.gain), weakref.ref(network.bias)
        del network
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


def test_norms_live_as_long_as_the_model():
    network = Network()
    network.model.quantize(AWQ, network.forward)
    alive = weakref.ref(network.gain)
    network.gain = None
    gc.collect()
    before = alive().copy()
    network.model.fold_pre_quant_scale()
    assert (alive() != before).any()
    network.model.close()
    assert alive() is None


def test_wrong_options_are_refused():
    for limit in (0, -1, 2**64):
        with pytest.raises(ValueError, match="memory_limit is"):
            mq.Model(memory_limit=limit)
    with pytest.raises(TypeError, match="cublas is a str"):
        mq.Model(cublas="never")
    with pytest.raises(TypeError, match="progress is a int"):
        mq.Model(progress=7)
    model, _ = two_layers()
    for tokens in (-1, 2**64):
        with pytest.raises(ValueError, match="min_tokens is"):
            model.set_calibration(min_tokens=tokens)
    with pytest.raises(mq.InvalidArgumentError, match="resume_file is empty"):
        model.set_calibration(resume_file="")
    with pytest.raises(ValueError, match="NUL"):
        model.set_calibration(resume_file="a\0b")


def test_little_memory_takes_more_passes_for_the_same_result(config):
    unlimited = Network(threads=2)
    plan = unlimited.model.plan(config)
    assert plan["forwards"] == 1
    assert plan["memory_limit_bytes"] is None
    peak = plan["peak_bytes"]
    unlimited.model.quantize(config, unlimited.forward)

    limited = Network(threads=2, memory_limit=peak - 1)
    if max(entry["peak_bytes"] for entry in plan["passes"]) < peak:
        # The search over a weight takes the most, and more passes do not make it smaller.
        with pytest.raises(mq.OutOfMemoryError, match=f"set it to {peak} or more"):
            limited.model.plan(config)
        return
    plan = limited.model.plan(config)
    assert plan["memory_limit_bytes"] == peak - 1
    assert plan["peak_bytes"] < peak
    assert plan["forwards"] == len(plan["passes"]) == 2
    limited.model.quantize(config, limited.forward)
    assert limited.passes == 2
    assert limited.model.summary_json() == unlimited.model.summary_json()

    tiny = Network(memory_limit=1)
    for verb in (tiny.model.plan, tiny.model.quantize):
        with pytest.raises(mq.OutOfMemoryError, match=r"needs \d+ bytes.*is 1;"):
            verb(*((config,) if verb == tiny.model.plan else (config, tiny.forward)))
    assert tiny.passes == 0


def test_a_plan_takes_configurations_and_algorithms():
    network = Network()
    before = network.model.summary_json()
    plan = network.model.plan("INT8_SMOOTHQUANT_CFG")
    assert [entry["algorithm"] for entry in plan["passes"]] == ["smoothquant"]
    assert [item["layers"] for item in plan["passes"][0]["observed"]] == [["up"], ["down"]]
    assert network.model.summary_json() == before
    with pytest.raises(mq.StateError):
        network.model.plan("max")
    with pytest.raises(mq.ConfigError, match="INT8_DEFAULT_CFG"):
        network.model.plan("INT8_DEFALT_CFG")
    network.model.quantize(INT8)
    for algorithm in ("max", {"method": "mse"}, ["max", "histogram"], None):
        plan = network.model.plan(algorithm)
        assert plan["forwards"] == {None: 0, "max": 1}.get(str(algorithm), plan["forwards"])
    assert network.model.plan(["max", "histogram"])["forwards"] == 2


def test_a_check_reports_what_it_found():
    network = Network()
    with pytest.raises(mq.StateError):
        network.model.check()
    network.model.quantize(INT8)
    report = network.model.check()
    assert (report.errors, report.warnings, report.unseen) == (0, 2, 0)
    assert report.fewest_tokens is None
    assert {problem["kind"] for problem in report.problems} == {"coverage"}
    network.model.quantize("INT8_SMOOTHQUANT_CFG", network.forward)
    report = network.model.check()
    assert (report.errors, report.warnings, report.enabled) == (0, 0, 4)
    assert report.fewest_tokens == 12
    assert report.problems == []
    assert [entry["name"] for entry in report.quantizers] == list(network.model.quantizers())
    (error,) = [e["error"] for e in report.quantizers if e["name"] == "up.weight_quantizer"]
    assert 0 < error["after"] < 0.01
    network.model.quantizer("down.input_quantizer").set_amax(0)
    assert network.model.check().warnings == 1


def test_a_check_names_groups_that_differ_and_names_that_lead_nowhere():
    model = mq.Model()
    for name in "ab":
        model.add_linear(name, matrix(4, 4), fused_group="ab", producer="c")
    model.quantize(INT8, lambda: [layer.input(matrix(2, 4)) for layer in model.layers.values()])
    assert model.check().errors == 2
    model.quantizer("a.input_quantizer").set_amax(77)
    report = model.check()
    assert report.errors == 3
    severities = {(p["kind"], p["severity"]) for p in report.problems}
    assert severities == {("name", "error"), ("group", "error")}


def test_experts_stand_in_for_one_without_tokens():
    model = mq.Model()
    experts = [model.add_linear(f"e{i}", matrix(4, 4, i), expert_group="up") for i in range(3)]
    x = matrix(5, 4)
    model.quantize(INT8, lambda: experts[1].forward(x))
    for i in range(3):
        assert model.quantizer(f"e{i}.input_quantizer").amax == np.abs(x).max()
    report = model.check()
    assert report.unseen == 2
    filled = [entry["filled_from"] for entry in report.quantizers if "input" in entry["name"]]
    assert [text is not None for text in filled] == [True, False, True]


def test_too_few_tokens_are_refused():
    network = Network()
    network.model.set_calibration(min_tokens=13)
    before = network.model.summary_json()
    with pytest.raises(mq.StateError, match=r"up\.input_quantizer` saw 12"):
        network.model.quantize(INT8, network.forward)
    assert network.model.summary_json() == before
    network.model.set_calibration(min_tokens=12)
    network.model.quantize(INT8, network.forward)


def test_cancelling_leaves_the_model_as_it_was(config):
    network = Network()
    network.model.cancel()  # nothing is running
    before = network.model.summary_json()

    def loop():
        network.forward()
        network.model.cancel()
        with pytest.raises(mq.CancelledError):
            network.forward()

    with pytest.raises(mq.CancelledError) as caught:
        network.model.quantize(config, loop)
    assert caught.value.status_name == "MQ_ERR_CANCELLED"
    assert network.model.summary_json() == before
    network.model.quantize(config, network.forward)


def test_another_thread_may_cancel():
    network = Network()
    began = threading.Event()

    def cancel():
        began.wait(10)
        network.model.cancel()

    def loop():
        began.set()
        while True:
            network.forward()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(mq.CancelledError):
        network.model.quantize(INT8, loop)
    thread.join()


def test_a_cancelled_calibration_is_resumed(config, tmp_path):
    plain = Network()
    plain.model.quantize(config, plain.forward)
    path = tmp_path / "calibration.resume"
    seen = []

    def progress(step):
        seen.append(step)
        if len(seen) == 4:
            stopped.model.cancel()

    stopped = Network(progress=progress)
    stopped.model.set_calibration(resume_file=path)
    before = stopped.model.summary_json()
    cancelled = True
    try:
        stopped.model.quantize(config, stopped.forward)
        cancelled = False  # in the last step, nothing is left to cancel
    except mq.CancelledError:
        assert path.exists()
        assert stopped.model.summary_json() == before
        stopped.model.quantize(config, stopped.forward)
    assert cancelled or len(seen) == 4
    assert not path.exists()
    assert stopped.model.summary_json() == plain.model.summary_json()


def test_a_resume_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "letter"
    path.write_text("dear aunt, thank you for the socks")
    network = Network()
    network.model.set_calibration(resume_file=str(path))
    with pytest.raises(mq.StateError, match="letter"):
        network.model.quantize(INT8, network.forward)
    assert path.exists()
    network.model.set_calibration()
    network.model.quantize(INT8, network.forward)


@pytest.mark.parametrize("algorithm", ["awq_lite", "awq_full"])
def test_folding_leaves_the_product(algorithm):
    network = Network()
    network.model.quantize({**AWQ, "algorithm": algorithm}, network.forward)
    weights = [layer.weight() for layer in (network.up, network.down)]
    before, gain = network.forward(), network.gain.copy()
    factors = [network.model.quantizer(f"{n}.input_quantizer").pre_quant_scale for n in LAYERS]
    assert [len(values) for values in factors] == [8, 16]
    assert network.model.fold_pre_quant_scale() == 2
    for name in LAYERS:
        assert network.model.quantizer(f"{name}.input_quantizer").pre_quant_scale is None
    np.testing.assert_allclose(1 + network.gain, (1 + gain) * factors[0], rtol=1e-5)
    np.testing.assert_allclose(network.up.weight(), weights[0] * factors[1][:, None], rtol=1e-5)
    assert_same_bits(network.down.weight(), weights[1])
    np.testing.assert_allclose(network.forward(), before, rtol=1e-4, atol=1e-4)
    assert network.model.fold_pre_quant_scale() == 0
    network.model.fold_weight()
    np.testing.assert_allclose(network.forward(), before, rtol=1e-4, atol=1e-4)


LAYERS = ("up", "down")


def test_arrays_that_folding_writes_to_must_be_writable():
    network = Network()
    model = mq.Model()
    frozen = network.gain.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"norm of a is read-only.*fold_pre_quant_scale"):
        model.add_linear("a", matrix(4, 8), norm=frozen)
    with pytest.raises(ValueError, match="norm_bias of a is read-only"):
        model.add_linear("a", matrix(4, 8), norm=network.gain, norm_bias=frozen)
    network.model.quantize(AWQ, network.forward)
    network.bias.flags.writeable = False  # allowed, until somebody wants to write to it
    before = network.model.summary_json()
    with pytest.raises(ValueError, match="bias of up is read-only"):
        network.model.fold_pre_quant_scale()
    assert network.model.summary_json() == before
    network.bias.flags.writeable = True
    assert network.model.fold_pre_quant_scale() == 2


def test_folding_refuses_what_it_cannot_do():
    network = Network()
    with pytest.raises(mq.StateError):
        network.model.fold_pre_quant_scale()
    model = mq.Model()
    weight = matrix(4, 8)
    with pytest.raises(mq.InvalidArgumentError, match="norm gain"):
        model.add_linear("a", weight, norm=np.ones(4, np.float32))
    with pytest.raises(mq.InvalidArgumentError, match="norm_gain is NULL"):
        model.add_linear("a", weight, norm_bias=np.ones(8, np.float32))
    with pytest.raises(mq.InvalidArgumentError, match="a norm and a producer"):
        model.add_linear("a", weight, norm=np.ones(8, np.float32), producer="b")
    with pytest.raises(TypeError, match="norm of a has dtype float64"):
        model.add_linear("a", weight, norm=np.ones(8))
    layer = model.add_linear("a", weight, producer="nobody")
    model.quantize(AWQ, lambda: layer.input(matrix(3, 8)))
    with pytest.raises(mq.NotFoundError, match="nobody"):
        model.fold_pre_quant_scale()


def test_everything_is_busy_inside_a_calibration():
    model, _ = two_layers()
    statuses = []

    def loop():
        for verb in (
            lambda: model.plan("max"),
            model.check,
            model.fold_pre_quant_scale,
            model.set_calibration,
        ):
            with pytest.raises(mq.BusyError) as caught:
                verb()
            statuses.append(caught.value.status_name)
        forward_loop(model)

    model.quantize(INT8, loop)
    assert statuses == ["MQ_ERR_BUSY"] * 4
