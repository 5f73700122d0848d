"""The verbs beside `quantize`, and configurations as the reference writes them."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn

import mq
import mq.torch as mtq

from networks import llama, loop, tokens, vision

X = torch.from_numpy(np.random.RandomState(5).standard_normal((16, 32)).astype(np.float32))


def mlp():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))


def quantized(config=mtq.INT8_DEFAULT_CFG):
    return mtq.quantize(mlp(), config, lambda m: m(X))


def test_quantize_returns_the_same_model_in_place():
    model = mlp()
    parameters = list(model.parameters())
    assert mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda: model(X)) is model
    assert all(one is other for one, other in zip(model.parameters(), parameters))
    assert type(model[0]) is nn.Linear


def test_quantize_by_name_dict_and_list_is_the_same():
    weight, taken = {"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}
    as_dict = {
        "quant_cfg": {
            "*weight_quantizer": weight,
            "*input_quantizer": taken,
            "default": {"enable": False},
        },
        "algorithm": {"method": "max"},
    }
    as_list = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": weight, "enable": True},
            {"quantizer_name": "*input_quantizer", "cfg": taken},
        ],
        "algorithm": "max",
    }
    outputs = [quantized(one)(X) for one in ("INT8_DEFAULT_CFG", as_dict, as_list)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_tuples_and_numbers_as_keys():
    config = copy.deepcopy(mtq.NVFP4_DEFAULT_CFG)
    blocks = config["quant_cfg"][1]["cfg"]["block_sizes"]
    assert blocks == {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}
    blocks[-1] = 32
    model = quantized(config)
    attributes = mtq.quantizers(model)["0.weight_quantizer"].attributes
    assert attributes["block_sizes"]["-1"] == 32
    assert attributes["num_bits"] == [2, 1]


def test_objects_that_dump_themselves():
    class Config:
        algorithm = "max"

        def model_dump(self, exclude_unset):
            assert exclude_unset
            return {"quant_cfg": {"*weight_quantizer": {"num_bits": 4}}}

    found = mtq.quantizers(quantized(Config()))["0.weight_quantizer"]
    assert found.attributes["num_bits"] == 4
    assert found.amax is not None


def test_calibrate_takes_the_maximum_of_both_sets():
    model = quantized()
    mtq.calibrate(model, "max", lambda m: m(3 * X))
    assert mtq.quantizers(model)["0.input_quantizer"].amax == 3 * X.abs().max()
    mtq.calibrate(model, "max", lambda m: m(X))
    assert mtq.quantizers(model)["0.input_quantizer"].amax == 3 * X.abs().max()


def test_algorithms_one_after_the_other_run_on_balanced_weights():
    model = quantized(mtq.INT8_SMOOTHQUANT_CFG)
    before = mtq.quantizers(model)["2.input_quantizer"].amax
    mtq.calibrate(model, "max", lambda m: m(X))
    after = mtq.quantizers(model)["2.input_quantizer"].amax
    assert torch.allclose(before, after, rtol=1e-4)  # what flows is in full precision, and balanced


def test_without_a_forward_loop_activations_are_dynamic():
    model = mtq.quantize(mlp(), mtq.INT8_DEFAULT_CFG)
    found = mtq.quantizers(model)
    assert found["0.weight_quantizer"].amax.shape == (64, 1)
    assert found["0.input_quantizer"].amax is None
    assert torch.isfinite(model(X)).all()
    with pytest.raises(mq.InvalidArgumentError):
        mtq.quantize(mlp(), mtq.INT4_AWQ_CFG)


def test_quantizers_are_switched_by_wildcard_and_function():
    model = quantized()
    on = model(X)
    mtq.disable_quantizer(model, "*")
    assert torch.equal(model(X), mlp()(X))
    mtq.enable_quantizer(model, lambda name: name.endswith(("input_quantizer", "weight_quantizer")))
    assert torch.equal(model(X), on)
    mtq.disable_quantizer(model, lambda name: "weight" in name)
    enabled = {name for name, one in mtq.quantizers(model).items() if one.enabled}
    assert enabled == {"0.input_quantizer", "2.input_quantizer"}
    with pytest.raises(ZeroDivisionError):
        mtq.disable_quantizer(model, lambda name: 1 / 0)
    with pytest.warns(UserWarning, match="no quantizer is selected by '.lm_head.'"):
        mtq.disable_quantizer(model, "*lm_head*")


def test_a_disabled_quantizer_of_awq_still_scales():
    model = quantized(mtq.INT4_AWQ_CFG)
    scale = mtq.quantizers(model)["0.input_quantizer"].pre_quant_scale
    assert scale.shape == (32,)
    mtq.disable_quantizer(model, "*")
    assert torch.allclose(model(X), mlp()(X), atol=1e-5)


def test_gradients_follow_the_scales():
    model, plain = quantized(mtq.INT4_AWQ_CFG), mlp()
    mtq.disable_quantizer(model, "*")
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    model(x).square().sum().backward()
    plain(y).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)
    assert torch.allclose(model[0].weight.grad, plain[0].weight.grad, atol=1e-3)


def test_gradients_end_above_the_amax_when_asked_to():
    masked = {"num_bits": 8, "axis": None, "pass_through_bwd": False}
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    model[0].weight.data.fill_(1.0)
    x = torch.tensor([[0.1, -0.5, 2.0, -3.0]], requires_grad=True)
    config = {"quant_cfg": {"*weight_quantizer": {"enable": False}, "*input_quantizer": masked}}
    mtq.quantize(model, {**config, "algorithm": "max"}, lambda m: m(torch.full((1, 4), 1.0)))
    model(x).sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_under_inference_mode_and_autocast():
    model = mlp()

    def forward_loop(m):
        with torch.inference_mode():
            m(X.clone())

    mtq.quantize(model, mtq.INT4_AWQ_CFG, forward_loop)
    expected = model(X)
    with torch.inference_mode():
        assert torch.equal(model(X), expected)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(X)
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected, atol=0.1)


def test_tensors_of_subclasses_are_tensors():
    class Image(torch.Tensor):
        pass

    model = quantized()
    assert torch.equal(model(X.as_subclass(Image)).as_subclass(torch.Tensor), model(X))


def test_attributes_change_in_part():
    model = quantized()
    mtq.set_quantizer_attribute(model, "*weight_quantizer", {"num_bits": 4})
    assert mtq.quantizers(model)["0.weight_quantizer"].attributes["num_bits"] == 4
    assert mtq.quantizers(model)["0.weight_quantizer"].attributes["axis"] == 0
    mtq.set_quantizer_by_cfg(model, {"*weight_quantizer": {"num_bits": (4, 3)}})
    assert mtq.quantizers(model)["0.weight_quantizer"].attributes["num_bits"] == [4, 3]
    assert mtq.quantizers(model)["0.weight_quantizer"].attributes["axis"] is None


def test_postprocess_amax():
    model = quantized()
    before = mtq.quantizers(model)
    assert mtq.postprocess_amax(model, "*input_quantizer", lambda amax: amax * 2) is model
    after = mtq.quantizers(model)
    assert torch.equal(after["0.input_quantizer"].amax, 2 * before["0.input_quantizer"].amax)
    assert torch.equal(after["0.weight_quantizer"].amax, before["0.weight_quantizer"].amax)
    with pytest.raises(ValueError, match="changed the shape"):
        mtq.postprocess_amax(model, "*input_quantizer", lambda amax: amax[None])
    with pytest.raises(TypeError, match="expected a string"):
        mtq.postprocess_amax(model, lambda name: True, lambda amax: amax)


def test_the_summary_is_printed_or_written(capsys, tmp_path):
    model = quantized()
    mtq.print_quant_summary(model)
    printed = capsys.readouterr().out
    assert "0.weight_quantizer" in printed
    assert "TensorQuantizer(8 bit fake axis=0 amax=[" in printed
    assert printed.endswith("6 TensorQuantizers found in model\n")
    mtq.print_quant_summary(model, output_dir=tmp_path)
    assert (tmp_path / ".quant_summary.txt").read_text() == printed


@pytest.mark.parametrize(
    "preset", ["INT8_DEFAULT_CFG", "INT4_AWQ_CFG", "W4A8_AWQ_BETA_CFG", "NVFP4_FOUR_OVER_SIX_CFG"]
)
def test_folding_changes_no_bit_of_the_output(preset):
    model = quantized(getattr(mtq, preset))
    expected, weight = model(X), model[0].weight
    mtq.fold_weight(model)
    assert model[0].weight is weight
    assert not torch.equal(weight, mlp()[0].weight)
    assert torch.equal(model(X), expected)
    folded = weight.detach().clone()
    mtq.fold_weight(model)
    assert torch.equal(weight, folded)
    assert not mtq.quantizers(model)["0.input_quantizer"].enabled or preset != "INT4_AWQ_CFG"
    weights = [one for name, one in mtq.quantizers(model).items() if "weight_quantizer" in name]
    assert not any(one.enabled for one in weights)


def test_a_backward_through_weights_that_were_folded_meanwhile_is_refused():
    model = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 8))
    mtq.quantize(model, mtq.INT8_WEIGHT_ONLY_CFG)
    mtq.disable_quantizer(model, "1.*")
    loss = model(X).sum()
    mtq.enable_quantizer(model, "1.weight_quantizer")
    mtq.fold_weight(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("preset", ["INT8_DEFAULT_CFG", "INT4_AWQ_CFG", "NVFP4_DEFAULT_CFG"])
def test_compressing_changes_no_output_and_frees_the_weights(preset):
    model = quantized(getattr(mtq, preset))
    expected = model(X)
    mtq.compress(model)
    assert model[0].weight.numel() == 0
    assert torch.equal(model(X), expected)
    with pytest.raises(mq.StateError):
        mtq.unquantize(model)


def test_compressing_in_part():
    model = quantized()
    expected = model(X)
    mtq.compress(model, {"*": False, "2.weight_quantizer": True})
    assert model[0].weight.numel() > 0
    assert model[2].weight.numel() == 0
    assert torch.equal(model(X), expected)


def test_shared_weights_are_not_freed():
    model, batches = llama(tie_word_embeddings=True), tokens()
    mtq.quantize(model, mtq.INT8_WEIGHT_ONLY_CFG)
    mtq.enable_quantizer(model, "lm_head.weight_quantizer")
    mtq.calibrate(model, "max")
    expected = model(batches[0]).logits
    mtq.compress(model)
    assert model.lm_head.weight.numel() > 0
    assert model.model.layers[0].mlp.up_proj.weight.numel() == 0
    assert torch.equal(model(batches[0]).logits, expected)


def test_need_calibration():
    assert mtq.need_calibration(mtq.INT8_DEFAULT_CFG)
    assert mtq.need_calibration("INT4_AWQ_CFG")
    assert mtq.need_calibration(mtq.NVFP4_DEFAULT_CFG)
    assert not mtq.need_calibration(mtq.INT8_WEIGHT_ONLY_CFG)
    assert not mtq.need_calibration(mtq.FP8_PER_CHANNEL_PER_TOKEN_CFG)
    assert mtq.need_calibration({"quant_cfg": {"*input_quantizer": {"num_bits": 8}}})
    off = {"quant_cfg": {"nn.Linear": {"*input_quantizer": {"enable": False}}}}
    assert not mtq.need_calibration(off)


def test_warnings_go_to_the_log_but_not_those_of_presets(caplog):
    with caplog.at_level(logging.INFO, "mq"):
        quantized(copy.deepcopy(mtq.INT4_AWQ_CFG))
    assert "matches no quantizer" not in caplog.text
    config = {"quant_cfg": {"*": {"num_bits": 8}, "*typo*": {"num_bits": 4}}, "algorithm": "max"}
    quantized(config)
    assert "`*typo*` matches no quantizer" in caplog.text


LOADER = [torch.roll(X, i, 0) for i in range(3)]


def search(model, **changes):
    arguments = {
        "constraints": {"effective_bits": 6.0},
        "quantization_formats": [mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, "INT8_DEFAULT_CFG"],
        "data_loader": LOADER,
        "forward_step": lambda m, x: m(x),
        "loss_func": lambda y, x: y.square().sum(),
    }
    return mtq.auto_quantize(model, **{**arguments, **changes})


@pytest.mark.parametrize("method", ["gradient", "fisher", "gram", "kl_div"])
def test_a_search_keeps_its_budget(method):
    model = mlp()
    model, state = search(model, method=method)
    assert state["best"]["constraints"]["effective_bits"] <= 6.0
    assert sorted(state["candidate_stats"]) == ["0.quant_recipe", "2.quant_recipe"]
    assert not torch.equal(model(X), mlp()(X))
    assert model[0].weight.requires_grad
    assert model[0].weight.grad is None
    copy.deepcopy(model)(X)


def test_a_search_of_convolutions_and_of_layers_that_only_torch_computes():
    model, x = vision(), torch.randn(2, 3, 16, 16)
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 9.0},
        quantization_formats=[mtq.INT8_DEFAULT_CFG],
        data_loader=[x],
        forward_step=lambda m, batch: m(batch),
        forward_backward_step=lambda m, batch: m(batch).square().sum().backward(),
    )
    searched = {key.removesuffix(".quant_recipe") for key in state["candidate_stats"]}
    assert searched == {"conv", "grouped", "up", "line", "uplines", "head"}
    scores = [of["scores"][0] for of in state["candidate_stats"].values()]
    assert all(score > 0 for score in scores)


def test_an_output_that_the_loss_ignores_has_no_weight():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.ignored = nn.Linear(32, 8), nn.Linear(32, 8)

        def forward(self, x):
            return self.used(x), self.ignored(x)

    _, state = search(Two(), loss_func=lambda y, x: y[0].square().sum())
    scores = {key: of["scores"] for key, of in state["candidate_stats"].items()}
    assert scores["ignored.quant_recipe"][0] == 0
    assert scores["used.quant_recipe"][0] > 0


def test_parts_that_get_no_gradients_have_no_weight_either():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.head = nn.Linear(32, 8), nn.Linear(8, 8)

        def forward(self, x):
            with torch.no_grad():
                x = self.tower(x)
            return self.head(x)

    _, state = search(Frozen())
    scores = {key: of["scores"] for key, of in state["candidate_stats"].items()}
    assert scores["tower.quant_recipe"][0] == 0
    assert scores["head.quant_recipe"][0] > 0


def test_a_search_that_fails_leaves_the_model():
    model = mlp().train()
    expected = model(X)
    with pytest.raises(ZeroDivisionError):
        search(model, loss_func=lambda y, x: 1 / 0)
    with pytest.raises(TypeError, match="expected a scalar tensor"):
        search(model, loss_func=lambda y, x: y)
    with pytest.raises(mq.ConfigError):
        search(model, constraints={"effective_bits": 1.0})
    with pytest.raises(TypeError, match="needs a data_loader"):
        search(model, data_loader=None)
    with pytest.raises(TypeError, match="needs a loss_func"):
        search(model, loss_func=None)
    with pytest.raises(TypeError, match="must be a list"):
        search(model, quantization_formats="INT8_DEFAULT_CFG")
    assert "forward" not in vars(model[0])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert torch.equal(model(X), expected)
    search(model)
    with pytest.raises(mq.StateError, match="quantized already"):
        search(model)


def test_layers_that_are_left_out_of_a_search():
    model, state = search(mlp(), disabled_layers="2", constraints={"effective_bits": 12.0})
    assert not mtq.quantizers(model)["2.weight_quantizer"].enabled
    assert mtq.quantizers(model)["0.weight_quantizer"].enabled
    assert state["disabled_layers"]


def test_a_search_of_a_llama_counts_no_gradients_of_parameters():
    model, batches = llama(), tokens()
    plain = model(batches[0]).logits
    mtq.auto_quantize(
        model,
        {"effective_bits": 8.5},
        ["INT8_DEFAULT_CFG"],
        batches,
        lambda m, x: m(x).logits,
        lambda y, x: y.square().sum(),
        num_score_steps=1,
    )
    assert not torch.equal(model(batches[0]).logits, plain)
    mtq.calibrate(model, "max", loop(lambda m, x: m(x), batches))
    assert all(parameter.grad is None for parameter in model.parameters())
