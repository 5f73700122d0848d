// The largest magnitude of every block of a grid. Exact: NaN wins over everything.
//
// Results are merged by an atomic maximum of magnitudes as bits, which is the same in any order; whoever calls has
// set them to zero, or to what was seen before.
#include "../cuda/grid.cuh"
#include "../cuda/mq.cuh"

// Vectors that a thread has on the way at once.
constexpr u32 kOnTheWay = 4;

template <class T>
__device__ __forceinline__ u32 largest_of_vector(const Vector<T>& values, u32 highest) {
#pragma unroll
  for (int k = 0; k < Vector<T>::kCount; ++k) highest = larger(highest, magnitude(values.values[k]));
  return highest;
}

// The largest magnitude of what this thread has of some elements.
template <class T>
__device__ u32 largest_of_stretch(const T* from, u32 count, u32 highest) {
  constexpr u32 kCount = Vector<T>::kCount;
  u32 vectors = is_aligned(from, from) ? count / kCount : 0;
  for (u32 first = threadIdx.x; first < vectors; first += kOnTheWay * kThreads) {
    Vector<T> values[kOnTheWay];
#pragma unroll
    for (u32 j = 0; j < kOnTheWay; ++j) {
      u32 v = first + j * kThreads;
      // The first one again changes nothing.
      values[j] = load_vector(from + (v < vectors ? v : first) * kCount);
    }
#pragma unroll
    for (u32 j = 0; j < kOnTheWay; ++j) highest = largest_of_vector(values[j], highest);
  }
#pragma unroll 1
  for (u32 i = vectors * kCount + threadIdx.x; i < count; i += kThreads) highest = larger(highest, magnitude(from[i]));
  return highest;
}

// Blocks within rows that are long: a thread block for tiles, each of which lies in few of them. Neighbouring tiles go to
// one thread block, which puts its maximum down when another amax begins.
template <class T>
__device__ void absmax_tiles(const T* x, GridParams grid, u64 tiles, u32* amax) {
  __shared__ u32 scratch[kThreads / kWarp];
  u64 each = (tiles + gridDim.x - 1) / gridDim.x, index = blockIdx.x * each;
  u64 end = index + each < tiles ? index + each : tiles;
  u64 known = ~0ull;
  u32 highest = 0;
  auto put_down = [&] {
    if (known == ~0ull) return;
    highest = largest_of_block(highest, scratch);
    if (threadIdx.x == 0) atomicMax(&amax[known], highest);
  };
  for (; index < end; ++index) {
    Tile tile(grid, index);
    u64 position = tile.position(0), last = tile.position(tile.count - 1);
    for (u32 first = 0; position <= last; ++position) {
      // The part of the tile under this amax.
      u64 stop = (position - tile.first_block + 1) * tile.block - tile.into_block;
      u32 until = stop < tile.count ? (u32)stop : tile.count;
      if (position != known) {
        put_down();
        known = position;
        highest = 0;
      }
      highest = largest_of_stretch(x + tile.offset + first, until - first, highest);
      first = until;
    }
  }
  put_down();
}

// Short blocks within rows: a group of lanes for each.
template <class T>
__device__ void absmax_blocks(const T* x, GridParams grid, u64 blocks, u32 lanes, u32* amax) {
  u64 columns = grid.columns(), block = grid.column_block(), per_row = (columns + block - 1) / block;
  u32 lane = threadIdx.x % lanes;
  u64 groups = (u64)gridDim.x * (kThreads / lanes);
  u64 group = (u64)blockIdx.x * (kThreads / lanes) + threadIdx.x / lanes;
  // All lanes of a warp run as often as its busiest group, for they exchange.
  u64 rounds = (blocks + groups - 1) / groups;
  for (u64 round = 0; round < rounds; ++round) {
    u64 index = round * groups + group;
    u32 highest = 0;
    u64 row = index / per_row, start = index % per_row * block;
    if (index < blocks) {
      u64 end = start + block < columns ? start + block : columns;
#pragma unroll 1
      for (u64 i = start + lane; i < end; i += lanes) highest = larger(highest, magnitude(x[row * columns + i]));
    }
    highest = largest_of_lanes(highest, lanes);
    if (index < blocks && lane == 0) atomicMax(&amax[grid.first_block_of_row(row) + start / block], highest);
  }
}

