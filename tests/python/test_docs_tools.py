"""What builds the documentation finds what it is there to find; `make test` also builds it."""

import copy
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "docs"))

import config_reference  # noqa: E402
import links  # noqa: E402
import presets  # noqa: E402
import wrong_values  # noqa: E402

import mq  # noqa: E402

SCHEMA = json.loads((ROOT / "docs" / "config.schema.json").read_text())


def test_the_python_api_has_every_public_name():
    page = (ROOT / "docs" / "api" / "python.md").read_text()
    named = set(re.findall(r"^::: mq\.(\w+)$", page, re.MULTILINE))
    errors = {name for name in mq.__all__ if hasattr(mq.errors, name)}
    assert named - {"errors", "report"} == set(mq.__all__) - errors - {"__version__"}


def test_every_page_is_in_the_navigation():
    """MkDocs finds pages that are missing from it; here: that it was told to."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert "omitted_files: warn" in text
    assert "strict: true" in text


@pytest.fixture
def site(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.html").write_text(
        '<h1 id="top">x</h1><a href="../index.html">home</a>'
    )
    (tmp_path / "style.css").write_text("")
    return tmp_path


def check(site, body):
    (site / "index.html").write_text(body)
    return links.broken(site)[1]


@pytest.mark.parametrize(
    "body",
    [
        '<a href="api/">a</a> <a href="api/index.html#top">b</a> <a href="https://a.example/">c</a>',
        '<link href="style.css"> <p id="here"></p> <a href="#here">d</a>',
    ],
)
def test_good_links_pass(site, body):
    assert check(site, body) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('<a href="gone.html">x</a>', "no such file"),
        ('<a href="api/index.html#gone">x</a>', "no such anchor"),
        ('<a href="#gone">x</a>', "no such anchor"),
        ('<a href="/api/index.html">x</a>', "absolute"),
        ('<a href="../outside.html">x</a>', "outside"),
        ('<script src="https://a.example/a.js"></script>', "another server"),
        ('<img src="gone.png">', "no such file"),
    ],
)
def test_bad_links_are_found(site, body, why):
    (line,) = check(site, body)
    assert line.startswith("index.html: ")
    assert why in line


def test_a_site_without_links_is_an_error(tmp_path):
    assert links.main([str(tmp_path)]) == 1


def properties(name):
    return SCHEMA["$defs"][name]["properties"]


def test_the_reference_has_every_key_and_every_algorithm():
    page = config_reference.Reference(SCHEMA).page()
    for section in ("config", "entry", "attributes", "blockSizes", "bias", "rotate", "layerwise"):
        for key in properties(section):
            assert f'id="{section.lower()}.{key}"' in page
    for algorithm in ("max", "mse", "histogram", "awq_full", "gptq"):
        assert f"\n### {algorithm}\n" in page
        for key in properties(algorithm):
            assert key == "method" or f'id="{algorithm}.{key}"' in page
    assert page.count("Error for") > 80


def test_the_reference_says_what_is_not_built():
    page = config_reference.Reference(SCHEMA).page()
    for name in ("gptq", "svdquant", "local_hessian", "nvfp4_act_headroom", "lsq"):
        assert f"algorithm {name} is not built" in page
    assert "algorithm awq_lite is not built" not in page


def test_a_key_without_a_meaning_fails_the_build():
    schema = copy.deepcopy(SCHEMA)
    del schema["$defs"]["attributes"]["properties"]["narrow_range"]["description"]
    with pytest.raises(SystemExit, match=r"attributes\.narrow_range"):
        config_reference.Reference(schema).page()


def test_a_wrong_value_that_the_library_takes_fails_the_build():
    with pytest.raises(SystemExit, match="accepts"):
        wrong_values.error("attributes", "narrow_range", True)


def test_the_page_of_presets_has_all_of_them():
    page = presets.page()
    for name in mq.presets():
        assert f"| [`{name}`](#{name.lower()}) |" in page
        assert f"### {name}\n" in page
    assert "| INT8, axis 0 | INT8, per tensor | `smoothquant` | yes |" in page
    assert (
        "| INT4, blocks of 128, then FP8, per tensor | FP8, per tensor | `awq_lite` | yes |" in page
    )
