// The error of every row of a weight under a Gram matrix, weighed: what a score from statistics is made of.
#include "../cuda/mq.cuh"
#include "../cuda/sums.cuh"
#include "../cuda/tile.cuh"

// For every tile of δ T, the sums of its products with δ by row: `of_tiles` is [tiles across, rows]. `deltas` is
// [n, rows], `upper` is T as in quadratic.cu. Those with the longest sums come first.
//
// An element of δ T is summed in chunks, each of which is multiplied with δ: in float32 over four neighbouring columns,
// the rest in float64.
// mq: reducing quadratic_rows weighed_rows
MQ_KERNEL(quadratic_rows)(const float* deltas, const float* upper, u64 rows, u64 n, double* of_tiles) {
  constexpr u32 kOwn = kQuadraticSide / 16;
  __shared__ TileMemory<kQuadraticSide> memory;
  u64 down = (rows + kQuadraticSide - 1) / kQuadraticSide, across = (n + kQuadraticSide - 1) / kQuadraticSide;
  u64 tile = across - 1 - blockIdx.x / down;
  u64 top = blockIdx.x % down * kQuadraticSide, side = tile * kQuadraticSide;
  u32 y = threadIdx.x / kTileThreads, x = threadIdx.x % kTileThreads;
  u64 last = side + kQuadraticSide < n ? side + kQuadraticSide : n;
  u32 buffer = 0;
  double totals[kOwn] = {};
  for (u64 chunk = 0; chunk < last; chunk += kQuadraticChunk) {
    float sums[kOwn][kOwn] = {};
    u64 end = chunk + kQuadraticChunk < last ? chunk + kQuadraticChunk : last;
    add_products<kQuadraticSide>(TileOperand{deltas, rows, top, rows}, TileOperand{upper, n, side, n}, chunk, end,
                                 memory, buffer, sums);
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      u64 row = top + i / 4 * 64 + y * 4 + i % 4;
#pragma unroll
      for (u32 j = 0; j < kOwn; j += 4) {
        float four = 0.0f;
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
          u64 column = side + j / 4 * 64 + x * 4 + k;
          if (row < rows && column < n) four = __fmaf_rn(sums[i][j + k], deltas[column * rows + row], four);
        }
        totals[i] = __dadd_rn(totals[i], (double)four);
      }
    }
  }
  // The threads that have the same rows, in their order.
  double(*scratch)[kQuadraticSide] = reinterpret_cast<double(*)[kQuadraticSide]>(&memory);
  static_assert(sizeof(memory) >= kTileThreads * kQuadraticSide * sizeof(double), "room for the sums of all threads");
  __syncthreads();
#pragma unroll
  for (u32 i = 0; i < kOwn; ++i) scratch[x][i / 4 * 64 + y * 4 + i % 4] = totals[i];
  __syncthreads();
  u64 row = top + threadIdx.x;
  if (threadIdx.x < kQuadraticSide && row < rows) {
    double total = 0.0;
    for (u32 i = 0; i < kTileThreads; ++i) total = __dadd_rn(total, scratch[i][threadIdx.x]);
    of_tiles[tile * rows + row] = total;
  }
}
MQ_REGISTER(quadratic_rows)

// (max(Σ of_tiles, 0) + Σ errors * w²) * weight of every row: [rows] of float64, a block for each row. Without `errors`
// the second sum is 0, without `weights` all are 1.
MQ_KERNEL(weighed_rows)
(const double* of_tiles, u64 tiles, Elements w, const double* errors, const double* weights, u64 rows, u64 n,
 double* of_rows) {
  __shared__ double scratch[kThreads];
  u64 row = blockIdx.x;
  double own = 0.0;
  if (errors != nullptr) {
    for (u64 i = threadIdx.x; i < n; i += kThreads) {
      double value = (double)w[row * n + i];
      own = __dadd_rn(own, __dmul_rn(errors[i], __dmul_rn(value, value)));
    }
  }
  own = sum_of_block(own, scratch);
  if (threadIdx.x != 0) return;
  double form = 0.0;
  for (u64 tile = 0; tile < tiles; ++tile) form = __dadd_rn(form, of_tiles[tile * rows + row]);
  // Rounding can make it negative. NaN stays.
  form = form < 0.0 ? 0.0 : form;
  double sum = __dadd_rn(form, own);
  of_rows[row] = weights != nullptr ? __dmul_rn(sum, weights[row]) : sum;
}
MQ_REGISTER(weighed_rows)
