"""The checks of pages find what they are there to find.

Needs MkDocs, and Doxygen's indexes: run after scripts/docs.sh.
"""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "docs"), str(ROOT / "bindings" / "python")]

import docstrings  # noqa: E402
import hooks  # noqa: E402


def page(name="faq.md"):
    file = SimpleNamespace(src_path=name, src_uri=name, dest_uri=name.replace(".md", ".html"))
    return SimpleNamespace(file=file)


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def markdown(text, name="faq.md"):
    return hooks.on_page_markdown(text, page(name), None, None)


def content(html, name="faq.md"):
    return hooks.on_page_content(html, page(name), None, None)


@pytest.mark.parametrize("language", ["c", "cpp", "python"])
def test_code_that_no_test_runs_is_refused(told, language):
    markdown(f"```{language}\nx = 1\n```\n")
    assert len(told()) == 1
    assert language in told()[0]


def test_snippets_and_other_languages_pass(told):
    markdown('```python\n--8<-- "examples/python/saving.py"\n```\n\n```\nx\n```\n')
    markdown('```json\n{"a": [1]}\n```\n\n    pip install it\n')
    assert told() == []


def test_json_that_is_none_is_refused(told):
    markdown('```json\n{"a": }\n```\n')
    assert "JSON" in told()[0]


def test_links_to_files_of_the_repository_come_home(told):
    assert markdown("[x](../README.md#not-yet)") == "[x](index.md#not-yet)"
    assert told() == []
    markdown("[x](../Makefile)")
    assert "Makefile" in told()[0]


def test_names_are_linked_from_any_depth(told):
    shallow, deep = "<code>mq_quantize()</code>", "<code>mq::Model</code>"
    assert 'href="api/c/mq_8h.html#' in content(shallow)
    assert 'href="../api/cpp/classmq_1_1Model.html"' in content(deep, "start/cpp.md")
    assert 'href="api/c/structmq__layer__desc.html"' in content("<code>mq_layer_desc.bias</code>")
    assert told() == []


@pytest.mark.parametrize("name", ["mq_quantise()", "mq::Modell", "mq_layer_dsc"])
def test_names_that_do_not_exist_are_refused(told, name):
    content(f"<code>{name}</code>")
    assert told() == [f"faq.md: there is no {name.removesuffix('()')}"]


def test_environment_variables_and_targets_are_no_names(told):
    content("<code>MQ_LIBRARY</code> <code>mq::static</code>")
    assert told() == []


def test_exceptions_without_a_name_stay_in_the_docstring():
    raises = "Raises:\n    A, B: one.\n        more\n    Whatever it raises.\n"
    text = f"Does.\n\n{raises}\nReturns:\n    x.\n"
    changed = docstrings.SECTION.sub(docstrings._named, text)
    assert "    A, B: one.\n        more\n    Also: Whatever it raises.\n" in changed
    assert "Returns:\n    x." in changed
