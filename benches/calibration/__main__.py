"""Calibration by mq against NVIDIA Model Optimizer, on the same block, in one process, in turn.

What counts is what a calibration costs beyond one forward pass of the host, which no calibration
can do without. Prints a table, writes its rows as JSON. Run by `make bench`. In the table, in
forward passes of the host over as many sequences:

  beyond  wall time less one forward pass, measured right before and after
  inside  of mq: what was measured in its taps and in the verb outside the forward passes, and
          one for each pass after the first
  cpu     the same as CPU time of the process: of mq inside, of the reference beyond
  MiB     peak of resident memory above that before the call, the host's forward included
"""

import argparse
import json
import statistics
from pathlib import Path

import measure
import report
import torch
from cases import CASES
from points import Bench
from reference import VERSION

THREADS = 2


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="where the rows go")
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--sides", nargs="+", default=["ours", "theirs"])
    parser.add_argument("--sequences", type=int, default=64, help="of 256 tokens")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--inner", type=int, default=2816, help="width of the MLP")
    return parser.parse_args()


def host_row(bench, options):
    costs = [bench.forward(options.sequences) for _ in range(4)][1:]
    return {
        "name": "calibration host forward",
        "against": f"nvidia-modelopt {VERSION}, torch {torch.__version__}",
        "threads": THREADS,
        "hidden": options.hidden,
        "inner": options.inner,
        "sequences": options.sequences,
        "seconds": statistics.median(cost.seconds for cost in costs),
        "peak_mib": max((cost.peak_mib for cost in costs if cost.peak_mib), default=None),
        "peak_method": measure.MEMORY_METHOD,
        "machine": measure.machine(),
    }


def warm_up(options):
    """Lets both sides load what they load late, on a block too small to matter."""
    small = Bench(128, 256, 4, THREADS, options.sides)
    for case in CASES:
        if case.name in options.cases and case.name != "entropy":
            small.measure(case, case.points(4)[-1])


def main():
    options = arguments()
    torch.set_num_threads(THREADS)
    warm_up(options)
    bench = Bench(options.hidden, options.inner, options.sequences, THREADS, options.sides)
    rows = [host_row(bench, options)]
    host = rows[0]
    print(f"{host['against']}; load average {host['machine']['load_average'][0]:.1f}")
    print(
        f"host forward over {options.sequences} sequences: {host['seconds']:.2f} s, "
        f"{host['peak_mib'] or 0:.0f} MiB"
    )
    print(report.TITLE)
    for case in CASES:
        if case.name not in options.cases:
            continue
        points = {
            point.sequences: bench.measure(case, point) for point in case.points(options.sequences)
        }
        rows.append(report.row(case, points, options.sequences))
        print(report.line(rows[-1]))
        for note in report.notes(rows[-1]):
            print(f"    {note}", flush=True)
        options.path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