// The same where blocks are a power of two of vectors, 32 at most, and rows whole blocks: a lane for a vector.
template <class T>
__device__ void absmax_vectors(const T* x, const GridParams& grid, u64 vectors, u32 lanes, u32* amax) {
  constexpr u32 kCount = Vector<T>::kCount;
  u64 per_row = grid.columns() / grid.column_block();
  u64 step = (u64)gridDim.x * kThreads;
  u64 mine = (u64)blockIdx.x * kThreads + threadIdx.x;
  u64 rounds = (vectors + step - 1) / step;
  for (u64 round = 0; round < rounds; ++round) {
    u64 v = round * step + mine;
    u32 highest = 0;
    if (v < vectors) {
      highest = largest_of_vector(load_vector(x + v * kCount), highest);
    }
    highest = largest_of_lanes(highest, lanes);
    if (v < vectors && v % lanes == 0) {
      u64 block = v / lanes;
      u64 position = grid.rank == 1 ? block : grid.first_block_of_row(block / per_row) + block % per_row;
      atomicMax(&amax[position], highest);
    }
  }
}

// An amax for every column, over a chunk of rows: a warp has a vector of columns for each lane, or a column where vectors
// are not aligned, and takes every eighth row; the eight warps of a thread block are joined at the end.
template <class T, u32 kColumns>
__device__ void absmax_columns(const T* x, const GridParams& grid, u64 rows, u64 rows_per_chunk, u32* amax) {
  constexpr u32 kWarps = kThreads / kWarp, kAhead = kColumns == 1 ? 8 : 4;
  __shared__ u32 joined[kWarps][kWarp * kColumns];
  u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  u64 columns = grid.columns(), first = (u64)blockIdx.x * kWarp * kColumns, column = first + lane * kColumns;
  u64 row = (u64)blockIdx.y * rows_per_chunk;
  u64 end = row + rows_per_chunk < rows ? row + rows_per_chunk : rows;
  // Rows that follow one another share their amax until a block ends in the dimension before the last.
  u64 extent = grid.rank > 1 ? grid.extent[grid.rank - 2] : 1, block = grid.rank > 1 ? grid.block[grid.rank - 2] : 1;
  while (row < end) {
    u64 index = row % extent, in_block = block - index % block, in_extent = extent - index;
    u64 until = row + (in_block < in_extent ? in_block : in_extent);
    until = until < end ? until : end;
    u32 highest[kColumns] = {};
    for (u64 r = row + warp; column < columns && r < until; r += kAhead * kWarps) {
      T values[kAhead][kColumns];
#pragma unroll
      for (u32 j = 0; j < kAhead; ++j) {
        // The first one again changes nothing.
        const T* from = x + (r + j * kWarps < until ? r + j * kWarps : r) * columns + column;
        if (kColumns == 1) {
          values[j][0] = *from;
        } else {
          Vector<T> loaded = load_vector(from);
#pragma unroll
          for (u32 k = 0; k < kColumns; ++k) values[j][k] = loaded.values[k];
        }
      }
#pragma unroll
      for (u32 j = 0; j < kAhead; ++j) {
#pragma unroll
        for (u32 k = 0; k < kColumns; ++k) highest[k] = larger(highest[k], magnitude(values[j][k]));
      }
    }
    // Whoever still reads the rows before.
    __syncthreads();
#pragma unroll
    for (u32 k = 0; k < kColumns; ++k) joined[warp][lane * kColumns + k] = highest[k];
    __syncthreads();
    u64 position = grid.first_block_of_row(row);
    for (u32 i = threadIdx.x; i < kWarp * kColumns && first + i < columns; i += kThreads) {
      u32 all = 0;
#pragma unroll
      for (u32 w = 0; w < kWarps; ++w) all = larger(all, joined[w][i]);
      atomicMax(&amax[position + first + i], all);
    }
    row = until;
  }
}

