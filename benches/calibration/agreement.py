"""Whether both sides chose the same."""

import numpy as np

#: A layer differs when a value of it differs by more than this; sums have another order.
TOLERANCE = 1e-4


def compare(ours: dict, theirs: dict) -> dict[str, dict]:
    """For each quantity: of how many layers, how many differ, and the largest difference."""
    found: dict[str, dict] = {}
    for layer, what in sorted(ours.keys() | theirs.keys()):
        row = found.setdefault(what, {"layers": 0, "layers_that_differ": [], "max_relative": 0.0})
        row["layers"] += 1
        difference = _relative(ours.get((layer, what)), theirs.get((layer, what)))
        row["max_relative"] = max(row["max_relative"], difference)
        if not difference <= TOLERANCE:
            row["layers_that_differ"].append(layer)
    return found


def _relative(ours, theirs):
    """Infinity where only one side has the value, or in another shape."""
    if ours is None or theirs is None or ours.size != theirs.size:
        return float("inf")
    ours, theirs = (np.asarray(values, np.float64).ravel() for values in (ours, theirs))
    return float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-30)))
