"""The rows of the report, and the tables that are printed."""

import agreement
import measure

TITLE = (
    "             mq, all sequences                               | the reference"
    "                                   | ratio\n"
    "algorithm    seconds  beyond  inside     cpu  passes     MiB |"
    "   seqs seconds  beyond     cpu  passes     MiB |   wall  inside     cpu  scaled"
)


def row(case, points, most):
    """The row of a case. `points`: {sequences: sides}, as measured."""
    main = min(case.sequences, most)
    theirs, same, ours = (
        points[n].get(side) for n, side in ((main, "theirs"), (main, "ours"), (most, "ours"))
    )
    result = {
        "name": f"calibration {case.name}",
        "preset": case.preset,
        "sequences": most,
        "sequences_reference": main,
        "machine": measure.machine(),
        "mq": ours and ours.as_dict(most),
        "reference": theirs and theirs.as_dict(main),
        "mq_at_the_sequences_of_the_reference": same and same.as_dict(main),
        "growth": {
            side: [sides[key].as_dict(n) for n, sides in points.items() if key in sides]
            for side, key in (("mq", "ours"), ("reference", "theirs"))
        },
    }
    if theirs and ours and not ours.not_built:
        result |= _ratios(theirs, same, ours, main, most)
        result["agreement"] = agreement.compare(same.values, theirs.values)
    return result


def _ratios(theirs, same, ours, main, most):
    """What calibrating costs beyond one forward: the reference's over mq's, on `main` sequences.

    None where mq's is not above zero: the forward passes differ by more than mq takes.
    """
    return {
        "ratio": _over(theirs.beyond(), same.beyond()),
        # Of mq what was measured inside it, which other programs disturb less; CPU time the least.
        "ratio_inside": _over(theirs.beyond(), same.inside()),
        "ratio_cpu": _over(theirs.beyond("cpu_seconds"), same.inside("cpu_seconds")),
        # Not measured: the reference's time taken as linear in the sequences, where it had fewer.
        "ratio_scaled_linearly": (
            _over(theirs.beyond() * most / main, ours.beyond()) if main != most else None
        ),
    }


def _over(theirs, ours):
    return theirs / ours if ours > 0 else None


def _number(value, width, digits=1):
    return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"


def _ours(side):
    if side is None or "not_built" in side:
        return f"{'not measured' if side is None else 'not built':49}"
    return (
        f"{_number(side['seconds'], 8, 2)}{_number(side['beyond_forwards'], 8, 2)}"
        f"{_number(side['inside_forwards'], 8, 3)}{_number(side['inside_cpu_forwards'], 8, 3)}"
        f"{side['passes']:8d}{_number(side['peak_mib'], 8, 0)} "
    )


def _theirs(side):
    if side is None:
        return f"{'not measured':48}"
    return (
        f"{side['sequences']:7d}{_number(side['seconds'], 8, 2)}"
        f"{_number(side['beyond_forwards'], 8, 2)}{_number(side['beyond_cpu_forwards'], 8, 2)}"
        f"{side['passes']:8d}{_number(side['peak_mib'], 8, 0)} "
    )


def line(result):
    """The line of a row in the table under TITLE."""
    name = result["name"].removeprefix("calibration ")
    kinds = ("ratio", "ratio_inside", "ratio_cpu", "ratio_scaled_linearly")
    return (
        f"{name:12}{_ours(result['mq'])}|{_theirs(result['reference'])}|"
        + "".join(_number(result.get(kind), 7, 1) + " " for kind in kinds)
    ).rstrip()


def notes(result):
    """Growth and agreement of a row, a line for each."""
    for side, points in result["growth"].items():
        built = [point for point in points if "not_built" not in point]
        what = "inside" if side == "mq" else "beyond"
        if len(built) > 1:
            steps = ", ".join(
                f"{point['sequences']}: {point[f'{what}_seconds']:.2f}"
                f" ({point[f'{what}_cpu_seconds']:.2f})"
                for point in built
            )
            yield f"{side}, seconds {what} by sequences (of CPU time): {steps}"
    for what, found in result.get("agreement", {}).items():
        differ = found["layers_that_differ"]
        yield (
            f"{what}: {len(differ)} of {found['layers']} layers differ, "
            f"at most by {found['max_relative']:.1e} {' '.join(differ)}".rstrip()
        )
    if result["mq"] and "not_built" in result["mq"]:
        yield result["mq"]["not_built"].partition(";")[0]
