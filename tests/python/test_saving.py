"""Saving and loading: every preset comes back bit for bit, and what is refused."""

import json
import os
import threading

import numpy as np
import pytest

import mq

from golden import assert_same_bits

LAYERS = ["model.layers.0.q_proj", "model.layers.0.o_proj", "odd[name]*"]
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((32, 256)).astype(np.float32) for name in LAYERS}
BATCHES = [
    (RNG.standard_normal((16, 256)) * np.exp(RNG.standard_normal(256))).astype(np.float32)
    for _ in range(3)
]
TAP = "model.layers.0.self_attn.k_bmm_quantizer"


class Host:
    def __init__(self, weights=WEIGHTS):
        self.model = mq.Model(threads=2, progress=False)
        for name, weight in weights.items():
            self.model.add_linear(name, weight.copy())
        self.tap = self.model.add_quantizer(TAP)

    def forward(self):
        for layer in self.model.layers.values():
            for x in BATCHES:
                layer.input(x)
        for x in BATCHES:
            self.tap.forward(x)

    def assert_same(self, other):
        for name, layer in self.model.layers.items():
            mine = other.model.layers[name]
            assert_same_bits(layer.weight() + 0.0, mine.weight() + 0.0, name)  # packed: no -0
            assert_same_bits(layer.input(BATCHES[0]), mine.input(BATCHES[0]), name)
        assert_same_bits(self.tap.forward(BATCHES[0]), other.tap.forward(BATCHES[0]))
        mine, others = self.model.summary_json(), other.model.summary_json()
        assert mine["quantizers"] == others["quantizers"]


