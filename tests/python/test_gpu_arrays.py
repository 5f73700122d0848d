"""Arrays in device memory through DLPack: on a GPU, or on the emulator of cuda/emulator."""

import dataclasses
import functools
import sys

import ml_dtypes
import numpy as np
import pytest

import mq

import gpu_array
from foreign import Foreign
from golden import assert_same_bits
from network import INT8, matrix

pytestmark = pytest.mark.skipif(gpu_array.DRIVER is None, reason="no CUDA driver or device")
X = matrix(16, 64)
ATTRIBUTES = {"num_bits": 8, "axis": 0}
NVFP4 = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {
            "quantizer_name": "*weight_quantizer",
            "cfg": {
                "num_bits": (2, 1),
                "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)},
            },
        },
    ],
    "algorithm": "max",
}


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    module = gpu_array.Cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def on_gpu(array):
    return gpu_array.ndarray(array)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_array(dtype):
    host = X.astype(dtype)
    x = on_gpu(host)
    want = mq.fake_quant(host, ATTRIBUTES)
    got = mq.fake_quant(x, ATTRIBUTES)
    assert isinstance(got, gpu_array.ndarray)
    assert_same_bits(got.get(), want)
    assert mq.fake_quant(x, ATTRIBUTES, out=x) is x
    assert_same_bits(x.get(), want)
    assert x.asked[0] == {"stream": 1, "max_version": (1, 0)}


def test_amax_and_histogram():
    x = on_gpu(X)
    assert_same_bits(mq.amax(x, ATTRIBUTES), mq.amax(X, ATTRIBUTES))
    assert mq.histogram_amax([x, x]) == mq.histogram_amax([X, X])


PACKED_FORMATS = {
    "int8": ATTRIBUTES,
    "fp8": {"num_bits": (4, 3)},
    "int4": {"num_bits": 4, "block_sizes": {-1: 16}},
    "nvfp4": {
        "num_bits": (2, 1),
        "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)},
    },
    "mxfp8": {
        "num_bits": (4, 3),
        "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)},
    },
    "mxfp4": {
        "num_bits": (2, 1),
        "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)},
    },
    "nvfp4_static": {
        "num_bits": (2, 1),
        "block_sizes": {-1: 16, "type": "static", "scale_bits": (4, 3)},
    },
    "nf4": {
        "num_bits": 4,
        "block_sizes": {-1: 16, "scale_bits": 8, "scale_block_sizes": {-1: 5}},
    },
    "w4a8": [{"num_bits": 4, "block_sizes": {-1: 16}}, {"num_bits": (4, 3)}],
}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("attributes", PACKED_FORMATS.values(), ids=PACKED_FORMATS)
def test_packing_there(attributes, dtype):
    host = X.astype(dtype)
    want, got = mq.pack(host, attributes), mq.pack(on_gpu(host), attributes)
    assert got.parts().keys() == want.parts().keys()
    for name, part in got.parts().items():
        assert isinstance(part, gpu_array.ndarray)
        there, here = part.get(), want.parts()[name]
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
        assert there.tobytes() == here.tobytes()
    assert got.nbytes == want.nbytes
    values = mq.unpack(want)
    back = mq.unpack(got)
    assert isinstance(back, gpu_array.ndarray)
    assert_same_bits(back.get(), values)
    out = on_gpu(np.zeros_like(host))
    assert mq.unpack(got, out=out) is out
    assert_same_bits(out.get(), values)
    there = np.zeros_like(host)
    assert mq.unpack(got, out=there) is there
    assert_same_bits(there, values)


def test_packing_there_is_checked():
    x = on_gpu(X)
    with pytest.raises(mq.InvalidArgumentError, match="out is on CUDA device 0, expected"):
        mq.unpack(mq.pack(X, ATTRIBUTES), out=x)
    packed = mq.pack(x, ATTRIBUTES)
    with pytest.raises(mq.InvalidArgumentError, match=r"out is float32 .* expected float16"):
        mq.unpack(packed, dtype="float16", out=x)
    short = dataclasses.replace(packed, scales=on_gpu(np.ones((8, 1), np.float32)))
    with pytest.raises(ValueError, match=r"has 32 bytes of float32, .* ask for 64 bytes"):
        mq.unpack(short)
    wide = dataclasses.replace(packed, scales=on_gpu(np.ones(8, np.float64)))
    with pytest.raises(ValueError, match=r"has 64 bytes of float64, .* of float32"):
        mq.unpack(wide)
    none = dataclasses.replace(packed, scales=None)
    with pytest.raises(ValueError, match=r"part scale has 0 bytes"):
        mq.unpack(none)
    alien = Foreign(X, device=(2, 0), data=x.pointer)
    with pytest.raises(TypeError, match="torch or cupy"):
        mq.pack(alien, ATTRIBUTES)


