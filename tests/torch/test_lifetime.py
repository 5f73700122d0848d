"""Copies, moved weights, threads, and objects that go in any order."""

import copy
import gc
import io
import pickle
import sys
import threading
import weakref

import pytest
import torch
from torch import nn

import mq
import mq.torch as mtq

from networks import llama, loop, tokens, vision


def mlp():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))


def quantized(config=mtq.INT4_AWQ_CFG):
    model, x = mlp(), torch.randn(16, 32)
    return mtq.quantize(model, config, lambda m: m(x)), x


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


PRESETS = [mtq.INT8_SMOOTHQUANT_CFG, mtq.W4A8_AWQ_BETA_CFG, mtq.NVFP4_DEFAULT_CFG]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch])
@pytest.mark.parametrize("config", PRESETS, ids=["smoothquant", "w4a8", "nvfp4"])
def test_a_copy_computes_the_same_and_is_one_of_its_own(config, duplicate):
    model, x = quantized(config)
    expected = model(x)
    twin = duplicate(model)
    assert torch.equal(twin(x), expected)
    assert _plain(mtq.quantizers(twin)) == _plain(mtq.quantizers(model))
    mtq.disable_quantizer(twin, "*")
    assert not torch.equal(twin(x), expected)
    assert torch.equal(model(x), expected)
    again = duplicate(duplicate(model))  # of a copy that was never used
    assert torch.equal(again(x), expected)


def _plain(quantizers):
    def values(tensor):
        return None if tensor is None else tensor.tolist()

    return {
        name: (values(one.amax), values(one.pre_quant_scale), one.enabled, one.attributes)
        for name, one in quantizers.items()
    }


def test_a_copy_of_a_part_has_its_quantizers():
    model, x = quantized()
    part = copy.deepcopy(model[0])
    assert torch.equal(part(x), model[0](x))


def test_a_copied_attention_is_quantized():
    model, batches = llama(), tokens()
    mtq.quantize(model, mtq.FP8_KV_CFG, loop(lambda m, x: m(x), batches))
    expected = model(batches[0]).logits
    assert torch.equal(copy.deepcopy(model)(batches[0]).logits, expected)


def test_the_state_of_quantizers_goes_beside_the_state_dict():
    model, x = quantized()
    file = io.BytesIO()
    torch.save((model.state_dict(), mtq.quantizer_state(model)), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = mlp()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(weights)
    assert mtq.load_quantizer_state(other, state) is other
    assert torch.equal(other(x), model(x))
    mtq.fold_weight(other)
    mtq.fold_weight(model)
    assert torch.equal(other[0].weight, model[0].weight)


def test_the_state_of_another_model_is_refused():
    state = mtq.quantizer_state(quantized()[0])
    other = nn.Sequential(nn.Linear(32, 64))
    with pytest.raises(ValueError, match="the state is of another model"):
        mtq.load_quantizer_state(other, state)
    assert "forward" not in vars(other[0])
    with pytest.raises(ValueError, match="not the state"):
        mtq.load_quantizer_state(other, {"weights": 1})


def test_what_cannot_be_copied_says_so():
    model, x = quantized(mtq.NVFP4_FOUR_OVER_SIX_CFG)
    with pytest.raises(mq.UnsupportedError, match=r"0\.weight_quantizer shares its scale"):
        copy.deepcopy(model)
    model(x)
    packed, _ = quantized()
    mtq.compress(packed)
    with pytest.raises(mq.UnsupportedError, match="weight of 0 is compressed"):
        copy.deepcopy(packed)


def test_the_keys_of_the_state_dict_stay():
    model, x = quantized()
    assert sorted(model.state_dict()) == sorted(mlp().state_dict())
    other = mlp()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), mlp()(x))  # AWQ has not written to the weights


def test_new_values_are_quantized_at_once():
    model, x = quantized(mtq.INT8_WEIGHT_ONLY_CFG)
    first = model(x)
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    assert not torch.equal(model(x), first)
    model.load_state_dict(mlp().state_dict())
    assert torch.equal(model(x), first)


def test_assigned_weights_are_noticed():
    model, x = quantized(mtq.INT8_DEFAULT_CFG)
    with torch.no_grad():
        expected = model(x)
    old = weakref.ref(model[0].weight)
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    gc.collect()
    assert old() is None
    assert torch.equal(model(x), expected)
    mtq.fold_weight(model)  # a verb that writes to the weights
    assert torch.equal(model(x), expected)
    assert not torch.equal(model[0].weight, mlp()[0].weight)


