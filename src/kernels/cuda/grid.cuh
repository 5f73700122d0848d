// Which amax belongs to which element: kernels/grid.rs on the device.
#pragma once

#include "mq.cuh"

// As `Grid` in Rust: extent and block of up to 8 merged dimensions, the last one innermost.
struct GridParams {
  u64 extent[8];
  u64 block[8];
  int rank;

  __device__ u64 columns() const { return extent[rank - 1]; }
  __device__ u64 column_block() const { return block[rank - 1]; }

  __device__ u64 rows() const {
    u64 rows = 1;
#pragma unroll 1
    for (int d = 0; d < rank - 1; ++d) rows *= extent[d];
    return rows;
  }

  // Position of the first amax of a row.
  __device__ u64 first_block_of_row(u64 row) const {
    u64 stride = (columns() + column_block() - 1) / column_block(), position = 0;
#pragma unroll 1
    for (int d = rank - 2; d >= 0; --d) {
      position += row % extent[d] / block[d] * stride;
      row /= extent[d];
      stride *= (extent[d] + block[d] - 1) / block[d];
    }
    return position;
  }

  // Position of the amax of an element by its flat position.
  __device__ u64 position_of(u64 element) const {
    u64 n = columns();
    u64 row = rank == 1 ? 0 : element / n;
    return (rank == 1 ? 0 : first_block_of_row(row)) + (element - row * n) / column_block();
  }

  // Number of elements of the block at a position.
  __device__ u64 count_of_block(u64 position) const {
    u64 count = 1;
#pragma unroll 1
    for (int d = rank - 1; d >= 0; --d) {
      u64 across = (extent[d] + block[d] - 1) / block[d], start = position % across * block[d];
      position /= across;
      count *= block[d] < extent[d] - start ? block[d] : extent[d] - start;
    }
    return count;
  }

  // Flat position of element `i` of the block at a position, in row-major order within the block.
  __device__ u64 element_of_block(u64 position, u64 i) const {
    if (rank == 1) return position * block[0] + i;
    u64 element = 0, stride = 1;
#pragma unroll 1
    for (int d = rank - 1; d >= 0; --d) {
      u64 across = (extent[d] + block[d] - 1) / block[d], start = position % across * block[d];
      u64 length = block[d] < extent[d] - start ? block[d] : extent[d] - start;
      element += (start + i % length) * stride;
      position /= across;
      i /= length;
      stride *= extent[d];
    }
    return element;
  }

  // Number of elements of a block that is not cut short.
  __device__ u64 longest_block() const {
    u64 count = 1;
#pragma unroll 1
    for (int d = 0; d < rank; ++d) count *= block[d];
    return count;
  }

  // Where element `i` of a block that is not cut short lies, counted from the block's first one.
  __device__ u64 offset_in_whole_block(u32 i) const {
    u64 offset = 0, stride = 1;
#pragma unroll 1
    for (int d = rank - 1; d >= 0 && i > 0; --d) {
      u32 length = (u32)block[d];
      if (length > 1) {
        u32 rest = i / length;
        offset += (i - rest * length) * stride;
        i = rest;
      }
      stride *= extent[d];
    }
    return offset;
  }
};

// Elements of a row that a thread block works on: every thread has some vectors of 16 bytes.
constexpr u64 kTile = 8192;

// A tile of one row, and where its amax values begin.
struct Tile {
  // Flat position of its first element, and how many there are.
  u64 offset;
  u32 count;
  // Position of the amax of the first element, how far into that block it lies, and how long blocks are.
  u64 first_block;
  u64 into_block;
  u64 block;

  // What is usual goes without divisions of 64 bits, each of which costs as much as rounding many elements.
  __device__ Tile(const GridParams& grid, u64 index) {
    u64 columns = grid.columns(), row = 0, start = 0;
    if (grid.rank == 1) {
      start = index * kTile;
    } else if (columns <= kTile) {
      row = index;
    } else {
      u64 per_row = (columns + kTile - 1) / kTile;
      row = index / per_row;
      start = index % per_row * kTile;
    }
    offset = row * columns + start;
    count = (u32)(columns - start < kTile ? columns - start : kTile);
    block = grid.column_block();
    first_block = grid.rank == 1 ? 0 : grid.first_block_of_row(row);
    into_block = start;
    if (start >= block) {
      first_block += start / block;
      into_block = start % block;
    }
  }

  // Whether all of its elements have one amax.
  __device__ __forceinline__ bool is_uniform() const { return into_block + count <= block; }

  // Position of the amax of the tile's element `i`. Within a tile 32 bits are enough, unless a block is larger
  // than it: then there are at most two.
  __device__ __forceinline__ u64 position(u32 i) const {
    if (block >= kTile) return first_block + (into_block + i >= block ? 1 : 0);
    return first_block + ((u32)into_block + i) / (u32)block;
  }
};
