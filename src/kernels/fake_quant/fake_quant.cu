// Fake quantization: every element rounded to a format's grid under its block's amax, and back. Exact: the bits of
// kernels/fake_quant/scalar.rs.
//
// x and out are the same memory or apart; every element is read before it is written, by the same thread.
#include "../cuda/formats.cuh"
#include "../cuda/grid.cuh"
#include "../cuda/mq.cuh"

// ---- Under amax values that are given: a thread block for a tile.
template <class T, class R>
__device__ void fake_quant_given(const T* x, T* out, const GridParams& grid, u64 tiles, const float* amax,
                                 const FormatParams& params) {
  constexpr u32 kCount = Vector<T>::kCount;
  R rounding;
  make(params, rounding);
  for (u64 index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile tile(grid, index);
    const T* from = x + tile.offset;
    T* to = out + tile.offset;
    u32 vectors = is_aligned(from, to) ? tile.count / kCount : 0;
    u64 known = ~0ull;
    Scale scale = {0.0f, 0.0f};
    for (u32 v = threadIdx.x; v < vectors; v += kThreads) {
      u64 first = tile.position(v * kCount);
      if (first != tile.position(v * kCount + kCount - 1)) {
        // Rare, so small: element by element.
#pragma unroll 1
        for (u32 i = v * kCount; i < v * kCount + kCount; ++i) {
          to[i] = store<T>(rounding.apply(load(from[i]), rounding.scale(amax[tile.position(i)])));
        }
        continue;
      }
      if (first != known) {
        scale = rounding.scale(amax[first]);
        known = first;
      }
      Vector<T> values = load_vector(from + v * kCount);
#pragma unroll
      for (u32 k = 0; k < kCount; ++k) values.values[k] = store<T>(rounding.apply(load(values.values[k]), scale));
      store_vector(to + v * kCount, values);
    }
#pragma unroll 1
    for (u32 i = vectors * kCount + threadIdx.x; i < tile.count; i += kThreads) {
      to[i] = store<T>(rounding.apply(load(from[i]), rounding.scale(amax[tile.position(i)])));
    }
  }
}

// The magnitude as a block's amax sees it.
template <class R>
__device__ __forceinline__ u32 seen(u32 magnitude) {
  return R::kFindsScale && magnitude > kInfinity ? 0u : magnitude;
}

// Notes an amax that is no scale.
__device__ __forceinline__ void note_flaw(u32 amax, u32* flaws) {
  if (flaws != nullptr && amax >= kInfinity) atomicOr(flaws, 1u);
}

// ---- Every block under its own amax, blocks within rows that are a power of two of vectors, 32 at most: a lane for a
// vector.
template <class T, class R>
__device__ void fake_quant_vectors(const T* x, T* out, u64 vectors, u32 lanes, const FormatParams& params, u32* flaws) {
  constexpr u32 kCount = Vector<T>::kCount;
  R rounding;
  make(params, rounding);
  u64 step = (u64)gridDim.x * kThreads;
  u64 mine = (u64)blockIdx.x * kThreads + threadIdx.x;
  u64 rounds = (vectors + step - 1) / step;
  for (u64 round = 0; round < rounds; ++round) {
    u64 v = round * step + mine;
    Vector<T> values = {};
    if (v < vectors) values = load_vector(x + v * kCount);
    u32 highest = 0;
#pragma unroll
    for (u32 k = 0; k < kCount; ++k) highest = larger(highest, seen<R>(magnitude(values.values[k])));
    highest = largest_of_lanes(highest, lanes);
    Scale scale = rounding.scale(float_of(highest));
#pragma unroll
    for (u32 k = 0; k < kCount; ++k) values.values[k] = store<T>(rounding.apply(load(values.values[k]), scale));
    if (v < vectors) {
      store_vector(out + v * kCount, values);
      if (v % lanes == 0) note_flaw(highest, flaws);
    }
  }
}

// ---- The same for other blocks within rows: a warp for a block, which is read twice.
template <class T, class R>
__device__ void fake_quant_warps(const T* x, T* out, const GridParams& grid, u64 blocks, const FormatParams& params,
                                 u32* flaws) {
  R rounding;
  make(params, rounding);
  u64 columns = grid.columns(), block = grid.column_block(), per_row = (columns + block - 1) / block;
  u32 lane = threadIdx.x % kWarp;
  u64 step = (u64)gridDim.x * (kThreads / kWarp);
  for (u64 index = (u64)blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp; index < blocks; index += step) {
    u64 start = index % per_row * block;
    u64 offset = index / per_row * columns + start;
    u64 count = start + block < columns ? block : columns - start;
    u32 highest = 0;
#pragma unroll 1
    for (u64 i = lane; i < count; i += kWarp) highest = larger(highest, seen<R>(magnitude(x[offset + i])));
    highest = largest_of_lanes(highest, kWarp);
    Scale scale = rounding.scale(float_of(highest));
#pragma unroll 1
    for (u64 i = lane; i < count; i += kWarp) {
      out[offset + i] = store<T>(rounding.apply(load(x[offset + i]), scale));
    }
    if (lane == 0) note_flaw(highest, flaws);
  }
}

