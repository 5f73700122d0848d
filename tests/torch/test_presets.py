"""Every preset on a Llama: modules compute what their quantizers say, by `mq.fake_quant`."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import mq
import mq.torch as mtq

from networks import llama, loop, tokens

UNSUPPORTED = {"NVFP4_SVDQUANT_DEFAULT_CFG", "NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG"}
#: They are for a mixture of experts, which this Llama is not.
UNMATCHED = {"NVFP4_EXPERTS_ONLY_CFG"}
#: They pack the weights.
REAL = {"NF4_REAL_QUANT_CFG", "INT4_AWQ_REAL_QUANT_CFG"}
#: A scale beside the amax is not told (static NVFP4 blocks).
SHARED_SCALE = {"NVFP4_FOUR_OVER_SIX_CFG", "NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG"}


def compute(model, x):
    return model(x, use_cache=False).logits


def fake_quantized(x, name, quantizers):
    """What the quantizer of a name makes of `x`, by its attributes, amax and pre_quant_scale."""
    members = [key for key in (name, f"{name}.0", f"{name}.1") if key in quantizers]
    x = x.detach().numpy()
    for key in members:
        one = quantizers[key]
        if one.pre_quant_scale is not None:
            x = x * one.pre_quant_scale.numpy()
        if one.enabled:
            amax = None if one.amax is None else one.amax.numpy()
            attributes = {**one.attributes, "rotate": False}
            x = mq.fake_quant(np.ascontiguousarray(x), attributes, amax)
    return torch.from_numpy(x)


def test_the_constants_are_the_presets_of_the_library():
    assert mtq.choices == set(mq.presets()) == set(mtq.config.choices)
    assert mtq.INT4_AWQ_CFG is mtq.config.INT4_AWQ_CFG
    assert set(mq.presets()) < set(mtq.__all__)
    cfg = mtq.FP8_DEFAULT_CFG["quant_cfg"]
    assert {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": (4, 3), "axis": None}} in cfg
    blocks = mtq.INT4_AWQ_CFG["quant_cfg"][1]["cfg"]["block_sizes"]
    assert blocks == {-1: 128, "type": "static"}
    with pytest.raises(AttributeError, match="NO_SUCH_CFG"):
        _ = mtq.NO_SUCH_CFG


@pytest.mark.parametrize("preset", sorted(set(mq.presets()) - UNSUPPORTED - UNMATCHED))
def test_modules_compute_what_their_quantizers_say(preset):
    model, batches = llama(), tokens()
    seen = {}

    def remember(name):
        def hook(_module, inputs, output):
            seen[name] = (inputs[0].detach(), output.detach())

        return hook

    projections = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    before = {name: module.weight.detach().clone() for name, module in projections.items()}
    mtq.quantize(model, getattr(mtq, preset), loop(compute, batches))
    quantizers = mtq.quantizers(model)
    assert any(one.enabled for one in quantizers.values())
    for name, module in projections.items():
        module.register_forward_hook(remember(name))
    with torch.no_grad():
        output = compute(model, batches[0])
    assert torch.isfinite(output).all()
    different = 0
    for name, (x, y) in seen.items():
        weight = before[name]
        different += not torch.equal(y, functional.linear(x, weight))
        if preset in SHARED_SCALE:
            continue
        expected = functional.linear(
            fake_quantized(x, f"{name}.input_quantizer", quantizers),
            fake_quantized(weight, f"{name}.weight_quantizer", quantizers),
        )
        assert torch.equal(y, expected), name
    assert different >= 4
    for name, module in projections.items():
        packed = preset in REAL and "lm_head" not in name
        assert module.weight.numel() == 0 if packed else torch.equal(module.weight, before[name])


@pytest.mark.parametrize("preset", sorted(UNSUPPORTED | UNMATCHED))
def test_what_cannot_be_is_an_error_and_leaves_the_model_alone(preset):
    model, (batch, *_) = llama(), tokens()
    expected = compute(model, batch)
    error = mq.UnsupportedError if preset in UNSUPPORTED else mq.ConfigError
    with pytest.raises(error):
        mtq.quantize(model, getattr(mtq, preset), lambda m: compute(m, batch))
    assert torch.equal(compute(model, batch), expected)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_keys_and_values_are_quantized_in_every_attention_function(implementation):
    model, batches = llama(attn_implementation=implementation), tokens()
    plain = compute(model, batches[0])
    quantizer = {"num_bits": (4, 3), "axis": None}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*[kv]_bmm_quantizer", "cfg": quantizer},
        ],
        "algorithm": "max",
    }
    mtq.quantize(model, config, loop(compute, batches))
    enabled = [name for name, one in mtq.quantizers(model).items() if one.enabled]
    assert len(enabled) == 4
    assert all(mtq.quantizers(model)[name].amax > 0 for name in enabled)
    assert not torch.equal(compute(model, batches[0]), plain)
    mtq.disable_quantizer(model, "*")
    assert torch.equal(compute(model, batches[0]), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_stay_what_they_are(dtype):
    model = llama().to(dtype)
    (batch, *_) = tokens()
    mtq.quantize(model, mtq.INT8_SMOOTHQUANT_CFG, lambda m: compute(m, batch))
    output = compute(model, batch)
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    output.float().sum().backward()
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.grad.dtype == dtype
