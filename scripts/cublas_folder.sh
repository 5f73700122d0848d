#!/usr/bin/env bash
# Prints the folder of the cuBLAS that the packages of a Python environment have; nothing where they have none, and the
# loader's path has to do.
#     scripts/cublas_folder.sh PYTHON
set -euo pipefail
"$1" - <<'END'
import sysconfig
from pathlib import Path

packages = Path(sysconfig.get_paths()["purelib"], "nvidia")
found = sorted(packages.glob("**/libcublas.so.1[23]"))
print(found[-1].parent if found else "")
END
