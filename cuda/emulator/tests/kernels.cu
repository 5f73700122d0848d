// Kernels that use each primitive once, and kernels with planted defects.
#include "cuda_on_cpu.h"

#define KERNEL extern "C" __global__ void

// ---- what must work

__constant__ float kTable[4] = {1.0f, 2.0f, 4.0f, 8.0f};

KERNEL scale(const float *__restrict__ x, float *__restrict__ y, unsigned long long count, float factor) {
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        y[i] = __fmul_rn(__ldg(x + i), factor);
    }
}
MQ_REGISTER(scale)

__device__ __forceinline__ unsigned sum_of_warp(unsigned value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, step);
    }
    return value;
}

KERNEL __launch_bounds__(256) sum_blocks(const unsigned *x, unsigned *y) {
    __shared__ unsigned scratch[32];
    unsigned sum = sum_of_warp(x[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % warpSize == 0) {
        scratch[threadIdx.x / warpSize] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / warpSize; ++warp) {
            sum += scratch[warp];
        }
        y[blockIdx.x] = sum;
    }
}
MQ_REGISTER(sum_blocks)

// Reverses each block through dynamic shared memory.
KERNEL reverse_blocks(int *x) {
    MQ_DYNAMIC_SHARED(int, kept);
    int *block = x + blockIdx.x * blockDim.x;
    kept[threadIdx.x] = block[threadIdx.x];
    __syncthreads();
    block[threadIdx.x] = kept[blockDim.x - 1 - threadIdx.x];
}
MQ_REGISTER(reverse_blocks)

// Rows of 32 lanes.
KERNEL warp_primitives(unsigned *out) {
    unsigned lane = threadIdx.x, value = lane * 10;
    unsigned *row = out + lane;
    row[32 * 0] = __shfl_sync(0xffffffffu, value, 5);
    row[32 * 1] = __shfl_sync(0xffffffffu, value, 1, 8);
    row[32 * 2] = __shfl_down_sync(0xffffffffu, value, 4);
    row[32 * 3] = __shfl_up_sync(0xffffffffu, value, 4, 16);
    row[32 * 4] = __shfl_xor_sync(0xffffffffu, value, 9);
    row[32 * 5] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    row[32 * 6] = (unsigned)__any_sync(0xffffffffu, lane == 7);
    row[32 * 7] = (unsigned)__all_sync(0xffffffffu, lane < 32);
    row[32 * 8] = __activemask();
    // Halves of a warp on their own, the lower one more often than the upper one.
    if (lane < 16) {
        row[32 * 9] = __shfl_xor_sync(0x0000ffffu, value, 1);
        row[32 * 9] += __shfl_xor_sync(0x0000ffffu, value, 2);
    } else {
        row[32 * 9] = __shfl_xor_sync(0xffff0000u, value, 4);
    }
    __syncwarp();
    double wide = lane + 0.5;
    row[32 * 10] = (unsigned)(2 * __shfl_sync(0xffffffffu, wide, 3));
}
MQ_REGISTER(warp_primitives)

KERNEL block_votes(int *out) {
    int odd = threadIdx.x % 2 == 1;
    int count = __syncthreads_count(odd), any = __syncthreads_or(threadIdx.x == 40);
    int none = __syncthreads_or(0), all = __syncthreads_and(1), few = __syncthreads_and(odd);
    if (threadIdx.x == 17) {
        out[0] = count;
        out[1] = any != 0;
        out[2] = none != 0;
        out[3] = all != 0;
        out[4] = few != 0;
    }
}
MQ_REGISTER(block_votes)

KERNEL atomics(int *ints, unsigned *words, unsigned long long *longs, float *floats) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&ints[0], 1);
    atomicMax(&ints[1], (int)i - 100);
    atomicMin(&ints[2], (int)i - 100);
    atomicAdd(&words[0], i);
    atomicMax(&words[1], i);
    atomicMin(&words[2], i);
    atomicOr(&words[3], 1u << (i & 31));
    atomicAnd(&words[4], ~(1u << (i & 15)));
    for (unsigned seen = words[5], before; (before = atomicCAS(&words[5], seen, seen + 2)) != seen;) {
        seen = before;
    }
    atomicAdd(&longs[0], (unsigned long long)i << 32);
    atomicMax(&longs[1], (unsigned long long)i << 32);
    atomicMin(&longs[2], (unsigned long long)i);
    atomicAdd(&floats[0], 1.0f);
    atomicExch(&words[6], 77u);
    __threadfence();
}
MQ_REGISTER(atomics)

