#!/usr/bin/env bash
# Formatting, lints and licences. Nothing here is allowed to fail.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="$PWD/.venv/bin"

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
git ls-files '*.c' '*.h' '*.cpp' '*.hpp' '*.cc' ':!include/mq.h' | xargs "$bin/clang-format" --dry-run -Werror
"$bin/ruff" check bindings/python tests/python tests/torch tests/torch_cuda benches examples
"$bin/ruff" format --check bindings/python tests/python tests/torch tests/torch_cuda benches examples

# cargo-deny is built once; its own cache is target/tools.
deny="$PWD/target/tools/bin/cargo-deny"
if [[ ! -x $deny ]]; then
    cargo install cargo-deny --locked --version 0.20.2 --root target/tools --quiet
fi
"$deny" --log-level error check bans licenses sources
