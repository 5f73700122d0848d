"""Which modules are quantized, under which names, and in which unusual places."""

import copy

import pytest
import torch
from torch import nn

import mq
import mq.torch as mtq

from networks import Vision, bert, filled, llama, loop, tokens, vision

INT8 = mtq.INT8_DEFAULT_CFG
BOTH = ["input_quantizer", "output_quantizer"]
ALL = [*BOTH, "weight_quantizer"]


def test_every_class_gets_its_quantizers():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "conv1": nn.Conv1d(2, 2, 1),
            "conv2": nn.Conv2d(2, 2, 1),
            "conv3": nn.Conv3d(2, 2, 1),
            "up1": nn.ConvTranspose1d(2, 2, 1),
            "up2": nn.ConvTranspose2d(2, 2, 1),
            "up3": nn.ConvTranspose3d(2, 2, 1),
            "embedding": nn.Embedding(4, 4),
            "norm": nn.LayerNorm(4),
            "batch": nn.BatchNorm2d(4),
            "instance": nn.InstanceNorm3d(4),
            "leaky": nn.LeakyReLU(),
            "max": nn.MaxPool3d(2),
            "avg": nn.AvgPool1d(2),
            "adaptive": nn.AdaptiveAvgPool3d(2),
            "relu": nn.ReLU(),
            "drop": nn.Dropout(),
            "gru": nn.GRU(4, 4),
            "attention": nn.MultiheadAttention(4, 1),
        }
    )
    mtq.quantize(model, {"quant_cfg": []})
    names = set(mtq.quantizers(model))
    with_weight = ["linear", "conv1", "conv2", "conv3", "up1", "up2", "up3", "embedding"]
    without = ["norm", "batch", "instance", "leaky", "max", "avg", "adaptive"]
    assert names == {f"{name}.{one}" for name in with_weight for one in ALL} | {
        f"{name}.{one}" for name in without for one in BOTH
    }
    enabled = {name for name, one in mtq.quantizers(model).items() if one.enabled}
    assert "embedding.weight_quantizer" in enabled
    assert "embedding.input_quantizer" not in enabled
    assert not any(name.endswith("output_quantizer") for name in enabled)


@pytest.mark.parametrize(
    ("module", "shape", "more"),
    [
        (nn.Linear(6, 4, bias=False), (2, 3, 6), {}),
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (2, 4, 9), {}),
        (nn.Conv2d(4, 6, (3, 2), padding="same", padding_mode="reflect"), (2, 4, 7, 7), {}),
        (nn.Conv3d(2, 4, 2, bias=False), (1, 2, 4, 4, 4), {}),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 5), {"output_size": (12,)}),
        (nn.ConvTranspose2d(4, 2, 3, stride=3, padding=1), (1, 4, 3, 3), {}),
        (nn.ConvTranspose3d(2, 2, 2, dilation=2, output_padding=1), (1, 2, 3, 3, 3), {}),
        (nn.Embedding(10, 6, padding_idx=0), None, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_modules_compute_what_they_do_with_a_quantized_weight(module, shape, more):
    x = torch.tensor([[0, 3, 9]]) if shape is None else torch.randn(shape)
    plain = module(x, **more)
    model = copy.deepcopy(module)
    config = {"quant_cfg": {"*": {"enable": False}, "*weight_quantizer": {"num_bits": 4}}}
    mtq.quantize(model, {**config, "algorithm": "max"})
    quantized = model(x, **more)
    assert torch.equal(model(input=x, **more), quantized)
    assert not torch.equal(quantized, plain)
    mtq.fold_weight(model)
    expected = copy.deepcopy(module)
    expected.load_state_dict(model.state_dict())
    assert torch.equal(expected(x, **more), quantized)


def test_classes_are_scopes_of_a_configuration():
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {
                "quantizer_name": "*input_quantizer",
                "parent_class": "nn.MaxPool2d",
                "cfg": {"num_bits": 8},
            },
        ],
        "algorithm": "max",
    }
    model, x = vision(), torch.randn(2, 3, 16, 16)
    mtq.quantize(model, config, lambda m: m(x))
    enabled = [name for name, one in mtq.quantizers(model).items() if one.enabled]
    assert enabled == ["pool.input_quantizer"]


