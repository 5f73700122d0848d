"""Puts libmq into the package: cargo's from the checkout, or the one MQ_PREBUILT_LIB names.

MQ_WHEEL_PLAT overrides the platform part of the wheel's tag, for a library built elsewhere; several
are joined by dots (`manylinux_2_17_x86_64.manylinux2014_x86_64`, which scripts/portable.sh builds).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = {"darwin": "libmq.dylib", "win32": "mq.dll"}.get(sys.platform, "libmq.so")


class LibraryHook(BuildHookInterface):
    """Adds the library to a wheel, or beside the sources for an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before a build; `version` is "standard" or "editable"."""
        root = Path(self.root).resolve()
        prebuilt = os.environ.get("MQ_PREBUILT_LIB")
        library = Path(prebuilt).resolve() if prebuilt else build(root.parents[1])
        if not library.is_file():
            raise FileNotFoundError(f"{library} (from MQ_PREBUILT_LIB) is not a file")
        if version == "editable":  # the wheel then only points to the sources
            replace(root / "mq" / NAME, library)
        else:
            build_data["force_include"][str(library)] = f"mq/{NAME}"
        own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{os.environ.get('MQ_WHEEL_PLAT') or own}"


def build(crate: Path) -> Path:
    """Runs cargo, which does nothing when the library is up to date; gives the library's path."""
    if not (crate / "Cargo.toml").is_file():
        raise FileNotFoundError(
            f"no crate at {crate}: build from a checkout of the repository, or set MQ_PREBUILT_LIB"
        )
    if shutil.which("cargo") is None:
        raise FileNotFoundError("cargo not found: install Rust, or set MQ_PREBUILT_LIB")
    command = ["cargo", "build", "--release", "--locked", "--package", "mq", "--lib"]
    command.append("--message-format=json-render-diagnostics")
    done = subprocess.run(command, cwd=crate, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] != "compiler-artifact" or message["target"]["name"] != "mq":
            continue
        for path in map(Path, message["filenames"]):
            if path.name == NAME:
                return path
    raise RuntimeError(f"cargo built no {NAME}")


def replace(target: Path, source: Path) -> None:
    """Copies by renaming: a process that has the old library loaded keeps it."""
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(source, fresh)
    fresh.replace(target)
