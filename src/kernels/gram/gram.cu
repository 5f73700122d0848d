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

// Some rows of the columns of a tile, in shared memory.
template <u32 kSide>
using GramRows = Vector<float>[kGramStep][kSide / 4];

// What a thread brings of them: one column of every so many rows. Fetched while the rows before are worked on.
template <u32 kSide>
struct GramPart {
  static constexpr u32 kApart = kThreads / kSide, kCount = kGramStep / kApart;
  float values[kCount];

  // From `column` on, up to `last`; rows from `row` on, up to `end`. Zeros where there are none.
  __device__ __forceinline__ void fetch(const float* rows, u64 row, u64 end, u64 n, u64 column, u64 last) {
    column += threadIdx.x % kSide;
    row += threadIdx.x / kSide;
    const float* from = rows + row * n + column;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i, row += kApart, from += kApart * n) {
      values[i] = column < last && row < end ? *from : 0.0f;
    }
  }

  __device__ __forceinline__ void put(GramRows<kSide>& to) const {
    u32 column = threadIdx.x % kSide, row = threadIdx.x / kSide;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i) to[row + i * kApart][column / 4].values[column % 4] = values[i];
  }
};

// One tile of the upper triangle of one block. `rows` is [count, n]; a block has `block` columns and as many rows,
// the last one may be short of both. With `is_mirrored` entries below the diagonal become those above it; without,
// they are left alone.
template <u32 kSide>
__device__ void gram(const float* rows, u64 count, u64 n, u64 block, u32 is_mirrored, float* out) {
  constexpr u32 kParts = kSide / 64, kOwn = 4 * kParts;
  // Two of each: one is filled while the other may still be read.
  __shared__ GramRows<kSide> left[2];
  __shared__ GramRows<kSide> right[2];
  u64 per_side = (block + kSide - 1) / kSide;
  u64 number = blockIdx.x / (per_side * per_side), tile = blockIdx.x % (per_side * per_side);
  u64 first = number * block, last = first + block < n ? first + block : n;
  // Columns of the rows, of the tile's upper and left edge.
  u64 top = first + tile / per_side * kSide, side = first + tile % per_side * kSide;
  if (side < top || side >= last) return;
  u32 y = threadIdx.x / kGramThreads, x = threadIdx.x % kGramThreads;
  out += number * block * block;
  u32 buffer = 0;
  for (u64 chunk = 0; chunk < count; chunk += kGramChunk) {
    float sums[kOwn][kOwn] = {};
    u64 end = chunk + kGramChunk < count ? chunk + kGramChunk : count;
    GramPart<kSide> of_left, of_right;
    of_left.fetch(rows, chunk, end, n, top, last);
    of_right.fetch(rows, chunk, end, n, side, last);
    for (u64 row = chunk; row < end; row += kGramStep, buffer ^= 1) {
      of_left.put(left[buffer]);
      of_right.put(right[buffer]);
      // Also: everybody is done with the other buffer, which is filled next.
      __syncthreads();
      of_left.fetch(rows, row + kGramStep, end, n, top, last);
      of_right.fetch(rows, row + kGramStep, end, n, side, last);
#pragma unroll 4
      for (u32 r = 0; r < kGramStep; ++r) {
        Vector<float> a[kParts], b[kParts];
#pragma unroll
        for (u32 part = 0; part < kParts; ++part) {
          a[part] = left[buffer][r][part * kGramThreads + y];
          b[part] = right[buffer][r][part * kGramThreads + x];
        }
#pragma unroll
        for (u32 i = 0; i < kOwn; ++i) {
#pragma unroll
          for (u32 j = 0; j < kOwn; ++j) {
            sums[i][j] = __fmaf_rn(a[i / 4].values[i % 4], b[j / 4].values[j % 4], sums[i][j]);
          }
        }
      }
    }
    // Rows and columns of the block.
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      u64 row = top - first + i / 4 * 64 + y * 4 + i % 4;
#pragma unroll
      for (u32 j = 0; j < kOwn; ++j) {
        u64 column = side - first + j / 4 * 64 + x * 4 + j % 4;
        if (row > column || column >= last - first) continue;
        float sum = __fadd_rn(out[row * block + column], sums[i][j]);
        out[row * block + column] = sum;
        if (is_mirrored != 0) out[column * block + row] = sum;
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
