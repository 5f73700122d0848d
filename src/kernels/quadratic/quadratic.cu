// The error of a weight under a Gram matrix: what scaling and rounding have changed, and `Σ δ G δᵀ` over its rows.
//
// With T the upper triangle of G, doubled above the diagonal, it is the sum of the elements of (δ T) * δ: half the
// products of the whole matrix. δ lies column by column, so that the sums of δ T run along the rows of both matrices.
#include "../cuda/sums.cuh"
#include "../cuda/tile.cuh"

// Rows and columns of a tile of δ T.
constexpr u32 kQuadraticSide = 128;
// Rows of T whose products are summed in float32, K_CHUNK of gemm.rs.
constexpr u64 kQuadraticChunk = 256;

// T of a matrix of which the entries on and above the diagonal are read; `to` may be `from`. With factors, the matrix is
// that of activations before they were multiplied with them. Exact.
MQ_KERNEL(doubled_upper)(const float* from, u64 n, const float* factors, float* to) {
  for (u64 at = (u64)blockIdx.x * kThreads + threadIdx.x; at < n * n; at += (u64)gridDim.x * kThreads) {
    u64 row = at / n, column = at % n;
    float entry = from[at];
    if (factors != nullptr) entry = __fmul_rn(entry, __fmul_rn(factors[row], factors[column]));
    to[at] = row > column ? 0.0f : row == column ? entry : __fmul_rn(entry, 2.0f);
  }
}
MQ_REGISTER(doubled_upper)

// Rows and columns that a block of threads turns round at a time.
constexpr u32 kTurned = 64;

// δ = q * inverse - w, column by column, [channels, rows]; without an inverse q - w, and without q the weight itself.
// Exact.
template <class T>
__device__ void scaled_difference(const T* q, const float* inverse, const T* w, u64 rows, u64 channels, float* out) {
  __shared__ float turned[kTurned][kTurned + 1];
  u64 across = (channels + kTurned - 1) / kTurned;
  u64 top = blockIdx.x / across * kTurned, side = blockIdx.x % across * kTurned;
  u32 near = threadIdx.x % kTurned, far = threadIdx.x / kTurned;
  for (u32 r = far; r < kTurned; r += kThreads / kTurned) {
    u64 row = top + r, column = side + near;
    if (row >= rows || column >= channels) continue;
    float plain = load(w[row * channels + column]), change = plain;
    if (q != nullptr) {
      change = load(q[row * channels + column]);
      if (inverse != nullptr) change = __fmul_rn(change, inverse[column]);
      change = __fsub_rn(change, plain);
    }
    turned[r][near] = change;
  }
  __syncthreads();
  for (u32 c = far; c < kTurned; c += kThreads / kTurned) {
    u64 row = top + near, column = side + c;
    if (row < rows && column < channels) out[column * rows + row] = turned[near][c];
  }
}

// For every tile of δ T, the sum of its products with δ; those with the longest sums first. `deltas` is [n, rows].
//
// An element of δ T is summed in chunks, each of which is multiplied with δ: in float32 over four neighbours, the rest
// in float64.
// mq: reducing quadratic_tiles sum_of_tiles
MQ_KERNEL(quadratic_tiles)(const float* deltas, const float* upper, u64 rows, u64 n, double* of_tiles) {
  constexpr u32 kOwn = kQuadraticSide / 16;
  __shared__ TileMemory<kQuadraticSide> memory;
  u64 down = (rows + kQuadraticSide - 1) / kQuadraticSide, across = (n + kQuadraticSide - 1) / kQuadraticSide;
  u64 top = blockIdx.x % down * kQuadraticSide, side = (across - 1 - blockIdx.x / down) * kQuadraticSide;
  u64 row = top + threadIdx.x / kTileThreads * 4, column = side + threadIdx.x % kTileThreads * 4;
  u64 last = side + kQuadraticSide < n ? side + kQuadraticSide : n;
  u32 buffer = 0;
  double total = 0.0;
  for (u64 chunk = 0; chunk < last; chunk += kQuadraticChunk) {
    float sums[kOwn][kOwn] = {};
    u64 end = chunk + kQuadraticChunk < last ? chunk + kQuadraticChunk : last;
    add_products<kQuadraticSide>(TileOperand{deltas, rows, top, rows}, TileOperand{upper, n, side, n}, chunk, end,
                                 memory, buffer, sums);
#pragma unroll
    for (u32 j = 0; j < kOwn; ++j) {
      u64 c = column + j / 4 * 64 + j % 4;
#pragma unroll
      for (u32 i = 0; i < kOwn; i += 4) {
        float four = 0.0f;
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
          u64 r = row + i / 4 * 64 + k;
          if (r < rows && c < n) four = __fmaf_rn(sums[i + k][j], deltas[c * rows + r], four);
        }
        total = __dadd_rn(total, (double)four);
      }
    }
  }
  total = sum_of_block(total, reinterpret_cast<double*>(&memory));
  if (threadIdx.x == 0) of_tiles[blockIdx.x] = total;
}
MQ_REGISTER(quadratic_tiles)

// Elements whose products a block of threads adds up.
constexpr u64 kDotPart = 16384;

// For every part of two arrays, the sum of their products in float64, where the products are exact: of a panel of δ T
// that cuBLAS has made, and of δ.
// mq: reducing dot_of_parts
MQ_KERNEL(dot_of_parts)(const float* a, const float* b, u64 count, double* of_parts) {
  __shared__ double scratch[kThreads];
  u64 first = blockIdx.x * kDotPart, last = first + kDotPart < count ? first + kDotPart : count;
  double own = 0.0;
  for (u64 i = first + threadIdx.x; i < last; i += kThreads) own = __dadd_rn(own, __dmul_rn((double)a[i], (double)b[i]));
  own = sum_of_block(own, scratch);
  if (threadIdx.x == 0) of_parts[blockIdx.x] = own;
}
MQ_REGISTER(dot_of_parts)

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
  (const T* q, const float* inverse, const T* w, u64 rows, u64 channels, float* out) {                           \
    scaled_difference<T>(q, inverse, w, rows, channels, out);                                                    \
  }                                                                                                              \
  MQ_REGISTER(scaled_difference_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
