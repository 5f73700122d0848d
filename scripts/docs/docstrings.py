"""Lets a line of `Raises:` stand without the name of an exception ("Whatever `forward` raises, unchanged.").

The reader of docstrings would drop it with a warning; it becomes an item of its own, named "Also".
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(?P<indent> *)Raises:\n(?P<lines>(?:(?P=indent) {4}.*\n?|\n)*)", re.MULTILINE)
NAMED = re.compile(r"[A-Z]\w*(?:, [A-Z]\w*)*: ")


class UnnamedExceptions(griffe.Extension):
    """Rewrites the docstrings of everything that has one."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object once it is read."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(_named, obj.docstring.value)


def _named(section: re.Match[str]) -> str:
    indent = section.group("indent") + " " * 4
    lines = []
    for line in section.group("lines").splitlines():
        item = line.startswith(indent) and not line.startswith(indent + " ")
        starts = item and not NAMED.match(line.strip())
        lines.append(f"{indent}Also: {line.strip()}" if starts else line)
    return f"{section.group('indent')}Raises:\n" + "\n".join(lines) + "\n"
