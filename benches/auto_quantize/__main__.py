"""Per-layer format search by mq against NVIDIA Model Optimizer, in one process, in turn.

The model is the block of `benches/calibration`. What no search can do without is the host's: one
forward pass over the calibration set, and one forward and backward over the scoring set. "beyond"
is the wall time of the whole search less those, measured right before it. mq scores by the
reference's method ("ours") and by second moments and gradients, without a replay ("fisher"). Prints
the ratios, writes a row as JSON. Run by `make bench`.
"""

import argparse
import functools
import json
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "calibration"))

import block
import measure
import ours
import theirs
import torch

THREADS = 2
#: Weights alone, with a search of factors; smoothing; the largest magnitudes.
FORMATS = ["INT4_AWQ_CFG", "INT8_SMOOTHQUANT_CFG", "FP8_DEFAULT_CFG"]
EFFECTIVE_BITS = 6.0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="where the row goes")
    parser.add_argument("--sides", nargs="+", default=["ours", "fisher", "theirs"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=64, help="of 256 tokens, to calibrate on")
    parser.add_argument("--scored", type=int, default=32, help="of those, to score on")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--inner", type=int, default=2816, help="width of the MLP")
    return parser.parse_args()


class Workload:
    """The model, its batches, and what the host does with them."""

    def __init__(self, options):
        self.model, data = block.make(options.hidden, options.inner, options.sequences)
        self.batches = list(data.split(block.SEQUENCES_IN_BATCH))
        self.scored = options.scored // block.SEQUENCES_IN_BATCH

    def host(self):
        """One forward over everything, one forward and backward over what is scored."""
        block.run(self.model, torch.cat(self.batches))
        for batch in self.batches[: self.scored]:
            loss(self.model(batch.clone().requires_grad_()), batch).backward()

    def search(self, side):
        """Seconds of the host alone, cost of the search, and what it found."""
        clone = block.clone(self.model)
        host = measure.cost(self.host)
        search = side(clone, self.batches, self.scored, loss)
        cost = measure.cost(lambda: search.run(FORMATS, EFFECTIVE_BITS, THREADS))
        found = search.found()
        search.close()
        return host, cost, found


def loss(output, batch):
    """A sum over all elements, as a language model's would be over its tokens."""
    return ((output - batch) ** 2).sum()


def figures(turns):
    """Medians over the rounds."""
    host = statistics.median(host.seconds for host, _, _ in turns)
    whole = statistics.median(cost.seconds for _, cost, _ in turns)
    beyond = statistics.median(cost.seconds - host.seconds for host, cost, _ in turns)
    return {
        "seconds": whole,
        "host_seconds": host,
        "beyond_seconds": beyond,
        "beyond_hosts": beyond / host,
        "peak_mib": max((cost.peak_mib for _, cost, _ in turns if cost.peak_mib), default=None),
        "raw_seconds": [cost.seconds for _, cost, _ in turns],
        "found": turns[-1][2],
    }


def same_scores(ours_found, theirs_found):
    """The largest relative difference of a score that is not zero."""
    pairs = []
    for group, scores in theirs_found["scores"].items():
        pairs += zip(ours_found["scores"][group], scores, strict=True)
    return max(abs(ours - theirs) / theirs for ours, theirs in pairs if theirs > 0)


def main():
    options = arguments()
    torch.set_num_threads(THREADS)
    fisher = functools.partial(ours.Search, method="fisher")
    sides = {"ours": ours.Search, "fisher": fisher, "theirs": theirs.Search}
    sides = {name: sides[name] for name in options.sides}
    small = Workload(
        argparse.Namespace(hidden=128, inner=256, sequences=8, scored=4)
    )  # what is loaded late is loaded now
    for side in sides.values():
        small.search(side)
    workload = Workload(options)
    turns = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            turns[name].append(workload.search(side))
    row = {
        "name": "auto_quantize",
        "against": f"nvidia-modelopt {theirs.VERSION}, torch {torch.__version__}",
        "formats": FORMATS,
        "threads": THREADS,
        "hidden": options.hidden,
        "inner": options.inner,
        "sequences": options.sequences,
        "scored": options.scored,
        "machine": measure.machine(),
    }
    row |= {name: figures(turns) for name, turns in turns.items()}
    for name in sides:
        side = row[name]
        print(
            f"{name:7} {side['seconds']:7.2f} s, host {side['host_seconds']:.2f} s, beyond "
            f"{side['beyond_seconds']:.2f} s = {side['beyond_hosts']:.2f} hosts, "
            f"{side['peak_mib'] or 0:.0f} MiB"
        )
    for name in [name for name in sides if name != "theirs" and "theirs" in sides]:
        mine, other = row[name], row["theirs"]
        mine["ratio"] = other["seconds"] / mine["seconds"]
        mine["beyond_ratio"] = other["beyond_seconds"] / mine["beyond_seconds"]
        mine["same_choice"] = mine["found"]["choice"] == other["found"]["choice"]
        print(
            f"{name}: the reference takes {mine['ratio']:.1f} times as long, beyond the host "
            f"{mine['beyond_ratio']:.1f} times; same choice: {mine['same_choice']}"
        )
    if {"ours", "theirs"} <= set(sides):
        difference = same_scores(row["ours"]["found"], row["theirs"]["found"])
        row["largest_difference_of_scores"] = difference
        print(f"scores differ by at most {difference:.1e}")
    options.path.write_text(json.dumps([row], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
