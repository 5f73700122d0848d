"""Shows on a terminal how far a verb is."""

from __future__ import annotations

import sys
from typing import Any, Callable, TextIO, Union

from .outcome import Progress

#: None: a bar when stderr is a terminal. True or False: always, or never. Or a function.
Choice = Union[None, bool, Callable[[Progress], object]]
_LABELS = {"observe": "mq: observing", "solve": "mq: solving", "score": "mq: scoring"}
_WIDTH = 79


class ProgressBar:
    """A bar of tqdm's for each phase; lines of plain text where tqdm is not installed."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def __call__(self, progress: Progress) -> None:
        """Shows one step."""
        begins = progress.phase != self._phase or progress.done < self._bar.n
        if self._bar is None or begins or progress.total != self._bar.total:
            self.close()
            label = _LABELS.get(progress.phase, f"mq: {progress.phase}")
            self._bar, self._phase = _bar(label, progress.total), progress.phase
        self._bar.set_postfix_str(progress.layer, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Ends the line, if there is one."""
        bar, self._bar, self._phase = self._bar, None, ""
        if bar is not None:
            bar.close()


class Plain:
    """What of tqdm's bar is used, as one line that is written over."""

    def __init__(self, label: str, total: int, file: TextIO) -> None:
        self.n, self.total = 0, total
        self._label, self._file, self._layer = label, file, ""

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """Sets what stands behind the numbers."""
        self._layer = text

    def update(self, steps: int) -> None:
        """Shows that so many more steps are done."""
        self.n += steps
        line = f"{self._label} {self.n}/{self.total} {self._layer}"
        self._file.write(f"\r{line[:_WIDTH]:{_WIDTH}}")
        self._file.flush()

    def close(self) -> None:
        """Ends the line."""
        self._file.write("\n")
        self._file.flush()


def _bar(label: str, total: int) -> Any:
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # optional, slow to import
    except ImportError:
        return Plain(label, total, sys.stderr)
    return tqdm(total=total, desc=label, file=sys.stderr, leave=True)


def chosen(choice: Choice) -> Callable[[Progress], object] | None:
    """The function that is told the progress; None when nobody is."""
    if choice is None:
        choice = sys.stderr is not None and sys.stderr.isatty()
    if choice is True:
        return ProgressBar()
    if choice is False:
        return None
    if not callable(choice):
        raise TypeError(
            f"progress is a {type(choice).__name__}, expected a function, True, False or None"
        )
    return choice
