// Multiplies the rows of a matrix, or the values of a norm's gain, in place. Exact.
#include "cuda/mq.cuh"

template <class T>
__device__ void scale_rows(T* x, u64 count, u64 columns, const float* scale) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    x[i] = store<T>(__fmul_rn(load(x[i]), scale[i / columns]));
  }
}

template <class T>
__device__ void scale_gain(T* gain, u64 count, const float* scale, u32 adds_one) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    float value = load(gain[i]);
    float with_one = __fsub_rn(__fmul_rn(__fadd_rn(1.0f, value), scale[i]), 1.0f);
    gain[i] = store<T>(adds_one != 0 ? with_one : __fmul_rn(value, scale[i]));
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                               \
  MQ_KERNEL(scale_rows_##suffix)(T* x, u64 count, u64 columns, const float* scale) {            \
    scale_rows<T>(x, count, columns, scale);                                                    \
  }                                                                                             \
  MQ_REGISTER(scale_rows_##suffix)                                                              \
  MQ_KERNEL(scale_gain_##suffix)(T* gain, u64 count, const float* scale, u32 adds_one) {        \
    scale_gain<T>(gain, count, scale, adds_one);                                                \
  }                                                                                             \
  MQ_REGISTER(scale_gain_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
