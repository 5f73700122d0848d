"""What is measured: each algorithm as both sides configure it, and over how many sequences."""

from dataclasses import dataclass
from typing import Any

HISTOGRAM_BINS = 2048
OUR_ROUNDS = 2


@dataclass(frozen=True)
class Case:
    name: str
    #: The preset whose quantizers both sides take.
    preset: str
    #: The algorithm as mq reads it; None: that of the preset.
    ours: dict[str, Any] | None
    #: The algorithm as the reference reads it; None: that of the preset.
    theirs: dict[str, Any] | None
    #: Sequences and rounds of the reference: fewer where it is slow.
    sequences: int
    rounds: int
    #: Further numbers of sequences for the reference, which show how its time grows.
    growth: tuple[int, ...]

    def points(self, most: int) -> list["Point"]:
        """Every number of sequences to measure; `most` is the size of the calibration set."""
        main = min(self.sequences, most)
        theirs = {n for n in self.growth if n <= most} | {main}
        ours = {most // 4, most // 2, most} | {main}
        return [
            Point(n, n in ours, n in theirs, self._rounds(n, main, most))
            for n in sorted(theirs | ours)
        ]

    def _rounds(self, sequences, main, most):
        if sequences == main:
            return self.rounds
        return OUR_ROUNDS if sequences == most else 1


@dataclass(frozen=True)
class Point:
    """A number of sequences, and who is measured there."""

    sequences: int
    ours: bool
    theirs: bool
    rounds: int


def _same(name, preset, method, sequences, rounds, growth):
    algorithm = method and {"method": method}
    return Case(name, preset, algorithm, algorithm, sequences, rounds, growth)


_ENTROPY = {"method": "histogram", "amax_method": "entropy", "num_bins": HISTOGRAM_BINS}
CASES = (
    _same("max", "INT8_DEFAULT_CFG", None, 64, 3, (4, 8, 16)),
    _same("smoothquant", "INT8_SMOOTHQUANT_CFG", None, 64, 2, (4, 8, 16)),
    _same("awq_lite", "INT4_AWQ_CFG", None, 16, 1, (4, 8, 16)),
    _same("awq_clip", "INT4_AWQ_CFG", "awq_clip", 4, 1, ()),
    _same("awq_full", "INT4_AWQ_CFG", "awq_full", 4, 1, ()),
    # The reference has no algorithm of that name: its side calls the calibrators itself. Most of
    # its time does not depend on the number of tokens, so there is nothing to scale.
    Case("entropy", "INT8_DEFAULT_CFG", _ENTROPY, None, 64, 1, ()),
)
