"""Text of a page: escaped, and numbers as people read them."""

from __future__ import annotations

import html
import re

#: What HTML does not allow, not even as a reference to a character.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)

#: Longest list that is unfolded on paper.
FEW = 8
#: Where there is no value.
NOTHING = "\N{EN DASH}"


def escaped(value: str) -> str:
    """A text of the user, for between tags and within quotes."""
    return html.escape(FORBIDDEN.sub("\ufffd", value))


def middle_cut(value: str, longest: int) -> str:
    """A text of at most `longest` characters, which keeps its beginning and its end."""
    if len(value) <= longest:
        return value
    head = (longest - 1) // 2
    return f"{value[:head]}…{value[len(value) - (longest - 1 - head) :]}"


def short(value: float) -> str:
    """A number with five digits."""
    return f"{value:.5g}"


def exact(value: float) -> str:
    """A number with all its digits."""
    return repr(value)


def percent(part: float, whole: float) -> str:
    """A share of a whole; never "0 %" for one that is not zero."""
    share = 100.0 * (part / whole) if whole else 0.0
    if 0 < share < 0.05:
        return "<0.1 %"
    return f"{share:.1f} %"


def folded(summary: str, entries: list[str]) -> str:
    """A list of the user's texts behind a summary, which is HTML. Paper shows the short ones."""
    listed = "".join(f"<li>{escaped(entry)}</li>" for entry in entries)
    kind = ' class="few"' if len(entries) <= FEW else ""
    return f"<details{kind}><summary>{summary}</summary><ul>{listed}</ul></details>"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
