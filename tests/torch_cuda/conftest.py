"""Finds the package, the library and the models of tests/torch. Needs a GPU: nothing is skipped."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

sys.path[:0] = [str(ROOT / "bindings" / "python"), str(ROOT / "tests" / "torch")]
os.environ.setdefault("MQ_LIBRARY", str(ROOT / "target" / "release" / "libmq.so"))
