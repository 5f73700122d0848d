"""What MkDocs does beside its own: generated pages, links to Doxygen's, and checks of what pages contain.

Checks are warnings, which `mkdocs build --strict` counts as errors.
"""

from __future__ import annotations

import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import presets
from config_reference import Reference

log = logging.getLogger("mkdocs.hooks.docs")
ROOT = Path(__file__).resolve().parents[2]
#: Doxygen's index of a reference, and the folder of the site that the reference is copied to.
TAGS = {"c": ROOT / "target" / "doxygen" / "c.tag", "cpp": ROOT / "target" / "doxygen" / "cpp.tag"}
#: Files of the repository that pages link to, and their place in the site.
ELSEWHERE = {"../README.md": "index.md", "../CHANGELOG.md": "changelog.md"}
#: Languages whose blocks must be files that the tests run.
RUN_BY_TESTS = {"c", "cpp", "c++", "python", "py"}
#: Looks like a name of the C++ interface, and is a target of CMake.
TARGETS = {"mq::mq", "mq::static"}
FENCE = re.compile(r"^(```+|~~~+)[ ]*([\w+-]*)[^\n]*\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"<code>((?:mq_|MQ_|mq::)\w+(?:::\w+)?)((?:\.\w+)?(?:\(\))?)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    schema = json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8"))
    generated = {"configuration.md": Reference(schema).page(), "presets.md": presets.page()}
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Checks the blocks of code, and brings links to files of the repository home."""
    for _, language, body in FENCE.findall(markdown):
        if language in RUN_BY_TESTS and not _is_snippet(body):
            log.warning("%s: a block of %s is no file that the tests run", page.file.src_path, language)
        if language == "json":
            _check_json(body, page.file.src_path)
    return re.sub(r"\]\((\.\./[^)#]+)(#[^)]*)?\)", lambda link: _home(link, page), markdown)


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Links names of the C and C++ interface to their reference; one that does not exist is an error."""
    names = _names()

    def linked(code: re.Match[str]) -> str:
        name, rest = code.groups()
        target = names.get(name)
        if target is None:
            if name.startswith(("mq_", "mq::")) and name not in TARGETS:
                log.warning("%s: there is no %s", page.file.src_path, name)
            return code.group(0)
        root = "../" * page.file.dest_uri.count("/")
        return f'<a href="{root}api/{target}"><code>{name}{rest}</code></a>'

    return CODE.sub(linked, html)


def _is_snippet(body: str) -> bool:
    return all(line.strip().startswith("--8<--") for line in body.splitlines() if line.strip())


def _check_json(body: str, where: str) -> None:
    if not _is_snippet(body):
        try:
            json.loads(body)
        except ValueError as error:
            log.warning("%s: a block of JSON is none: %s", where, error)


def _home(link: re.Match[str], page: Page) -> str:
    file, anchor = link.group(1), link.group(2) or ""
    if page.file.src_uri.count("/"):
        return link.group(0)  # of a page in a folder: MkDocs checks it
    if file not in ELSEWHERE:
        log.warning("%s: %s is not part of the site", page.file.src_path, file)
        return link.group(0)
    return f"]({ELSEWHERE[file]}{anchor})"


_found: dict[str, str] = {}


def _names() -> dict[str, str]:
    """Every name of the references, and its address below `api`."""
    if not _found:
        for folder, tags in TAGS.items():
            for compound in ElementTree.parse(tags).getroot():
                scope = compound.findtext("name", "")
                if compound.get("kind") in ("struct", "class"):
                    _found[scope] = f"{folder}/{compound.findtext('filename')}"
                for member in compound.iter("member"):
                    name = member.findtext("name", "")
                    name = name if folder == "c" else f"{scope}::{name}"
                    file, anchor = member.findtext("anchorfile"), member.findtext("anchor")
                    _found.setdefault(name, f"{folder}/{file}#{anchor}")
    return _found
