// Fake quantization: every element rounded to a format's grid under its block's amax, and back. Exact: the bits of
// kernels/fake_quant/scalar.rs.
//
// x and out are the same memory or apart; every element is read before it is written, by the same thread.
#include "../cuda/formats.cuh"
#include "../cuda/grid.cuh"
#include "../cuda/mq.cuh"

// Vectors that a thread has on the way at once.
constexpr u32 kBatch = 4;

// Notes an amax that is no scale.
__device__ __forceinline__ void note_flaw(u32 amax, u32* flaws) {
  if (flaws != nullptr && amax >= kInfinity) atomicOr(flaws, 1u);
}

// A vector rounded under one scale.
template <bool kOrdinary, class T, class R>
__device__ __forceinline__ void round_vector(const Vector<T>& values, T* to, const R& rounding, const Scale& scale) {
  float rounded[Vector<T>::kCount];
#pragma unroll
  for (int k = 0; k < Vector<T>::kCount; ++k) {
    rounded[k] = rounding.template apply<kOrdinary>(load(values.values[k]), scale);
  }
  store_rounded(to, rounded);
}

template <class T, class R>
__device__ __forceinline__ void round_vector_any(const Vector<T>& values, T* to, const R& rounding,
                                                 const Scale& scale) {
  if (!R::kDivides || scale.is_ordinary()) {
    round_vector<true>(values, to, rounding, scale);
  } else {
    round_vector<!R::kDivides>(values, to, rounding, scale);
  }
}

// The vectors of a thread block under one scale.
template <bool kOrdinary, class T, class R>
__device__ __forceinline__ void round_vectors(const T* from, T* to, u64 vectors, const R& rounding,
                                              const Scale& scale) {
  constexpr u32 kCount = Vector<T>::kCount;
  for (u64 first = threadIdx.x; first < vectors; first += kBatch * kThreads) {
    Vector<T> values[kBatch];
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u64 v = first + j * kThreads;
      if (v < vectors) values[j] = load_vector(from + v * kCount);
    }
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u64 v = first + j * kThreads;
      if (v < vectors) round_vector<kOrdinary>(values[j], to + v * kCount, rounding, scale);
    }
  }
}

template <class T, class R>
__device__ __forceinline__ void round_vectors_any(const T* from, T* to, u64 vectors, const R& rounding,
                                                  const Scale& scale) {
  if (!R::kDivides || scale.is_ordinary()) {
    round_vectors<true>(from, to, vectors, rounding, scale);
  } else {
    round_vectors<!R::kDivides>(from, to, vectors, rounding, scale);
  }
}

// ---- Under amax values that are given: a thread block for a tile.

// A tile whose vectors have one amax each.
template <class T, class R>
__device__ void round_tile_by_vectors(const T* from, T* to, const Tile& tile, u32 vectors, const float* amax,
                                      const R& rounding, u32* flaws) {
  constexpr u32 kCount = Vector<T>::kCount;
  u32 block = (u32)tile.block, into = (u32)tile.into_block;
  bool is_power = (block & (block - 1)) == 0;
  u32 shift = (u32)__popc(block - 1);
  for (u32 first = threadIdx.x; first < vectors; first += kBatch * kThreads) {
    Vector<T> values[kBatch];
    float maxima[kBatch];
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u32 v = first + j * kThreads, i = into + v * kCount;
      if (v >= vectors) continue;
      values[j] = load_vector(from + v * kCount);
      maxima[j] = amax[tile.first_block + (is_power ? i >> shift : i / block)];
    }
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u32 v = first + j * kThreads;
      if (v >= vectors) continue;
      note_flaw(bits_of(maxima[j]), flaws);
      round_vector_any(values[j], to + v * kCount, rounding, rounding.scale(maxima[j]));
    }
  }
}

template <class T, class R>
__device__ void fake_quant_given(const T* x, T* out, const GridParams& grid, u64 tiles, const float* amax,
                                 const FormatParams& params, u32* flaws) {
  constexpr u32 kCount = Vector<T>::kCount;
  R rounding;
  make(params, rounding);
  for (u64 index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile tile(grid, index);
    const T* from = x + tile.offset;
    T* to = out + tile.offset;
    u32 vectors = is_aligned(from, to) ? tile.count / kCount : 0;
    if (tile.is_uniform()) {
      float one = amax[tile.first_block];
      if (threadIdx.x == 0) note_flaw(bits_of(one), flaws);
      round_vectors_any(from, to, vectors, rounding, rounding.scale(one));
    } else if (tile.block < kTile && tile.block % kCount == 0 && tile.into_block % kCount == 0) {
      round_tile_by_vectors(from, to, tile, vectors, amax, rounding, flaws);
    } else {
      vectors = 0;
    }
#pragma unroll 1
    for (u32 i = vectors * kCount + threadIdx.x; i < tile.count; i += kThreads) {
      float one = amax[tile.position(i)];
      note_flaw(bits_of(one), flaws);
      to[i] = store<T>(rounding.template apply<false>(load(from[i]), rounding.scale(one)));
    }
  }
}

