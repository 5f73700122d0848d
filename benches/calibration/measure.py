"""Seconds and peak memory of one call, and the state of the machine meanwhile."""

import ctypes
import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

MEMORY_METHOD = "VmHWM, reset through /proc/self/clear_refs, less VmRSS before (trimmed heap)"
_libc = ctypes.CDLL(None)


@dataclass
class Cost:
    seconds: float
    #: Of all threads of this process; less disturbed by other programs than `seconds`.
    cpu_seconds: float
    #: Largest resident memory during the call beyond that before it; None: not known here.
    peak_mib: float | None = None


def _status_kib(key):
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def _start_peak():
    """Resident KiB now, from where on VmHWM counts; None where the kernel does not reset it."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status_kib("VmRSS")
    except OSError:
        return None


class Clock:
    """Adds up the time of what runs inside `with clock:`."""

    def __init__(self):
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    def __enter__(self):
        self._start, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self._start
        self.cpu_seconds += time.process_time() - self._cpu


def cost(work) -> Cost:
    """Calls `work` once."""
    before = _start_peak()
    with Clock() as clock:
        work()
    peak = None if before is None else max(0, _status_kib("VmHWM") - before) / 1024
    return Cost(clock.seconds, clock.cpu_seconds, peak)


def machine() -> dict:
    """What else may explain a figure."""
    return {"cpus": os.cpu_count(), "load_average": os.getloadavg()}
