// Rows of a tensor as float32, times a factor. Exact.
#include "cuda/mq.cuh"

// out[i, j] = x[first + i * step, j] * factor, for `count` rows of `channels`.
template <class T>
__device__ void load_rows(const T* x, u64 first, u64 step, u64 count, u64 channels, float factor, float* out) {
  constexpr u32 kCount = Vector<T>::kCount;
  u64 mine = (u64)blockIdx.x * kThreads + threadIdx.x, all = (u64)gridDim.x * kThreads;
  if (is_aligned(x, out) && channels % kCount == 0) {
    u64 in_row = channels / kCount;
    for (u64 v = mine; v < count * in_row; v += all) {
      Vector<T> values = load_vector(x + (first + v / in_row * step) * channels + v % in_row * kCount);
#pragma unroll
      for (u32 k = 0; k < kCount; k += 4) {
        Vector<float> four;
#pragma unroll
        for (u32 j = 0; j < 4; ++j) four.values[j] = __fmul_rn(load(values.values[k + j]), factor);
        store_vector(out + v * kCount + k, four);
      }
    }
    return;
  }
  for (u64 i = mine; i < count * channels; i += all) {
    out[i] = __fmul_rn(load(x[(first + i / channels * step) * channels + i % channels]), factor);
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                                           \
  MQ_KERNEL(load_rows_##suffix)                                                                             \
  (const T* x, u64 first, u64 step, u64 count, u64 channels, float factor, float* out) {                    \
    load_rows<T>(x, first, step, count, channels, factor, out);                                             \
  }                                                                                                         \
  MQ_REGISTER(load_rows_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
