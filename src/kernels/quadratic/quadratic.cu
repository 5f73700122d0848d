// The error of a weight under a Gram matrix: what scaling and rounding have changed, and `Σ δ G δᵀ` over its rows.
#include "../cuda/mq.cuh"
#include "../cuda/product.cuh"
#include "../cuda/sums.cuh"

// Entries below the diagonal become those above it.
MQ_KERNEL(mirror)(float* gram, u64 n) {
  for (u64 at = (u64)blockIdx.x * kThreads + threadIdx.x; at < n * n; at += (u64)gridDim.x * kThreads) {
    u64 row = at / n, column = at % n;
    if (row > column) gram[at] = gram[column * n + row];
  }
}
MQ_REGISTER(mirror)

// δ = q * inverse - w, column by column; without an inverse q - w, and without q the weight itself. Exact.
template <class T>
__device__ void scaled_difference(const T* q, const float* inverse, const T* w, u64 count, u64 channels, float* out) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    float plain = load(w[i]);
    if (q == nullptr) {
      out[i] = plain;
      continue;
    }
    float changed = load(q[i]);
    if (inverse != nullptr) changed = __fmul_rn(changed, inverse[i % channels]);
    out[i] = __fsub_rn(changed, plain);
  }
}

// For every tile of δ G, the sum of its products with δ; G is symmetric and whole.
// mq: reducing quadratic_tiles sum_of_tiles
MQ_KERNEL(quadratic_tiles)(const float* deltas, const float* gram, u64 rows, u64 n, double* of_tiles) {
  __shared__ double scratch[kThreads];
  u64 across = (n + kSide - 1) / kSide;
  u64 row = blockIdx.x / across * kSide, column = blockIdx.x % across * kSide;
  float sums[4][4] = {};
  product_of_tile(deltas, gram, ProductSizes{rows, n, n}, row, column, sums);
  row += threadIdx.x / (kSide / 4) * 4;
  column += threadIdx.x % (kSide / 4) * 4;
  double sum = 0.0;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (row + i >= rows || column + j >= n) continue;
      sum = __dadd_rn(sum, __dmul_rn((double)sums[i][j], (double)deltas[(row + i) * n + column + j]));
    }
  }
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = sum;
}
MQ_REGISTER(quadratic_tiles)

// Adds up the sums of tiles, to what is there; one thread block.
MQ_KERNEL(sum_of_tiles)(const double* of_tiles, u64 count, double* total) {
  __shared__ double scratch[kThreads];
  double own = 0.0;
  for (u64 i = threadIdx.x; i < count; i += kThreads) own = __dadd_rn(own, of_tiles[i]);
  own = sum_of_block(own, scratch);
  if (threadIdx.x == 0) *total = __dadd_rn(*total, own);
}
MQ_REGISTER(sum_of_tiles)

#define MQ_INSTANTIATE(suffix, T)                                                                                \
  MQ_KERNEL(scaled_difference_##suffix)                                                                          \
  (const T* q, const float* inverse, const T* w, u64 count, u64 channels, float* out) {                          \
    scaled_difference<T>(q, inverse, w, count, channels, out);                                                   \
  }                                                                                                              \
  MQ_REGISTER(scaled_difference_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
