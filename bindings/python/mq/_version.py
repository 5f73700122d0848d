"""The version of the package, which is that of the crate."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path


def _read() -> str:
    """From Cargo.toml in a checkout or an editable install, else from the installed metadata."""
    package = Path(__file__).resolve().parent
    if package.parts[-3:-1] == ("bindings", "python"):
        manifest = package.parents[2] / "Cargo.toml"
        if manifest.is_file():
            text = manifest.read_text(encoding="utf-8")
            found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
            if found:
                return found.group(1)
    return metadata.version("libmq")


__version__ = _read()


def as_number() -> int:
    """`major << 16 | minor << 8 | patch`, as mq_version() gives it."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", __version__)
    if found is None:
        raise ImportError(f"version {__version__!r} of libmq is not of the form 1.2.3")
    major, minor, patch = (int(part) for part in found.groups())
    return major << 16 | minor << 8 | patch