// What is wrong with the elements of a tensor: bit 0, one is NaN or infinite; bit 1, one is below zero.
template <class T>
__device__ void find_flaws(const T* x, u64 count, u32 wanted, u32* flaws) {
  u32 found = 0;
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    float value = load(x[i]);
    found |= (is_finite(value) ? 0u : 1u) | (value < 0.0f ? 2u : 0u);
  }
  found &= wanted;
  if (found != 0) atomicOr(flaws, found);
}

// The position of the first element that is NaN or infinite, if it is before what stands there.
template <class T>
__device__ void find_not_finite(const T* x, u64 count, u64* first) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    if (!is_finite(load(x[i]))) {
      atomicMin(first, i);
      return;
    }
  }
}

// Sets a flag where one of the amax values is NaN or infinite.
MQ_KERNEL(check_amax)(const float* amax, u64 count, u32* flaws) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) {
    if (!is_finite(amax[i])) atomicOr(flaws, 1u);
  }
}
MQ_REGISTER(check_amax)

// One amax for all blocks as one for each.
MQ_KERNEL(repeat_amax)(const float* amax, float* to, u64 count) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < count; i += (u64)gridDim.x * kThreads) to[i] = *amax;
}
MQ_REGISTER(repeat_amax)

#define MQ_INSTANTIATE(suffix, T)                                                                                \
  MQ_KERNEL(absmax_tiles_##suffix)(const T* x, GridParams grid, u64 tiles, u32* amax) {                          \
    absmax_tiles<T>(x, grid, tiles, amax);                                                                       \
  }                                                                                                              \
  MQ_REGISTER(absmax_tiles_##suffix)                                                                             \
  MQ_KERNEL(absmax_blocks_##suffix)(const T* x, GridParams grid, u64 blocks, u32 lanes, u32* amax) {             \
    absmax_blocks<T>(x, grid, blocks, lanes, amax);                                                              \
  }                                                                                                              \
  MQ_REGISTER(absmax_blocks_##suffix)                                                                            \
  MQ_KERNEL(absmax_vectors_##suffix)(const T* x, GridParams grid, u64 vectors, u32 lanes, u32* amax) {           \
    absmax_vectors<T>(x, grid, vectors, lanes, amax);                                                            \
  }                                                                                                              \
  MQ_REGISTER(absmax_vectors_##suffix)                                                                           \
  MQ_KERNEL(absmax_columns_##suffix)(const T* x, GridParams grid, u64 rows, u64 rows_per_chunk, u32* amax) {     \
    absmax_columns<T, 1>(x, grid, rows, rows_per_chunk, amax);                                                   \
  }                                                                                                              \
  MQ_REGISTER(absmax_columns_##suffix)                                                                           \
  MQ_KERNEL(absmax_column_vectors_##suffix)                                                                      \
  (const T* x, GridParams grid, u64 rows, u64 rows_per_chunk, u32* amax) {                                       \
    absmax_columns<T, Vector<T>::kCount>(x, grid, rows, rows_per_chunk, amax);                                   \
  }                                                                                                              \
  MQ_REGISTER(absmax_column_vectors_##suffix)                                                                    \
  MQ_KERNEL(find_flaws_##suffix)(const T* x, u64 count, u32 wanted, u32* flaws) {                                \
    find_flaws<T>(x, count, wanted, flaws);                                                                      \
  }                                                                                                              \
  MQ_REGISTER(find_flaws_##suffix)                                                                               \
  MQ_KERNEL(find_not_finite_##suffix)(const T* x, u64 count, u64* first) { find_not_finite<T>(x, count, first); } \
  MQ_REGISTER(find_not_finite_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
