"""mq.torch on a GPU: what it gives is what the same model gives in host memory."""

import copy
import threading

import pytest
import torch
from torch import nn

import mq
import mq.torch as mtq

from networks import NETWORKS, llama, loop, tokens

DEVICE = torch.device("cuda:0")
PRESETS = [
    "INT8_DEFAULT_CFG",
    "INT8_SMOOTHQUANT_CFG",
    "FP8_DEFAULT_CFG",
    "INT4_AWQ_CFG",
    "W4A8_AWQ_BETA_CFG",
    "NVFP4_DEFAULT_CFG",
    "NVFP4_FOUR_OVER_SIX_CFG",
    "MXFP8_DEFAULT_CFG",
    "FP8_PER_CHANNEL_PER_TOKEN_CFG",
]


@pytest.fixture(autouse=True)
def _exact():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def on_gpu(batches):
    return [batch.to(DEVICE) for batch in batches]


def compute(model, x):
    return model(x, use_cache=False).logits


def mlp():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).to(DEVICE)


def data():
    torch.manual_seed(8)
    return torch.randn(32, 64).to(DEVICE)


def assert_near(ours, theirs, what, tolerance):
    assert (ours is None) == (theirs is None), what
    if ours is not None:
        error = (ours.cpu().float() - theirs.float()).norm() / theirs.float().norm()
        assert error <= tolerance, f"{what}: {error}"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_llama_is_quantized_as_in_host_memory(preset):
    config, batches = getattr(mtq, preset), tokens()
    host = mtq.quantize(llama(), config, loop(compute, batches))
    model = llama().to(DEVICE)
    mtq.quantize(model, config, loop(compute, on_gpu(batches)))
    found, expected = mtq.quantizers(model), mtq.quantizers(host)
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert found[name].enabled == one.enabled
        assert_near(found[name].amax, one.amax, f"amax of {name}", 1e-2)
        assert_near(found[name].pre_quant_scale, one.pre_quant_scale, f"scale of {name}", 1e-2)
    with torch.no_grad():
        ours = compute(model, batches[0].to(DEVICE))
        theirs = compute(host, batches[0])
    assert ours.device == DEVICE
    # Roundings near a tie fall to either side.
    assert_near(ours, theirs, "the output", 0.15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model, x = mlp().to(dtype), data().to(dtype)
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, lambda m: m(x))
    output = model(x)
    assert output.dtype == dtype
    output.float().sum().backward()
    assert torch.isfinite(model[0].weight.grad).all()


def test_a_vision_network():
    make, batches, run = NETWORKS["vision"]
    images = on_gpu(batches())
    model = make().to(DEVICE)
    plain = run(model, images[0])
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, loop(run, images))
    quantized = run(model, images[0])
    assert not torch.equal(plain, quantized)
    assert_near(quantized.detach(), plain.detach().cpu(), "the output", 0.1)


@pytest.mark.parametrize("preset", ["INT8_DEFAULT_CFG", "INT4_AWQ_CFG", "NVFP4_DEFAULT_CFG"])
def test_folding_changes_no_bit(preset):
    model, x = mlp(), data()
    mtq.quantize(model, getattr(mtq, preset), lambda m: m(x))
    expected = model(x)
    mtq.fold_weight(model)
    assert torch.equal(model(x), expected)
    assert not torch.equal(model[0].weight, mlp()[0].weight)


def test_the_current_stream_is_followed():
    model, x = mlp(), data()
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(x))
    expected = model(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    big = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(5):
        with torch.cuda.stream(stream):
            for _ in range(10):
                big = (big @ big).clamp(-1, 1)
            late = x + 0 * big[0, 0]  # not there yet when the next line is called
            assert torch.equal(model(late), expected)
    torch.cuda.synchronize()


def test_calibration_in_a_side_stream():
    model, x = mlp(), data()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(x))
    assert mtq.quantizers(model)["0.input_quantizer"].amax == x.abs().max().cpu()