// The magnitude as a block's amax sees it.
template <class R>
__device__ __forceinline__ u32 seen(u32 magnitude) {
  return R::kFindsScale && magnitude > kInfinity ? 0u : magnitude;
}

template <class R, class T>
__device__ __forceinline__ u32 largest_seen(const Vector<T>& values, u32 highest) {
#pragma unroll
  for (int k = 0; k < Vector<T>::kCount; ++k) highest = larger(highest, seen<R>(magnitude(values.values[k])));
  return highest;
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
    u32 highest = largest_of_lanes(largest_seen<R>(values, 0), lanes);
    Scale scale = rounding.scale(float_of(highest));
    if (v < vectors) {
      round_vector_any(values, out + v * kCount, rounding, scale);
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
      out[offset + i] = store<T>(rounding.template apply<false>(load(x[offset + i]), scale));
    }
    if (lane == 0) note_flaw(highest, flaws);
  }
}

// ---- The same for long blocks within rows, such as tokens: a thread block for each. It keeps what it has read, as far
// as that goes; of longer blocks the second reading finds them in the cache.
template <class T, class R>
__device__ void fake_quant_long(const T* x, T* out, const GridParams& grid, u64 blocks, const FormatParams& params,
                                u32* flaws) {
  constexpr u32 kCount = Vector<T>::kCount;
  __shared__ u32 scratch[kThreads / kWarp];
  R rounding;
  make(params, rounding);
  u64 columns = grid.columns(), block = grid.column_block(), per_row = (columns + block - 1) / block;
  for (u64 index = blockIdx.x; index < blocks; index += gridDim.x) {
    u64 row = per_row == 1 ? index : index / per_row, start = (index - row * per_row) * block;
    const T* from = x + row * columns + start;
    T* to = out + row * columns + start;
    u64 count = start + block < columns ? block : columns - start;
    u64 vectors = is_aligned(from, to) ? count / kCount : 0;
    u64 kept = vectors < kBatch * kThreads ? vectors : kBatch * kThreads;
    Vector<T> values[kBatch];
    u32 highest = 0;
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u64 v = threadIdx.x + j * kThreads;
      if (v < kept) values[j] = load_vector(from + v * kCount);
    }
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      if (threadIdx.x + j * kThreads < kept) highest = largest_seen<R>(values[j], highest);
    }
#pragma unroll 4
    for (u64 v = kept + threadIdx.x; v < vectors; v += kThreads) {
      highest = largest_seen<R>(load_vector(from + v * kCount), highest);
    }
#pragma unroll 1
    for (u64 i = vectors * kCount + threadIdx.x; i < count; i += kThreads) {
      highest = larger(highest, seen<R>(magnitude(from[i])));
    }
    highest = largest_of_block(highest, scratch);
    Scale scale = rounding.scale(float_of(highest));
#pragma unroll
    for (u32 j = 0; j < kBatch; ++j) {
      u64 v = threadIdx.x + j * kThreads;
      if (v < kept) round_vector_any(values[j], to + v * kCount, rounding, scale);
    }
    round_vectors_any(from + kept * kCount, to + kept * kCount, vectors - kept, rounding, scale);
#pragma unroll 1
    for (u64 i = vectors * kCount + threadIdx.x; i < count; i += kThreads) {
      to[i] = store<T>(rounding.template apply<false>(load(from[i]), scale));
    }
    if (threadIdx.x == 0) note_flaw(highest, flaws);
  }
}

// mq: fused fake_quant_given_int_* fake_quant_given_nvfp4_static_* fake_quant_vectors_int_* fake_quant_long_int_*
// mq: fused fake_quant_vectors_nvfp4_*
#define MQ_GIVEN(format, R, suffix, T)                                                                      \
  MQ_KERNEL(fake_quant_given_##format##_##suffix)                                                           \
  (const T* x, T* out, GridParams grid, u64 tiles, const float* amax, FormatParams params, u32* flaws) {    \
    fake_quant_given<T, R>(x, out, grid, tiles, amax, params, flaws);                                       \
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
