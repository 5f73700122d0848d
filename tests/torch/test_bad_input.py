"""What cannot be quantized is refused with its name, and the model stays as it was."""

import pytest
import torch
from torch import nn

import mq
import mq.torch as mtq

INT8 = mtq.INT8_DEFAULT_CFG


def mlp():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def assert_untouched(model):
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert "_mq_session" not in vars(model)


def test_weights_must_be_contiguous():
    model = mlp()
    model[2].weight.data = model[2].weight.data.t().contiguous().t()
    with pytest.raises(ValueError, match=r"weight of 2 is not contiguous .*\.contiguous\(\)"):
        mtq.quantize(model, INT8)
    assert_untouched(model)


def test_weights_must_be_of_a_dtype_that_is_quantized():
    model = mlp().double()
    with pytest.raises(TypeError, match="weight of 0 has dtype torch"):
        mtq.quantize(model, INT8)
    assert_untouched(model)


def test_weights_must_be_somewhere():
    model = mlp().to("meta")
    with pytest.raises(ValueError, match="weight of 0 is on meta"):
        mtq.quantize(model, INT8)
    assert_untouched(model)


def test_replaced_forwards_are_refused():
    model = mlp()
    model[2].forward = lambda x: x
    with pytest.raises(mq.UnsupportedError, match="forward of 2 was replaced"):
        mtq.quantize(model, INT8)
    assert vars(model[0]).keys().isdisjoint({"forward"})
    assert model[2].forward(1) == 1


def test_parts_of_a_quantized_model_are_refused():
    model, x = mlp(), torch.randn(4, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    expected = model(x)
    with pytest.raises(mq.StateError, match=r"model belongs to a model .* as 2"):
        mtq.quantize(model[2], INT8)
    with pytest.raises(mq.StateError, match=r"0\.0 belongs to a model"):
        mtq.quantize(nn.Sequential(model), INT8)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("where", ["before", "after"])
def test_what_a_forward_loop_raises_comes_out_unchanged(where):
    model, x = mlp().train(), torch.randn(4, 8)
    expected, error = model(x), KeyError("mine")

    def forward_loop(m):
        if where == "after":
            m(x)
        raise error

    with pytest.raises(KeyError) as raised:
        mtq.quantize(model, INT8, forward_loop)
    assert raised.value is error
    assert_untouched(model)
    assert model.training
    assert torch.equal(model(x), expected)


def test_a_failed_second_quantization_leaves_the_first():
    model, x = mlp(), torch.randn(4, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    expected, before = model(x), str(mtq.quantizers(model))

    def forward_loop(m):
        m(100 * x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop)
    assert str(mtq.quantizers(model)) == before
    assert torch.equal(model(x), expected)


def test_nan_names_the_layer():
    model, x = mlp(), torch.randn(4, 8)
    x[1, 2] = torch.nan
    with pytest.raises(mq.NumericError, match=r"0\.input_quantizer"):
        mtq.quantize(model, INT8, lambda m: m(x))
    assert_untouched(model)


def test_activations_of_another_dtype_are_refused():
    model, x = mlp(), torch.randn(4, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    with pytest.raises(TypeError, match=r"0\.input_quantizer has dtype torch.float64"):
        model(x.double())
    with pytest.raises(TypeError, match="is a list"):
        model([1.0])


def test_activations_that_are_not_contiguous_are_copied():
    model, x = mlp(), torch.randn(4, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    turned = x.t().contiguous().t()
    assert not turned.is_contiguous()
    assert torch.equal(model(turned), model(x))
    assert torch.equal(model(x[:0]), x.new_empty(0, 4))


def test_wrong_arguments_say_what_was_expected():
    model = mlp()
    with pytest.raises(TypeError, match="model is a int"):
        mtq.quantize(3, INT8)
    with pytest.raises(TypeError, match="forward_loop is a list"):
        mtq.quantize(model, INT8, [])
    with pytest.raises(TypeError, match="config is a int"):
        mtq.quantize(model, 8)
    with pytest.raises(mq.ConfigError, match="num_bits"):
        mtq.quantize(model, {"quant_cfg": {"*": {"num_bitz": 8}}})
    with pytest.raises(mq.ConfigError, match="INT8_DEFAULT_CFG"):
        mtq.quantize(model, "INT8_DEFAULT_CFGG")
    with pytest.raises(TypeError, match="is a function; a configuration takes wildcards"):
        mtq.quantize(model, {"quant_cfg": {(lambda name: True): {"num_bits": 8}}})
    assert_untouched(model)


def test_verbs_before_quantize_say_so():
    model = mlp()
    for verb in (
        lambda: mtq.calibrate(model),
        lambda: mtq.fold_weight(model),
        lambda: mtq.compress(model),
        lambda: mtq.disable_quantizer(model, "*"),
        lambda: mtq.print_quant_summary(model),
        lambda: mtq.quantizer_state(model),
    ):
        with pytest.raises(mq.StateError, match="is not quantized; call quantize"):
            verb()


def test_a_forward_loop_that_reaches_no_layer_is_an_error():
    model = mlp()
    with pytest.raises(mq.StateError):
        mtq.quantize(model, INT8, lambda m: None)
    assert_untouched(model)


def test_there_is_no_gradient_through_a_rotation():
    model, x = mlp(), torch.randn(4, 8)
    rotated = {"num_bits": 8, "rotate": True}
    config = {"quant_cfg": {"0.*put_quantizer": {"enable": False}, "0.weight_quantizer": rotated}}
    mtq.quantize(model, config)
    loss = model(x).sum()
    with pytest.raises(NotImplementedError, match=r"0\.weight_quantizer rotates"):
        loss.backward()
