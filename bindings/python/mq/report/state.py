"""Reads the state of a search, and checks it: what a page shows was found here to be sound."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import checks
from .checks import ReportError, at

__all__ = ["Format", "Group", "Point", "ReportError", "Result", "parse", "read_state"]

#: Of an unquantized weight, whose cost is the measure of the others.
UNQUANTIZED_BITS = 16.0
#: How the reference writes a recipe: its name, and the bits that one weight costs.
RECIPE = re.compile(r"(.+)\(effective-bits: ([0-9]+(?:\.[0-9]+)?)\)", re.DOTALL)
SUFFIX = ".quant_recipe"


@dataclasses.dataclass(frozen=True)
class Format:
    """A candidate, as the state writes it."""

    recipe: str
    #: Without the bits.
    name: str
    bits: float | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that get one format."""

    key: str
    modules: list[str]
    #: Of every format of the group, by its recipe.
    scores: dict[str, float]
    costs: dict[str, float]
    #: The recipe that the search chose.
    chosen: str
    #: Its cost when nothing is quantized.
    unquantized: float
    is_fixed: bool
    allow_no_quant: bool

    @property
    def name(self) -> str:
        """The key without what every key ends in."""
        is_plain = self.key == SUFFIX or not self.key.endswith(SUFFIX)
        return self.key if is_plain else self.key[: -len(SUFFIX)]

    @property
    def worst(self) -> str:
        """The recipe with the highest score: how sensitive the group is."""
        return max(self.scores, key=self.scores.__getitem__)


@dataclasses.dataclass(frozen=True)
class Point:
    """The best score within one budget."""

    score: float
    effective_bits: float | None
    cost: float | None


@dataclasses.dataclass(frozen=True)
class Result:
    """A state that was found to be sound."""

    #: In the order of the model.
    groups: list[Group]
    #: Of all groups, by their bits.
    formats: list[Format]
    #: The constraints that were asked, by name.
    asked: dict[str, float | str]
    effective_bits: float | None
    score: float
    #: Of the chosen formats, and of the groups without quantization.
    cost: float
    unquantized: float
    #: Cost that 16 bits stand for; None when cost does not count weights.
    denominator: float | None
    is_satisfied: bool | None
    curve: list[Point]
    #: Texts and counts that the state may hold or not.
    facts: dict[str, str]
    disabled_layers: list[str]
    #: What does not agree within the state.
    notes: list[str]


def read_state(path: Path) -> Any:
    """The JSON of a file. Raises ReportError when it is none, OSError when it cannot be read."""
    data = path.read_bytes()
    try:
        return json.loads(data)
    except RecursionError:
        raise ReportError(f"{path} is not JSON: nested too deeply") from None
    except ValueError as error:
        raise ReportError(f"{path} is not JSON: {error}") from None


def parse(state: object) -> Result:
    """Checks a state. Raises ReportError, which says what is missing or wrong."""
    state = checks.mapping(state, "the state")
    stats = checks.mapping(_needed(state, "candidate_stats"), "candidate_stats")
    best = checks.mapping(_needed(state, "best"), "best")
    if not stats:
        raise ReportError("candidate_stats is empty, expected a group of layers")
    recipes = checks.mapping(_needed(best, "recipe", "best."), "best.recipe")
    for key in recipes:
        if key not in stats:
            raise ReportError(f"{at('best.recipe', key)} is not a group of candidate_stats")
    facts = _facts(state)
    counts_weights = facts.get("cost model") != "callback"
    groups = [
        _group(key, entry, recipes, counts_weights) for key, entry in _in_order(stats).items()
    ]
    cost = _total((group.costs[group.chosen] for group in groups), "costs")
    unquantized = _total((group.unquantized for group in groups), "costs")
    scored = _total((group.scores[group.chosen] for group in groups), "scores")
    score = _optional(best, "score", checks.number, "best.")
    denominator = _optional(state, "cost_denominator", checks.number) or unquantized
    counted = UNQUANTIZED_BITS * (cost / denominator) if denominator else math.inf
    counted = counted if counts_weights and math.isfinite(counted) else None
    reached = _optional(best, "constraints", checks.mapping, "best.") or {}
    reached_bits = _optional(reached, "effective_bits", checks.number, "best.constraints.")
    return Result(
        groups=groups,
        formats=_formats(groups),
        asked=_asked(state),
        effective_bits=counted if reached_bits is None else reached_bits,
        score=scored if score is None else score,
        cost=cost,
        unquantized=unquantized,
        denominator=denominator if counts_weights and denominator else None,
        is_satisfied=_optional(best, "is_satisfied", checks.truth, "best."),
        curve=_curve(state),
        facts=facts,
        disabled_layers=_disabled(state),
        notes=_differences("score", score, scored)
        + _differences("constraints.effective_bits", reached_bits, counted),
    )


def _needed(entries: Mapping[str, Any], key: str, place: str = "") -> Any:
    if key not in entries:
        raise ReportError(f"{place}{key} is missing")
    return entries[key]


def _optional(entries: Mapping[str, Any], key: str, check: Any, place: str = "") -> Any:
    """The checked value, or None when there is none."""
    value = entries.get(key)
    return None if value is None else check(value, f"{place}{key}")


