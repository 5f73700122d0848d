// Sums of squares of the channels of an activation, or of its difference from another, in float64.
//
// In a fixed order: chunks of rows one row after the other, then the chunks.
#include "../cuda/mq.cuh"

// Rows that a thread sums up: CHUNK of cuda.rs.
constexpr u64 kSquaresChunk = 256;

// A thread has a channel of a chunk; `partial` gets the sum of [chunk, channel]. Without `b` the squares are those of
// `a`; without `factors`, b is taken as it is.
template <class T>
__device__ void channel_squares(const T* a, const T* b, const float* factors, u64 rows, u64 channels, double* partial) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  u64 row = (u64)blockIdx.y * kSquaresChunk;
  u64 end = row + kSquaresChunk < rows ? row + kSquaresChunk : rows;
  float factor = factors != nullptr ? factors[channel] : 1.0f;
  double sum = 0.0;
#pragma unroll 8
  for (; row < end; ++row) {
    float value = load(a[row * channels + channel]);
    if (b != nullptr) value = __fsub_rn(value, __fmul_rn(load(b[row * channels + channel]), factor));
    sum += (double)value * (double)value;
  }
  partial[(u64)blockIdx.y * channels + channel] = sum;
}

// Adds the sums of chunks, in their order.
MQ_KERNEL(channel_squares_add)(const double* partial, u64 chunks, u64 channels, double* sums) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  double sum = sums[channel];
#pragma unroll 8
  for (u64 chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * channels + channel];
  sums[channel] = sum;
}
MQ_REGISTER(channel_squares_add)

// sums += weight * squares, of the channels.
MQ_KERNEL(channel_squares_weigh)(const double* squares, double weight, u64 channels, double* sums) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel < channels) sums[channel] = __dadd_rn(sums[channel], __dmul_rn(weight, squares[channel]));
}
MQ_REGISTER(channel_squares_weigh)

#define MQ_INSTANTIATE(suffix, T)                                                                           \
  MQ_KERNEL(channel_squares_##suffix)                                                                       \
  (const T* a, const T* b, const float* factors, u64 rows, u64 channels, double* partial) {                 \
    channel_squares<T>(a, b, factors, rows, channels, partial);                                             \
  }                                                                                                         \
  MQ_REGISTER(channel_squares_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
