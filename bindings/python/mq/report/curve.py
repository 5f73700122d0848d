"""The chart of the score that each budget allows, with what was asked and what was chosen."""

from __future__ import annotations

from . import svg
from .axis import LinearAxis, LogAxis
from .state import UNQUANTIZED_BITS, Point, Result
from .text import short

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 76.0, WIDTH - 16.0, 22.0, HEIGHT - 52.0
#: Above this many, points are only steps of the line.
MOST_MARKS = 300
#: A limit that lies farther out, relative to the curve, allows everything and is not drawn.
FARTHEST_LIMIT = 1.5


def chart(result: Result) -> str:
    """The drawing, or nothing when the state has no curve."""
    if not result.curve:
        return ""
    in_bits = all(point.effective_bits is not None for point in result.curve)
    if not in_bits and any(point.cost is None for point in result.curve):
        return ""
    unit = "effective bits" if in_bits else "cost"
    points = sorted((_position(point, in_bits), point.score) for point in result.curve)
    reached = result.effective_bits if in_bits else result.cost
    chosen = None if reached is None else (reached, result.score)
    limit = _limit(result, in_bits)
    if limit is not None and limit > FARTHEST_LIMIT * max(x for x, _ in points):
        limit = None
    drawn = [*points, chosen] if chosen else points
    places = [x for x, _ in drawn] + ([] if limit is None else [limit])
    xs = LinearAxis(min(places), max(places), LEFT + 10, RIGHT - 10)
    ys = LogAxis([score for _, score in drawn], TOP + 6, BOTTOM)
    parts = [*_frame(xs, ys, unit), *_limit_line(xs, limit), *_steps(xs, ys, points, unit)]
    if chosen:
        parts += _mark(xs, ys, *chosen, unit)
    about = f"Score against {unit} of {len(points)} budgets"
    return svg.drawing(WIDTH, HEIGHT, about, parts)


def _position(point: Point, in_bits: bool) -> float:
    found = point.effective_bits if in_bits else point.cost
    assert found is not None, "checked by the caller"
    return found


def _limit(result: Result, in_bits: bool) -> float | None:
    """What was asked, in the unit of the chart."""
    bits, cost = result.asked.get("effective_bits"), result.asked.get("max_cost")
    bits = bits if isinstance(bits, float) else None
    cost = cost if isinstance(cost, float) else None
    scale = result.denominator / UNQUANTIZED_BITS if result.denominator else None
    if in_bits:
        return cost / scale if bits is None and cost is not None and scale else bits
    return bits * scale if cost is None and bits is not None and scale else cost


def _frame(xs: LinearAxis, ys: LogAxis, unit: str) -> list[str]:
    parts = []
    for tick in ys.ticks():
        parts.append(svg.line(LEFT, tick.place, RIGHT, tick.place, "grid"))
        parts.append(svg.label(LEFT - 8, tick.place + 4, tick.label, "end"))
    for tick in xs.ticks():
        parts.append(svg.line(tick.place, BOTTOM, tick.place, BOTTOM + 5, "axis"))
        parts.append(svg.label(tick.place, BOTTOM + 19, tick.label, "middle"))
    if ys.has_zero and not ys.is_empty:  # the axis is broken between its last decade and zero
        middle = (ys.end + ys.zero) / 2
        parts.append(svg.line(LEFT, TOP, LEFT, middle - 3, "axis"))
        parts += [
            svg.line(LEFT - 5, middle + d + 2, LEFT + 5, middle + d - 2, "axis") for d in (-3, 3)
        ]
        parts.append(svg.line(LEFT, middle + 3, LEFT, BOTTOM, "axis"))
    else:
        parts.append(svg.line(LEFT, TOP, LEFT, BOTTOM, "axis"))
    parts.append(svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    middle = (TOP + BOTTOM) / 2
    scale = "score" if ys.is_empty else "score (log)"
    turned = f"rotate(-90 16 {middle:g})"
    parts.append(svg.label(16.0, middle, scale, "middle", transform=turned))
    parts.append(svg.label((LEFT + RIGHT) / 2, HEIGHT - 10.0, unit, "middle"))
    return parts


def _limit_line(xs: LinearAxis, limit: float | None) -> list[str]:
    if limit is None:
        return []
    x = xs.place(limit)
    return [
        svg.line(x, TOP, x, BOTTOM, "limit"),
        svg.label(x, TOP - 8, f"asked ≤ {short(limit)}", _side(x, "middle"), class_="strong"),
    ]


def _steps(xs: LinearAxis, ys: LogAxis, points: list[tuple[float, float]], unit: str) -> list[str]:
    """A line of steps: a budget between two points allows no more than the one before it."""
    places = [(xs.place(x), ys.place(score)) for x, score in points]
    path = f"M{svg.point(*places[0])}" + "".join(f"H{x:.2f}V{y:.2f}" for x, y in places[1:])
    parts = [svg.element("path", d=path, class_="curve", fill="none", stroke="grey")]
    if len(points) <= MOST_MARKS:
        for (x, y), (value, score) in zip(places, points):
            words = svg.tip(f"{short(value)} {unit}: score {short(score)}")
            parts.append(svg.element("circle", words, cx=x, cy=y, r=3, class_="dot"))
    return parts


def _mark(xs: LinearAxis, ys: LogAxis, value: float, score: float, unit: str) -> list[str]:
    x, y = xs.place(value), ys.place(score)
    words = f"chosen: {short(value)} {unit}, score {short(score)}"
    # The curve falls: it leaves room above on the right, and below on the left.
    is_right = x > LEFT + 0.6 * (RIGHT - LEFT)
    below = is_right and y < BOTTOM - 30
    return [
        svg.element("circle", svg.tip(words), cx=x, cy=y, r=6.5, class_="chosen-point"),
        svg.label(
            x - 10 if is_right else x + 10,
            y + 20 if below else y - 10,
            words,
            "end" if is_right else "start",
            class_="strong halo",
        ),
    ]


def _side(x: float, inside: str) -> str:
    """The anchor of a text at x that does not leave the chart."""
    if x < LEFT + 60:
        return "start"
    return "end" if x > RIGHT - 60 else inside