def test_unpacking_copies_nothing_to_the_host(monkeypatch):
    host = X.astype(ml_dtypes.bfloat16)
    packed = mq.pack(on_gpu(host), PACKED_FORMATS["nf4"])
    want = mq.unpack(packed.on_host())
    monkeypatch.setattr(gpu_array.ndarray, "get", None)
    values, wide = mq.unpack(packed), mq.unpack(packed, dtype="float32")
    monkeypatch.undo()
    assert isinstance(values, gpu_array.ndarray)
    assert_same_bits(values.get(), want)
    assert_same_bits(wide.get(), mq.unpack(packed.on_host(), dtype="float32"))


def test_parts_that_were_stored_on_the_host_go_there():
    packed = mq.pack(on_gpu(X), PACKED_FORMATS["nvfp4"])
    mixed = dataclasses.replace(packed.on_host(), data=packed.data)
    assert_same_bits(mq.unpack(mixed).get(), mq.unpack(packed.on_host()))


def observe(layer, batches):
    for x in batches:
        layer.input(x)


@pytest.mark.parametrize("config", ["INT8_DEFAULT_CFG", "INT4_AWQ_CFG"])
def test_a_model_is_that_of_host_memory(config):
    batches = [matrix(32, 64, seed) for seed in range(3)]
    host, device = mq.Model(threads=2), mq.Model(device="cuda:0")
    weight = matrix(32, 64, 9)
    borrowed = on_gpu(weight)
    layers = host.add_linear("a", weight), device.add_linear("a", borrowed)
    for model, layer, data in zip(
        (host, device), layers, (batches, [on_gpu(batch) for batch in batches])
    ):
        model.quantize(config, functools.partial(observe, layer, data))
    want = layers[0].weight()
    got = layers[1].weight().get()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    x = layers[1].input(on_gpu(batches[0])).get()
    np.testing.assert_allclose(x, layers[0].input(batches[0]), rtol=1e-5, atol=1e-6)
    device.fold_weight()
    assert_same_bits(borrowed.get(), got)
    del model, layer, layers
    device.close()
    assert not borrowed.exports


def searched(device, method, place):
    """The scores of a convolution and of a linear layer of mixed dtypes."""
    model = mq.Model(device=device)
    images = [matrix(2 * 4, 6 * 5, seed).reshape(2, 4, 6, 5) for seed in (1, 2)]
    rows = [matrix(7, 12, seed, "bfloat16") for seed in (3, 4)]
    kernel = matrix(6, 2 * 9, 5).reshape(6, 2, 3, 3)
    conv = model.add_layer("conv2d", "conv", place(kernel), padding=1)
    linear = model.add_layer("linear", "linear", place(matrix(8, 12, 6)))
    gradients = [
        place(matrix(2 * 6, 30, 7).reshape(2, 6, 6, 5)),
        place(matrix(7, 8, 8, "float16")),
    ]
    images, rows = [place(x) for x in images], [place(x) for x in rows]

    def forward(at):
        seen = conv.input(images[at]), linear.input(rows[at])
        host = [x.get() if hasattr(x, "get") else x for x in seen]
        logits = np.float32(host[0].reshape(8, 30)[:, :12]) + np.float32(host[1]).sum(0)
        return place(np.ascontiguousarray(logits))

    def backward(at):
        forward(at)
        for layer, gradient in zip((linear, conv), reversed(gradients)):
            layer.grad(gradient)
        return 1.0

    state = model.auto_quantize(
        {"effective_bits": 12},
        ["INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG"],
        range(2),
        method=method,
        forward_step=forward,
        forward_backward_step=None if method == "kl_div" else backward,
    )
    stats = state["candidate_stats"]
    return {name: one["scores"] for name, one in stats.items()}


@pytest.mark.parametrize("method", ["gradient", "kl_div"])
def test_a_search_has_the_scores_of_host_memory(method, cupy):
    want = searched(None, method, np.copy)
    for cupy.ptr in (0, gpu_array.new_stream()):
        got = searched("cuda", method, on_gpu)
        assert got.keys() == want.keys()
        for name, scores in want.items():
            assert scores[0] > 0
            np.testing.assert_allclose(got[name], scores, rtol=1e-4, err_msg=name)


def computed(device, place, compute, dtype="float32"):
    """The score of a layer that the caller computes."""
    model = mq.Model(device=device)
    weight = place(matrix(4, 8, 1))
    layer = model.add_layer("generic", "scale", weight, forward=compute)
    x, g = place(matrix(5, 8, 2, "bfloat16")), place(matrix(5, 8, 3, dtype))

    def backward(_):
        layer.input(x)
        layer.grad(g)
        return 1.0

    state = model.auto_quantize(
        {"effective_bits": 16},
        ["INT8_DEFAULT_CFG"],
        [0],
        forward_step=lambda _: layer.input(x),
        forward_backward_step=backward,
    )
    return state["candidate_stats"]["scale.quant_recipe"]["scores"]


