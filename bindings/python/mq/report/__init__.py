"""One HTML page about the result of a search for the format of every layer.

    python -m mq.report state.json -o report.html

or `write_report(state, "report.html")`, with the state as a dict. The page needs no network, no
script and no font of its own. This folder needs only Python's standard library and nothing of the
rest of the package: copied elsewhere alone, it runs as `python -m report`.
"""

from .page import render, write_report
from .state import ReportError

__all__ = ["ReportError", "render", "write_report"]
