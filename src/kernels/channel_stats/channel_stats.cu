// Of every channel, the largest magnitude and the sum of magnitudes.
//
// Maxima are exact: merged by an atomic maximum of magnitudes as bits, NaN above infinity. Sums are taken in the CPU's
// order, and have its bits: a chunk of rows in float32 row after row, the chunks in float64 one after the other.
#include "../cuda/mq.cuh"

// Rows that are summed in float32: CHUNK of mod.rs.
constexpr u64 kStatsChunk = 256;

// A thread has a channel of a chunk. Each result is wanted unless its address is null; `partial` gets the sum of
// [chunk, channel].
template <class T>
__device__ void channel_stats(const T* x, u64 rows, u64 channels, u32* amax, float* partial) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  u64 row = (u64)blockIdx.y * kStatsChunk;
  u64 end = row + kStatsChunk < rows ? row + kStatsChunk : rows;
  u32 highest = 0;
  float sum = 0.0f;
#pragma unroll 8
  for (; row < end; ++row) {
    u32 value = magnitude(x[row * channels + channel]);
    highest = larger(highest, value);
    sum = __fadd_rn(sum, float_of(value));
  }
  if (amax != nullptr) atomicMax(&amax[channel], highest);
  if (partial != nullptr) partial[(u64)blockIdx.y * channels + channel] = sum;
}

// Adds the sums of chunks, in their order.
MQ_KERNEL(channel_stats_add)(const float* partial, u64 chunks, u64 channels, double* sums) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  double sum = sums[channel];
#pragma unroll 8
  for (u64 chunk = 0; chunk < chunks; ++chunk) sum += (double)partial[chunk * channels + channel];
  sums[channel] = sum;
}
MQ_REGISTER(channel_stats_add)

// Adds the mean of a batch of `count` rows to the means, and empties its sums for the next one.
MQ_KERNEL(channel_stats_mean)(double* sums, double count, u64 channels, double* means) {
  u64 channel = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (channel >= channels) return;
  means[channel] += sums[channel] / count;
  sums[channel] = 0.0;
}
MQ_REGISTER(channel_stats_mean)

#define MQ_INSTANTIATE(suffix, T)                                                                             \
  MQ_KERNEL(channel_stats_##suffix)(const T* x, u64 rows, u64 channels, u32* amax, float* partial) {          \
    channel_stats<T>(x, rows, channels, amax, partial);                                                       \
  }                                                                                                           \
  MQ_REGISTER(channel_stats_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
