// Codes from elements, and elements from codes. Exact: the codes of kernels/pack/codes.rs and format/*.rs.
#include "../cuda/formats.cuh"
#include "../cuda/grid.cuh"

// NF4, by code: format/nf4.rs.
__constant__ float kNf4Values[16] = {-1.0f,         -0.6953125f, -0.5234375f,   -0.39453125f, -0.28515625f, -0.18457031f,
                                       -0.091308594f, 0.0f,        0.079589844f,  0.16113281f,  0.24609375f,  0.33789063f,
                                       0.44140625f,   0.5625f,     0.72265625f,   1.0f};

// The nearest code; the lower one on a tie, and that of zero in a block of zeros.
__device__ __forceinline__ u32 nf4_code(float x, float amax) {
  x = __fdiv_rn(x, amax);
  u32 code = 0;
  float nearest = fabsf(__fsub_rn(kNf4Values[0], x));
#pragma unroll
  for (u32 i = 1; i < 16; ++i) {
    float distance = fabsf(__fsub_rn(kNf4Values[i], x));
    bool is_closer = distance < nearest;
    code = is_closer ? i : code;
    nearest = is_closer ? distance : nearest;
  }
  return amax > 0.0f ? code : 7u;
}

// Codes of values that are the formats' own.
__device__ __forceinline__ u32 e4m3_code(float value) {
  u32 bits = bits_of(value), magnitude = bits & 0x7fffffffu;
  bool is_subnormal = float_of(magnitude) < 1.0f / 64.0f;
  u32 code = is_subnormal ? (u32)__fmul_rn(float_of(magnitude), 512.0f) : (magnitude >> 20) - (120u << 3);
  return (bits >> 24 & 0x80u) | (code & 0x7fu);
}

__device__ __forceinline__ u32 e2m1_code(float value) {
  u32 bits = bits_of(value), magnitude = bits & 0x7fffffffu;
  float twice = __fmul_rn(float_of(magnitude), 2.0f);
  u32 code = twice < 2.0f ? (u32)twice : (magnitude >> 22) - 252u;
  return (bits >> 28 & 8u) | (code & 7u);
}

__device__ __forceinline__ float e4m3_value(u32 code) {
  u32 magnitude = code & 0x7fu;
  float value = magnitude < 8 ? __fmul_rn((float)magnitude, 1.0f / 512.0f) : float_of((magnitude + (120u << 3)) << 20);
  value = magnitude == 0x7fu ? float_of(0x7fc00000u) : value;
  return float_of(bits_of(value) | (code & 0x80u) << 24);
}

__device__ __forceinline__ float e2m1_value(u32 code) {
  u32 magnitude = code & 7u;
  float value = magnitude < 2 ? __fmul_rn((float)magnitude, 0.5f) : float_of((magnitude + 252u) << 22);
  return float_of(bits_of(value) | (code & 8u) << 28);
}

// ---- Codings: `scale(amax)` once for a block, `code(x, scale)` for every element. kNibbles: 4 bits, of which
// kHighFirst puts the first of two in the high nibble.
struct Int8Coding {
  static constexpr bool kNibbles = false, kHighFirst = false;
  IntRounding rounding;
  __device__ __forceinline__ Scale scale(float amax) const { return rounding.scale(amax); }
  // Codes count from here.
  __device__ __forceinline__ int integer(float x, Scale s) const {
    float q = rintf(__fmul_rn(x, s.multiplier));
    q = q < rounding.min ? rounding.min : q;
    q = q > rounding.max ? rounding.max : q;
    return is_nan(q) ? 0 : (int)q;
  }
  __device__ __forceinline__ u32 code(float x, Scale s) const { return (u32)integer(x, s) & 0xffu; }
};

struct Int4Coding : Int8Coding {
  static constexpr bool kNibbles = true, kHighFirst = true;
  __device__ __forceinline__ u32 code(float x, Scale s) const { return (u32)(integer(x, s) + 8); }
};

struct E4m3Coding {
  static constexpr bool kNibbles = false, kHighFirst = false;
  __device__ __forceinline__ Scale scale(float amax) const { return e4m3_scale(amax); }
  __device__ __forceinline__ u32 code(float x, Scale s) const { return e4m3_code(e4m3_scaled(x, s.multiplier)); }
};

struct MxE4m3Coding {
  static constexpr bool kNibbles = false, kHighFirst = false;
  MxE4m3 rounding;
  __device__ __forceinline__ Scale scale(float amax) const { return rounding.scale(amax); }
  __device__ __forceinline__ u32 code(float x, Scale s) const {
    return e4m3_code(with_sign_of(rounding.element.round(__fmul_rn(fabsf(x), s.multiplier)), x));
  }
};

struct MxE2m1Coding {
  static constexpr bool kNibbles = true, kHighFirst = false;
  MxE2m1 rounding;
  __device__ __forceinline__ Scale scale(float amax) const { return rounding.scale(amax); }
  __device__ __forceinline__ u32 code(float x, Scale s) const {
    return e2m1_code(with_sign_of(rounding.element.round(__fmul_rn(fabsf(x), s.multiplier)), x));
  }
};

