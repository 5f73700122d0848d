"""Finds the package and the library under test, as tests/python does.

MQ_TORCH_COUNT names a file with the number of tests, for a run of all of them.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NAME = {"darwin": "libmq.dylib", "win32": "mq.dll"}.get(sys.platform, "libmq.so")

sys.path.insert(0, str(ROOT / "bindings" / "python"))
os.environ.setdefault("MQ_LIBRARY", str(ROOT / "target" / "release" / NAME))


def pytest_collection_finish(session):
    file = os.environ.get("MQ_TORCH_COUNT")
    if file is None or torch.cuda.is_available():  # some have a case for each device
        return
    told = int(Path(file).read_text())
    if told != len(session.items):
        raise pytest.UsageError(f"{file} says {told} tests, but there are {len(session.items)}")
