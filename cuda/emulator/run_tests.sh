#!/usr/bin/env bash
# Builds the emulator with the kernels of its own tests, and runs these in several orders.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/target/emulator-tests
"$here/build.sh" "$here/tests/kernels.cu" "$out"
newest=$(ls -t "$here"/tests/*.cpp "$here"/tests/*.h "$here"/*.h "$here"/cublas/*.h "$out"/lib*.so.* | head -1)
if [[ ! -x $out/tests || $newest -nt $out/tests ]]; then
    "${CXX:-g++}" -std=c++17 -O1 -pthread -Wall -Wextra -Werror -I"$here" "$here"/tests/*.cpp -L"$out" -lcuda -l:libcublas.so.12 \
        -Wl,-rpath,"$out" -o "$out/tests"
fi
# What the planted defects say is shown only when something fails.
for setting in MQ_MOCK_ORDER=forward MQ_MOCK_ORDER=reverse MQ_MOCK_ORDER=shuffle:7 MQ_MOCK_THREADS=1 MQ_MOCK_CHECK=1 \
    MQ_MOCK_DEVICES=0; do
    printf '%-24s' "$setting"
    if ! env "$setting" "$out/tests" 2>"$out/stderr"; then
        cat "$out/stderr"
        exit 1
    fi
done
# Each kind of defect has been named.
env MQ_MOCK_ORDER=forward "$out/tests" >/dev/null 2>"$out/stderr"
for words in 'divergent barrier' 'depends on the order' 'beside the allocation' 'misaligned access' 'no memory at' \
    'dynamic shared memory' 'no workspace was set' 'context of the handle' 'cublasSsyrk: no memory of'; do
    grep -q "$words" "$out/stderr" || { echo "no message says: $words"; exit 1; }
done
echo "all passed"