def test_converted_weights_are_noticed():
    model, x = quantized(mtq.INT8_DEFAULT_CFG)
    before = mtq.quantizers(model)["0.weight_quantizer"].amax
    model.to(torch.bfloat16)
    output = model(x.bfloat16())
    assert output.dtype == torch.bfloat16
    assert torch.equal(mtq.quantizers(model)["0.weight_quantizer"].amax, before)
    model.double()
    with pytest.raises(TypeError, match=r"weight of 0 has dtype torch\.float64"):
        model(x.double())
    model.float()
    assert torch.isfinite(model(x)).all()


def test_weights_that_move_in_a_forward_loop_are_refused():
    model, x = mlp(), torch.randn(4, 32)

    def forward_loop(m):
        m[0].weight.data = m[0].weight.data.clone()
        m(x)

    with pytest.raises(mq.StateError, match="moved, replaced or converted"):
        mtq.quantize(model, mtq.INT8_DEFAULT_CFG, forward_loop)
    assert "forward" not in vars(model[0])


def test_nothing_is_left_behind_in_any_order():
    model, x = quantized()
    session, weight = weakref.ref(vars(model)["_mq_session"]), weakref.ref(model[0].weight)
    part = model[0]
    del model
    gc.collect()
    part(x)  # holds the rest
    del part
    gc.collect()
    assert session() is None
    assert weight() is None


def test_layers_that_torch_computes_for_the_library_are_collected_too():
    model = vision()
    mtq.quantize(model, mtq.INT8_WEIGHT_ONLY_CFG)
    session, weight = weakref.ref(vars(model)["_mq_session"]), weakref.ref(model.up.weight)
    del model
    gc.collect()
    assert session() is None
    assert weight() is None


def test_unquantized_again():
    model, x = quantized()
    assert mtq.unquantize(model) is model
    assert torch.equal(model(x), mlp()(x))
    assert not any("_mq" in key for module in model.modules() for key in vars(module))
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(mq.StateError, match="is not quantized"):
        mtq.quantizers(model)
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(x))


def test_many_threads_compute_what_one_does():
    model, _ = quantized(mtq.INT8_DEFAULT_CFG)
    inputs = [torch.randn(8, 32) for _ in range(4)]
    expected = [model(x) for x in inputs]
    wrong = []

    def run(index):
        for _ in range(50):
            if not torch.equal(model(inputs[index]), expected[index]):
                wrong.append(index)

    _in_threads(run, range(4))
    assert wrong == []


def test_a_verb_during_a_verb_is_refused():
    model, x = quantized()
    inside = []

    def forward_loop(m):
        m(x)

        def other(_):
            with pytest.raises(mq.BusyError):
                mtq.calibrate(model, "max")
            inside.append(True)

        _in_threads(other, [0])

    mtq.calibrate(model, "awq_lite", forward_loop)
    assert inside
    model(x)


def test_forwards_during_a_rebinding():
    model, x = quantized(mtq.INT8_DEFAULT_CFG)
    expected, wrong = model(x), []

    def run(index):
        for _ in range(60):
            if index == 0:  # not `.data = `: torch itself may be reading the tensor
                model[0].weight = nn.Parameter(model[0].weight.detach().clone())
                mtq.quantizers(model)
            elif not torch.equal(model(x), expected):
                wrong.append(index)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        _in_threads(run, range(3))
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_forwards_during_calibrations():
    model, x = quantized(mtq.INT8_DEFAULT_CFG)
    expected = model(x)
    done = threading.Event()

    def run(index):
        if index == 0:
            try:
                for _ in range(40):
                    mtq.calibrate(model, "max", lambda m: m(x))
            finally:
                done.set()
        while not done.is_set():
            model(x)  # quantized or not, as it falls

    _in_threads(run, range(3))
    assert torch.equal(model(x), expected)


def test_a_copy_is_unquantized_by_itself():
    model, x = quantized()
    expected, twin = model(x), copy.deepcopy(model)
    mtq.unquantize(twin)
    assert not twin[0]._forward_pre_hooks
    assert model[0]._forward_pre_hooks
    assert torch.equal(twin(x), mlp()(x))
    assert torch.equal(model(x), expected)


def _in_threads(function, arguments):
    failed = []

    def guarded(argument):
        try:
            function(argument)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
