"""The functional API and a model on torch's tensors, by DLPack: `mq` itself, without `mq.torch`."""

import ml_dtypes
import numpy as np
import pytest
import torch

import mq

ATTRIBUTES = {"num_bits": 8, "axis": 0}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def tensor(*shape, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(dtype).to(device)


def as_numpy(x):
    x = x.detach().cpu()
    return (
        x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if x.dtype is DTYPES[2] else x.numpy()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_results_are_tensors_and_those_of_numpy(device, dtype):
    x = tensor(8, 64, dtype=dtype, device=device)
    want = mq.fake_quant(as_numpy(x), ATTRIBUTES)
    got = mq.fake_quant(x, ATTRIBUTES)
    assert (type(got), got.dtype, got.device) == (torch.Tensor, dtype, x.device)
    assert (as_numpy(got) == want).all()
    out = torch.empty_like(x)
    assert mq.fake_quant(x, ATTRIBUTES, out=out) is out
    assert torch.equal(out, got)
    columns = mq.fake_quant(x.t(), ATTRIBUTES)
    assert (as_numpy(columns) == mq.fake_quant(as_numpy(x).T, ATTRIBUTES)).all()
    assert (mq.amax(x, ATTRIBUTES) == mq.amax(as_numpy(x), ATTRIBUTES)).all()
    assert mq.histogram_amax([x, x]) == mq.histogram_amax([as_numpy(x)] * 2)
    packed = mq.pack(x.cpu(), ATTRIBUTES)
    assert (packed.data == mq.pack(as_numpy(x), ATTRIBUTES).data).all()
    host = torch.empty(8, 64, dtype=dtype)
    assert mq.unpack(packed, out=host) is host
    assert torch.equal(host, got.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_parameter_is_borrowed_and_folded_in_place(device, dtype):
    weight = torch.nn.Parameter(tensor(16, 64, dtype=dtype, device=device))
    x = tensor(4, 64, dtype=dtype, device=device)
    model = mq.Model(device=device)
    layer = model.add_linear("a", weight)
    model.quantize("INT8_DEFAULT_CFG", lambda: layer.input(x))
    want = layer.weight()
    assert not want.requires_grad
    address = weight.data_ptr()
    model.fold_weight()
    assert torch.equal(weight, want)
    assert weight.data_ptr() == address
    assert model.quantizer("a.input_quantizer").amax == x.abs().max().float().item()


def test_a_gradient_is_no_obstacle_for_inputs_but_for_outputs():
    x = tensor(4, 8).requires_grad_()
    got = mq.fake_quant(x, ATTRIBUTES)
    assert not got.requires_grad
    with pytest.raises(ValueError, match=r"out requires a gradient.*pass out\.detach"):
        mq.fake_quant(x, ATTRIBUTES, out=x)
    assert torch.equal(mq.fake_quant(x, ATTRIBUTES, out=x.detach()), x)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (tensor(4, 8).int(), "has dtype torch.int32"),
        (tensor(4, 8).bool(), "has dtype torch.bool"),
        (tensor(4, 8).double(), "has dtype torch.float64"),
        (tensor(4, 8).to(torch.complex64), "has dtype torch.complex64"),
        (tensor(4, 8).to("meta"), "is a Tensor that DLPack cannot export"),
        (tensor(4, 8).to_sparse(), "is a Tensor that DLPack cannot export"),
    ],
)
def test_other_tensors_are_refused(bad, text):
    for call in (
        lambda: mq.fake_quant(bad, ATTRIBUTES),
        lambda: mq.fake_quant(tensor(4, 8), ATTRIBUTES, out=bad),
        lambda: mq.Model().add_linear("a", bad),
    ):
        with pytest.raises(TypeError, match=text):
            call()


def test_scalars_and_empty_tensors():
    assert mq.fake_quant(torch.tensor(1.5), {"num_bits": 8}).item() == 1.5
    assert mq.fake_quant(torch.empty(0, 3), {"num_bits": 8}).shape == (0, 3)


def freed(weight):
    weight.untyped_storage().resize_(0)


def resized(weight):
    weight.resize_(600, 8000)


def replaced(weight):
    weight.data = torch.zeros(6, 8)


@pytest.mark.parametrize("change", [freed, resized, replaced])
def test_a_registered_tensor_that_is_gone_is_noticed(change):
    weight = tensor(6, 8)
    model = mq.Model()
    layer = model.add_linear("a", weight)
    model.quantize("INT8_WEIGHT_ONLY_CFG")
    change(weight)
    for verb in (model.fold_weight, layer.weight, lambda: model.calibrate("max")):
        with pytest.raises(mq.StateError, match="the weight of a was moved, resized or freed"):
            verb()


def test_the_model_keeps_the_memory_of_a_tensor():
    model = mq.Model()
    layer = model.add_linear("a", tensor(64, 64))
    want = tensor(64, 64)
    scraps = [torch.full((64, 64), np.nan) for _ in range(64)]
    assert torch.equal(layer.weight(), want)
    assert len(scraps) == 64


@pytest.mark.skipif(len(DEVICES) == 1, reason="torch finds no GPU")
def test_work_is_put_on_torchs_current_stream():
    x = tensor(4096, 4096, device="cuda")
    want = mq.fake_quant(x, ATTRIBUTES)
    torch.cuda.synchronize()
    for _ in range(3):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            y = torch.zeros_like(x)
            torch.cuda._sleep(10**8)  # what comes after must not overtake it
            y.copy_(x)
            got = mq.fake_quant(y, ATTRIBUTES)
            assert torch.equal(got, want)
