"""The charts of bars: what was chosen how often, and which groups are the most sensitive."""

from __future__ import annotations

from . import svg
from .state import Format, Group, Result
from .text import middle_cut, percent, plural, short

WIDTH = 760.0
#: Of a character of the labels, which are monospaced, in pixels.
CHARACTER = 6.7
ROW = 22.0
MOST_GROUPS = 20
#: Colours of formats in style.css; formats beyond them share those again.
COLOURS = 8


def colour(formats: list[Format], recipe: str) -> str:
    """The class of a format's colour. What is not quantized is grey."""
    place = next(i for i, format in enumerate(formats) if format.recipe == recipe)
    return "f-none" if formats[place].name == "NONE" else f"f{place % COLOURS}"


def shares(result: Result, amounts: dict[str, float], what: str) -> str:
    """One bar of all formats, each as wide as its share; nothing when there is none."""
    total = sum(amounts.values())
    parts, x = [], 0.0
    for format in result.formats:
        width = WIDTH * (amounts[format.recipe] / total) if total else 0.0
        if width == 0:
            continue
        share = percent(amounts[format.recipe], total)
        words = svg.tip(f"{format.recipe}: {share} of the {what}")
        parts.append(
            svg.bar(x, 0, width, 40, f"{colour(result.formats, format.recipe)} part", words)
        )
        room = int((width - 10) / CHARACTER)
        if room >= 6:
            name = middle_cut(format.name, room)
            parts.append(svg.label(x + width / 2, 17, name, "middle", class_="on"))
            parts.append(svg.label(x + width / 2, 32, share, "middle", class_="on"))
        x += width
    return svg.drawing(WIDTH, 40, f"Share of the {what} per chosen format", parts) if parts else ""


def counts(result: Result, chosen: dict[str, int]) -> str:
    """A bar per format: how many groups chose it."""
    left, right = 190.0, WIDTH - 150
    scale = (right - left) / max(chosen.values())
    parts = []
    for i, format in enumerate(result.formats):
        y, count = i * ROW, chosen[format.recipe]
        words = f"{plural(count, 'group')}, {percent(count, len(result.groups))}"
        name = middle_cut(format.name, int((left - 10) / CHARACTER))
        parts.append(svg.label(left - 8, y + 15, name, "end", class_="code"))
        kind = colour(result.formats, format.recipe)
        tip = svg.tip(f"{format.recipe}: {words}")
        parts.append(svg.bar(left, y + 3, count * scale, ROW - 6, kind, tip))
        parts.append(svg.label(left + count * scale + 6, y + 15, words))
    about = "Groups per chosen format"
    return svg.drawing(WIDTH, ROW * len(result.formats), about, parts)


def sensitive(result: Result) -> str:
    """A bar for each of the groups with the highest scores; nothing when all are zero."""
    groups = sorted(result.groups, key=lambda group: -group.scores[group.worst])[:MOST_GROUPS]
    most = groups[0].scores[groups[0].worst]
    if most == 0:
        return ""
    left, right = 330.0, WIDTH - 80
    parts = []
    for i, group in enumerate(groups):
        y, worst, paid = i * ROW, group.scores[group.worst], group.scores[group.chosen]
        name = middle_cut(group.name, int((left - 10) / CHARACTER))
        parts.append(svg.label(left - 8, y + 15, name, "end", class_="code"))
        tip = svg.tip(_told(group))
        width = (right - left) * (worst / most)
        parts.append(svg.bar(left, y + 3, width, ROW - 6, "worst", tip))
        kind = colour(result.formats, group.chosen)
        parts.append(svg.bar(left, y + 6, (right - left) * (paid / most), ROW - 12, kind, tip))
        parts.append(svg.label(left + width + 6, y + 15, short(worst)))
    about = f"Highest scores of {plural(len(groups), 'group')}"
    return svg.drawing(WIDTH, ROW * len(groups), about, parts)


def _told(group: Group) -> str:
    worst = f"{short(group.scores[group.worst])} with {group.worst}"
    paid = f"{short(group.scores[group.chosen])} with {group.chosen}, which was chosen"
    return f"{group.key}: {worst}; {paid}"
