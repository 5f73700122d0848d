#!/usr/bin/env bash
# Runs what scripts/cuda_bundle.sh has built, from the folder of the bundle, on a machine with an NVIDIA GPU from compute
# capability 7.5 on and a driver for CUDA 12.0 or later:
#
#     ./run.sh test [STEP...]     kernels, golden vectors, models, graphs, C, PyTorch, compute-sanitizer; skips nothing
#     ./run.sh bench [STEP...]    taps beside a copy of the same bytes, PyTorch, and the reference where it is installed
#
# or on the emulator (cuda/emulator), with its folder in LD_LIBRARY_PATH and MQ_ON_EMULATOR=1.
#
# All steps run, whatever fails; each has a log in logs/, and a line in the table at the end. PyTorch and pytest are those
# of MQ_TORCH_PYTHON (default: python3); compute-sanitizer comes with the CUDA toolkit. MQ_WITHOUT_TORCH=1 and
# MQ_WITHOUT_SANITIZER=1 leave these out, with a line that says so. cuBLAS is that of PyTorch's packages, else that of the
# loader's path; MQ_WITHOUT_CUBLAS=1 leaves its checks out. MQ_STEP_SECONDS (default 600) stops a step.
set -uo pipefail
cd "$(dirname "$0")"
what=${1:-}
[[ $what == test || $what == bench ]] || {
    sed -n '2,14s/^# \{0,1\}//p' "$0"
    exit 2
}
shift
wanted=" $* "
python=${MQ_TORCH_PYTHON:-python3}
export MQ_REQUIRE_CUDA=1 MQ_LIBRARY=$PWD/target/release/libmq.so
export PYTHONPATH=$PWD/bindings/python:$PWD/benches${PYTHONPATH:+:$PYTHONPATH}
mkdir -p logs
table=()
failures=0

# step NAME COMMAND...
step() {
    local name=$1 began=$SECONDS status outcome=passed
    shift
    [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
    printf '\n== %s\n' "$name"
    timeout "${MQ_STEP_SECONDS:-600}" "$@" >"logs/$name.log" 2>&1
    status=$?
    if ((status != 0)); then
        outcome="FAILED ($status)"
        failures=$((failures + 1))
        tail -n 40 "logs/$name.log"
    elif [[ $what == bench ]]; then
        cat "logs/$name.log"
    else
        grep -E '^test result|passed|cases' "logs/$name.log" | tail -n 5
    fi
    table+=("$(printf '%-16s %-14s %4d s' "$name" "$outcome" $((SECONDS - began)))")
}

left_out() {
    table+=("$(printf '%-16s LEFT OUT       %s' "$1" "$2")")
}

# What runs a command with cuBLAS in the loader's path, where the emulator has its own.
folder=
[[ ${MQ_ON_EMULATOR:-0} == 1 || ${MQ_WITHOUT_CUBLAS:-0} == 1 ]] || folder=$(./cublas_folder.sh "$python")
with_cublas=(env "LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+${folder:+:}$LD_LIBRARY_PATH}" MQ_REQUIRE_CUBLAS=1)

cat commit
if [[ ${MQ_ON_EMULATOR:-0} == 1 ]]; then
    echo "on the emulator"
else
    nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader || exit 1
fi
if [[ $what == test ]]; then
    step kernels bin/lib
    step golden bin/golden --nocapture
    for test in bin/cuda_* bin/requantize; do
        [[ $test == bin/cuda_cublas ]] || step "$(basename "$test")" "$test"
    done
    if [[ ${MQ_WITHOUT_CUBLAS:-0} == 1 ]]; then
        left_out cublas MQ_WITHOUT_CUBLAS=1
    else
        step cublas_kernels "${with_cublas[@]}" bin/lib cublas
        step cuda_cublas "${with_cublas[@]}" bin/cuda_cublas
    fi
    step c bin/harness cuda
    if [[ ${MQ_WITHOUT_TORCH:-0} == 1 ]]; then
        left_out torch MQ_WITHOUT_TORCH=1
    else
        step torch "$python" -W ignore -m pytest -q -p no:cacheprovider tests/torch_cuda
        step torch_arrays "$python" -X dev -m pytest -q -p no:cacheprovider tests/python/test_gpu_arrays.py
    fi
    if [[ ${MQ_WITHOUT_SANITIZER:-0} == 1 ]]; then
        left_out sanitizer MQ_WITHOUT_SANITIZER=1
    else
        sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
        for tool in memcheck racecheck; do
            step "$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 bin/lib --test-threads 1 kernels::
        done
    fi
else
    step taps bin/bench_cuda
    step products "${with_cublas[@]}" bin/bench_cuda_products
    if [[ ${MQ_WITHOUT_TORCH:-0} == 1 ]]; then
        left_out beside_torch MQ_WITHOUT_TORCH=1
    else
        step beside_torch "$python" benches/cuda_compare.py logs/cuda_compare.json
        step awq "$python" benches/cuda_awq.py logs/cuda_awq.json
        step awq_clip "$python" benches/cuda_awq.py logs/cuda_awq_clip.json --algorithm awq_clip --rounds 1
    fi
fi
printf '\n'
printf '%s\n' "${table[@]}"
((failures == 0)) || {
    echo "$failures failed; logs are in $PWD/logs"
    exit 1
}
