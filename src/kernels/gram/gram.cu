// The Gram matrix of rows, added to what is there: of all columns, or of blocks of columns.
//
// Reducing: an entry is summed as on the CPU, chunks of 256 rows one product after the other from zero, then the chunk
// is added to the entry. The order does not depend on the tiles: the same bits on every GPU.
#include "../cuda/mq.cuh"

// Rows that are summed up before the sum is added to the entry: K_CHUNK of gemm.rs.
constexpr u64 kGramChunk = 256;
// Rows that lie in shared memory.
constexpr u32 kGramStep = 16;
// Threads on a side of a block of threads; each has 4 neighbouring rows and columns of every 64.
constexpr u32 kGramThreads = 16;
static_assert(kGramThreads * kGramThreads == kThreads, "a block of threads is a square");

// The part of a tile's columns that a step of rows has; zeros where there are none.
template <u32 kSide>
__device__ __forceinline__ void gram_stage(const float* rows, u64 row, u64 end, u64 n, u64 column, u64 last,
                                           float (&to)[kGramStep][kSide]) {
#pragma unroll
  for (u32 at = 0; at < kGramStep * kSide; at += kThreads) {
    u32 r = (at + threadIdx.x) / kSide, c = (at + threadIdx.x) % kSide;
    to[r][c] = row + r < end && column + c < last ? rows[(row + r) * n + column + c] : 0.0f;
  }
}

// One tile of the upper triangle of one block. `rows` is [count, n]; a block has `block` columns and as many rows,
// the last one may be short of both. With `is_mirrored` entries below the diagonal become those above it; without,
// they are left alone.
template <u32 kSide>
__device__ void gram(const float* rows, u64 count, u64 n, u64 block, u32 is_mirrored, float* out) {
  constexpr u32 kParts = kSide / 64, kOwn = 4 * kParts;
  __shared__ alignas(16) float left[kGramStep][kSide];
  __shared__ alignas(16) float right[kGramStep][kSide];
  u64 per_side = (block + kSide - 1) / kSide;
  u64 number = blockIdx.x / (per_side * per_side), tile = blockIdx.x % (per_side * per_side);
  u64 first = number * block, last = first + block < n ? first + block : n;
  // Columns of the rows, of the tile's left and its upper edge.
  u64 top = first + tile / per_side * kSide, side = first + tile % per_side * kSide;
  if (side < top || side >= last) return;
  u32 y = threadIdx.x / kGramThreads * 4, x = threadIdx.x % kGramThreads * 4;
  out += number * block * block;
  for (u64 chunk = 0; chunk < count; chunk += kGramChunk) {
    float sums[kOwn][kOwn] = {};
    u64 end = chunk + kGramChunk < count ? chunk + kGramChunk : count;
    for (u64 row = chunk; row < end; row += kGramStep) {
      // Whoever still reads the step before.
      __syncthreads();
      gram_stage<kSide>(rows, row, end, n, top, last, left);
      gram_stage<kSide>(rows, row, end, n, side, last, right);
      __syncthreads();
#pragma unroll 4
      for (u32 r = 0; r < kGramStep; ++r) {
        Vector<float> a[kParts], b[kParts];
#pragma unroll
        for (u32 part = 0; part < kParts; ++part) {
          a[part] = load_vector(&left[r][part * 64 + y]);
          b[part] = load_vector(&right[r][part * 64 + x]);
        }
#pragma unroll
        for (u32 i = 0; i < kOwn; ++i) {
#pragma unroll
          for (u32 j = 0; j < kOwn; ++j) {
            sums[i][j] = fmaf(a[i / 4].values[i % 4], b[j / 4].values[j % 4], sums[i][j]);
          }
        }
      }
    }
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      u64 row = top + i / 4 * 64 + y + i % 4;
#pragma unroll
      for (u32 j = 0; j < kOwn; ++j) {
        u64 column = side + j / 4 * 64 + x + j % 4;
        if (row > column || column >= last) continue;
        float* entry = out + (row - first) * block + (column - first);
        float sum = __fadd_rn(*entry, sums[i][j]);
        *entry = sum;
        if (is_mirrored != 0) out[(column - first) * block + (row - first)] = sum;
      }
    }
  }
}

// mq: reducing gram_64, gram_128
MQ_KERNEL(gram_64)(const float* rows, u64 count, u64 n, u64 block, u32 is_mirrored, float* out) {
  gram<64>(rows, count, n, block, is_mirrored, out);
}
MQ_REGISTER(gram_64)

MQ_KERNEL(gram_128)(const float* rows, u64 count, u64 n, u64 block, u32 is_mirrored, float* out) {
  gram<128>(rows, count, n, block, is_mirrored, out);
}
MQ_REGISTER(gram_128)
