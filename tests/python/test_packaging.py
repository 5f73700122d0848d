"""Wheels and editable installs: the library is inside, under the right tag and version."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mq
from conftest import NAME, ROOT

SOURCE = ROOT / "bindings" / "python"
LIBRARY = os.environ.get("MQ_LIBRARY") or str(Path(mq.__file__).with_name(NAME))
PROGRAM = """
import mq
import numpy as np
print(mq.__file__, mq.__version__, mq.fake_quant(np.ones(3, np.float32), {"num_bits": 8}))
"""


def run(*command, folder, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "MQ_LIBRARY"}
    environment.update({name: str(value) for name, value in variables.items()})
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """What a build reads of a checkout: the package and the manifest beside it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib", "*.dll", "build", "dist")
    package = tmp_path / "checkout" / "bindings" / "python"
    shutil.copytree(SOURCE, package, ignore=ignored)
    shutil.copy(ROOT / "Cargo.toml", tmp_path / "checkout")
    return package


def build_wheel(package, folder, **variables):
    command = ("-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    code, text = run(*command, folder=package, **variables)
    assert code == 0, text
    (wheel,) = Path(folder).glob("*.whl")
    return wheel


def unpacked(checkout, tmp_path):
    wheel = build_wheel(checkout, tmp_path / "wheels", MQ_PREBUILT_LIB=LIBRARY)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def test_a_wheel_holds_the_library_under_the_tag_of_the_platform(checkout, tmp_path):
    (checkout / "mq" / NAME).write_bytes(b"left by an editable install")
    wheel = build_wheel(checkout, tmp_path / "wheels", MQ_PREBUILT_LIB=LIBRARY)
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert wheel.name == f"libmq-{mq.__version__}-py3-none-{platform}.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read(f"mq/{NAME}") == Path(LIBRARY).read_bytes()
        metadata = archive.read(f"libmq-{mq.__version__}.dist-info/METADATA").decode()
        assert b"Root-Is-Purelib: false" in archive.read(f"libmq-{mq.__version__}.dist-info/WHEEL")
    assert names.count(f"mq/{NAME}") == 1
    assert {"mq/__init__.py", "mq/_lib/interface.py", "mq/report/style.css", "mq/py.typed"} <= set(
        names
    )
    assert all(name.startswith(("mq/", "libmq-")) for name in names)
    assert "Requires-Dist: numpy" in metadata
    assert "Requires-Dist: ml-dtypes; extra == 'bf16'" in metadata


@pytest.mark.parametrize(
    "platform", ["manylinux_2_17_aarch64", "manylinux_2_17_x86_64.manylinux2014_x86_64"]
)
def test_the_tag_can_be_overridden(platform, checkout, tmp_path):
    variables = {"MQ_PREBUILT_LIB": LIBRARY, "MQ_WHEEL_PLAT": platform}
    wheel = build_wheel(checkout, tmp_path / "wheels", **variables)
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    with zipfile.ZipFile(wheel) as archive:
        tags = archive.read(f"libmq-{mq.__version__}.dist-info/WHEEL").decode()
    for one in platform.split("."):
        assert f"Tag: py3-none-{one}\n" in tags


def test_the_package_works_from_a_wheel(checkout, tmp_path):
    site = unpacked(checkout, tmp_path)
    code, text = run("-c", PROGRAM, folder=tmp_path, PYTHONPATH=site)
    assert code == 0, text
    assert text.split()[:2] == [str(site / "mq" / "__init__.py"), mq.__version__]


def test_an_editable_install_has_the_library_beside_the_sources(checkout, tmp_path):
    build = "import sys, hatchling.build as build; print(build.build_editable(sys.argv[1]))"
    code, text = run("-c", build, str(tmp_path), folder=checkout, MQ_PREBUILT_LIB=LIBRARY)
    assert code == 0, text
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(NAME)]
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().strip() == str(checkout)
    code, text = run("-c", PROGRAM, folder=tmp_path, PYTHONPATH=checkout)
    assert code == 0, text
    assert text.split()[:2] == [str(checkout / "mq" / "__init__.py"), mq.__version__]


def test_a_library_of_another_version_is_refused(checkout, tmp_path):
    site = unpacked(checkout, tmp_path)
    (metadata,) = site.glob("*.dist-info/METADATA")
    metadata.write_text(
        metadata.read_text().replace(f"Version: {mq.__version__}", "Version: 9.8.7")
    )
    code, text = run("-c", PROGRAM, folder=tmp_path, PYTHONPATH=site)
    assert code != 0
    assert "ImportError" in text
    assert "needs 0x090807" in text


def test_a_missing_library_says_what_to_do(checkout, tmp_path):
    code, text = run("-c", PROGRAM, folder=tmp_path, PYTHONPATH=checkout)
    assert code != 0
    assert "ImportError: cannot load libmq" in text
    assert "MQ_LIBRARY" in text
    command = ("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    code, text = run(*command, folder=checkout, MQ_PREBUILT_LIB=tmp_path / "none.so")
    assert code != 0
    assert "none.so (from MQ_PREBUILT_LIB) is not a file" in text
    code, text = run(*command, folder=checkout, PATH="/nowhere")
    assert code != 0
    assert "cargo not found" in text
