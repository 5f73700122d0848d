"""The table of all groups: the score of every format on a scale of colours, and what was chosen."""

from __future__ import annotations

import math

from .state import Format, Group, Result
from .text import NOTHING, escaped, exact, folded, percent, plural, short

#: Colours of the scale in style.css, h0 to h9.
LEVELS = 10


class Heat:
    """A logarithmic scale of colours over all scores that are not zero."""

    def __init__(self, groups: list[Group]) -> None:
        found = [score for group in groups for score in group.scores.values() if score > 0]
        self.least, self.most = (min(found), max(found)) if found else (0.0, 0.0)
        self._low = math.log10(self.least) if found else 0.0
        self._span = math.log10(self.most) - self._low if found else 0.0

    def level(self, score: float) -> str:
        """The class of a score's colour; zero has none."""
        if score == 0:
            return "h"
        share = (math.log10(score) - self._low) / self._span if self._span > 0 else 0.5
        return f"h{min(LEVELS - 1, int(LEVELS * share))}"


def heat_map(result: Result) -> str:
    """The table, with its legend."""
    heat = Heat(result.groups)
    heads = "".join(_head(format) for format in result.formats)
    rows = "".join(_row(result, heat, i, group) for i, group in enumerate(result.groups, start=1))
    return (
        f'{_legend(heat)}<div class="wide"><table id="groups"><thead><tr>'
        f'<th scope="col" data-sort="number">#</th>'
        f'<th scope="col" data-sort="text" class="left">group</th>'
        f'{heads}<th scope="col" data-sort="number">bits</th>'
        f'<th scope="col" data-sort="number">share of the cost</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _head(format: Format) -> str:
    bits = "" if format.bits is None else f"<small>{short(format.bits)} bits</small>"
    name = escaped(format.name).replace("_", "_<wbr>")
    return f'<th scope="col" data-sort="number" title="{escaped(format.recipe)}">{name}{bits}</th>'


def _row(result: Result, heat: Heat, number: int, group: Group) -> str:
    cells = "".join(_cell(heat, group, format) for format in result.formats)
    bits = next(format.bits for format in result.formats if format.recipe == group.chosen)
    cost = group.costs[group.chosen]
    share = percent(cost, result.cost)
    width = 100.0 * (cost / result.cost) if result.cost else 0.0
    told = f"cost {exact(cost)} of {exact(group.unquantized)} unquantized"
    return (
        f'<tr><td data-v="{number}">{number}</td>{_name(group)}{cells}'
        f'<td data-v="{"" if bits is None else exact(bits)}">'
        f"{NOTHING if bits is None else short(bits)}</td>"
        f'<td data-v="{exact(cost)}" title="{told}" class="share" style="--w:{width:.2f}%">'
        f"{share}</td></tr>\n"
    )


def _name(group: Group) -> str:
    tags = ["fixed"] if group.is_fixed else []
    tags += [] if group.allow_no_quant or group.is_fixed else ["always quantized"]
    name = escaped(group.name) + "".join(f' <span class="tag">{tag}</span>' for tag in tags)
    if group.modules and group.modules != [group.name]:
        count = plural(len(group.modules), "module")
        name = folded(f"{name} <small>{count}</small>", group.modules)
    return f'<th scope="row" title="{escaped(group.key)}">{name}</th>'


def _cell(heat: Heat, group: Group, format: Format) -> str:
    if format.recipe not in group.scores:
        return f'<td class="none" data-v="">{NOTHING}</td>'
    score = group.scores[format.recipe]
    kind, mark, told = heat.level(score), "", f"score {exact(score)}"
    if format.recipe == group.chosen:
        kind, mark, told = f"{kind} chosen", "✓ ", f"chosen: {told}"
    return f'<td class="{kind}" data-v="{exact(score)}" title="{told}">{mark}{short(score)}</td>'


def _legend(heat: Heat) -> str:
    if heat.most == 0:
        return '<p class="legend">Every score is zero.</p>'
    steps = "".join(f'<i class="h{level}"></i>' for level in range(LEVELS))
    return (
        f'<p class="legend">score {short(heat.least)} <span class="steps">{steps}</span> '
        f'{short(heat.most)}, logarithmic; zero has no colour; <span class="h chosen"> ✓ </span> '
        "is the chosen format</p>"
    )
