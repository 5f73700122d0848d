#!/usr/bin/env bash
# What another program finds: mq is installed, the folder moved, and the examples are built against it with CMake,
# pkg-config and plain compilers, shared and static; and from the sources, by FetchContent.
#
# Usage: tests/packaging/run.sh LIBDIR      LIBDIR holds libmq.so and libmq.a, as target/release does
# Needs gcc, g++, clang, binutils, cmake, ninja and pkg-config.
set -euo pipefail
libdir=$(cd "${1:?usage: $0 LIBDIR}" && pwd)
cd "$(dirname "$0")/../.."
examples=$PWD/examples
out=$PWD/target/packaging
warnings=(-Wall -Wextra -Werror -pedantic)
unset LD_LIBRARY_PATH PKG_CONFIG_PATH mq_DIR mq_ROOT CMAKE_PREFIX_PATH DESTDIR LIBDIR PREFIX

step() { printf -- '-- %s\n' "$*"; }
fail() {
    printf 'tests/packaging/run.sh: %s\n' "$*" >&2
    exit 1
}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IFS=. read -r major minor patch <<<"$version"
soname=libmq.so.$major.$minor

# run DIRECTORY SUFFIX: the three examples of a build.
run() {
    "$1/one_layer$2"
    "$1/weight_only$2"
    "$1/save_load$2" "$1/scales$2.txt"
}
# uses_shared PROGRAM yes|no
uses_shared() {
    local found=no
    readelf -d "$1" | grep -F "[$soname]" >/dev/null && found=yes
    [[ $found == "$2" ]] || fail "$1: needs $soname: $found, expected $2"
}

step "install"
mkdir -p target
relative=$(mktemp -d "$PWD/target/relative.XXXXXX")
(cd "$relative" && PREFIX=/usr DESTDIR=stage MQ_LIBDIR="$libdir" ../../scripts/install.sh install >/dev/null)
[[ -f $relative/stage/usr/include/mq.h ]] || fail "a relative DESTDIR is not below the folder that it was given in"
rm -r "$relative"
rm -rf "$out"
mkdir -p "$out"
install_to() { env "$@" MQ_LIBDIR="$libdir" make --no-print-directory -s install-built >"$out/install.log"; }
install_to PREFIX=/opt/mq DESTDIR="$out/first"
prefix="$out/moved to/mq" # a blank in it, too
mkdir -p "$out/moved to"
mv "$out/first/opt/mq" "$prefix"
(cd "$prefix" && find . -type f -o -type l | sort) >"$out/files"
{
    printf './%s\n' include/mq.h include/mq.hpp lib/libmq.a lib/libmq.so "lib/$soname" "lib/libmq.so.$version" \
        lib/cmake/mq/mqConfig.cmake lib/cmake/mq/mqConfigVersion.cmake lib/pkgconfig/mq.pc \
        share/licenses/mq/LICENSE-APACHE share/licenses/mq/LICENSE-MIT
    find ./include/mq -name '*.hpp'
} | sort >"$out/expected"
diff "$out/expected" "$out/files" >&2 || fail "the files that should be installed (<) and are (>) differ"
[[ $(readlink "$prefix/lib/libmq.so") == "$soname" && $(readlink "$prefix/lib/$soname") == "libmq.so.$version" ]] ||
    fail "the links of libmq.so"
if grep -rIlE '/opt/mq|@[A-Z_]+@' "$prefix" >&2; then
    fail "these files hold the prefix, or a template's name"
fi
nm -D --defined-only "$prefix/lib/libmq.so" | awk '{ print $3 }' | grep -v '^mq_' >&2 &&
    fail "libmq.so exports more than mq_*"

