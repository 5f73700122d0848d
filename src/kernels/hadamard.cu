// The Hadamard rotation of groups of neighbours. Exact: additions in the order of kernels/hadamard.rs, one rounding.
#include "cuda/mq.cuh"

// x and out are the same memory or apart. A thread block holds kRotated elements: some whole groups.
template <class T, u32 kRotated>
__device__ void hadamard(const T* x, T* out, u64 count, u32 group, float factor) {
  __shared__ float values[kRotated];
  u64 tiles = (count + kRotated - 1) / kRotated;
  for (u64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    u64 first = tile * kRotated;
    u32 here = count - first < kRotated ? (u32)(count - first) : kRotated;
    __syncthreads();
    for (u32 i = threadIdx.x; i < here; i += kThreads) values[i] = load(x[first + i]);
    for (u32 half = 1; half < group; half *= 2) {
      __syncthreads();
      for (u32 pair = threadIdx.x; pair < here / 2; pair += kThreads) {
        // Pairs are `half` apart; `half` is a power of two.
        u32 low = (pair & ~(half - 1)) * 2 + (pair & (half - 1));
        float a = values[low], b = values[low + half];
        values[low] = __fadd_rn(a, b);
        values[low + half] = __fsub_rn(a, b);
      }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < here; i += kThreads) out[first + i] = store<T>(__fmul_rn(values[i], factor));
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                                             \
  MQ_KERNEL(hadamard_4096_##suffix)(const T* x, T* out, u64 count, u32 group, float factor) {                 \
    hadamard<T, 4096>(x, out, count, group, factor);                                                          \
  }                                                                                                           \
  MQ_REGISTER(hadamard_4096_##suffix)                                                                         \
  MQ_KERNEL(hadamard_8192_##suffix)(const T* x, T* out, u64 count, u32 group, float factor) {                 \
    hadamard<T, 8192>(x, out, count, group, factor);                                                          \
  }                                                                                                           \
  MQ_REGISTER(hadamard_8192_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
