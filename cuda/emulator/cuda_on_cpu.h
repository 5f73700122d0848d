// CUDA C++ as far as mq's kernels use it, for an ordinary C++ compiler: the header that a kernel
// sees in place of nvcc's own. A CUDA thread is a fiber (block.h); everything that waits for other
// threads goes through its scheduler.
#pragma once

#include "thread_state.h"

#define MQ_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
// An OS thread runs one block at a time, so what a block shares is what its OS thread owns.
#define __shared__ static thread_local

// `extern __shared__` has no meaning for a C++ compiler: the size is known at the launch only.
#define MQ_DYNAMIC_SHARED(type, name)                                                              \
    type *name = reinterpret_cast<type *>(cuda_on_cpu::thread_state.dynamic_shared)

#define threadIdx (cuda_on_cpu::thread_state.thread_index)
#define blockIdx (cuda_on_cpu::thread_state.block_index)
#define blockDim (cuda_on_cpu::thread_state.block_size)
#define gridDim (cuda_on_cpu::thread_state.grid_size)
static constexpr int warpSize = 32;

#include "device_atomics.h"
#include "device_barriers.h"
#include "device_math.h"
#include "device_vectors.h"
#include "kernel_registry.h"

// Fails the launch when an access of `bytes` bytes (a power of two) at `address` would be
// misaligned: a GPU faults on those, most CPUs do not.
inline void mq_check_aligned(const void *address, size_t bytes) {
    if ((reinterpret_cast<uintptr_t>(address) & (bytes - 1)) != 0) {
        cuda_on_cpu::fault_misaligned(address, bytes);
    }
}
