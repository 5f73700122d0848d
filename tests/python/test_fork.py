"""A forked child has a copy of the model, but not of its threads."""

import os
import signal

import numpy as np
import pytest

import mq


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_use_a_model():
    weight = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    model = mq.Model(threads=2)
    layer = model.add_linear("a", weight)
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    want = layer.weight()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a hang is a failure, too
        os._exit(0 if (layer.weight() == want).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
