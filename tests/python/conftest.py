"""Finds the package and the library under test.

MQ_LIBRARY names the library; by default it is that of `cargo build --release`. The package is the
one of the checkout; MQ_TEST_INSTALLED=1 tests the installed one, with the library inside it.
"""

import os
import sys
from pathlib import Path

# Threads of BLAS that wait for each other slow down whatever shares the machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]
NAME = {"darwin": "libmq.dylib", "win32": "mq.dll"}.get(sys.platform, "libmq.so")

if os.environ.get("MQ_TEST_INSTALLED") != "1":
    sys.path.insert(0, str(ROOT / "bindings" / "python"))
    os.environ.setdefault("MQ_LIBRARY", str(ROOT / "target" / "release" / NAME))