// R is one of both NVFP4 roundings.
template <class R>
struct Nvfp4Coding {
  static constexpr bool kNibbles = true, kHighFirst = false;
  R rounding;
  __device__ __forceinline__ Scale scale(float amax) const { return rounding.scale(amax); }
  __device__ __forceinline__ u32 code(float x, Scale s) const {
    return e2m1_code(with_sign_of(round_e2m1(s.back > 0.0f ? __fdiv_rn(fabsf(x), s.back) : 0.0f), x));
  }
};

struct Nf4Coding {
  static constexpr bool kNibbles = true, kHighFirst = true;
  __device__ __forceinline__ Scale scale(float amax) const { return multiplying(amax, 0.0f); }
  __device__ __forceinline__ u32 code(float x, Scale s) const { return nf4_code(x, s.multiplier); }
};

template <class C>
__device__ __forceinline__ void make_coding(const FormatParams& params, C& coding) {
  make(params, coding.rounding);
}
__device__ __forceinline__ void make_coding(const FormatParams&, E4m3Coding&) {}
__device__ __forceinline__ void make_coding(const FormatParams&, Nf4Coding&) {}

// ---- The scales of blocks when codes become values: Scaling of codes.rs.
struct ScaleParts {
  // Floats, or codes of scales.
  const void* at;
  // Of NF4: one for so many blocks, and the mean.
  const float* multipliers;
  const float* zero;
  u64 group;
  // Of NVFP4: what a unit of the codes is worth.
  float unit;

  __device__ __forceinline__ u32 code(u64 block) const { return static_cast<const u8*>(at)[block]; }
};

struct FloatScales {
  __device__ __forceinline__ static float of(const ScaleParts& parts, u64 block) {
    return static_cast<const float*>(parts.at)[block];
  }
};
struct ExponentScales {
  __device__ __forceinline__ static float of(const ScaleParts& parts, u64 block) {
    return power_of_two((int)parts.code(block) - 127);
  }
};
struct E4m3Scales {
  __device__ __forceinline__ static float of(const ScaleParts& parts, u64 block) {
    return __fmul_rn(e4m3_value(parts.code(block)), parts.unit);
  }
};
struct IntegerScales {
  __device__ __forceinline__ static float of(const ScaleParts& parts, u64 block) {
    float code = (float)(int)(signed char)parts.code(block);
    return __fadd_rn(__fdiv_rn(code, parts.multipliers[block / parts.group]), *parts.zero);
  }
};

// ---- What codes stand for: a value under the scale of a block.
struct Int8Value {
  static constexpr bool kNibbles = false, kHighFirst = false;
  __device__ __forceinline__ static float value(u32 code, float divisor) {
    return __fdiv_rn((float)(int)(signed char)code, divisor);
  }
};
struct Int4Value {
  static constexpr bool kNibbles = true, kHighFirst = true;
  __device__ __forceinline__ static float value(u32 code, float divisor) {
    return __fdiv_rn((float)((int)code - 8), divisor);
  }
};
struct E4m3Value {
  static constexpr bool kNibbles = false, kHighFirst = false;
  __device__ __forceinline__ static float value(u32 code, float scale) { return __fmul_rn(e4m3_value(code), scale); }
};
struct E2m1Value {
  static constexpr bool kNibbles = true, kHighFirst = false;
  __device__ __forceinline__ static float value(u32 code, float scale) { return __fmul_rn(e2m1_value(code), scale); }
};
struct Nf4Value {
  static constexpr bool kNibbles = true, kHighFirst = true;
  __device__ __forceinline__ static float value(u32 code, float scale) { return __fmul_rn(kNf4Values[code], scale); }
};

// Elements of a thread: whole bytes of codes.
constexpr u32 kRun = 8;

// The amax or scale of neighbouring elements: looked up again only where a block ends.
struct Neighbours {
  const GridParams& grid;
  u64 known;
  u64 until;

  __device__ explicit Neighbours(const GridParams& grid) : grid(grid), known(0), until(0) {}

  // Position of the block of an element, the next one or the first; true when it is another than before.
  __device__ __forceinline__ bool move_to(u64 element) {
    if (element < until) return false;
    known = grid.position_of(element);
    u64 column = grid.rank == 1 ? element : element % grid.columns(), block = grid.column_block();
    u64 in_block = block - column % block, in_row = grid.columns() - column;
    until = element + (in_block < in_row ? in_block : in_row);
    return true;
  }
};

