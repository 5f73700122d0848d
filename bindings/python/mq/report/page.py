"""Puts the parts of a report into one page, with its style and its script inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from . import bars, curve, table
from .state import Result, parse
from .text import NOTHING, escaped, exact, folded, percent, plural, short


def write_report(state: Any, path: str | PathLike[str], title: str | None = None) -> None:
    """Writes the page of `render` to a file.

    Raises ReportError for a state that is not sound, before anything is written; OSError when the
    file cannot be written.
    """
    page = render(state, title=title)
    Path(path).write_bytes(page.encode())


def render(state: Any, title: str | None = None) -> str:
    """The page about a state, a dict as auto_quantize gives it or its JSON says it.

    Raises ReportError, whose text is one line, when something is missing or wrong.
    """
    result = parse(state)
    name = title or _title(result)
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(name)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{escaped(name)}</h1>\n{''.join(_parts(result))}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _title(result: Result) -> str:
    groups = plural(len(result.groups), "group")
    if result.effective_bits is None:
        return f"Format search: {groups}"
    return f"Format search: {groups}, {short(result.effective_bits)} effective bits"


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _parts(result: Result) -> Iterator[str]:
    yield _headline(result)
    drawn = curve.chart(result)
    yield _section(
        "Score and budget",
        drawn or "<p>The state has no curve.</p>",
        "Each step is the least total score that a budget allows; lower is better."
        if drawn
        else "",
    )
    yield _section("Chosen formats", *_chosen(result))
    drawn = bars.sensitive(result)
    pale = "Pale: the score with the worst format. Coloured: with the chosen one."
    yield _section(
        "Most sensitive groups", drawn or "<p>Every score is zero.</p>", pale if drawn else ""
    )
    yield _section("All groups", table.heat_map(result))


def _section(heading: str, content: str, caption: str = "") -> str:
    """A part of the page; `content` is HTML, the rest text."""
    if caption:
        content = f"<figure>{content}<figcaption>{escaped(caption)}</figcaption></figure>"
    return f"<section><h2>{escaped(heading)}</h2>\n{content}</section>\n"


def _headline(result: Result) -> str:
    tiles = [
        _tile("effective bits", _number(result.effective_bits), _limits(result)),
        _tile("total score", short(result.score), exact(result.score)),
        _satisfied(result.is_satisfied),
        _tile("groups", f"{len(result.groups):,}"),
        _tile("formats", f"{len(result.formats)}", ", ".join(f.name for f in result.formats)),
        _tile("cost", percent(result.cost, result.unquantized), "of the unquantized cost"),
    ]
    tiles += [_tile(name, value) for name, value in result.facts.items()]
    notes = "".join(f'<p class="note">{escaped(note)}</p>\n' for note in result.notes)
    return f'<dl class="tiles">{"".join(tiles)}</dl>\n{notes}{_disabled(result.disabled_layers)}'


def _tile(name: str, value: str, detail: str = "", kind: str = "") -> str:
    small = f"<dd><small>{escaped(detail)}</small></dd>" if detail else ""
    shown = f'<dd class="value {kind}">{escaped(value)}</dd>'
    return f"<div><dt>{escaped(name)}</dt>{shown}{small}</div>"


def _number(value: float | None) -> str:
    return NOTHING if value is None else short(value)


def _limits(result: Result) -> str:
    asked = [
        f"{name.replace('_', ' ')} " + (f"≤ {short(value)}" if isinstance(value, float) else value)
        for name, value in result.asked.items()
    ]
    return f"asked: {', '.join(asked)}" if asked else ""


def _satisfied(is_satisfied: bool | None) -> str:
    if is_satisfied is None:
        return _tile("constraints", NOTHING, "the state does not say")
    if is_satisfied:
        return _tile("constraints", "✓ satisfied", kind="good")
    return _tile("constraints", "✗ not satisfied", kind="bad")


def _disabled(layers: list[str]) -> str:
    if not layers:
        return ""
    return folded(f"{plural(len(layers), 'pattern')} of disabled layers", layers)


def _chosen(result: Result) -> tuple[str, str]:
    """The charts and the table of what was chosen, and their caption."""
    groups = {format.recipe: 0 for format in result.formats}
    weights, costs, scores = ({format.recipe: 0.0 for format in result.formats} for _ in range(3))
    for group in result.groups:
        groups[group.chosen] += 1
        weights[group.chosen] += group.unquantized
        costs[group.chosen] += group.costs[group.chosen]
        scores[group.chosen] += group.scores[group.chosen]
    # Experts that few tokens reach count for less in other models of the cost.
    what = "weights" if result.facts.get("cost model", "weight") == "weight" else "unquantized cost"
    rows = "".join(
        f'<tr><th scope="row" title="{escaped(format.recipe)}">'
        f'<i class="swatch {bars.colour(result.formats, format.recipe)}"></i>'
        f"{escaped(format.name)}</th><td>{_number(format.bits)}</td>"
        f"<td>{groups[format.recipe]:,}</td>"
        f"<td>{percent(weights[format.recipe], result.unquantized)}</td>"
        f"<td>{percent(costs[format.recipe], result.cost)}</td>"
        f"<td>{short(scores[format.recipe])}</td></tr>\n"
        for format in result.formats
    )
    heads = ("format", "bits", "groups", f"share of the {what}", "share of the cost", "score")
    left = f'<th scope="col" class="left">{heads[0]}</th>'
    head = "".join(f'<th scope="col">{name}</th>' for name in heads[1:])
    whole = f"<table><thead><tr>{left}{head}</tr></thead><tbody>{rows}</tbody></table>"
    summary = f'<div class="wide">{whole}</div>'
    drawn = f"{bars.shares(result, weights, what)}{summary}{bars.counts(result, groups)}"
    return drawn, f"The bar on top: share of the {what}. Below: how many groups chose each format."
