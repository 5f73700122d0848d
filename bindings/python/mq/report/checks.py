"""Takes values of the stated type out of JSON, or says in one line what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

#: Of a value that a message shows.
LONGEST = 80


class ReportError(ValueError):
    """The state does not hold what a report needs; the text is one line."""


def fail(where: str, value: object, expected: str) -> ReportError:
    """The error for a value that is something else."""
    return ReportError(f"{where} is {_shown(value)}, expected {expected}")


def at(where: str, key: object) -> str:
    """The place of an entry, as messages name it."""
    return f"{where}[{clipped(repr(key))}]"


def clipped(text: str) -> str:
    """A text that fits into a message."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def number(value: object, where: str) -> float:
    """A finite number that is not negative."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise fail(where, value, "a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and found >= 0):
        raise fail(where, value, "a finite number >= 0")
    return found + 0.0  # without the sign of a zero


def text(value: object, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise fail(where, value, "a text that is not empty")
    return value


def truth(value: object, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise fail(where, value, "true or false")
    return value


def mapping(value: object, where: str) -> Mapping[str, Any]:
    """An object of JSON, the keys of which are texts."""
    if not isinstance(value, Mapping):
        raise fail(where, value, "an object")
    for key in value:
        if not isinstance(key, str):
            raise fail(f"a key of {where}", key, "a text")
    return value


def sequence(value: object, where: str) -> list[Any]:
    """An array of JSON."""
    if not isinstance(value, (list, tuple)):
        raise fail(where, value, "an array")
    return list(value)


def numbers(value: object, where: str) -> list[float]:
    """An array of finite numbers that are not negative."""
    return [number(entry, at(where, i)) for i, entry in enumerate(sequence(value, where))]


def texts(value: object, where: str) -> list[str]:
    """An array of texts."""
    return [text(entry, at(where, i)) for i, entry in enumerate(sequence(value, where))]


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (Mapping, list, tuple)):
        kind = "an object" if isinstance(value, Mapping) else "an array"
        return kind if value else f"{kind} of nothing"
    if isinstance(value, (str, Real)):
        try:
            return clipped(repr(value))
        except ValueError:  # Python does not print integers of thousands of digits
            return "a huge number"
    return f"a {type(value).__name__}"
