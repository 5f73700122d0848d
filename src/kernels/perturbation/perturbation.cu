// How much a change of a layer's output matters to a loss, and the products of matrices in it.
//
// Reducing: a product is summed over the inputs one after the other; the squares of a tile by a tree in float64, and the
// tiles' sums by another. Both trees depend on the sizes alone: the same bytes every run. cuda.rs has the bound.
#include "../cuda/grid.cuh"
#include "../cuda/mq.cuh"
#include "../cuda/product.cuh"
#include "../cuda/sums.cuh"

// Largest magnitude of a term, as the reference clamps it.
constexpr float kLargestTerm = 1e10f;

// The square of g * (changed - y).
__device__ __forceinline__ double squared_term(float changed, float y, float g) {
  float term = __fmul_rn(g, __fsub_rn(changed, y));
  // Comparisons let a NaN through.
  term = term < -kLargestTerm ? -kLargestTerm : term;
  term = term > kLargestTerm ? kLargestTerm : term;
  return __dmul_rn((double)term, (double)term);
}

// The first row and column of a tile of an output, and then of the thread's 4 by 4 elements of it.
struct Corner {
  u64 row, column;

  __device__ Corner(const ProductSizes& sizes, u64 tile) {
    u64 across = (sizes.outputs + kSide - 1) / kSide;
    row = tile / across * kSide;
    column = tile % across * kSide;
  }

  __device__ __forceinline__ void move_to_thread() {
    row += threadIdx.x / (kSide / 4) * 4;
    column += threadIdx.x % (kSide / 4) * 4;
  }
};

// Writes the thread's elements of y.
__device__ __forceinline__ void store_product(const float sums[4][4], const Corner& at, const ProductSizes& sizes,
                                              float* y) {
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      u64 row = at.row + i, column = at.column + j;
      if (row < sizes.tokens && column < sizes.outputs) y[row * sizes.outputs + column] = sums[i][j];
    }
  }
}

// y = x wᵀ, in float32.
template <class T>
__device__ void product(const T* x, const T* w, ProductSizes sizes, float* y) {
  Corner at(sizes, blockIdx.x);
  float sums[4][4] = {};
  product_of_tile(x, sizes.inputs, w, sizes, at.row, at.column, sums);
  at.move_to_thread();
  store_product(sums, at, sizes, y);
}

// For every tile of `x wᵀ`, the sum of (g ∘ (x wᵀ - y))² over it.
template <class T>
__device__ void squared(const T* x, const T* w, ProductSizes sizes, const float* y, const T* g, double* of_tiles) {
  __shared__ double scratch[kThreads];
  Corner at(sizes, blockIdx.x);
  float sums[4][4] = {};
  product_of_tile(x, sizes.inputs, w, sizes, at.row, at.column, sums);
  at.move_to_thread();
  double sum = 0.0;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (at.row + i >= sizes.tokens || at.column + j >= sizes.outputs) continue;
      u64 place = (at.row + i) * sizes.outputs + at.column + j;
      sum = __dadd_rn(sum, squared_term(sums[i][j], y[place], load(g[place])));
    }
  }
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = sum;
}

// Where several products of one size have their operands: those of a linear layer's whole input, or of some rows of the
// patches of a convolution, of which every group of channels is a product.
struct ProductPlaces {
  // Elements from one row of x to the next.
  u64 stride;
  // Elements from one product's part to the next one's, of x, w and y.
  u64 x, w, y;
  // The row of the whole output that row 0 is.
  u64 first;
  // The gradient at column c of row t lies at t / places * image + t % places * place + c * channel; columns of one
  // product follow those of the other.
  u64 places, image, place, channel;
};

// The same for operands of any types, wherever they lie: tile after tile of one product after the other.
// mq: reducing product_placed, squared_change_placed
MQ_KERNEL(product_placed)(Elements x, Elements w, ProductSizes sizes, ProductPlaces places, u64 tiles, float* y) {
  u64 number = blockIdx.x / tiles;
  Corner at(sizes, blockIdx.x % tiles);
  float sums[4][4] = {};
  product_of_tile(x.from(number * places.x), places.stride, w.from(number * places.w), sizes, at.row, at.column, sums);
  at.move_to_thread();
  store_product(sums, at, sizes, y + number * places.y + places.first * sizes.outputs);
}
MQ_REGISTER(product_placed)

MQ_KERNEL(squared_change_placed)
(Elements x, Elements w, ProductSizes sizes, ProductPlaces places, u64 tiles, const float* y, Elements g,
 double* of_tiles) {
  __shared__ double scratch[kThreads];
  u64 number = blockIdx.x / tiles;
  Corner at(sizes, blockIdx.x % tiles);
  float sums[4][4] = {};
  product_of_tile(x.from(number * places.x), places.stride, w.from(number * places.w), sizes, at.row, at.column, sums);
  at.move_to_thread();
  y += number * places.y;
  double sum = 0.0;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    u64 row = places.first + at.row + i;
    u64 gradient = row / places.places * places.image + row % places.places * places.place;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      u64 column = at.column + j;
      if (at.row + i >= sizes.tokens || column >= sizes.outputs) continue;
      float weight = g[gradient + (number * sizes.outputs + column) * places.channel];
      sum = __dadd_rn(sum, squared_term(sums[i][j], y[row * sizes.outputs + column], weight));
    }
  }
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = sum;
}
MQ_REGISTER(squared_change_placed)

// For every tile of kTile elements, the sum of (g ∘ (changed - y))² over it.
// mq: reducing squared_difference
MQ_KERNEL(squared_difference)(Elements changed, Elements y, Elements g, u64 count, double* of_tiles) {
  __shared__ double scratch[kThreads];
  u64 first = (u64)blockIdx.x * kTile, end = first + kTile < count ? first + kTile : count;
  double sum = 0.0;
  for (u64 i = first + threadIdx.x; i < end; i += kThreads) sum = __dadd_rn(sum, squared_term(changed[i], y[i], g[i]));
  sum = sum_of_block(sum, scratch);
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = sum;
}
MQ_REGISTER(squared_difference)

// mq: reducing product_f32 product_f16 product_bf16 squared_change_f32 squared_change_f16 squared_change_bf16
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
