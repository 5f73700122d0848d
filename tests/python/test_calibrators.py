"""The max calibrator against the golden file, through a quantizer without a layer."""

import functools

import numpy as np
import pytest

import mq

from golden import Golden, assert_same_bits

GOLDEN = Golden("calibrators")
MAX_CASES = [case for case in GOLDEN.cases if case["calibrator"] == "max"]


def test_the_golden_file_is_whole():
    assert len(GOLDEN.cases) == 36
    assert len(MAX_CASES) == 6


@pytest.mark.parametrize("case", MAX_CASES, ids=[case["expected"] for case in MAX_CASES])
def test_max_over_all_batches_is_exact(case):
    batches = [GOLDEN.tensor(f"in.{case['data']}.{i}") for i in range(case["batches"])]
    model = mq.Model()
    tap = model.add_quantizer("attention.k_bmm_quantizer")
    seen = []
    attributes = {"num_bits": 8, "axis": case["axis"]}
    model.quantize(
        {"quant_cfg": [{"quantizer_name": "attention.*", "cfg": attributes}], "algorithm": "max"},
        lambda: seen.extend(tap.forward(x) for x in batches),
    )
    assert_same_bits(tap.amax, GOLDEN.tensor(case["expected"]))
    for x, passed in zip(batches, seen):
        assert_same_bits(passed, x, "observed unchanged")
    want = mq.fake_quant(batches[0], attributes, tap.amax)
    assert_same_bits(tap.forward(batches[0]), want)


def test_a_second_calibration_goes_on_and_reset_starts_anew():
    model = mq.Model()
    tap = model.add_quantizer("q")
    model.quantize({"quant_cfg": [{"quantizer_name": "q", "cfg": {"num_bits": 8}}]})
    assert tap.amax is None
    for value in (3.0, 2.0):
        x = np.array([-value], np.float32)
        model.calibrate("max", functools.partial(tap.forward, x, None))
        assert tap.amax == np.float32(3)
    assert model.reset_amax() == 1
    assert tap.amax is None
    model.calibrate("max", lambda: tap.forward(np.array([2], np.float32)))
    assert tap.amax == np.float32(2)
    assert tap.amax.shape == ()
