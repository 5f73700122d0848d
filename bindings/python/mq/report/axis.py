"""Axes of charts: which values get a tick, and where a value lies."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

#: Smallest span of an axis, relative to its values.
NARROWEST = 1e-9
#: Pixels between the decades of a logarithmic axis and its zero, and from there to the end.
ZERO_GAP, ZERO_PAD = 18.0, 8.0
MOST_TICKS = 9


class Tick(NamedTuple):
    """A labelled place of an axis, in pixels."""

    place: float
    label: str


class LinearAxis:
    """Places from `start` to `end` for the values `low` to `high`."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if high - low <= NARROWEST * high:
            pad = 0.05 * high or 0.5
            low, high = max(0.0, low - pad), min(high + pad, sys.float_info.max)
        self.low, self.high, self.start, self.end = low, high, start, end

    def place(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[Tick]:
        """Round values, at most nine."""
        return [
            Tick(self.place(value), label) for value, label in round_values(self.low, self.high)
        ]


class LogAxis:
    """Places for values >= 0 by their logarithm; zero lies apart, beyond the smallest decade."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        logs = [math.log10(value) for value in values if value > 0]
        self.has_zero = len(logs) < len(values)
        self.zero = end - math.copysign(ZERO_PAD, end - start)
        self.start = start
        self.end = self.zero - math.copysign(ZERO_GAP, end - start) if self.has_zero else end
        self.is_empty = not logs  # all values are zero
        least, most = (min(logs), max(logs)) if logs else (0.0, 0.0)
        pad = max(0.04 * (most - least), 0.02)
        if most - least < NARROWEST:
            pad = 0.3
        self.low, self.high = least - pad, most + pad

    def place(self, value: float) -> float:
        """Where a value lies."""
        return self._at(math.log10(value)) if value > 0 else self.zero

    def ticks(self) -> list[Tick]:
        """Decades; between them where there are few; and zero."""
        ticks = [] if self.is_empty else [Tick(self._at(log), label) for log, label in self._logs()]
        return [*ticks, Tick(self.zero, "0")] if self.has_zero else ticks

    def _at(self, log: float) -> float:
        return self.end + (log - self.low) / (self.high - self.low) * (self.start - self.end)

    def _logs(self) -> list[tuple[float, str]]:
        first, last = math.ceil(self.low), math.floor(self.high)
        step = max(1, math.ceil((last - first + 1) / MOST_TICKS))
        decades = [k for k in range(first, last + 1) if k % step == 0]
        if len(decades) >= 3:
            return [(float(k), _decade(1, k)) for k in decades]
        parts = [(math.log10(m) + k, m, k) for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        inside = [(log, _decade(m, k)) for log, m, k in parts if self.low <= log <= self.high]
        if len(inside) >= 3:
            return inside
        # Narrower than a decade, which no end of the numbers is near enough to leave them.
        low = 10.0 ** max(self.low, -300.0)
        high = 10.0 ** min(self.high, 308.25)
        found = [
            (math.log10(value), label) for value, label in round_values(low, high) if value > 0
        ]
        return found or inside


def round_values(low: float, high: float) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten within the limits, with their labels."""
    raw = (high - low) / (MOST_TICKS - 2)
    if not raw > 0:
        return []
    power = math.floor(math.log10(raw))
    step = next((m * 10.0**power for m in (1, 2, 5) if m * 10.0**power >= raw), 10.0 ** (power + 1))
    if not 0 < step < math.inf:
        return []
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = digits <= 6 and high < 1e6
    return [
        (k * step, f"{k * step:.{digits}f}" if plain else f"{k * step:.6g}")
        for k in range(first, min(last, first + 2 * MOST_TICKS) + 1)
    ]


def _decade(mantissa: int, power: int) -> str:
    return f"{mantissa * 10.0**power:g}" if -4 <= power <= 5 else f"{mantissa}e{power}"
