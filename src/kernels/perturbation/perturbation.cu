// How much a change of a layer's output matters to a loss, and the products of matrices in it.
//
// Reducing: a product is summed over the inputs one after the other; the squares of a tile by a tree in float64, and the
// tiles' sums by another. Both trees depend on the sizes alone: the same bytes every run.
#include "../cuda/mq.cuh"

// Rows and columns of a tile; every thread has 4 by 4 elements of it.
constexpr u32 kSide = 64;
// Inputs that lie in shared memory.
constexpr u32 kDepth = 16;
// Largest magnitude of a term, as the reference clamps it.
constexpr float kLargestTerm = 1e10f;

// Rows of a tile and some of their inputs, the input first: neighbouring rows lie side by side.
struct Operand {
  Vector<float> values[kDepth][kSide / 4];

  template <class T>
  __device__ void fill(const T* from, u64 rows, u64 inputs, u64 row, u64 input) {
    // Neighbouring threads read neighbouring inputs.
    for (u32 i = threadIdx.x; i < kSide * kDepth; i += kThreads) {
      u32 r = i / kDepth, k = i % kDepth;
      bool is_there = row + r < rows && input + k < inputs;
      values[k][r / 4].values[r % 4] = is_there ? load(from[(row + r) * inputs + input + k]) : 0.0f;
    }
  }
};

// What a product takes: x [tokens, inputs], w [outputs, inputs].
struct ProductSizes {
  u64 tokens, inputs, outputs;
};

// The thread's 4 by 4 elements of `x wᵀ` in the tile at (row, column).
template <class T>
__device__ __forceinline__ void product_of_tile(const T* x, const T* w, const ProductSizes& sizes, u64 row, u64 column,
                                                float sums[4][4]) {
  __shared__ Operand left, right;
  u32 y = threadIdx.x / (kSide / 4), z = threadIdx.x % (kSide / 4);
  for (u64 input = 0; input < sizes.inputs; input += kDepth) {
    // Whoever still reads what is there.
    __syncthreads();
    left.fill(x, sizes.tokens, sizes.inputs, row, input);
    right.fill(w, sizes.outputs, sizes.inputs, column, input);
    __syncthreads();
#pragma unroll 4
    for (u32 k = 0; k < kDepth; ++k) {
      Vector<float> a = left.values[k][y], b = right.values[k][z];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j) sums[i][j] = __fmaf_rn(a.values[i], b.values[j], sums[i][j]);
      }
    }
  }
}

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

// The sum of a block's values by a tree; the first thread gets it.
__device__ __forceinline__ double sum_of_block(double value, double* scratch) {
  scratch[threadIdx.x] = value;
  for (u32 half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] = __dadd_rn(scratch[threadIdx.x], scratch[threadIdx.x + half]);
  }
  return scratch[0];
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

// Adds up the tiles' sums; one thread block.
// mq: reducing sum_of_tiles
MQ_KERNEL(sum_of_tiles)(const double* of_tiles, u64 count, double* sum) {
  __shared__ double scratch[kThreads];
  double own = 0.0;
  for (u64 i = threadIdx.x; i < count; i += kThreads) own = __dadd_rn(own, of_tiles[i]);
  own = sum_of_block(own, scratch);
  if (threadIdx.x == 0) *sum = own;
}
MQ_REGISTER(sum_of_tiles)

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