template <class T, class C>
__device__ void encode(const T* x, const GridParams& grid, u64 count, const float* amax, const FormatParams& params,
                       u8* codes) {
  C coding;
  make_coding(params, coding);
  u64 step = (u64)gridDim.x * kThreads * kRun;
  for (u64 first = ((u64)blockIdx.x * kThreads + threadIdx.x) * kRun; first < count; first += step) {
    Neighbours block(grid);
    Scale scale = {};
    u32 before = 0;
    for (u32 k = 0; k < kRun && first + k < count; ++k) {
      if (block.move_to(first + k)) scale = coding.scale(amax[block.known]);
      u32 code = coding.code(load(x[first + k]), scale);
      if (!C::kNibbles) {
        codes[first + k] = (u8)code;
      } else if (k % 2 == 1) {
        codes[(first + k) / 2] = (u8)(C::kHighFirst ? before << 4 | code : code << 4 | before);
      }
      before = code;
    }
  }
}

template <class T, class V, class S>
__device__ void decode(const u8* codes, const GridParams& grid, u64 count, const ScaleParts& scales, T* out) {
  u64 step = (u64)gridDim.x * kThreads * kRun;
  for (u64 first = ((u64)blockIdx.x * kThreads + threadIdx.x) * kRun; first < count; first += step) {
    Neighbours block(grid);
    float scale = 0.0f;
    for (u32 k = 0; k < kRun && first + k < count; ++k) {
      if (block.move_to(first + k)) scale = S::of(scales, block.known);
      u32 code = V::kNibbles ? codes[(first + k) / 2] : codes[first + k];
      if (V::kNibbles) code = (k % 2 == 0) == V::kHighFirst ? code >> 4 : code & 15u;
      out[first + k] = store<T>(V::value(code, scale));
    }
  }
}

// x and out are the same memory or apart.
template <class T>
__device__ void fake_nf4(const T* x, T* out, const GridParams& grid, u64 count, const float* amax,
                         const float* scales) {
  u64 step = (u64)gridDim.x * kThreads * kRun;
  for (u64 first = ((u64)blockIdx.x * kThreads + threadIdx.x) * kRun; first < count; first += step) {
    Neighbours block(grid);
    float own = 0.0f, scale = 0.0f;
    for (u32 k = 0; k < kRun && first + k < count; ++k) {
      if (block.move_to(first + k)) {
        own = amax[block.known];
        scale = scales[block.known];
      }
      out[first + k] = store<T>(Nf4Value::value(nf4_code(load(x[first + k]), own), scale));
    }
  }
}

#define MQ_ENCODE(coding, C, suffix, T)                                                                        \
  MQ_KERNEL(encode_##coding##_##suffix)                                                                        \
  (const T* x, GridParams grid, u64 count, const float* amax, FormatParams params, u8* codes) {                \
    encode<T, C>(x, grid, count, amax, params, codes);                                                         \
  }                                                                                                            \
  MQ_REGISTER(encode_##coding##_##suffix)

#define MQ_DECODE(elements, V, S, suffix, T)                                                                   \
  MQ_KERNEL(decode_##elements##_##suffix)                                                                      \
  (const u8* codes, GridParams grid, u64 count, ScaleParts scales, T* out) {                                   \
    decode<T, V, S>(codes, grid, count, scales, out);                                                          \
  }                                                                                                            \
  MQ_REGISTER(decode_##elements##_##suffix)

#define MQ_INSTANTIATE(suffix, T)                                                                              \
  MQ_ENCODE(int8, Int8Coding, suffix, T)                                                                       \
  MQ_ENCODE(int4, Int4Coding, suffix, T)                                                                       \
  MQ_ENCODE(e4m3, E4m3Coding, suffix, T)                                                                       \
  MQ_ENCODE(mx_e4m3, MxE4m3Coding, suffix, T)                                                                  \
  MQ_ENCODE(mx_e2m1, MxE2m1Coding, suffix, T)                                                                  \
  MQ_ENCODE(nvfp4, Nvfp4Coding<Nvfp4Rounding>, suffix, T)                                                      \
  MQ_ENCODE(nvfp4_static, Nvfp4Coding<Nvfp4StaticRounding>, suffix, T)                                         \
  MQ_ENCODE(nf4, Nf4Coding, suffix, T)                                                                         \
  MQ_DECODE(int8, Int8Value, FloatScales, suffix, T)                                                           \
  MQ_DECODE(int4, Int4Value, FloatScales, suffix, T)                                                           \
  MQ_DECODE(e4m3, E4m3Value, FloatScales, suffix, T)                                                           \
  MQ_DECODE(mx_e4m3, E4m3Value, ExponentScales, suffix, T)                                                     \
  MQ_DECODE(mx_e2m1, E2m1Value, ExponentScales, suffix, T)                                                     \
  MQ_DECODE(nvfp4, E2m1Value, E4m3Scales, suffix, T)                                                           \
  MQ_DECODE(nf4, Nf4Value, IntegerScales, suffix, T)                                                           \
  MQ_KERNEL(fake_nf4_##suffix)                                                                                 \
  (const T* x, T* out, GridParams grid, u64 count, const float* amax, const float* scales) {                   \
    fake_nf4<T>(x, out, grid, count, amax, scales);                                                            \
  }                                                                                                            \
  MQ_REGISTER(fake_nf4_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
#undef MQ_ENCODE
#undef MQ_DECODE