KERNEL numbers(float *f, unsigned *u) {
    float nan = __uint_as_float(0x7fc00000u), zero = 0.0f;
    f[0] = rintf(2.5f);
    f[1] = fminf(nan, 3.0f);
    f[2] = fmaxf(-zero, zero);
    f[3] = fminf(zero, -zero);
    f[4] = __fdiv_rn(1.0f, 3.0f);
    f[5] = __fmaf_rn(3.0f, 4.0f, 5.0f);
    f[6] = ldexpf(1.5f, -3) + scalbnf(1.0f, 2);
    f[7] = copysignf(2.0f, -1.0f) + fabsf(-5.0f) + kTable[2];
    f[8] = max(1.0f, nan) + (float)min(3u, 2u) + (float)max(-4, -5);
    f[9] = exp2f(3.0f) + __fsqrt_rn(16.0f) + __frcp_rn(4.0f) + sqrtf(9.0f);
    u[0] = __umulhi(0x80000000u, 6u);
    u[1] = (unsigned)__umul64hi(1ull << 63, 10ull);
    u[2] = (unsigned)__clz(1) + (unsigned)__clz(0);
    u[3] = (unsigned)__popc(0xf0f0u);
    u[4] = (unsigned)__ffs(8);
    u[5] = __brev(1u);
    u[6] = __float_as_uint(1.0f);
    u[7] = (unsigned)(__double_as_longlong(1.0) >> 32);
    u[8] = (unsigned)isnan(nan) + 2u * (unsigned)isinf(1.0f / zero) + 4u * (unsigned)isfinite(1.0f);
    u[9] = (unsigned)__float_as_int(__int_as_float(123));
    uint4 four = make_uint4(1, 2, 3, 4);
    float2 two = make_float2(5.0f, 6.0f);
    uchar4 bytes = make_uchar4(7, 8, 9, 10);
    dim3 size(3);
    u[10] = four.x + four.w + (unsigned)two.y + bytes.z + size.x + size.z + (unsigned)sizeof(ushort4);
    u[11] = (unsigned)(__ddiv_rn(1.0, 4.0) * 100 + __dmul_rn(2.0, 3.0) + __dadd_rn(1.0, 1.0));
}
MQ_REGISTER(numbers)

struct Pair {
    unsigned long long a;
    unsigned char b;
};

KERNEL many_parameters(Pair pair, double d, unsigned char c, unsigned *out) {
    out[0] = (unsigned)pair.a + pair.b + (unsigned)d + c;
    out[1] = gridDim.x * 1000 + blockDim.y * 100 + gridDim.z * 10 + blockDim.z;
    if (blockIdx.z == gridDim.z - 1 && threadIdx.y == 2 && threadIdx.z == 1) {
        out[2] = 5;
    }
}
MQ_REGISTER(many_parameters)

// Threads that have returned are not waited for.
KERNEL early_return(unsigned *out, unsigned count) {
    if (threadIdx.x >= count) {
        return;
    }
    __shared__ unsigned kept[64];
    kept[threadIdx.x] = threadIdx.x + 1;
    __syncthreads();
    out[threadIdx.x] = kept[count - 1 - threadIdx.x];
}
MQ_REGISTER(early_return)

KERNEL add_one(int *x) { x[threadIdx.x] += 1; }
MQ_REGISTER(add_one)

KERNEL read_only(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x]; }
MQ_REGISTER(read_only)

// ---- planted defects

KERNEL missing_barrier(int *x) {
    __shared__ int kept[64];
    kept[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = kept[63 - threadIdx.x];
}
MQ_REGISTER(missing_barrier)

KERNEL missing_warp_barrier(int *x) {
    MQ_DYNAMIC_SHARED(int, kept);
    for (int round = 0; round < 3; ++round) {
        kept[threadIdx.x] = x[threadIdx.x];
        __syncwarp();
        x[threadIdx.x] = kept[(threadIdx.x + 1) % 32];
    }
}
MQ_REGISTER(missing_warp_barrier)

KERNEL float_sum(const float *x, float *sum) { atomicAdd(sum, x[threadIdx.x]); }
MQ_REGISTER(float_sum)

KERNEL allowed_float_sum(const float *x, float *sum) { atomicAdd(sum, x[threadIdx.x]); }
MQ_REGISTER_UNORDERED(allowed_float_sum)

KERNEL two_barriers(int *x) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    x[threadIdx.x] = 1;
}
MQ_REGISTER(two_barriers)

KERNEL barrier_and_shuffle(int *x) {
    if (threadIdx.x == 3) {
        __syncthreads();
    }
    x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    __syncthreads();
}
MQ_REGISTER(barrier_and_shuffle)

KERNEL foreign_mask(int *x) { x[threadIdx.x] = (int)__ballot_sync(0x1u, 1); }
MQ_REGISTER(foreign_mask)

KERNEL writes_at(unsigned char *x, long long offset) { x[offset] = 1; }
MQ_REGISTER(writes_at)

KERNEL writes_behind_shared(int *x) {
    MQ_DYNAMIC_SHARED(int, kept);
    kept[threadIdx.x + 1] = x[0];
}
MQ_REGISTER(writes_behind_shared)

KERNEL vector_at(const unsigned char *x, unsigned *y) {
    mq_check_aligned(x, 16);
    *y = reinterpret_cast<const uint4 *>(x)->x;
}
MQ_REGISTER(vector_at)

KERNEL uninitialized_shared(unsigned *y) {
    __shared__ unsigned never_written[32];
    MQ_DYNAMIC_SHARED(unsigned, nor_this);
    y[threadIdx.x] = never_written[threadIdx.x];
    y[threadIdx.x + 32] = nor_this[threadIdx.x];
    never_written[threadIdx.x] = 1;
}
MQ_REGISTER(uninitialized_shared)
