"""The page about a format search: what it shows, that it is whole, and what it refuses."""

import copy
import html.parser
import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mq import report
from mq.report import __main__ as command
from mq.report import axis, text
from mq.report.state import parse

STATE = Path(__file__).resolve().parents[1] / "data" / "auto_quantize_state.json"
FIRST = "model.layers.0.self_attn.q_proj.quant_recipe"
VOID = {"meta", "wbr", "br", "input"}


class Page(html.parser.HTMLParser):
    """The elements of a page, in order; fails for tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        entry = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without its start"
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry["text"] += data

    def all(self, tag, kind=None):
        return [
            entry
            for entry in self.elements
            if entry["tag"] == tag and (kind is None or kind in (entry.get("class") or "").split())
        ]


@pytest.fixture
def state():
    return json.loads(STATE.read_text())


def rows(page):
    """The cells of every row of the table of groups, without its head."""
    start = next(i for i, e in enumerate(page.elements) if e.get("id") == "groups")
    found = []
    for entry in page.elements[start:]:
        if entry["tag"] == "tr":
            found.append([])
        elif entry["tag"] in ("td", "th"):
            found[-1].append(entry)
    return found[1:]


def test_a_page_is_whole_and_needs_nothing_else(state):
    page = report.render(state)
    parsed = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert "://" not in page
    assert not re.search(r"url\(|@import|\bsrc=|\bhref=", page)
    assert {entry["tag"] for entry in parsed.elements}.isdisjoint({"link", "img", "iframe", "a"})
    assert len(parsed.all("h1")) == len(parsed.all("script")) == 1
    assert len(parsed.all("svg")) == 4
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert report.render(state) == page


def test_the_headline_says_what_was_asked_and_reached(state):
    page = Page(report.render(state))
    tiles = {e["text"] for e in page.all("div")}
    bits = state["best"]["constraints"]["effective_bits"]
    assert f"effective bits{bits:.5g}asked: effective bits ≤ 5.5" in tiles
    assert "total score17.81217.8125" in tiles
    assert "constraints✓ satisfied" in tiles
    assert "methodgradient" in tiles
    assert "cost modelweight" in tiles
    assert "groups6" in tiles
    assert "formats3INT4_AWQ_CFG, FP8_DEFAULT_CFG, NONE" in tiles
    state["best"]["is_satisfied"] = False
    assert "✗ not satisfied" in report.render(state)
    title = Page(report.render(state, title="a & b")).all("h1")[0]
    assert title["text"] == "a & b"


def test_every_group_and_format_is_in_the_table_and_the_chosen_one_is_marked(state):
    page = Page(report.render(state))
    found = rows(page)
    assert len(found) == len(state["candidate_stats"])
    recipes = {e["title"] for e in page.all("th") if "effective-bits" in (e.get("title") or "")}
    assert recipes == set(state["candidate_stats"][FIRST]["formats"])
    for cells in found:
        key = cells[1]["title"]
        entry = state["candidate_stats"][key]
        scores = cells[2:5]
        assert [float(cell["data-v"]) for cell in scores] == entry["scores"]
        shown = [cell["text"].split()[-1] for cell in scores]
        assert shown == [text.short(score) for score in entry["scores"]]
        place = entry["formats"].index(state["best"]["recipe"][key])
        marked = [i for i, cell in enumerate(scores) if "chosen" in cell["class"].split()]
        assert marked == [place] == [i for i, cell in enumerate(scores) if "✓" in cell["text"]]
        assert float(cells[5]["data-v"]) == (4.0, 8.0, 16.0)[place]
        assert float(cells[6]["data-v"]) == entry["costs"][place]
        for module in entry["module_names"]:
            assert module in cells[1]["text"]
    shares = [float(cells[6]["text"].rstrip(" %")) for cells in found]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))


def test_groups_are_in_the_order_of_the_model_with_ascending_numbers(state):
    written = list(state["candidate_stats"])
    state["candidate_stats"] = dict(sorted(state["candidate_stats"].items()))
    names = [group.key for group in parse(state).groups]
    assert names.index("model.layers.2.self_attn.q_proj.quant_recipe") < names.index(
        "model.layers.10.self_attn.q_proj.quant_recipe"
    )
    state["candidate_stats"] = {key: state["candidate_stats"][key] for key in written}
    assert [group.key for group in parse(state).groups] == written


def test_colours_are_logarithmic(state):
    scores = {
        float(cell["data-v"]): cell["class"].split()[0]
        for cells in rows(Page(report.render(state)))
        for cell in cells[2:5]
    }
    assert scores.pop(0.0) == "h"
    least, most = min(scores), max(scores)
    for score, kind in scores.items():
        share = math.log(score / least) / math.log(most / least)
        assert kind == f"h{min(9, int(10 * share))}"


def logarithmic(first, second):
    """Two ticks give the scale of a logarithmic axis: a function from places to values."""
    (y1, v1), (y2, v2) = first, second
    slope = (math.log10(v2) - math.log10(v1)) / (y2 - y1)
    return lambda y: 10 ** (math.log10(v1) + (y - y1) * slope)


def test_the_curve_goes_through_all_points_and_marks_the_chosen_one(state):
    page = Page(report.render(state))
    dots = [(float(e["cx"]), float(e["cy"]), e["text"]) for e in page.all("circle", "dot")]
    assert len(dots) == len(state["curve"])
    labels = [e for e in page.all("text") if e.get("text-anchor") == "end" and e.get("x") == "68"]
    ticks = [(float(e["y"]) - 4, float(e["text"])) for e in labels]
    assert len(ticks) >= 4
    zero = next(y for y, value in ticks if value == 0)
    decades = sorted((y, value) for y, value in ticks if value > 0)
    score_at = logarithmic(decades[0], decades[-1])
    below = [e for e in page.all("text") if e.get("y") == "347"]
    (x1, b1), (x2, b2) = [(float(e["x"]), float(e["text"])) for e in (below[0], below[-1])]
    for (x, y, words), point in zip(dots, state["curve"]):
        assert b1 + (x - x1) * (b2 - b1) / (x2 - x1) == pytest.approx(
            point["effective_bits"], abs=0.01
        )
        if point["score"] == 0:
            assert y == zero > decades[-1][0]
        else:
            assert score_at(y) == pytest.approx(point["score"], rel=0.01)
        assert f"score {text.short(point['score'])}" in words
        assert 0 < x < 760
        assert 0 < y < 380
    (path,) = page.all("path", "curve")
    corners = [float(number) for number in re.findall(r"[\d.]+", path["d"])]
    assert list(zip(corners[::2], corners[1::2])) == [dot[:2] for dot in dots]
    (chosen,) = page.all("circle", "chosen-point")
    place = next(
        i for i, point in enumerate(state["curve"]) if point["score"] == state["best"]["score"]
    )
    assert (float(chosen["cx"]), float(chosen["cy"])) == dots[place][:2]
    (limit,) = page.all("line", "limit")
    assert b1 + (float(limit["x1"]) - x1) * (b2 - b1) / (x2 - x1) == pytest.approx(5.5, abs=0.01)


def test_the_bars_are_as_wide_as_their_shares(state):
    page = Page(report.render(state))
    chosen = {"f0": 0.0, "f1": 0.0, "f-none": 0.0}
    groups = dict.fromkeys(chosen, 0)
    for key, recipe in state["best"]["recipe"].items():
        entry = state["candidate_stats"][key]
        kind = list(chosen)[entry["formats"].index(recipe)]
        chosen[kind] += entry["uncompressed_cost"] / state["cost_denominator"]
        groups[kind] += 1
    parts = {e["class"].split()[0]: float(e["width"]) for e in page.all("rect", "part")}
    assert parts == {k: pytest.approx(760 * v, abs=0.01) for k, v in chosen.items() if v}
    texts = [e["text"] for e in page.all("text")]
    for count in groups.values():
        noun = "group" if count == 1 else "groups"
        assert f"{count} {noun}, {100 * count / 6:.1f} %" in texts
    worst = [float(e["width"]) for e in page.all("rect", "worst")]
    highest = sorted((max(e["scores"]) for e in state["candidate_stats"].values()), reverse=True)
    assert worst == [pytest.approx(350 * score / highest[0], abs=0.01) for score in highest]


def test_text_of_the_user_stays_text(state):
    evil = "<script>alert(1)</script>\"'&\x00\x1b\ud800"
    recipe = f"{evil}(effective-bits: 4.0)"
    stats = state["candidate_stats"]
    stats[evil] = dict(copy.deepcopy(stats[FIRST]), module_names=[evil, "b"])
    stats[evil]["formats"][0] = recipe
    state["best"]["recipe"][evil] = recipe
    state["best"]["score"] += stats[evil]["scores"][0]
    state |= {"method": evil, "cost_model": evil, "mq_version": evil, "disabled_layers": [evil]}
    state["constraints"]["note"] = evil
    page = report.render(state, title=evil)
    parsed = Page(page)
    assert len(parsed.all("script")) == 1
    assert "<script>alert" not in page
    page.encode()
    cleaned = evil.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    assert parsed.all("h1")[0]["text"] == cleaned
    assert cleaned in [cells[1]["title"] for cells in rows(parsed)]


def test_optional_keys_may_be_missing(state):
    least = {"candidate_stats": {}, "best": {"recipe": state["best"]["recipe"]}}
    for key, entry in state["candidate_stats"].items():
        least["candidate_stats"][key] = {k: entry[k] for k in ("formats", "scores", "costs")}
    result, whole = parse(least), parse(state)
    assert result.effective_bits == pytest.approx(whole.effective_bits)
    assert (result.score, result.unquantized) == (whole.score, whole.unquantized)
    page = report.render(least)
    Page(page)
    assert "The state has no curve." in page
    assert "the state does not say" in page
    for key in ("curve", "method", "cost_denominator", "constraints", "disabled_layers"):
        Page(report.render({**state, key: None}))


def test_groups_may_have_different_formats(state):
    entry = state["candidate_stats"]["lm_head.quant_recipe"]
    entry.update(formats=["NONE(effective-bits: 16.0)"], scores=[0], costs=[32768], is_fixed=True)
    state["best"]["recipe"]["lm_head.quant_recipe"] = "NONE(effective-bits: 16.0)"
    cells = next(row for row in rows(Page(report.render(state))) if "lm_head" in row[1]["text"])
    assert [cell["text"] for cell in cells[2:6]] == [text.NOTHING, text.NOTHING, "✓ 0", "16"]
    assert "fixed" in cells[1]["text"]


def test_what_does_not_agree_is_said(state):
    assert not parse(state).notes
    state["best"]["score"] = 17.0
    assert "best.score is 17; the chosen formats give 17.8125." in report.render(state)


def test_costs_that_do_not_count_weights_have_no_bits(state):
    state["cost_model"] = "callback"
    state["constraints"] = {"max_cost": 150000.0}
    del state["best"]["constraints"]
    for point in state["curve"]:
        del point["effective_bits"]
    page = Page(report.render(state))
    words = [e["text"] for e in page.all("text")]
    assert "asked ≤ 1.5e+05" in words
    assert "cost" in words
    assert "chosen: 1.2698e+05 cost, score 17.812" in words
    assert len(page.all("circle", "dot")) == len(state["curve"])


@pytest.mark.parametrize("score", [0.0, 3.0])
def test_a_curve_of_one_score_has_an_axis(state, score):
    for entry in state["candidate_stats"].values():
        entry["scores"] = [0.0, 0.0, 0.0]
    state["best"]["score"] = score
    state["curve"] = [{"effective_bits": 4.0, "score": score}]
    page = report.render(state)
    Page(page)
    assert "Every score is zero." in page
    assert not re.search(r'"(nan|-?inf)"', page)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-320, 1e308), (1e-5, 1e5), (0.9, 1.1), (3.0, 3.0), (1.0, 1.0 + 1e-15), (99.0, 101.0)],
)
def test_an_axis_has_ticks_at_their_values(low, high):
    for values in ([low, high], [0.0, low, high]):
        scale = axis.LogAxis(values, 20.0, 320.0)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 20
        for tick in ticks:
            assert tick.place == pytest.approx(scale.place(float(tick.label)), abs=0.5)
            assert 20 <= tick.place <= 320
        assert len({tick.label for tick in ticks}) == len(ticks)
    scale = axis.LinearAxis(low, high, 70.0, 740.0)
    assert 2 <= len(scale.ticks()) <= 20
    assert all(69 <= tick.place <= 741 for tick in scale.ticks())


def changed(*path, to=None, remove=False):
    """A change of the entry at `path` of a state."""

    def change(state):
        for key in path[:-1]:
            state = state[key]
        if remove:
            del state[path[-1]]
        else:
            state[path[-1]] = to

    return change


def group(key, to):
    return changed("candidate_stats", FIRST, key, to=to)


REFUSED = {
    "candidate_stats is missing": changed("candidate_stats", remove=True),
    "best is missing": changed("best", remove=True),
    "best.recipe is missing": changed("best", "recipe", remove=True),
    "candidate_stats is an array": changed("candidate_stats", to=[1]),
    "candidate_stats is empty": changed("candidate_stats", to={}),
    ".formats is missing": changed("candidate_stats", FIRST, "formats", remove=True),
    ".formats is empty": group("formats", []),
    "names a format twice": group("formats", ["a", "b", "a"]),
    "3 formats, 2 scores and 3 costs": group("scores", [1.0, 2.0]),
    "3 formats, 3 scores and 4 costs": group("costs", [1.0, 2.0, 3.0, 4.0]),
    ".scores[1] is nan, expected a finite number >= 0": group("scores", [1.0, math.nan, 0.0]),
    ".scores[0] is inf, expected": group("scores", [math.inf, 1.0, 0.0]),
    ".scores[2] is -1.0, expected": group("scores", [2.0, 1.0, -1.0]),
    ".scores[0] is '1', expected a number": group("scores", ["1", 1.0, 0.0]),
    ".costs[0] is true, expected a number": group("costs", [True, 1.0, 0.0]),
    ".costs[0] is 1000": group("costs", [10**400, 1.0, 0.0]),
    ".costs[0] is a huge number": group("costs", [10**5000, 1.0, 0.0]),
    "the costs add up to more": group("uncompressed_cost", 1.7e308),
    ".module_names[0] is 7, expected a text": group("module_names", [7]),
    "is 'FP6', expected a format of its group": changed("best", "recipe", FIRST, to="FP6"),
    "best.recipe has no format for": changed("best", "recipe", FIRST, remove=True),
    "is not a group of candidate_stats": changed("best", "recipe", "other", to="NONE"),
    "best.score is inf": changed("best", "score", to=math.inf),
    "best.is_satisfied is 'yes', expected true or false": changed("best", "is_satisfied", to="yes"),
    "curve[1] has neither effective_bits nor cost": changed("curve", 1, to={"score": 1.0}),
    "curve[0].score is missing": changed("curve", 0, to={"cost": 1.0}),
    "curve is an object": changed("curve", to={"a": 1}),
    "method is 3, expected a text": changed("method", to=3),
    "constraints.effective_bits is an array": changed("constraints", "effective_bits", to=[1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_state_that_is_not_sound_is_refused_in_one_line(state, tmp_path, capsys, message):
    REFUSED[message](state)
    if message == "the costs add up to more":
        state["candidate_stats"]["lm_head.quant_recipe"]["uncompressed_cost"] = 1.7e308
    with pytest.raises(report.ReportError, match=re.escape(message)) as caught:
        report.render(state)
    assert "\n" not in str(caught.value)
    if "a huge number" in message:  # which JSON's writer refuses, too
        return
    path = tmp_path / "state.json"
    path.write_text(json.dumps(state))
    assert command.main([str(path), "-o", str(tmp_path / "report.html")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\xff", b"[" * 100000, b"[]", b"null", b"9" * 5000]
)
def test_a_file_that_is_no_state_is_refused_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    assert command.main([str(path), "-o", str(tmp_path / "report.html")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "not JSON" in printed or "expected an object" in printed


def test_files_that_cannot_be_read_or_written_are_told(tmp_path, capsys):
    path = tmp_path / "state.json"
    shutil.copy(STATE, path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments, words in [
        ([tmp_path / "none.json"], "none.json: No such file"),
        ([folder], "folder: "),
        ([path, "-o", folder], "folder: "),
        ([path, "-o", tmp_path / "no" / "report.html"], "report.html: No such file"),
        ([path, "-o", path], "is the state itself"),
    ]:
        assert command.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1
    assert path.read_bytes() == STATE.read_bytes()
    with pytest.raises(OSError, match="folder"):
        report.write_report(json.loads(path.read_text()), folder)


def test_the_command_writes_the_page(state, tmp_path):
    target = tmp_path / "page.html"
    assert command.main([str(STATE), "-o", str(target), "--title", "A model"]) == 0
    assert target.read_text("utf-8") == report.render(state, title="A model")


def test_the_folder_runs_alone_without_numpy_and_the_library(state, tmp_path):
    source = Path(report.__file__).parent
    shutil.copytree(source, tmp_path / "report", ignore=shutil.ignore_patterns("__pycache__"))
    # -S: without installed packages; -I would also leave out the working directory.
    run = [sys.executable, "-S", "-E", "-m", "report", str(STATE)]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "report.html").read_text("utf-8") == report.render(state)


def test_a_large_model_is_fast_and_whole():
    recipes = [f"F{bits}(effective-bits: {bits})" for bits in (4.0, 4.5, 6.25, 8.0, 8.25, 16.0)]
    stats = {}
    for i in range(1000):
        stats[f"model.layers.{i}.mlp.quant_recipe"] = {
            "formats": recipes,
            "scores": [10.0 ** (i % 13 - 6) / (k + 1) for k in range(5)] + [0.0],
            "costs": [1024.0 * k for k in range(1, 7)],
            "module_names": [f"model.layers.{i}.mlp.{part}" for part in ("gate", "up", "down")],
        }
    best = {"recipe": {key: recipes[i % 6] for i, key in enumerate(stats)}}
    curve = [{"effective_bits": 4 + i / 500, "score": 6000.0 - i} for i in range(6001)]
    began = time.perf_counter()
    page = report.render({"candidate_stats": stats, "best": best, "curve": curve})
    assert time.perf_counter() - began < 5  # a third of a second on a slow machine
    parsed = Page(page)
    assert len(rows(parsed)) == 1000
    assert len(parsed.all("td", "chosen")) == 1000
    (path,) = parsed.all("path", "curve")
    assert path["d"].count("V") == 6000
    assert len(parsed.all("rect", "worst")) == 20
    assert len(page) < 3_000_000
