// How much a change of a layer's output matters to a loss, and the products of matrices in it.
//
// Reducing: a product is summed over the inputs one after the other; the squares of a tile by a tree in float64, and the
// tiles' sums by another. Both trees depend on the sizes alone: the same bytes every run.
#include "../cuda/mq.cuh"
#include "../cuda/product.cuh"
#include "../cuda/sums.cuh"

// Largest magnitude of a term, as the reference clamps it.
constexpr float kLargestTerm = 1e10f;

// y = x wᵀ, in float32.
template <class T>
__device__ void product(const T* x, const T* w, ProductSizes sizes, float* y) {
  u64 across = (sizes.outputs + kSide - 1) / kSide;
  u64 row = blockIdx.x / across * kSide, column = blockIdx.x % across * kSide;
  float sums[4][4] = {};
  product_of_tile(x, w, sizes, row, column, sums);
  row += threadIdx.x / (kSide / 4) * 4;
  column += threadIdx.x % (kSide / 4) * 4;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (row + i < sizes.tokens && column + j < sizes.outputs) y[(row + i) * sizes.outputs + column + j] = sums[i][j];
    }
  }
}

// For every tile of `x wᵀ`, the sum of (g ∘ (x wᵀ - y))² over it.
template <class T>
__device__ void squared(const T* x, const T* w, ProductSizes sizes, const float* y, const T* g, double* of_tiles) {
  __shared__ double scratch[kThreads];
  u64 across = (sizes.outputs + kSide - 1) / kSide;
  u64 row = blockIdx.x / across * kSide, column = blockIdx.x % across * kSide;
  float sums[4][4] = {};
  product_of_tile(x, w, sizes, row, column, sums);
  row += threadIdx.x / (kSide / 4) * 4;
  column += threadIdx.x % (kSide / 4) * 4;
  double sum = 0.0;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (row + i >= sizes.tokens || column + j >= sizes.outputs) continue;
      u64 at = (row + i) * sizes.outputs + column + j;
      float term = __fmul_rn(load(g[at]), __fsub_rn(sums[i][j], y[at]));
      // Comparisons let a NaN through.
      term = term < -kLargestTerm ? -kLargestTerm : term;
      term = term > kLargestTerm ? kLargestTerm : term;
      sum = __dadd_rn(sum, __dmul_rn((double)term, (double)term));
    }
  }
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = sum;
}

// mq: reducing product_* squared_change_*
#define MQ_INSTANTIATE(suffix, T)                                                                           \
  MQ_KERNEL(product_##suffix)(const T* x, const T* w, ProductSizes sizes, float* y) {                       \
    product<T>(x, w, sizes, y);                                                                             \
  }                                                                                                         \
  MQ_REGISTER(product_##suffix)                                                                             \
  MQ_KERNEL(squared_change_##suffix)                                                                        \
  (const T* x, const T* w, ProductSizes sizes, const float* y, const T* g, double* of_tiles) {              \
    squared<T>(x, w, sizes, y, g, of_tiles);                                                                \
  }                                                                                                         \
  MQ_REGISTER(squared_change_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
