// The Gram matrix of rows, added to what is there: of all columns, or of blocks of columns.
//
// Reducing: an entry is summed as on the CPU, chunks of 256 rows one product after the other from zero, then the chunk
// is added to the entry. The order does not depend on the tiles: the same bits on every GPU.
#include "../cuda/tile.cuh"

// Rows that are summed up before the sum is added to the entry: K_CHUNK of gemm.rs.
constexpr u64 kGramChunk = 256;

// One tile of the upper triangle of one block. `rows` is [count, n]; a block has `block` columns and as many rows,
// the last one may be short of both. With `is_mirrored` entries below the diagonal become those above it; without,
// they are left alone.
template <u32 kSide>
__device__ void gram(const float* rows, u64 count, u64 n, u64 block, u32 is_mirrored, float* out) {
  constexpr u32 kOwn = kSide / 16;
  __shared__ TileMemory<kSide> memory;
  u64 per_side = (block + kSide - 1) / kSide;
  u64 number = blockIdx.x / (per_side * per_side), tile = blockIdx.x % (per_side * per_side);
  u64 first = number * block, last = first + block < n ? first + block : n;
  // Columns of the rows, of the tile's upper and left edge.
  u64 top = first + tile / per_side * kSide, side = first + tile % per_side * kSide;
  if (side < top || side >= last) return;
  u32 y = threadIdx.x / kTileThreads, x = threadIdx.x % kTileThreads;
  out += number * block * block;
  u32 buffer = 0;
  for (u64 chunk = 0; chunk < count; chunk += kGramChunk) {
    float sums[kOwn][kOwn] = {};
    u64 end = chunk + kGramChunk < count ? chunk + kGramChunk : count;
    add_products<kSide>(TileOperand{rows, n, top, last}, TileOperand{rows, n, side, last}, chunk, end, memory, buffer,
                        sums);
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
