"""What the library tells about a calibration: how far it is, and whether its result is sound."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """How far a verb has come."""

    #: "observe": a pass of the forward loop begins or ends; "solve": a layer is solved; "score": a
    #: step of a search for formats is scored.
    phase: str
    #: The layer or quantizer that was just solved; empty for none.
    layer: str
    #: Steps done of this phase, of the algorithm that is running.
    done: int
    #: Steps of this phase.
    total: int


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `Model.check` found."""

    #: Problems that make scales wrong: not finite, not positive, different within a group that is
    #: computed as one; names that lead nowhere.
    errors: int
    #: Problems that do not: quantizers that no token reached, a group of one, an amax of zero.
    warnings: int
    #: Quantizers of the model that are enabled; a sequential one counts once.
    enabled: int
    #: Enabled quantizers of activations that no token reached in their calibration.
    unseen: int
    #: The fewest tokens that an enabled quantizer of activations saw; None: none was calibrated.
    fewest_tokens: int | None
    #: Every problem: {"severity", "kind", "name", "text"}.
    problems: list[dict[str, Any]]
    #: Every quantizer: {"name", "enabled", "algorithm", "tokens", "filled_from", "error"}. An error
    #: is {"of": "tensor" or "output", "before", "after"}, squared and relative, or None.
    quantizers: list[dict[str, Any]]

    @classmethod
    def from_json(cls, text: str) -> CheckReport:
        """Reads the JSON of mq_check()."""
        found = json.loads(text)
        found["enabled"] = found["quantizers_enabled"]
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})
