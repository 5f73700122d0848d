"""One algorithm over one number of sequences: both sides in turn, each beside a plain forward."""

import statistics
from dataclasses import dataclass, field

import block
import ours
import reference
from cases import Case, Point
from measure import Clock, Cost, cost


@dataclass
class Turn:
    """One call of one side, between two forward passes of the host."""

    whole: Cost
    passes: int
    #: The forward pass of the host: the mean of the one before and the one after.
    forward: Cost | None = None
    #: What was measured inside mq: in the taps, and in the verb outside the forward passes.
    taps: Clock | None = None
    solving: Cost | None = None

    def beyond(self, clock):
        """What it took beyond one forward pass. `clock`: "seconds" or "cpu_seconds"."""
        return getattr(self.whole, clock) - getattr(self.forward, clock)

    def inside(self, clock):
        """The same without the noise of the forward pass; each pass after the first counts."""
        more = max(0, self.passes - 1) * getattr(self.forward, clock)
        return getattr(self.taps, clock) + getattr(self.solving, clock) + more


@dataclass
class Side:
    """The turns of one side, and what the last of them chose."""

    turns: list[Turn] = field(default_factory=list)
    values: dict = field(default_factory=dict)
    not_built: str | None = None

    def median(self, of):
        return statistics.median(of(turn) for turn in self.turns)

    def beyond(self, clock="seconds"):
        return self.median(lambda turn: turn.beyond(clock))

    def inside(self, clock="seconds"):
        return self.median(lambda turn: turn.inside(clock))

    def as_dict(self, sequences):
        if self.not_built:
            return {"not_built": self.not_built}
        peaks = [turn.whole.peak_mib for turn in self.turns if turn.whole.peak_mib is not None]
        row = {
            "sequences": sequences,
            "rounds": len(self.turns),
            "passes": self.turns[-1].passes,
            "peak_mib": max(peaks, default=None),
            "raw_seconds": [turn.whole.seconds for turn in self.turns],
        }
        for clock, unit in (("seconds", "forwards"), ("cpu_seconds", "cpu_forwards")):
            forward = self.median(lambda turn, clock=clock: getattr(turn.forward, clock))
            whole = self.median(lambda turn, clock=clock: getattr(turn.whole, clock))
            row |= {
                clock: whole,
                f"forward_{clock}": forward,
                unit: whole / forward,
                f"beyond_{clock}": self.beyond(clock),
                f"beyond_{unit}": self.beyond(clock) / forward,
            }
            if self.turns[-1].taps:
                row |= {
                    f"tap_{clock}": self.median(
                        lambda turn, clock=clock: getattr(turn.taps, clock)
                    ),
                    f"inside_{clock}": self.inside(clock),
                    f"inside_{unit}": self.inside(clock) / forward,
                }
        return row


class Bench:
    """The host, its data, and whom to measure."""

    def __init__(self, hidden, inner, sequences, threads, sides):
        self.host, self.data = block.make(hidden, inner, sequences)
        self.threads = threads
        self.sides = sides

    def forward(self, sequences) -> Cost:
        return cost(lambda: block.run(self.host, self.data[:sequences]))

    def measure(self, case: Case, point: Point) -> dict[str, Side]:
        """{"ours": Side, "theirs": Side}, of those measured at this point."""
        runs = {"theirs": self._theirs, "ours": self._ours}
        wanted = {"theirs": point.theirs, "ours": point.ours}
        sides = {name: Side() for name in runs if wanted[name] and name in self.sides}
        before = self.forward(point.sequences)
        for _ in range(point.rounds):
            turns = []
            for name, side in sides.items():
                side.values = {}  # those of the round before are not part of what is measured
                if not side.not_built:
                    turns += runs[name](case, self.data[: point.sequences], side)
            after = self.forward(point.sequences)
            for turn in turns:
                turn.forward = Cost(
                    (before.seconds + after.seconds) / 2,
                    (before.cpu_seconds + after.cpu_seconds) / 2,
                )
            before = after
        return sides

    def _theirs(self, case, data, side):
        run = reference.Calibration(block.clone(self.host))
        whole = cost(lambda: run.run(case, data))
        turn = Turn(whole, run.forwards)
        side.values = run.values()
        side.turns.append(turn)
        return [turn]

    def _ours(self, case, data, side):
        run = ours.Calibration(block.clone(self.host), self.threads)
        config = ours.config(case)
        try:
            whole = cost(lambda: run.run(config, data))
        except ours.NotBuiltError as error:
            side.not_built = str(error)
            return []
        side.values = run.values()
        run.close()
        solving = Cost(
            whole.seconds - run.passes.seconds, whole.cpu_seconds - run.passes.cpu_seconds
        )
        turn = Turn(whole, run.forwards, taps=run.taps, solving=solving)
        side.turns.append(turn)
        return [turn]