def scaled(x, w):
    return np.float32(x) * np.float32(w).sum(0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_layer_is_computed_by_the_library_of_its_weight(dtype, cupy):
    seen = []

    def there(x, w):
        assert isinstance(x, gpu_array.ndarray)
        assert isinstance(w, gpu_array.ndarray)
        seen.append((x.get(), w.get()))
        return on_gpu(scaled(*seen[-1]).astype(dtype))

    want = computed(None, np.copy, lambda x, w: scaled(x, w).astype(dtype), dtype)
    cupy.ptr = gpu_array.new_stream()
    got = computed("cuda", on_gpu, there, dtype)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert want[0] > 0
    assert_same_bits(seen[0][0], matrix(5, 8, 2, "bfloat16"))
    assert_same_bits(seen[0][1], matrix(4, 8, 1))


def test_what_a_layer_that_is_computed_there_gives_is_checked():
    with pytest.raises(ValueError, match="forward of scale gave is bfloat16"):
        computed("cuda", on_gpu, lambda x, w: x)
    with pytest.raises(mq.MqError, match="host memory"):
        computed("cuda", on_gpu, lambda x, w: np.zeros((5, 8), np.float32))
    with pytest.raises(ZeroDivisionError):
        computed("cuda", on_gpu, lambda x, w: 1 // 0)


def test_a_weight_is_packed_where_it_is():
    weight = matrix(32, 64, 9)
    host, device = mq.Model(threads=1), mq.Model(device="cuda:0")
    borrowed = on_gpu(weight)
    layers = host.add_linear("a", weight), device.add_linear("a", borrowed)
    for model in (host, device):
        model.quantize(NVFP4)
        assert model.compress() == 1
    got = layers[1].weight()
    assert isinstance(got, gpu_array.ndarray)
    assert_same_bits(got.get(), layers[0].weight())
    with pytest.raises(mq.StateError, match="compressed"):
        device.disable_quantizer("*weight_quantizer")


def test_work_goes_where_the_library_of_the_array_works(cupy):
    model = mq.Model(device=0)
    tap = model.add_quantizer("q")
    cfg = {"quantizer_name": "q", "cfg": {"num_bits": 8}}
    x = on_gpu(X)
    streams = [0, gpu_array.new_stream(), gpu_array.new_stream()]
    model.quantize({"quant_cfg": [cfg], "algorithm": "max"}, lambda: tap.forward(x))
    want = mq.fake_quant(X, {"num_bits": 8})
    for stream in [*streams, *streams]:
        cupy.ptr = stream
        before = len(x.asked)
        assert_same_bits(tap.forward(x).get(), want)
        assert_same_bits(mq.fake_quant(x, {"num_bits": 8}).get(), want)
        assert [asked["stream"] for asked in x.asked[before:]] == [stream or 1] * 2


def test_a_model_of_host_memory_refuses_device_memory():
    with pytest.raises(mq.MqError, match=r"CUDA|device"):
        mq.Model().add_linear("a", on_gpu(X))
    model = mq.Model(device="cuda")
    layer = model.add_linear("a", X.copy())  # the context takes both
    model.quantize(INT8, lambda: layer.input(X))
    with pytest.raises(mq.InvalidArgumentError, match=r"device|CUDA"):
        layer.input(X, out=on_gpu(X))


def test_layouts_that_cannot_be_copied_here_are_refused():
    x = on_gpu(X.T)
    with pytest.raises(ValueError, match="x is not C-contiguous"):
        mq.fake_quant(x, ATTRIBUTES)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(mq.MqError):
        mq.Model(device=77)


def test_a_library_that_cannot_be_written_to_needs_out(cupy):
    x = on_gpu(X)
    alien = Foreign(X, device=(2, 0), data=x.pointer)
    with pytest.raises(TypeError, match="give out"):
        mq.fake_quant(alien, ATTRIBUTES)
    out = on_gpu(X)
    assert mq.fake_quant(alien, ATTRIBUTES, out=out) is out
    assert_same_bits(out.get(), mq.fake_quant(X, ATTRIBUTES))


@pytest.mark.parametrize("cublas", [None, True, False])
def test_cublas_is_a_choice(cublas):
    lines = []
    model = mq.Model(log=lambda _, text: lines.append(text), device="cuda", cublas=cublas)
    layer = model.add_linear("a", on_gpu(X))
    x = on_gpu(X)
    model.quantize(INT8, lambda: layer.input(x))
    # Nothing here is large enough to look for it.
    assert not any("cuBLAS" in line for line in lines)
