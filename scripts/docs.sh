#!/usr/bin/env bash
# Builds the documentation into target/docs: pages, configuration reference and Python API by MkDocs, the C and C++
# reference by Doxygen. Whatever is broken fails: a link, an anchor, a snippet, a name, an undocumented function.
# `make docs`; MQ_OFFLINE=1 leaves it out, for the tools come from the Python package index.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${MQ_OFFLINE:-0} == 1 ]]; then
    echo "SKIPPED: the documentation (1 site), MQ_OFFLINE=1"
    exit 0
fi
venv=$PWD/.venv
out=target/docs

stamp="$venv/requirements-docs.sha256"
wanted=$(sha256sum scripts/requirements-docs.txt)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/requirements-docs.txt
    echo "$wanted" >"$stamp"
fi

rm -rf "$out" target/doxygen
mkdir -p target/doxygen "$out"
for api in c cpp; do
    doxygen "scripts/docs/$api.doxyfile"
done

# Disables Material's notice about other tools.
export NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true
export MQ_LIBRARY=${MQ_LIBRARY:-$PWD/target/release/libmq.so} PYTHONPATH=$PWD/bindings/python:$PWD/scripts/docs
# Not --quiet: it would also silence the warnings that --strict counts.
"$venv/bin/mkdocs" build --strict --site-dir "$out" 2>&1 | { grep -v '^INFO ' || true; }
rm "$out/404.html" # for a server of its own; its links begin at the root
mkdir -p "$out/api"
cp -r target/doxygen/c target/doxygen/cpp "$out/api/"
"$venv/bin/python" scripts/docs/links.py "$out"
echo "the documentation is in $out/index.html (its search needs a server: python3 -m http.server -d $out)"