#: What these hold cannot be set: the amax of the tensor beside those of its blocks.
UNSAVED = {"NVFP4_FOUR_OVER_SIX_CFG", "NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG"}
#: Not built, or for layers and keys that this model has not.
INAPPLICABLE = (
    "SVDQUANT",
    "FP8_AFFINE",
    "HESSIAN",
    "MAMBA_MOE",
    "EXPERTS",
    "MLP_ONLY",
    "MLP_WEIGHT",
    "OMLP",
)
PRESETS = [name for name in mq.presets() if not any(part in name for part in INAPPLICABLE)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_loaded_model_is_the_saved_one(preset, tmp_path):
    host, path = Host(), tmp_path / "state.json"
    host.model.quantize(preset, host.forward)
    if preset in UNSAVED:
        with pytest.raises(mq.UnsupportedError, match="cannot load again"):
            host.model.save(path)
        assert not path.exists()
        return
    host.model.save(path)
    other = Host()
    other.model.load(path)
    host.assert_same(other)
    again = tmp_path / "again.json"
    other.model.save(again)
    assert again.read_text() == path.read_text()


def test_the_presets_are_there():
    assert len(PRESETS) >= 30
    assert set(PRESETS) >= UNSAVED


def test_a_bias_cannot_be_saved(tmp_path):
    host = Host()
    cfg = {"num_bits": (4, 3), "bias": {-1: None, "type": "static", "method": "mean"}}
    entry = {"quantizer_name": TAP, "cfg": cfg}
    host.model.quantize({"quant_cfg": [entry], "algorithm": "max"}, host.forward)
    with pytest.raises(mq.UnsupportedError, match="k_bmm_quantizer holds a bias"):
        host.model.save(tmp_path / "state.json")


def test_members_that_are_disabled_stay_so(tmp_path):
    host = Host()
    host.model.quantize("W4A8_AWQ_BETA_CFG", host.forward)
    host.model.disable_quantizer("model.layers.0.q_proj.weight_quantizer.1")
    host.model.disable_quantizer("model.layers.0.o_proj.weight_quantizer")
    host.model.save(tmp_path / "state.json")
    other = Host()
    other.model.load(tmp_path / "state.json")
    host.assert_same(other)


def test_a_loaded_model_can_be_folded_packed_and_calibrated_on(tmp_path):
    host = Host()
    host.model.quantize("INT8_DEFAULT_CFG", host.forward)
    host.model.save(tmp_path / "state.json")
    other = Host()
    other.model.load(tmp_path / "state.json")
    want = host.model.layers[LAYERS[0]].weight()
    assert other.model.compress() == 3
    assert_same_bits(other.model.layers[LAYERS[0]].weight() + 0.0, want + 0.0)
    third = Host()
    third.model.load(tmp_path / "state.json")
    third.model.calibrate("max", third.forward)
    host.assert_same(third)
    third.model.fold_weight()
    third.model.save(tmp_path / "folded.json")
    fourth = Host({name: layer.weight() for name, layer in third.model.layers.items()})
    fourth.model.load(tmp_path / "folded.json")
    third.assert_same(fourth)


def test_what_is_not_quantized_is_not_saved(tmp_path):
    with pytest.raises(mq.StateError, match="nothing to save"):
        Host().model.save(tmp_path / "state.json")
    host = Host()
    host.model.quantize("INT8_WEIGHT_ONLY_CFG")
    host.model.save(tmp_path / "state.json")
    with pytest.raises(mq.StateError, match="not quantized yet"):
        host.model.load(tmp_path / "state.json")
    with pytest.raises(FileNotFoundError):
        Host().model.load(tmp_path / "none.json")
    with pytest.raises(OSError, match="folder"):
        host.model.save(tmp_path / "folder" / "state.json")


@pytest.fixture
def saved(tmp_path):
    host = Host()
    host.model.quantize("INT8_SMOOTHQUANT_CFG", host.forward)
    host.model.save(tmp_path / "state.json")
    return tmp_path / "state.json"


def refuse(path, text):
    host = Host()
    before = host.model.summary_json()
    with pytest.raises(ValueError, match=text):
        host.model.load(path)
    assert host.model.summary_json() == before


def test_a_file_of_another_model_is_refused(saved):
    names = dict(zip(["a", *LAYERS[1:]], WEIGHTS.values()))
    shapes = {**WEIGHTS, LAYERS[0]: np.zeros((32, 128), np.float32)}
    fewer = {name: WEIGHTS[name] for name in LAYERS[:2]}
    for weights in (names, shapes, fewer):
        host = Host(weights)
        with pytest.raises(ValueError, match="is of another model"):
            host.model.load(saved)
        assert host.model.summary_json()["mode"] == "registered"


def test_damaged_files_are_refused(saved):
    whole = saved.read_text()
    for text in ("", whole[: len(whole) // 2], "[]", "{}", "\x00", '{"format": "other"}'):
        saved.write_text(text)
        refuse(saved, "is no file of Model.save")
    saved.write_bytes(b"\xff\xfe")
    refuse(saved, "is no file of Model.save")
    kept = json.loads(whole)

    def changed(change):
        copy = json.loads(whole)
        change(copy)
        saved.write_text(json.dumps(copy))

    changed(lambda copy: copy.update(version=2))
    refuse(saved, "of version 2, expected 1")
    index = next(i for i, q in enumerate(kept["quantizers"]) if q["pre_quant_scale"])
    for change in (
        lambda q: q["amax"].update(values=[-1.0]),
        lambda q: q["amax"].update(values=[float("inf")]),
        lambda q: q["amax"].update(values=[1.0, 2.0]),
        lambda q: q.update(amax=3),
        lambda q: q.update(pre_quant_scale=[0.0]),
        lambda q: q.update(pre_quant_scale="x"),
        lambda q: q.pop("attributes"),
        lambda q: q.update(enabled="yes"),
    ):
        changed(lambda copy, change=change: change(copy["quantizers"][index]))
        refuse(saved, "is no file of Model.save|could not convert")


#: Values that are well formed, but fit no quantizer of this model.
MISFITS = [
    lambda one: one["amax"].update(shape=[3], values=[1.0] * 3),
    lambda one: one.update(pre_quant_scale=[1.0] * 3),
    lambda one: one.update(pre_quant_scale=1.0),
    lambda one: one["attributes"].update(type="dynamic"),
    lambda one: one["attributes"].update(num_bits=99),
]


@pytest.mark.parametrize("spoil", MISFITS)
def test_a_load_that_fails_leaves_the_model_as_it_was(saved, spoil):
    path, kept = saved, json.loads(saved.read_text())
    good = json.dumps(kept)
    last = [one for one in kept["quantizers"] if one["amax"] is not None][-1]
    spoil(last)
    path.write_text(json.dumps(kept))
    host = Host()
    before = host.model.summary_json()
    with pytest.raises(ValueError, match="is damaged, or of another model"):
        host.model.load(path)
    assert host.model.summary_json() == before
    path.write_text(good)
    host.model.load(path)


BROKEN = [
    lambda kept: kept.update(layers=None),
    lambda kept: kept.update(layers=[5]),
    lambda kept: kept["quantizers"][0].update(name=5),
    lambda kept: kept["quantizers"][0].pop("enabled"),
]


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_file_of_another_form_is_a_value_error(saved, spoil):
    path, kept = saved, json.loads(saved.read_text())
    spoil(kept)
    path.write_text(json.dumps(kept))
    refuse(path, "no file of Model.save")


def test_a_file_that_nests_without_end_is_a_value_error(saved):
    saved.write_text("[" * 200_000)
    refuse(saved, "no file of Model.save")


def test_a_link_stays_one_and_nothing_is_left_behind(tmp_path):
    host = Host()
    host.model.quantize("INT8_DEFAULT_CFG", host.forward)
    file, link = tmp_path / "state.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    host.model.save(link)
    assert link.is_symlink()
    assert json.loads(file.read_text())["version"] == 1
    assert file.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match=r"[Ii]s a directory|denied"):
        host.model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "state.json"]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    host = Host()
    host.model.quantize("INT8_DEFAULT_CFG", host.forward)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    host.model.save(pipe)
    reader.join()
    assert json.loads(got[0])["version"] == 1
    assert pipe.is_fifo()
