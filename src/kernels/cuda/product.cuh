// Tiles of products of matrices in float32: summed over the inputs one after the other, so the same bits every run.
#pragma once

#include "mq.cuh"

// Rows and columns of a tile; every thread has 4 by 4 elements of it.
constexpr u32 kSide = 64;
// Inputs that lie in shared memory.
constexpr u32 kDepth = 16;

// Rows of a tile and some of their inputs, the input first: neighbouring rows lie side by side.
struct Operand {
  Vector<float> values[kDepth][kSide / 4];

  // `from` is the address of elements, or Elements: its rows of `inputs` elements begin `stride` apart.
  template <class From>
  __device__ void fill(const From& from, u64 rows, u64 inputs, u64 stride, u64 row, u64 input) {
    // Neighbouring threads read neighbouring inputs.
    for (u32 i = threadIdx.x; i < kSide * kDepth; i += kThreads) {
      u32 r = i / kDepth, k = i % kDepth;
      bool is_there = row + r < rows && input + k < inputs;
      values[k][r / 4].values[r % 4] = is_there ? load(from[(row + r) * stride + input + k]) : 0.0f;
    }
  }
};

// What a product takes: x [tokens, inputs], w [outputs, inputs].
struct ProductSizes {
  u64 tokens, inputs, outputs;
};

// The thread's 4 by 4 elements of `x wᵀ` in the tile at (row, column); rows of x begin `stride` apart.
template <class X, class W>
__device__ __forceinline__ void product_of_tile(const X& x, u64 stride, const W& w, const ProductSizes& sizes, u64 row,
                                                u64 column, float sums[4][4]) {
  __shared__ Operand left, right;
  u32 y = threadIdx.x / (kSide / 4), z = threadIdx.x % (kSide / 4);
  for (u64 input = 0; input < sizes.inputs; input += kDepth) {
    // Whoever still reads what is there.
    __syncthreads();
    left.fill(x, sizes.tokens, sizes.inputs, stride, row, input);
    right.fill(w, sizes.outputs, sizes.inputs, sizes.inputs, column, input);
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