def test_threads_with_streams_of_their_own():
    model = mlp()
    inputs = [data() * (i + 1) for i in range(4)]
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: [m(x) for x in inputs])
    expected = [model(x) for x in inputs]
    torch.cuda.synchronize()
    failed = []

    def run(index):
        with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
            for _ in range(50):
                if not torch.equal(model(inputs[index]), expected[index]):
                    failed.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_model_moves_with_its_quantizers():
    model, x = mlp().cpu(), data().cpu()
    mtq.quantize(model, mtq.INT4_AWQ_CFG, lambda m: m(x))
    expected = model(x).detach()
    scale = mtq.quantizers(model)["0.input_quantizer"].pre_quant_scale
    model.to(DEVICE)
    assert_near(model(x.to(DEVICE)).detach(), expected, "the output", 1e-3)
    assert torch.equal(mtq.quantizers(model)["0.input_quantizer"].pre_quant_scale, scale)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x.to(DEVICE)), model(x.to(DEVICE)))
    model.cpu()
    assert_near(model(x).detach(), expected, "the output", 1e-3)


@pytest.mark.parametrize("method", ["gradient", "kl_div", "gram"])
def test_a_search(method):
    model, x = mlp(), data()
    _, state = mtq.auto_quantize(
        model,
        constraints={"effective_bits": 6.0},
        quantization_formats=["INT4_BLOCKWISE_WEIGHT_ONLY_CFG", "INT8_DEFAULT_CFG"],
        data_loader=[x, x + 1],
        forward_step=lambda m, batch: m(batch),
        loss_func=lambda y, batch: y.square().sum(),
        method=method,
    )
    assert state["best"]["constraints"]["effective_bits"] <= 6.0
    assert not torch.equal(model(x), mlp()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_of_convolutions_of_which_torch_computes_one(dtype):
    torch.manual_seed(3)
    layers = [nn.Conv2d(8, 16, 3, padding=1, groups=2), nn.ConvTranspose2d(16, 8, 2, stride=2)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1]).to(dtype)
    batches = [torch.randn(2, 8, 9, 9, dtype=dtype) for _ in range(2)]

    def search(model, batches):
        return mtq.auto_quantize(
            model,
            constraints={"effective_bits": 12.0},
            quantization_formats=["INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG"],
            data_loader=batches,
            forward_step=lambda m, batch: m(batch),
            loss_func=lambda y, batch: y.float().square().sum(),
        )[1]["candidate_stats"]

    expected = search(copy.deepcopy(model), batches)
    found = search(model.to(DEVICE), on_gpu(batches))
    assert found.keys() == expected.keys()
    for group, stats in expected.items():
        assert found[group]["scores"] == pytest.approx(stats["scores"], rel=0.1), group
        assert stats["scores"][0] > 0, group


def test_gradients_pass():
    model, x = mlp(), data().requires_grad_()
    mtq.quantize(model, mtq.INT8_SMOOTHQUANT_CFG, lambda m: m(x.detach()))
    model(x).square().sum().backward()
    plain, y = mlp(), data().requires_grad_()
    plain(y).square().sum().backward()
    assert_near(x.grad, y.grad.cpu(), "the gradient", 0.1)


def test_nan_is_reported_by_the_verb():
    model, x = mlp(), data()
    x[3, 4] = torch.nan
    with pytest.raises(mq.NumericError, match="input_quantizer"):
        mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(x))
    assert "forward" not in vars(model[0])


@pytest.mark.parametrize("preset", ["INT8_DEFAULT_CFG", "NVFP4_DEFAULT_CFG", "MXFP8_DEFAULT_CFG"])
def test_compressed_weights_compute_the_same(preset):
    model, x = mlp(), data()
    mtq.quantize(model, getattr(mtq, preset), lambda m: m(x))
    expected = model(x)
    mtq.compress(model)
    assert torch.equal(model(x), expected)


def test_tensors_of_the_host_are_refused():
    model, x = mlp(), data()
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: m(x))
    expected = model(x)
    with pytest.raises((mq.MqError, RuntimeError)):
        model(x.cpu())
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("more", [{}, {"scale_bits": 8, "scale_block_sizes": {-1: 7}}])
def test_one_tensor_is_packed_where_it_is(dtype, more):
    attributes = {"num_bits": 4, "block_sizes": {-1: 32, **more}}
    x = data().to(dtype)
    packed, host = mq.pack(x, attributes), mq.pack(x.cpu(), attributes)
    for name, part in packed.parts().items():
        assert part.device == DEVICE
        assert part.cpu().numpy().tobytes() == host.parts()[name].tobytes()
    assert torch.equal(mq.unpack(packed), mq.fake_quant(x, attributes))
