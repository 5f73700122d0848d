// The bias of an affine quantizer: found, taken off, added again. Exact: sums are those of kernels/tree_sum.rs.
#include "../cuda/grid.cuh"
#include "../cuda/tree_sum.cuh"

// Numbers in the order of these: -0 is below +0. NaN is none.
__device__ __forceinline__ int order_of(float x) {
  int bits = (int)bits_of(x);
  return bits ^ (int)((u32)(bits >> 31) >> 1);
}
__device__ __forceinline__ float of_order(int order) {
  return float_of((u32)(order ^ (int)((u32)(order >> 31) >> 1)));
}

// What is known of a chunk of a block.
struct SpreadPart {
  double sum;
  int lowest, highest;

  __device__ __forceinline__ void widen(int low, int high) {
    lowest = low < lowest ? low : lowest;
    highest = high > highest ? high : highest;
  }

  __device__ __forceinline__ void widen_to_lanes() {
#pragma unroll
    for (int half = (int)kWarp / 2; half > 0; half /= 2) {
      int low = __shfl_xor_sync(kAllLanes, lowest, half), high = __shfl_xor_sync(kAllLanes, highest, half);
      widen(low, high);
    }
  }
};

__device__ __forceinline__ SpreadPart no_part() {
  return {0.0, order_of(float_of(kInfinity)), order_of(-float_of(kInfinity))};
}

// Mean and extremes of a block: Spread of mod.rs.
struct Spread {
  float mean, min, max;
};

// Elements that a lane has on the way at once.
constexpr u32 kAhead = 8;

// What is known of the elements from `first` to `end` of a block, of which `at` says where they lie; a lane has every
// 32nd.
template <class T, class At>
__device__ __forceinline__ SpreadPart spread_of_lane(const T* x, u64 first, u64 end, const At& at) {
  SpreadPart part = no_part();
#pragma unroll 1
  for (u64 i = first + threadIdx.x % kWarp; i < end; i += kAhead * kWarp) {
    float values[kAhead];
#pragma unroll
    for (u32 j = 0; j < kAhead; ++j) {
      // The first one again is not added.
      values[j] = load(x[at(i + j * kWarp < end ? i + j * kWarp : i)]);
    }
#pragma unroll
    for (u32 j = 0; j < kAhead; ++j) {
      if (i + j * kWarp >= end) continue;
      part.sum = __dadd_rn(part.sum, (double)values[j]);
      if (!is_nan(values[j])) part.widen(order_of(values[j]), order_of(values[j]));
    }
  }
  return part;
}

// A warp for a chunk of a block. Neighbouring warps have neighbouring blocks, whose elements lie side by side where a
// block is a column.
template <class T>
__device__ void spread_parts(const T* x, const GridParams& grid, u64 blocks, u64 chunks, SpreadPart* parts) {
  u32 lane = threadIdx.x % kWarp;
  u64 step = (u64)gridDim.x * (kThreads / kWarp);
  for (u64 index = (u64)blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp; index < blocks * chunks; index += step) {
    u64 position = index % blocks, first = index / blocks * kSumChunk, count = grid.count_of_block(position);
    u64 end = first + kSumChunk < count ? first + kSumChunk : count;
    SpreadPart part;
    if (count == grid.longest_block() && count >> 32 == 0) {
      // What is usual goes without divisions of 64 bits, each of which costs more than the element.
      const T* from = x + grid.element_of_block(position, 0);
      part = spread_of_lane(from, first, end, [&](u64 i) { return grid.offset_in_whole_block((u32)i); });
    } else {
      part = spread_of_lane(x, first, end, [&](u64 i) { return grid.element_of_block(position, i); });
    }
    part.sum = sum_of_lanes(part.sum);
    part.widen_to_lanes();
    if (lane == 0) parts[index] = part;
  }
}

// A warp for a block: joins its chunks, and this batch with those before, of which there are `batches`. What is wanted
// goes to `spread`, and the bias (the middle between the extremes, or the mean) to `bias`, unless they are null.
MQ_KERNEL(spread_join)
(GridParams grid, u64 blocks, u64 chunks, const SpreadPart* parts, float batches, Spread* spread, u32 middle,
 float* bias) {
  u32 lane = threadIdx.x % kWarp;
  u64 step = (u64)gridDim.x * (kThreads / kWarp);
  for (u64 at = (u64)blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp; at < blocks; at += step) {
    SpreadPart all = no_part();
#pragma unroll 4
    for (u64 chunk = lane; chunk < chunks; chunk += kWarp) {
      SpreadPart part = parts[chunk * blocks + at];
      all.sum = __dadd_rn(all.sum, part.sum);
      all.widen(part.lowest, part.highest);
    }
    all.sum = sum_of_lanes(all.sum);
    all.widen_to_lanes();
    if (lane != 0) continue;
    float mean = (float)__ddiv_rn(all.sum, (double)grid.count_of_block(at));
    if (batches > 0.0f) {
      Spread before = spread[at];
      mean = __fdiv_rn(__fadd_rn(__fmul_rn(before.mean, batches), mean), __fadd_rn(batches, 1.0f));
      all.widen(order_of(before.min), order_of(before.max));
    }
    float min = of_order(all.lowest), max = of_order(all.highest);
    if (spread != nullptr) spread[at] = {mean, min, max};
    if (bias != nullptr) bias[at] = middle != 0 ? __fdiv_rn(__fadd_rn(max, min), 2.0f) : mean;
  }
}
MQ_REGISTER(spread_join)

// x and out are the same memory or apart.
template <class T>
__device__ void shift(const T* x, T* out, const GridParams& grid, u64 tiles, const float* bias, float sign) {
  for (u64 index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile tile(grid, index);
    for (u32 i = threadIdx.x; i < tile.count; i += kThreads) {
      float change = __fmul_rn(sign, bias[tile.position(i)]);
      out[tile.offset + i] = store<T>(__fadd_rn(load(x[tile.offset + i]), change));
    }
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                                             \
  MQ_KERNEL(spread_parts_##suffix)                                                                            \
  (const T* x, GridParams grid, u64 blocks, u64 chunks, SpreadPart* parts) {                                  \
    spread_parts<T>(x, grid, blocks, chunks, parts);                                                          \
  }                                                                                                           \
  MQ_REGISTER(spread_parts_##suffix)                                                                          \
  MQ_KERNEL(shift_##suffix)(const T* x, T* out, GridParams grid, u64 tiles, const float* bias, float sign) {  \
    shift<T>(x, out, grid, tiles, bias, sign);                                                                \
  }                                                                                                           \
  MQ_REGISTER(shift_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
