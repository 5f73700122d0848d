// A tile of a product of matrices in float32 whose sums run along the rows of both: aᵀ b for a [k, m] and b [k, n].
#pragma once

#include "mq.cuh"

// Rows that lie in shared memory.
constexpr u32 kTileStep = 16;
// Threads on a side of a block of threads; each has 4 neighbouring rows and columns of every 64.
constexpr u32 kTileThreads = 16;
static_assert(kTileThreads * kTileThreads == kThreads, "a block of threads is a square");

// Some rows of the columns of a tile, in shared memory.
template <u32 kWidth>
using TileRows = Vector<float>[kTileStep][kWidth / 4];

// What a thread brings of them: one column of every so many rows. Fetched while the rows before are worked on.
template <u32 kWidth>
struct TilePart {
  static constexpr u32 kApart = kThreads / kWidth, kCount = kTileStep / kApart;
  float values[kCount];

  // Of a matrix with `width` columns: from `column` on, up to `last`; rows from `row` on, up to `end`. Zeros where
  // there are none.
  __device__ __forceinline__ void fetch(const float* matrix, u64 width, u64 row, u64 end, u64 column, u64 last) {
    column += threadIdx.x % kWidth;
    row += threadIdx.x / kWidth;
    const float* from = matrix + row * width + column;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i, row += kApart, from += kApart * width) {
      values[i] = column < last && row < end ? *from : 0.0f;
    }
  }

  __device__ __forceinline__ void put(TileRows<kWidth>& to) const {
    u32 column = threadIdx.x % kWidth, row = threadIdx.x / kWidth;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i) to[row + i * kApart][column / 4].values[column % 4] = values[i];
  }
};

// Columns of a matrix that a tile takes: from `first` on, up to `last`.
struct TileOperand {
  const float* matrix;
  u64 width, first, last;
};

// Two tiles of shared memory for each operand: one is filled while the other may still be read.
template <u32 kWidth>
struct TileMemory {
  TileRows<kWidth> left[2], right[2];
};

// Adds the products of the rows from `begin` to `end` to the thread's elements: `sums[i][j]` is row i / 4 * 64 + y * 4 +
// i % 4 of the tile, and column j / 4 * 64 + x * 4 + j % 4. Rows go in their order. `buffer` says which tile of the
// memory is next.
template <u32 kWidth>
__device__ __forceinline__ void add_products(const TileOperand& a, const TileOperand& b, u64 begin, u64 end,
                                             TileMemory<kWidth>& memory, u32& buffer,
                                             float (&sums)[kWidth / 16][kWidth / 16]) {
  constexpr u32 kParts = kWidth / 64, kOwn = kWidth / 16;
  u32 y = threadIdx.x / kTileThreads, x = threadIdx.x % kTileThreads;
  TilePart<kWidth> of_a, of_b;
  of_a.fetch(a.matrix, a.width, begin, end, a.first, a.last);
  of_b.fetch(b.matrix, b.width, begin, end, b.first, b.last);
  for (u64 row = begin; row < end; row += kTileStep, buffer ^= 1) {
    of_a.put(memory.left[buffer]);
    of_b.put(memory.right[buffer]);
    // Also: everybody is done with the other buffer, which is filled next.
    __syncthreads();
    of_a.fetch(a.matrix, a.width, row + kTileStep, end, a.first, a.last);
    of_b.fetch(b.matrix, b.width, row + kTileStep, end, b.first, b.last);
#pragma unroll 4
    for (u32 r = 0; r < kTileStep; ++r) {
      Vector<float> left[kParts], right[kParts];
#pragma unroll
      for (u32 part = 0; part < kParts; ++part) {
        left[part] = memory.left[buffer][r][part * kTileThreads + y];
        right[part] = memory.right[buffer][r][part * kTileThreads + x];
      }
#pragma unroll
      for (u32 i = 0; i < kOwn; ++i) {
#pragma unroll
        for (u32 j = 0; j < kOwn; ++j) {
          sums[i][j] = __fmaf_rn(left[i / 4].values[i % 4], right[j / 4].values[j % 4], sums[i][j]);
        }
      }
    }
  }
}
