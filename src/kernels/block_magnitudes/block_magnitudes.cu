// The mean over the rows of how large the elements of a column are within their blocks: |w| over the amax of the block,
// each rounded to the type of the elements. Sums in float64: rows of a chunk in order, then the chunks in order, as
// kernels/block_magnitudes/mod.rs takes them, so the same bits.
#include "../cuda/mq.cuh"

// Rows of a chunk, `CHUNK` in Rust.
constexpr u64 kMagnitudesChunk = 256;

// Sums of a chunk: a thread for a column. `amax` is [rows, blocks]; `tiny` keeps blocks of zeros from a division by zero.
template <class T>
__device__ void block_magnitudes(const T* w, u64 rows, u64 channels, u64 block, const float* amax, float tiny,
                                 double* sums) {
  u64 column = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (column >= channels) return;
  u64 blocks = (channels + block - 1) / block, own = column / block;
  u64 row = (u64)blockIdx.y * kMagnitudesChunk;
  u64 end = row + kMagnitudesChunk < rows ? row + kMagnitudesChunk : rows;
  double sum = 0.0;
#pragma unroll 4
  for (; row < end; ++row) {
    float largest = load(store<T>(__fadd_rn(amax[row * blocks + own], tiny)));
    float part = load(store<T>(__fdiv_rn(fabsf(load(w[row * channels + column])), largest)));
    sum = __dadd_rn(sum, (double)part);
  }
  sums[(u64)blockIdx.y * channels + column] = sum;
}

// Means of the sums of chunks.
template <class T>
__device__ void block_magnitudes_mean(const double* sums, u64 chunks, u64 channels, u64 rows, float* means) {
  u64 column = (u64)blockIdx.x * kThreads + threadIdx.x;
  if (column >= channels) return;
  double total = 0.0;
  for (u64 chunk = 0; chunk < chunks; ++chunk) total = __dadd_rn(total, sums[chunk * channels + column]);
  means[column] = load(store<T>((float)__ddiv_rn(total, (double)rows)));
}

#define MQ_INSTANTIATE(suffix, T)                                                                                \
  MQ_KERNEL(block_magnitudes_##suffix)                                                                           \
  (const T* w, u64 rows, u64 channels, u64 block, const float* amax, float tiny, double* sums) {                 \
    block_magnitudes<T>(w, rows, channels, block, amax, tiny, sums);                                             \
  }                                                                                                              \
  MQ_REGISTER(block_magnitudes_##suffix)                                                                         \
  MQ_KERNEL(block_magnitudes_mean_##suffix)                                                                      \
  (const double* sums, u64 chunks, u64 channels, u64 rows, float* means) {                                       \
    block_magnitudes_mean<T>(sums, chunks, channels, rows, means);                                               \
  }                                                                                                              \
  MQ_REGISTER(block_magnitudes_mean_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
