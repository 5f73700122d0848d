"""A library of another version than the package's, older or newer, is refused when it is loaded."""

import os
import shutil
import subprocess
import sys

import pytest

import mq

CC = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")
OURS = [int(part) for part in mq.__version__.split(".")[:3]]


def stub(tmp_path, source):
    """A library with nothing but what `source` defines."""
    path = tmp_path / "libstub.so"
    (tmp_path / "stub.c").write_text(source)
    subprocess.run([CC, "-shared", "-fPIC", "-o", path, tmp_path / "stub.c"], check=True)
    return path


def import_with(library):
    environment = {
        **os.environ,
        "MQ_LIBRARY": str(library),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-X", "dev", "-c", "import mq"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("change", [(0, -1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)])
def test_another_version_is_refused(tmp_path, change):
    parts = [max(0, ours + step) for ours, step in zip(OURS, change)]
    number = parts[0] << 16 | parts[1] << 8 | parts[2]
    source = f"#include <stdint.h>\nuint32_t mq_version(void) {{ return {number}u; }}\n"
    path = stub(tmp_path, source)
    code, text = import_with(path)
    assert code == 1
    ours = OURS[0] << 16 | OURS[1] << 8 | OURS[2]
    assert text == (
        f"ImportError: {path} is version {number:#08x}, but this package is version "
        f"{mq.__version__} and needs {ours:#08x}"
    )


def test_what_is_no_libmq_is_refused(tmp_path):
    path = stub(tmp_path, "int other(void) { return 1; }\n")
    code, text = import_with(path)
    assert code == 1
    assert text == f"ImportError: {path} is no libmq: it has no function mq_version"


def test_a_library_of_this_version_that_lacks_a_function_is_refused(tmp_path):
    ours = OURS[0] << 16 | OURS[1] << 8 | OURS[2]
    source = f"#include <stdint.h>\nuint32_t mq_version(void) {{ return {ours}u; }}\n"
    path = stub(tmp_path, source)
    code, text = import_with(path)
    assert code == 1
    assert text.startswith(
        f"ImportError: {path} is older than this package: it has no function mq_"
    )