step "what the headers say to compilers"
strict=(-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Werror -fsyntax-only)
printf '#include <mq.hpp>\nint main() { mq::Context context; }\n' >"$out/header.cpp"
# told LINE COMPILER ARGUMENT...: what a compiler that cannot have mq.hpp is told first.
told() {
    local line=$1
    shift
    if "$@" -fsyntax-only -I"$prefix/include" "$out/header.cpp" 2>"$out/header.log"; then fail "$* compiles mq.hpp"; fi
    grep -F error "$out/header.log" | sed 1q | grep -F "$line" >/dev/null || {
        cat "$out/header.log" >&2
        fail "$*: expected '$line' first"
    }
}
for compiler in g++ clang++; do
    for standard in c++17 c++20; do
        "$compiler" "-std=$standard" "${strict[@]}" -I"$prefix/include" "$out/header.cpp"
    done
    told "mq.hpp needs C++17" "$compiler" -std=c++14
    told "mq.hpp throws mq::Error" "$compiler" -std=c++17 -fno-exceptions
done

step "CMake, find_package(mq $major.$minor)"
configure() { # DIRECTORY VERSION [ARGUMENT...]
    local build=$1 wanted=$2
    shift 2
    cmake -G Ninja -S tests/packaging/consumer -B "$build" -DCMAKE_PREFIX_PATH="$prefix" -DMQ_WANTED="$wanted" \
        -DMQ_EXAMPLES="$examples" "$@" >"$out/cmake.log" 2>&1
}
configure "$out/cmake" "$major.$minor" || { cat "$out/cmake.log" >&2 && fail "configuring the consumer"; }
cmake --build "$out/cmake" >"$out/build.log" || { cat "$out/build.log" >&2 && fail "building the consumer"; }
for kind in mq static; do
    run "$out/cmake" "_$kind"
    for example in one_layer weight_only save_load; do
        uses_shared "$out/cmake/${example}_$kind" "$([[ $kind == mq ]] && echo yes || echo no)"
    done
done

step "versions and components that are found, and that are not"
found() { configure "$out/found" "$@" || { cat "$out/cmake.log" >&2 && fail "mq $* was refused"; } }
refused() { # TEXT VERSION [ARGUMENT...]
    local text=$1
    shift
    rm -rf "$out/refused"
    if configure "$out/refused" "$@"; then fail "mq $* was found, but this is $version"; fi
    grep -F "$text" "$out/cmake.log" >/dev/null || { cat "$out/cmake.log" >&2 && fail "mq $*: expected '$text'"; }
}
found ""
found "$major"
found "$version;EXACT"
found "$major.$minor...<$major.$((minor + 1))"
found "$major.$minor" "-DMQ_COMPONENTS=COMPONENTS;static"
for wanted in "$major.$((minor + 1))" "$((major + 1)).0" "$version.1" "$major.$minor.$((patch + 1))" \
    "$major.$((minor + 1))...$((major + 1))" "$major.0...<$major.$minor" "$major.$minor.$((patch + 1));EXACT"; do
    refused "not accepted" "$wanted"
done
refused "no gpu" "$major.$minor" "-DMQ_COMPONENTS=COMPONENTS;gpu"

step "pkg-config"
pc() { PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config "$@"; }
[[ $(pc --modversion mq) == "$version" ]] || fail "mq.pc says $(pc --modversion mq), expected $version"
if pc --exists "mq >= $major.$((minor + 1))"; then fail "pkg-config finds a version that is not there"; fi
# Compilers get what it prints word for word; a blank comes as a backslash and a blank.
words() { eval "flags=($(pc "$@" mq))"; }
mkdir -p "$out/pkg-config"
words --cflags --libs
export LD_LIBRARY_PATH="$prefix/lib"
gcc -std=c99 "${warnings[@]}" "$examples/one_layer.c" "${flags[@]}" -lm -o "$out/pkg-config/one_layer"
for example in weight_only save_load; do
    g++ -std=c++17 "${warnings[@]}" "$examples/$example.cpp" "${flags[@]}" -o "$out/pkg-config/$example"
    uses_shared "$out/pkg-config/$example" yes
