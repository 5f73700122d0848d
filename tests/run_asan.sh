#!/usr/bin/env bash
# The C harness under AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer, and the Python package under
# AddressSanitizer, with the library instrumented too: its heap errors are found where valgrind sees only the allocator.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
out=$PWD/target/asan
lib=$out/$target/release/libmq.a

# A static library, for a shared one of Rust cannot link the sanitizer. LTO would drop its checks.
# RUSTC_BOOTSTRAP lets the stable compiler take -Z.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" cargo rustc --release --locked --lib \
    --crate-type staticlib --target $target --target-dir "$out" \
    --config 'profile.release.lto=false' --config 'profile.release.codegen-units=16'

mkdir -p "$out/obj"
rm -f "$out"/obj/*.o
for source in tests/c/*.c; do
    [[ $source == */quickstart.c ]] || gcc -std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror \
        -pedantic -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined \
        -fno-sanitize-recover=undefined -Iinclude -c "$source" -o "$out/obj/$(basename "$source" .c).o"
done
gcc -fsanitize=address,undefined "$out"/obj/*.o "$lib" -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc \
    -o "$out/harness"

# Proof that it is really in: in the library's own code, and in the program.
checks=$(nm -A "$lib" 2>/dev/null | grep -cE 'libmq\.a:mq[-.].* U __asan_report_' || true)
((checks > 0)) || { echo "run_asan.sh: the library is not instrumented" >&2; exit 1; }
nm "$out/harness" | grep ' __asan_init' >/dev/null || # not -q: it would break the pipe
    { echo "run_asan.sh: the harness is not instrumented" >&2; exit 1; }

ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=9 UBSAN_OPTIONS=print_stacktrace=1 "$out/harness"
echo "AddressSanitizer: passed; the library's objects refer to it $checks times"

# The Python package over the same objects: what arrays, callbacks and collection in any order do to the library's memory.
# Leaks are not looked for, for the interpreter keeps what it has until the end.
gcc -shared -fsanitize=address -Wl,--whole-archive "$lib" -Wl,--no-whole-archive -lgcc_s -lutil -lrt -lpthread -lm -ldl \
    -lc -o "$out/libmq.so"
tests=()
for name in bad_arrays dlpack lifetime callbacks errors interrupts auto_quantize_failures functional compress quantizers saving; do
    tests+=("tests/python/test_$name.py")
done
LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0:exitcode=9 MQ_LIBRARY="$out/libmq.so" \
    PYTHONPATH=bindings/python PYTHONMALLOC=malloc .venv/bin/python -X dev -m pytest -q -rs "${tests[@]}"
