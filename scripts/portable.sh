#!/usr/bin/env bash
# Builds libmq for every Linux from glibc 2.17 on (2012: RHEL 7 and later) and the wheel with it, and checks both:
# target/portable/{libmq.so,libmq.a,*.whl}. `make portable`.
#
# zig brings the linker and the symbols of that glibc; both come as Python packages into an environment of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
glibc=2.17
machine=x86_64
out=$PWD/target/portable
venv=$out/venv
fail() {
    printf 'portable.sh: %s\n' "$*" >&2
    exit 1
}

wanted=$(sha256sum scripts/requirements-portable.txt)
if [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$wanted" ]]; then
    rm -rf "$venv"
    mkdir -p "$out"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/requirements-portable.txt
    echo "$wanted" >"$venv/stamp"
fi

PATH=$venv/bin:$PATH cargo-zigbuild zigbuild --release --locked --package mq --lib \
    --target $machine-unknown-linux-gnu.$glibc --target-dir "$out/cargo"
built=$out/cargo/$machine-unknown-linux-gnu/release
install -m 755 "$built/libmq.so" "$out/libmq.so"
install -m 644 "$built/libmq.a" "$out/libmq.a"

# What the loader will ask glibc for.
readelf --dyn-syms --wide "$out/libmq.so" | grep -oE 'GLIBC_[0-9.]+' | sort -u -V >"$out/glibc"
[[ -s $out/glibc ]] || fail "no symbol of glibc found in $out/libmq.so"
newest=$(tail -n 1 "$out/glibc")
[[ $(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -V | tail -n 1) == "GLIBC_$glibc" ]] ||
    fail "libmq.so needs $newest, expected at most GLIBC_$glibc"
readelf -d "$out/libmq.so" | sed -n 's/.*Shared library: \[\(.*\)\]/\1/p' >"$out/needed"
if grep -vE '^(lib(c|m|dl|pthread|rt|util|gcc_s)\.so\.[0-9]+|ld-linux-x86-64\.so\.2)$' "$out/needed" >&2; then
    fail "libmq.so needs these beside glibc and libgcc_s"
fi
version=$(sed -n 's/^version = "\([0-9]*\.[0-9]*\)\..*/\1/p' Cargo.toml | head -n 1)
readelf -d "$out/libmq.so" | grep -F "[libmq.so.$version]" >/dev/null || fail "the SONAME is not libmq.so.$version"
if nm -D --defined-only "$out/libmq.so" | awk '{ print $3 }' | grep -v '^mq_' >&2; then
    fail "libmq.so exports more than mq_*"
fi
strip -s "$out/libmq.so" -o "$out/stripped.so"
echo "libmq.so: $newest, needs $(tr '\n' ' ' <"$out/needed"); stripped: $(stat -c %s "$out/stripped.so") bytes"

# It works.
ln -sfn libmq.so "$out/libmq.so.$version"
gcc -std=c99 -Iinclude examples/one_layer.c -L"$out" -lmq -lm -Wl,-rpath,"$out" -o "$out/one_layer"
"$out/one_layer"

rm -f "$out"/*.whl
(cd bindings/python && MQ_PREBUILT_LIB=$out/libmq.so MQ_WHEEL_PLAT=manylinux_2_17_$machine.manylinux2014_$machine \
    "$venv/bin/python" -m hatchling build -t wheel -d "$out" >"$out/wheel.log" 2>&1) || { cat "$out/wheel.log" >&2 && exit 1; }
"$venv/bin/auditwheel" show "$out"/*.whl >"$out/auditwheel.txt"
grep -F "\"manylinux_2_17_$machine\"" "$out/auditwheel.txt" >/dev/null || {
    cat "$out/auditwheel.txt" >&2
    fail "auditwheel does not take it for manylinux_2_17 (manylinux2014)"
}
echo "$(basename "$out"/*.whl): manylinux_2_17 (auditwheel)"
