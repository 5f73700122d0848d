"""The command line: reads the JSON of a state, writes the page; 2 and one line when it cannot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .page import write_report
from .state import ReportError, read_state


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Writes one HTML page about the result of auto_quantize.",
    )
    parser.add_argument("state", type=Path, help="the state of the search, as JSON")
    parser.add_argument(
        "-o", "--output", type=Path, default="report.html", help="default: %(default)s"
    )
    parser.add_argument("--title", help="heading of the page; default: groups and effective bits")
    options = parser.parse_args(arguments)
    try:
        state = read_state(options.state)
        if options.output.exists() and options.output.samefile(options.state):
            raise ReportError(f"{options.output} is the state itself, expected another output")
        write_report(state, options.output, title=options.title)
    except ReportError as error:
        problem = str(error)
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        problem = f"{place}{error.strerror or error}"
    else:
        return 0
    print(f"{parser.prog}: {' '.join(problem.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
