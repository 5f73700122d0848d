#!/usr/bin/env bash
# Whether include/mq.h still describes the ABI of abi/mq.abi: functions, their parameters, structs, enumerators, constants.
#
# The header is generated from the library's sources and compared with its symbols elsewhere, so it stands for the library:
# every declaration is compiled as an empty function, and abidw reads what the compiler noted of the types. The library
# itself would bring in its private types, which are nobody's business.
#
# Usage: tests/packaging/abi.sh [--refresh]      --refresh writes the dump anew: `make abi`
# Needs gcc and abigail-tools.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/abi-dump
fail() {
    printf 'abi.sh: %s\n' "$*" >&2
    exit 1
}
mkdir -p "$out"

number() { sed -n "s/^#define $1 \([0-9]*\)$/\1/p" include/mq.h; }
abi=$(number MQ_ABI_VERSION)
soname=libmq.so.$(number MQ_VERSION_MAJOR).$(number MQ_VERSION_MINOR)
[[ $abi =~ ^[0-9]+$ ]] || fail "include/mq.h has no MQ_ABI_VERSION"

# probe HEADER DIRECTORY: a library with the header's functions, made into $2/mq.abi
probe() {
    mkdir -p "$2"
    {
        echo '#include "mq.h"'
        sed -e '/^#/d' -e 's|//.*||' "$1" | tr '\n' ' ' | sed 's|/\*|\n/*|g; s|\*/|*/\n|g' | sed '/^\/\*/d' | tr '\n' ' ' |
            grep -oE 'MQ_API [^;]*;' | sed -E 's/^MQ_API //; s/;$/ { return 0; }/; s/^(void [^*].*)return 0; /\1/'
        # What no function refers to.
        sed -n 's/^enum \(mq_[a-z_]*\).*/enum \1 abi_\1;/p' "$1"
        echo 'enum mq_constants {'
        sed -n 's/^#define \(MQ_[A-Z0-9_]*\) [0-9].*/    CONSTANT_\1 = \1,/p' "$1" | grep -v 'MQ_VERSION'
        echo '} abi_constants;'
    } >"$2/probe.c"
    cp "$1" "$2/mq.h"
    # From within, so that the dump names no folder.
    (cd "$2" && gcc -std=c99 -g -O0 -fPIC -shared -Wno-unused-parameter -I. probe.c -o libmq.so -Wl,-soname,"$soname")
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs --no-architecture --type-id-style hash \
        --out-file "$2/mq.abi" "$2/libmq.so"
}
# functions FILE: how many a dump has
functions() { grep -c "<function-decl .*elf-symbol-id='mq_" "$1" || true; }
# differ DUMP DUMP: abidiff's report, and its status
differ() { abidiff "$1" "$2" >"$out/report" && return 0 || return $?; }

probe include/mq.h "$out"
declared=$(grep -c '^MQ_API' include/mq.h)
[[ $(functions "$out/mq.abi") == "$declared" ]] ||
    fail "the dump has $(functions "$out/mq.abi") functions, but include/mq.h declares $declared"

if [[ ${1:-} == --refresh ]]; then
    mkdir -p abi
    cp "$out/mq.abi" abi/mq.abi
    grep -qxF "$abi $soname" abi/versions 2>/dev/null || echo "$abi $soname" >>abi/versions
    echo "abi/mq.abi: $declared functions, ABI version $abi, $soname"
    exit
fi

# A name that the loader goes by stands for one ABI.
awk '$2 in abi && abi[$2] != $1 { print $2; bad = 1 } { abi[$2] = $1 } END { exit bad }' abi/versions >&2 ||
    fail "abi/versions gives this SONAME to two versions of the ABI: raise the minor version in Cargo.toml"
grep -qxF "$abi $soname" abi/versions ||
    fail "abi/versions lacks '$abi $soname': if MQ_ABI_VERSION or the version is new, run make abi"

if ! differ abi/mq.abi "$out/mq.abi"; then
    cat "$out/report" >&2
    fail "include/mq.h and abi/mq.abi differ. Functions, enumerators and fields at the end of a struct with struct_size may
        be added: run make abi, and name them under ABI in CHANGELOG.md. Anything else breaks programs that are compiled
        already: raise MQ_ABI_VERSION (src/ffi/context.rs) and the minor version (Cargo.toml) first."
fi

# The check itself: changes that break programs, each made to a copy of the header, are found.
change() { # WHAT SED-SCRIPT
    mkdir -p "$out/changed"
    sed -E "$2" include/mq.h >"$out/changed.h"
    if cmp -s include/mq.h "$out/changed.h"; then fail "$1: the change finds nothing to change in include/mq.h"; fi
    probe "$out/changed.h" "$out/changed"
    if differ "$out/mq.abi" "$out/changed/mq.abi"; then fail "$1: not found by abidiff"; fi
}
change "a function that is gone" '/^MQ_API uint32_t mq_version/d'
change "a parameter of another type" 's/(mq_context_options_init\(.*)uint32_t struct_size/\1uint64_t struct_size/'
change "a field in between" '/^    uint32_t num_threads;/s/$/ uint64_t more;/'
change "an enumerator of another number" 's/(MQ_ERR_CUDA =) 14/\1 15/'
change "a constant of another number" 's/(#define MQ_DEVICE_CUDA) 2/\1 3/'
echo "ABI version $abi, $soname: $declared functions as in abi/mq.abi; 5 planted changes found"