done
run "$out/pkg-config" ""
unset LD_LIBRARY_PATH
# --static names what libmq.a needs; which of the two libraries is taken is the linker's to say.
words --cflags --libs --static
flags=("${flags[@]/#-lmq/-l:libmq.a}")
gcc -std=c99 "${warnings[@]}" "$examples/one_layer.c" "${flags[@]}" -o "$out/pkg-config/one_layer_static"
for example in weight_only save_load; do
    g++ -std=c++17 "${warnings[@]}" "$examples/$example.cpp" "${flags[@]}" -o "$out/pkg-config/${example}_static"
    uses_shared "$out/pkg-config/${example}_static" no
done
run "$out/pkg-config" _static

step "plain compilers"
mkdir -p "$out/plain"
plain=(-I"$prefix/include" -L"$prefix/lib" -Wl,-rpath,"$prefix/lib")
gcc -std=c99 "${warnings[@]}" "$examples/one_layer.c" "${plain[@]}" -lmq -lm -o "$out/plain/one_layer"
for example in weight_only save_load; do
    g++ -std=c++17 "${warnings[@]}" "$examples/$example.cpp" "${plain[@]}" -lmq -o "$out/plain/$example"
done
run "$out/plain" ""

step "FetchContent"
# The build of `libdir` is used again, where cargo made it.
target=$(dirname "$libdir")
cmake -G Ninja -S tests/packaging/fetch -B "$out/fetch" -DMQ_CHECKOUT="$PWD" -DMQ_CARGO_TARGET_DIR="$target" \
    >"$out/cmake.log" 2>&1 || { cat "$out/cmake.log" >&2 && fail "configuring the fetching consumer"; }
cmake --build "$out/fetch" >"$out/build.log" 2>&1 || { cat "$out/build.log" >&2 && fail "building it"; }
"$out/fetch/one_layer"
"$out/fetch/weight_only"
uses_shared "$out/fetch/one_layer" yes
uses_shared "$out/fetch/weight_only" no

step "cmake --install"
cmake -G Ninja -S . -B "$out/own" -DMQ_CARGO_TARGET_DIR="$target" >"$out/cmake.log" 2>&1 &&
    cmake --build "$out/own" >"$out/build.log" 2>&1 &&
    DESTDIR="$out/own-prefix" cmake --install "$out/own" --prefix /opt/mq >"$out/install.log" 2>&1 ||
    { cat "$out/cmake.log" "$out/build.log" "$out/install.log" >&2 && fail "cmake --install"; }
(cd "$out/own-prefix/opt/mq" && find . -type f -o -type l | sort) | diff "$out/expected" - >&2 ||
    fail "the files that should be installed (<) and are by cmake --install (>) differ"

step "another libdir, and uninstall"
multiarch=lib/x86_64-linux-gnu
install_to PREFIX=/usr LIBDIR=$multiarch DESTDIR="$out/second"
(
    prefix=$out/second/usr
    configure "$out/multiarch" "$major.$minor" || { cat "$out/cmake.log" >&2 && fail "LIBDIR=$multiarch"; }
    [[ $(PKG_CONFIG_PATH="$prefix/$multiarch/pkgconfig" pkg-config --cflags mq) == *"-I$prefix"* ]] ||
        fail "mq.pc in $multiarch: $(PKG_CONFIG_PATH="$prefix/$multiarch/pkgconfig" pkg-config --cflags mq)"
    echo other >"$prefix/include/other.h"
)
PREFIX=/usr LIBDIR=$multiarch DESTDIR="$out/second" make --no-print-directory -s uninstall >"$out/install.log"
left=$(find "$out/second" -type f -o -type l)
[[ $left == "$out/second/usr/include/other.h" ]] || fail "left by uninstall: $left"
if PREFIX=relative scripts/install.sh 2>"$out/install.log"; then fail "a relative PREFIX was accepted"; fi
if MQ_LIBDIR=$out/none PREFIX=/opt DESTDIR=$out/third scripts/install.sh 2>"$out/install.log"; then
    fail "installed without a library"
fi
[[ ! -e $out/third ]] || fail "a failed install left files"
echo "packaging: all steps passed"
