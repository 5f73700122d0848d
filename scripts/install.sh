#!/usr/bin/env bash
# Installs what a C or C++ program needs: headers, libmq.so with its links, libmq.a, mq.pc, the CMake package and the
# licences. Nothing in it names the place: the folder may be moved afterwards. `make install`, `make uninstall`.
#
# Usage: scripts/install.sh [install|uninstall]
# PREFIX (/usr/local), DESTDIR (put before it, for packagers), LIBDIR (lib; relative to PREFIX), MQ_LIBDIR (where the built
# libraries are: target/release).
set -euo pipefail
[[ -z ${DESTDIR:-} || $DESTDIR == /* ]] || DESTDIR=$PWD/$DESTDIR
cd "$(dirname "$0")/.."
verb=${1:-install}
prefix=${PREFIX:-/usr/local} libdir=${LIBDIR:-lib} built=${MQ_LIBDIR:-target/release}
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
[[ $verb == install || $verb == uninstall ]] || fail "unknown verb $verb: install or uninstall"
[[ $prefix == /* ]] || fail "PREFIX is $prefix, expected an absolute path"
[[ $libdir != /* && /$libdir/ != */../* ]] || fail "LIBDIR is $libdir, expected a path below PREFIX"
root=${DESTDIR:-}$prefix

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IFS=. read -r major minor _ <<<"$version"
soname=libmq.so.$major.$minor
up=$(realpath -s -m --relative-to="/$libdir" /)
read -r system_libs <packaging/system-libs.txt

# put MODE SOURCE PLACE
put() {
    if [[ $verb == install ]]; then
        install -D -m "$1" "$2" "$root/$3"
    else
        rm -f "$root/$3"
    fi
}
# link TARGET PLACE
link() {
    if [[ $verb == install ]]; then
        ln -sfn "$1" "$root/$2"
    else
        rm -f "$root/$2"
    fi
}
# fill TEMPLATE PLACE
filled=$(mktemp)
trap 'rm -f "$filled"' EXIT
fill() {
    sed -e "s|@VERSION@|$version|g; s|@MAJOR@|$major|g; s|@MINOR@|$minor|g; s|@SONAME@|$soname|g" \
        -e "s|@SYSTEM_LIBS@|$system_libs|g; s|@SYSTEM_LIBS_CMAKE@|${system_libs// /;}|g" \
        -e "s|@UP_FROM_PKGCONFIG@|../$up|g; s|@UP_FROM_LIBDIR@|$up|g" "$1" >"$filled"
    put 644 "$filled" "$2"
}

if [[ $verb == install ]]; then
    for library in libmq.so libmq.a; do
        [[ -f $built/$library ]] || fail "$built/$library is missing: run cargo build --release first, or set MQ_LIBDIR"
    done
    # Another name would only be missed when a program is started.
    if command -v readelf >/dev/null; then
        readelf -d "$built/libmq.so" | grep -F "[$soname]" >/dev/null ||
            fail "the SONAME of $built/libmq.so is not $soname: it is of another version, build it again"
    fi
fi

put 644 include/mq.h include/mq.h
put 644 include/mq.hpp include/mq.hpp
for header in include/mq/*.hpp; do
    put 644 "$header" "$header"
done
put 755 "$built/libmq.so" "$libdir/libmq.so.$version"
link "libmq.so.$version" "$libdir/$soname"
link "$soname" "$libdir/libmq.so"
put 644 "$built/libmq.a" "$libdir/libmq.a"
fill packaging/mq.pc.in "$libdir/pkgconfig/mq.pc"
fill packaging/mqConfig.cmake.in "$libdir/cmake/mq/mqConfig.cmake"
fill packaging/mqConfigVersion.cmake.in "$libdir/cmake/mq/mqConfigVersion.cmake"
for licence in LICENSE-APACHE LICENSE-MIT; do
    put 644 "$licence" "share/licenses/mq/$licence"
done
if [[ $verb == uninstall ]]; then
    rmdir --ignore-fail-on-non-empty "$root"/include/mq "$root/$libdir"/cmake/mq "$root"/share/licenses/mq 2>/dev/null || true
fi
echo "mq $version: $verb, $root"
