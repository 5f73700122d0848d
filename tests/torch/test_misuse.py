"""What torch lets one do to a quantized model, and what it must not do silently."""

import copy
import io

import pytest
import torch
from torch import multiprocessing, nn
from torch.nn.utils import prune

import mq
import mq.torch as mtq

INT4 = mtq.INT4_AWQ_CFG
INT8 = mtq.INT8_DEFAULT_CFG
X = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))


def quantized(config=INT8, model=None):
    return mtq.quantize(mlp() if model is None else model, config, lambda model: model(X))


def test_a_storage_that_was_resized_is_not_read():
    model = quantized()
    model[0].weight.untyped_storage().resize_(64)
    with pytest.raises(ValueError, match=r"weight of 0 .* its storage was resized or freed"):
        model(X)
    x = torch.ones(16, 64)
    x.untyped_storage().resize_(64)
    with pytest.raises(ValueError, match="its storage was resized or freed, and holds 64 bytes"):
        quantized()(x)
    for call in (mq.fake_quant, mq.amax):
        with pytest.raises(ValueError, match=r"x has .* its storage was resized or freed"):
            call(x, {"num_bits": 8})
    with pytest.raises(ValueError, match="the weight of a has"):
        mq.Model().add_linear("a", x)


def test_what_torch_negates_as_it_reads_is_not_read_as_it_lies():
    view = torch._neg_view(X)
    model = quantized()
    assert torch.equal(model(view), model(-X))
    with pytest.raises(ValueError, match="x is a negated or conjugated view"):
        mq.fake_quant(view, {"num_bits": 8})
    model[0].weight = nn.Parameter(torch._neg_view(model[0].weight.detach()))
    with pytest.raises(ValueError, match="weight of 0 is a negated"):
        mtq.quantize(model, INT8)


@pytest.mark.parametrize("config", [INT8, mtq.INT8_WEIGHT_ONLY_CFG])
def test_tracing_would_record_one_run(config):
    model = quantized(config).requires_grad_(False)
    with pytest.raises(mq.UnsupportedError, match=r"torch\.jit\.trace.*unquantize"):
        torch.jit.trace(model, X, check_trace=False)
    model(X)
    mtq.fold_weight(model)
    want = mtq.unquantize(model)(2 * X)
    assert torch.equal(torch.jit.trace(model, X)(2 * X), want)


def replaced(model):
    model[0].weight = nn.Parameter(torch.zeros(128, 64))


def swapped(model):
    torch.func.functional_call(model, {"0.weight": torch.zeros(128, 64)}, X)


@pytest.mark.parametrize("change", [replaced, swapped, nn.Module.half])
def test_a_weight_given_after_compress_is_not_passed_over(change):
    model = quantized(INT4)
    mtq.compress(model)
    model(X)

    def use():
        change(model)
        model(X.to(model[0].bias.dtype))

    with pytest.raises(mq.StateError, match="weight of 0 is compressed, but was replaced, moved"):
        use()


def test_a_compiled_model_is_the_model():
    compiled = torch.compile(mlp(), backend="eager")
    compiled(X)
    assert mtq.quantize(compiled, INT8, lambda model: model(X)) is compiled
    plain = quantized()
    assert list(mtq.quantizers(compiled)) == list(mtq.quantizers(plain))
    assert torch.equal(compiled(X), plain(X))
    mtq.disable_quantizer(compiled, "*")
    assert torch.equal(compiled(X), mlp()(X))
    mtq.unquantize(compiled)
    assert torch.equal(compiled(X), mlp()(X))


def states():
    name = "0.weight_quantizer"

    def change(key, value):
        def spoil(state):
            state["quantizers"][name][key] = value

        return spoil

    yield lambda state: state.pop("quantizers")
    yield lambda state: state.update(quantizers=[])
    yield lambda state: state["quantizers"][name].pop("amax")
    for key, value in [
        ("amax", 5),
        ("amax", []),
        ("amax", ["a"]),
        ("enabled", []),
        ("attributes", 5),
        ("pre_quant_scale", "a"),
        ("amax", [torch.ones(3)]),
        ("pre_quant_scale", torch.ones(3)),
    ]:
        yield change(key, value)


@pytest.mark.parametrize("spoil", list(states()))
def test_a_damaged_state_is_a_value_error_and_changes_nothing(spoil):
    state = copy.deepcopy(mtq.quantizer_state(quantized(INT4)))
    spoil(state)
    model = mlp()
    want = model(X)
    with pytest.raises(ValueError):  # noqa: PT011 - the library's own, or that of the form
        mtq.load_quantizer_state(model, state)
    assert torch.equal(model(X), want)
    assert not any("forward" in vars(module) for module in model.modules())


def test_no_state_is_refused():
    for state in (None, 5, {}):
        with pytest.raises(ValueError, match="not the state of quantizers"):
            mtq.load_quantizer_state(mlp(), state)


def test_a_state_survives_a_file():
    model, file = quantized(INT4), io.BytesIO()
    torch.save(mtq.quantizer_state(model), file)
    file.seek(0)
    other = mtq.load_quantizer_state(mlp(), torch.load(file, weights_only=True))
    assert torch.equal(model(X), other(X))


def test_hooks_that_make_weights_anew_are_named():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(mq.StateError, match=r"Hooks that make a weight anew .*pruning"):
        quantized(model=model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_call_without_an_input_is_a_type_error():
    with pytest.raises(TypeError, match="forward of 0 is missing its argument 'input'"):
        quantized()[0]()


class Plain(nn.Linear):
    """Computes what nn.Linear does."""


class Doubled(nn.Linear):
    """Computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_subclasses_with_the_forward_of_their_base_are_quantized():
    torch.manual_seed(1)
    first, last = Plain(64, 64), Doubled(64, 64)
    plain = nn.Linear(64, 64)
    plain.load_state_dict(first.state_dict())
    model, same = nn.Sequential(first, last), nn.Sequential(plain, copy.deepcopy(last))
    for one in (model, same):
        quantized({"quant_cfg": {"*": {"enable": False}, "nn.Linear": {"*": {"num_bits": 4}}}}, one)
    assert {name.split(".")[0] for name in mtq.quantizers(model)} == {"0"}
    assert torch.equal(model(X), same(X))
    assert not torch.equal(model(X), mtq.unquantize(same)(X))


def test_weights_that_are_passed_by_or_made_are_left_alone():
    attention = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
    mtq.quantize(attention, INT8, lambda model: model(X[None]))
    assert not any("out_proj" in name for name in mtq.quantizers(attention))
    made = mlp()
    nn.utils.parametrizations.weight_norm(made[0])
    quantized(model=made)
    assert {name.split(".")[0] for name in mtq.quantizers(made)} == {"2"}
    with pytest.raises(ValueError, match="no module that can be quantized"):
        mtq.quantize(nn.Sequential(nn.LazyLinear(4)), INT8)


def answer(model, x, results):
    results.put(model(x).detach().numpy())


def test_a_model_is_sent_to_another_process():
    model = quantized(INT4)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=answer, args=(model, X, results))
    process.start()
    got = results.get(timeout=120)
    process.join()
    assert torch.equal(torch.from_numpy(got), model(X))


@pytest.mark.parametrize("folds", [False, True])
def test_storages_that_move_under_their_tensors_are_noticed(folds):
    model = quantized(INT4)
    if folds:
        mtq.fold_weight(model)
    want = model(X)
    model.share_memory()
    junk = [torch.full((128, 64), float("nan")) for _ in range(8)]  # where the weights were
    assert torch.equal(model(X), want)
    mtq.fold_weight(model)
    assert torch.equal(model(X), want)
    del junk
