"""The example that users copy runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_quantizes_a_llama():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bindings" / "python")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples" / "torch" / "quantize_llama.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"(INT4 AWQ|searched, (\d\.\d+) bits): (0\.\d+) nats", done.stdout)
    assert [one[0][:8] for one in found] == ["INT4 AWQ", "searched"]
    assert 4.0 <= float(found[1][1]) <= 6.0
    assert 0 < float(found[1][2]) < 1
    assert 0 < float(found[0][2]) < 1


def test_mq_alone_does_not_import_torch():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bindings" / "python")}
    code = "import mq, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