// ---- The same for long blocks within rows, such as tokens: a thread block for each; the second reading finds them in
// the cache.
template <class T, class R>
__device__ void fake_quant_long(const T* x, T* out, const GridParams& grid, u64 blocks, const FormatParams& params,
                                u32* flaws) {
  constexpr u32 kCount = Vector<T>::kCount;
  __shared__ u32 scratch[kThreads / kWarp];
  R rounding;
  make(params, rounding);
  u64 columns = grid.columns(), block = grid.column_block(), per_row = (columns + block - 1) / block;
  for (u64 index = blockIdx.x; index < blocks; index += gridDim.x) {
    u64 start = index % per_row * block;
    const T* from = x + index / per_row * columns + start;
    T* to = out + index / per_row * columns + start;
    u64 count = start + block < columns ? block : columns - start;
    u64 vectors = is_aligned(from, to) ? count / kCount : 0;
    u32 highest = 0;
    for (u64 v = threadIdx.x; v < vectors; v += kThreads) {
      Vector<T> values = load_vector(from + v * kCount);
#pragma unroll
      for (u32 k = 0; k < kCount; ++k) highest = larger(highest, seen<R>(magnitude(values.values[k])));
    }
#pragma unroll 1
    for (u64 i = vectors * kCount + threadIdx.x; i < count; i += kThreads) {
      highest = larger(highest, seen<R>(magnitude(from[i])));
    }
    highest = largest_of_block(highest, scratch);
    Scale scale = rounding.scale(float_of(highest));
    for (u64 v = threadIdx.x; v < vectors; v += kThreads) {
      Vector<T> values = load_vector(from + v * kCount);
#pragma unroll
      for (u32 k = 0; k < kCount; ++k) values.values[k] = store<T>(rounding.apply(load(values.values[k]), scale));
      store_vector(to + v * kCount, values);
    }
#pragma unroll 1
    for (u64 i = vectors * kCount + threadIdx.x; i < count; i += kThreads) {
      to[i] = store<T>(rounding.apply(load(from[i]), scale));
    }
    if (threadIdx.x == 0) note_flaw(highest, flaws);
  }
}

#define MQ_GIVEN(format, R, suffix, T)                                                                      \
  MQ_KERNEL(fake_quant_given_##format##_##suffix)                                                           \
  (const T* x, T* out, GridParams grid, u64 tiles, const float* amax, FormatParams params) {                \
    fake_quant_given<T, R>(x, out, grid, tiles, amax, params);                                              \
  }                                                                                                         \
  MQ_REGISTER(fake_quant_given_##format##_##suffix)

#define MQ_DYNAMIC(format, R, suffix, T)                                                                    \
  MQ_KERNEL(fake_quant_vectors_##format##_##suffix)                                                         \
  (const T* x, T* out, u64 vectors, u32 lanes, FormatParams params, u32* flaws) {                           \
    fake_quant_vectors<T, R>(x, out, vectors, lanes, params, flaws);                                        \
  }                                                                                                         \
  MQ_REGISTER(fake_quant_vectors_##format##_##suffix)                                                       \
  MQ_KERNEL(fake_quant_warps_##format##_##suffix)                                                           \
  (const T* x, T* out, GridParams grid, u64 blocks, FormatParams params, u32* flaws) {                      \
    fake_quant_warps<T, R>(x, out, grid, blocks, params, flaws);                                            \
  }                                                                                                         \
  MQ_REGISTER(fake_quant_warps_##format##_##suffix)

#define MQ_DYNAMIC_LONG(format, R, suffix, T)                                                               \
  MQ_KERNEL(fake_quant_long_##format##_##suffix)                                                            \
  (const T* x, T* out, GridParams grid, u64 blocks, FormatParams params, u32* flaws) {                      \
    fake_quant_long<T, R>(x, out, grid, blocks, params, flaws);                                             \
  }                                                                                                         \
  MQ_REGISTER(fake_quant_long_##format##_##suffix)

// Formats that find their own scales have short blocks only.
#define MQ_INSTANTIATE(suffix, T)                                 \
  MQ_FOR_EACH_GIVEN_FORMAT(MQ_GIVEN, suffix, T)                   \
  MQ_DYNAMIC(int, IntRounding, suffix, T)                         \
  MQ_DYNAMIC(e4m3, E4m3Rounding, suffix, T)                       \
  MQ_FOR_EACH_SELF_SCALED_FORMAT(MQ_DYNAMIC, suffix, T)           \
  MQ_DYNAMIC_LONG(int, IntRounding, suffix, T)                    \
  MQ_DYNAMIC_LONG(e4m3, E4m3Rounding, suffix, T)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
#undef MQ_GIVEN
#undef MQ_DYNAMIC
#undef MQ_DYNAMIC_LONG