def test_output_quantizers_quantize_outputs():
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(4, 8)
    plain = model(x)
    config = {"quant_cfg": {"*": {"enable": False}, "*output_quantizer": {"num_bits": 4}}}
    mtq.quantize(model, {**config, "algorithm": "max"}, lambda m: m(x))
    quantized = model(x)
    assert len(quantized.unique()) <= 15
    assert (quantized - plain).abs().max() <= plain.abs().max() / 14 + 1e-6


def test_pools_that_return_indices_keep_them():
    model, x = nn.Sequential(nn.MaxPool2d(2, return_indices=True)), torch.randn(1, 2, 4, 4)
    mtq.quantize(model, {"quant_cfg": {"*input_quantizer": {"num_bits": 8}}, "algorithm": "max"})
    values, indices = model(x)
    assert indices.dtype == torch.int64
    assert values.shape == indices.shape


def test_a_module_by_itself_has_a_name():
    model, x = nn.Linear(8, 4), torch.randn(3, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    assert "model.weight_quantizer" in mtq.quantizers(model)


def test_subclasses_are_left_alone():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Own(4, 4), nn.Linear(4, 4))
    mtq.quantize(model, INT8, lambda m: m(torch.randn(2, 4)))
    assert not any(name.startswith("0.") for name in mtq.quantizers(model))


def test_a_model_without_such_modules_is_refused():
    with pytest.raises(ValueError, match="Sequential holds no module that can be quantized"):
        mtq.quantize(nn.Sequential(nn.ReLU()), INT8)


def test_a_module_that_is_used_twice_is_one():
    linear = nn.Linear(8, 8)
    model, x = nn.Sequential(linear, nn.ReLU(), linear), torch.randn(4, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    names = [name for name in mtq.quantizers(model) if name.endswith("weight_quantizer")]
    assert names == ["0.weight_quantizer"]
    seen = mtq.quantizers(model)["0.input_quantizer"].amax
    hidden = torch.relu(nn.functional.linear(x, linear.weight, linear.bias))
    assert seen == torch.maximum(x.abs().max(), hidden.abs().max())


def test_tied_weights_stay_tied_and_are_not_folded_into_each_other():
    model, batches = bert(tie_word_embeddings=True), tokens()
    decoder, words = model.cls.predictions.decoder, model.bert.embeddings.word_embeddings
    assert decoder.weight is words.weight
    plain = words.weight.detach().clone()
    mtq.quantize(model, mtq.INT8_SMOOTHQUANT_CFG, loop(lambda m, x: m(x), batches))
    model(batches[0])
    assert decoder.weight is words.weight
    assert torch.equal(words.weight, plain)
    with pytest.raises(mq.StateError, match="share memory"):
        mtq.fold_weight(model)
    assert torch.equal(words.weight, plain)
    mtq.disable_quantizer(model, "*decoder.weight_quantizer")


def test_the_fused_path_of_an_encoder_layer_is_off():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        plain = layer(x)
        mtq.quantize(layer, INT8, lambda m: m(x))
        quantized = layer(x)
        mtq.disable_quantizer(layer, "*")
        again = layer(x)
    assert not torch.allclose(plain, quantized, atol=1e-6)
    assert torch.allclose(plain, again, atol=1e-5)


def test_hooks_see_what_they_saw_before():
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(4, 8)
    seen = []
    model[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    mtq.quantize(model, INT8, lambda m: m(x))
    model(x)
    assert all(one is x for one in seen)


def test_a_model_in_training_stays_so_and_is_calibrated_in_eval_mode():
    model, modes = filled(Vision()).train(), []
    model.head.eval()
    before = model.norm.running_mean.clone()
    x = torch.randn(2, 3, 16, 16)

    def forward_loop(m):
        modes.append((m.training, torch.is_grad_enabled()))
        m(x)

    mtq.quantize(model, INT8, forward_loop)
    assert modes == [(False, False)]
    assert model.training
    assert not model.head.training
    assert torch.equal(model.norm.running_mean, before)
    model(x).sum().backward()
    assert model.conv.weight.grad is not None


def test_training_moves_the_quantized_weight():
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(16, 8)
    mtq.quantize(model, INT8, lambda m: m(x))
    target = torch.randn(16, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    losses = []
    for _ in range(20):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_generation_with_a_cache_is_quantized():
    model, batches = llama(), tokens()
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, loop(lambda m, x: m(x), batches))
    made = model.generate(batches[0], max_new_tokens=4, do_sample=False)
    assert made.shape[1] > batches[0].shape[1]