def _in_order(stats: Mapping[str, Any]) -> dict[str, Any]:
    """In the order of the state, but with ascending numbers: layer 2 before layer 10.

    The keys of a file may be sorted as texts. What surrounds the numbers keeps the order in which
    it appears first.
    """
    ranks: dict[tuple[str, ...], int] = {}

    def position(key: str) -> list[tuple[int, int, str]]:
        parts = re.split("([0-9]+)", key)
        places = []
        for i in range(0, len(parts), 2):
            rank = ranks.setdefault(tuple(parts[: i + 1 : 2]), len(ranks))
            digits = parts[i + 1].lstrip("0") if i + 1 < len(parts) else ""
            places.append((rank, len(digits), digits))
        return places

    return {key: stats[key] for key in sorted(stats, key=position)}


def _group(key: str, entry: object, recipes: Mapping[str, Any], counts_weights: bool) -> Group:
    where = at("candidate_stats", key)
    if not key:
        raise ReportError(f"{where} has no name")
    entry = checks.mapping(entry, where)
    formats = checks.texts(_needed(entry, "formats", f"{where}."), f"{where}.formats")
    scores = checks.numbers(_needed(entry, "scores", f"{where}."), f"{where}.scores")
    costs = checks.numbers(_needed(entry, "costs", f"{where}."), f"{where}.costs")
    if not formats:
        raise ReportError(f"{where}.formats is empty, expected a format")
    if not len(formats) == len(scores) == len(costs):
        counts = f"{len(formats)} formats, {len(scores)} scores and {len(costs)} costs"
        raise ReportError(f"{where} has {counts}, expected as many of each")
    if len(set(formats)) < len(formats):
        raise ReportError(f"{where}.formats names a format twice")
    if key not in recipes:
        raise ReportError(f"best.recipe has no format for {checks.clipped(repr(key))}")
    chosen = checks.text(recipes[key], at("best.recipe", key))
    if chosen not in formats:
        raise checks.fail(at("best.recipe", key), chosen, "a format of its group")
    unquantized = _optional(entry, "uncompressed_cost", checks.number, f"{where}.")
    if unquantized is None:
        unquantized = _unquantized(formats, costs, counts_weights)
    modules = _optional(entry, "module_names", checks.texts, f"{where}.")
    allow_no_quant = _optional(entry, "allow_no_quant", checks.truth, f"{where}.")
    return Group(
        key=key,
        modules=modules or [],
        scores=dict(zip(formats, scores)),
        costs=dict(zip(formats, costs)),
        chosen=chosen,
        unquantized=unquantized,
        is_fixed=bool(_optional(entry, "is_fixed", checks.truth, f"{where}.")),
        allow_no_quant=allow_no_quant is not False,
    )


def _unquantized(formats: list[str], costs: list[float], counts_weights: bool) -> float:
    """The cost without quantization, of a state that does not give it."""
    for recipe, cost in zip(formats, costs):
        bits = _format(recipe).bits
        if counts_weights and bits:
            return cost * UNQUANTIZED_BITS / bits
    return max(costs)


def _format(recipe: str) -> Format:
    found = RECIPE.fullmatch(recipe)
    if found is None:
        return Format(recipe, recipe, None)
    bits = float(found[2])
    return Format(recipe, found[1], bits if math.isfinite(bits) else None)


def _formats(groups: list[Group]) -> list[Format]:
    seen = dict.fromkeys(recipe for group in groups for recipe in group.scores)
    formats = [_format(recipe) for recipe in seen]
    return sorted(formats, key=lambda format: math.inf if format.bits is None else format.bits)


def _total(values: Iterable[float], what: str) -> float:
    total = sum(values)
    if not math.isfinite(total):
        raise ReportError(f"the {what} add up to more than a number holds")
    return total


def _asked(state: Mapping[str, Any]) -> dict[str, float | str]:
    """The constraints that the search was given; numbers, or texts."""
    asked = _optional(state, "constraints", checks.mapping) or {}
    return {
        name: value
        if isinstance(value, str)
        else checks.number(value, f"constraints.{checks.clipped(name)}")
        for name, value in asked.items()
        if value is not None
    }


def _curve(state: Mapping[str, Any]) -> list[Point]:
    points = []
    for i, entry in enumerate(_optional(state, "curve", checks.sequence) or []):
        where = at("curve", i)
        entry = checks.mapping(entry, where)
        score = checks.number(_needed(entry, "score", f"{where}."), f"{where}.score")
        bits = _optional(entry, "effective_bits", checks.number, f"{where}.")
        cost = _optional(entry, "cost", checks.number, f"{where}.")
        if bits is None and cost is None:
            raise ReportError(f"{where} has neither effective_bits nor cost")
        points.append(Point(score, bits, cost))
    return points


def _facts(state: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    for key in ("method", "cost_model", "mq_version"):
        found = _optional(state, key, checks.text)
        if found is not None:
            facts[key.replace("_", " ")] = found
    for key, name in (("num_calib_steps", "calibration steps"), ("num_score_steps", "score steps")):
        count = _optional(state, key, checks.number)
        if count is not None:
            facts[name] = f"{count:.10g}"
    return facts


def _disabled(state: Mapping[str, Any]) -> list[str]:
    """Patterns of layers that the search left out; the reference also takes a single one."""
    value = state.get("disabled_layers")
    if isinstance(value, str):
        return [value]
    return [] if value is None else checks.texts(value, "disabled_layers")


def _differences(name: str, told: float | None, counted: float | None) -> list[str]:
    if told is None or counted is None or math.isclose(told, counted, rel_tol=1e-4, abs_tol=1e-12):
        return []
    return [f"best.{name} is {told:.6g}; the chosen formats give {counted:.6g}."]
