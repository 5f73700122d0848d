// Multiplies the last axis by one factor per channel, and rounds to the storage type. Exact.
#include "cuda/mq.cuh"

// x and out are the same memory or apart.
template <class T>
__device__ void channel_scale(const T* x, T* out, u64 rows, u64 channels, const float* factors) {
  constexpr u32 kCount = Vector<T>::kCount;
  u64 in_row = is_aligned(x, out) && channels % kCount == 0 ? channels / kCount : 0;
  u64 mine = (u64)blockIdx.x * kThreads + threadIdx.x, step = (u64)gridDim.x * kThreads;
  for (u64 v = mine; v < rows * in_row; v += step) {
    Vector<T> values = load_vector(x + v * kCount);
    u64 channel = v % in_row * kCount;
#pragma unroll
    for (u32 k = 0; k < kCount; ++k) {
      values.values[k] = store<T>(__fmul_rn(load(values.values[k]), factors[channel + k]));
    }
    store_vector(out + v * kCount, values);
  }
  if (in_row > 0) return;
  for (u64 i = mine; i < rows * channels; i += step) {
    out[i] = store<T>(__fmul_rn(load(x[i]), factors[i % channels]));
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                                               \
  MQ_KERNEL(channel_scale_##suffix)(const T* x, T* out, u64 rows, u64 channels, const float* factors) {         \
    channel_scale<T>(x, out, rows, channels, factors);                                                          \
  }                                                                                                             \
  MQ_REGISTER(channel_scale_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
