// Number formats, as src/format on the CPU: the same operations in the same order, so the same bits.
//
// Divisions and products are the IEEE ones; the unit is compiled without contraction.
#pragma once

#include "mq.cuh"

constexpr float kE4m3Max = 448.0f;
constexpr float kE2m1Max = 6.0f;
// An amax at or below this is taken for zero (2^-24).
constexpr float kAmaxEpsilon = 1.0f / 16777216.0f;

// 2^exponent for -127 (a subnormal) to 127.
__device__ __forceinline__ float power_of_two(int exponent) {
  return float_of(exponent < -126 ? 1u << 22 : (u32)(exponent + 127) << 23);
}

// A magnitude rounded to M mantissa bits, ties to even; below 2^min_exponent to the spacing there.
template <int M>
__device__ __forceinline__ float round_mantissa(u32 magnitude, int min_exponent) {
  u32 below = larger(magnitude & 0x7f800000u, bits_of(power_of_two(min_exponent)));
  float rounder = float_of(below + ((23u - M) << 23));
  return __fsub_rn(__fadd_rn(float_of(magnitude), rounder), rounder);
}

__device__ __forceinline__ float with_sign_of(float magnitude, float x) {
  return float_of((bits_of(magnitude) & 0x7fffffffu) | (bits_of(x) & 0x80000000u));
}

// Arithmetic of a GPU makes every NaN the same, positive one. So where a NaN ends as a number, its sign is that of the
// element as it was loaded, which a CPU carries along.

// A magnitude to the nearest E4M3 value, saturating; a comparison lets a NaN through.
__device__ __forceinline__ float round_e4m3(float magnitude) {
  magnitude = magnitude > kE4m3Max ? kE4m3Max : magnitude;
  return round_mantissa<3>(bits_of(magnitude), -6);
}

// What a block multiplies with, what brings its values back, and the reciprocal that divisions by that begin with.
struct Scale {
  float multiplier;
  float back;
  float inverse;

  // Whether `divided` may be used: far from where the steps of a division overflow or vanish. A NaN is not.
  __device__ __forceinline__ bool is_ordinary() const {
    u32 exponent = bits_of(back) >> 23;
    return exponent >= 27u && exponent <= 227u;
  }
};

// A scale that nothing is divided by.
__device__ __forceinline__ Scale multiplying(float multiplier, float back) { return {multiplier, back, 0.0f}; }

__device__ __forceinline__ Scale dividing(float multiplier, float back) {
  return {multiplier, back, __fdiv_rn(1.0f, back)};
}

// A magnitude over `back`, correctly rounded: two corrections of the product with the correctly rounded reciprocal
// (Markstein, "IA-64 and Elementary Functions", 2000). A quotient that overflows on the way is infinite or NaN.
__device__ __forceinline__ float divided(float magnitude, const Scale& scale) {
  float q = __fmul_rn(magnitude, scale.inverse);
  q = __fmaf_rn(__fmaf_rn(-scale.back, q, magnitude), scale.inverse, q);
  return __fmaf_rn(__fmaf_rn(-scale.back, q, magnitude), scale.inverse, q);
}

// The same by any scale.
template <bool kOrdinary>
__device__ __forceinline__ float quotient(float magnitude, const Scale& scale) {
  return kOrdinary ? divided(magnitude, scale) : __fdiv_rn(magnitude, scale.back);
}

__device__ __forceinline__ Scale e4m3_scale(float amax) {
  amax = amax <= kAmaxEpsilon ? 1.0f : amax;
  float s = __fmul_rn(__fdiv_rn(1.0f, amax), kE4m3Max);
  return multiplying(s, __fdiv_rn(1.0f, s));
}

// x times a multiplier, rounded to E4M3, saturating.
__device__ __forceinline__ float e4m3_scaled(float x, float multiplier) {
  return with_sign_of(round_e4m3(__fmul_rn(fabsf(x), multiplier)), x);
}

// Elements with E exponent and M mantissa bits; a magnitude is rounded, saturating, NaN becomes the largest.
template <int E, int M>
struct Minifloat {
  static constexpr int kMinExponent = 1 - ((1 << (E - 1)) - 1);
  float max;
  __device__ __forceinline__ float round(float magnitude) const {
    // Of a NaN and a number, the number is the smaller one.
    return fminf(round_mantissa<M>(bits_of(magnitude), kMinExponent), max);
  }
};

struct MxInt8 {
  float max;
  __device__ __forceinline__ float round(float magnitude) const { return fminf(rintf(magnitude), max); }
};

__device__ __forceinline__ float round_e2m1(float magnitude) { return Minifloat<2, 1>{kE2m1Max}.round(magnitude); }

// ---- Roundings: `scale(amax)` once for a block, `apply<kOrdinary>(x, scale)` for every element, where kOrdinary says
// that the scale is. kDivides: it matters. kFindsScale: blocks find their scales by themselves, and leave NaN out of
// their amax.

struct IntRounding {
  static constexpr bool kFindsScale = false, kDivides = true;
  float max, min;
  __device__ __forceinline__ Scale scale(float amax) const {
    if (amax <= kAmaxEpsilon) return {0.0f, 1.0f, 1.0f};
    float s = __fdiv_rn(max, amax);
    return dividing(s, s);
  }
  template <bool kOrdinary>
  __device__ __forceinline__ float apply(float x, const Scale& s) const {
    float q = rintf(__fmul_rn(x, s.multiplier));
    // Comparisons let a NaN through.
    q = q < min ? min : q;
    q = q > max ? max : q;
    return with_sign_of(quotient<kOrdinary>(fabsf(q), s), q);
  }
};

struct E4m3Rounding {
  static constexpr bool kFindsScale = false, kDivides = false;
  __device__ __forceinline__ Scale scale(float amax) const { return e4m3_scale(amax); }
  template <bool kOrdinary>
  __device__ __forceinline__ float apply(float x, const Scale& s) const {
    return __fmul_rn(e4m3_scaled(x, s.multiplier), s.back);
  }
};

template <class Element>
struct MxRounding {
  static constexpr bool kFindsScale = true, kDivides = false;
  Element element;
  __device__ __forceinline__ Scale scale(float amax) const {
    constexpr float kLargest = 3.40282347e+38f;
    float finite = amax < kLargest ? amax : kLargest;
    u32 ratio = bits_of(__fdiv_rn(finite, element.max));
    int exponent = (int)(ratio >> 23);
    u32 mantissa = ratio & 0x7fffffu;
    // Up, unless it is a power of two already, or at the end of the range.
    bool up = mantissa > 0 && exponent != 0xfe && !(exponent == 0 && mantissa <= 0x400000u);
    int k = amax > 0.0f ? exponent - 127 + (up ? 1 : 0) : 0;
    return multiplying(power_of_two(-k), power_of_two(k));
  }
  template <bool kOrdinary>
  __device__ __forceinline__ float apply(float x, const Scale& s) const {
    return with_sign_of(__fmul_rn(element.round(__fmul_rn(fabsf(x), s.multiplier)), s.back), x);
  }
};

// The magnitude of x as E2M1 under a scale and back; a scale of zero, which is not ordinary, makes everything zero.
template <bool kOrdinary>
__device__ __forceinline__ float nvfp4_magnitude(float x, const Scale& s) {
  float y = __fmul_rn(round_e2m1(quotient<kOrdinary>(fabsf(x), s)), s.back);
  return kOrdinary || s.back > 0.0f ? y : 0.0f;
}

struct Nvfp4Rounding {
  static constexpr bool kFindsScale = true, kDivides = true;
  float global_scale;
  __device__ __forceinline__ Scale scale(float amax) const {
    float ratio = __fdiv_rn(amax, __fmul_rn(kE2m1Max, global_scale));
    // Not `ratio > 448`: a NaN must not become a scale.
    ratio = ratio < kE4m3Max ? ratio : kE4m3Max;
    return dividing(0.0f, __fmul_rn(round_e4m3(ratio), global_scale));
  }
  template <bool kOrdinary>
  __device__ __forceinline__ float apply(float x, const Scale& s) const {
    return with_sign_of(nvfp4_magnitude<kOrdinary>(x, s), x);
  }
};

struct Nvfp4StaticRounding {
  static constexpr bool kFindsScale = false, kDivides = true;
  // That of the amax of the scales.
  Scale of_scales;
  __device__ __forceinline__ Scale scale(float amax) const {
    float v = e4m3_scaled(__fdiv_rn(amax, kE2m1Max), of_scales.multiplier);
    v = __fmul_rn(v, of_scales.back);
    return dividing(0.0f, is_finite(v) ? v : 1.0f);
  }
  template <bool kOrdinary>
  __device__ __forceinline__ float apply(float x, const Scale& s) const {
    return with_sign_of(nvfp4_magnitude<kOrdinary>(x, s), x);
  }
};

// ---- What the host says of a format.
struct FormatParams {
  // Largest and smallest integer, or largest element; of static NVFP4 in `max` the largest block scale.
  float max, min;
  // Of NVFP4: the scale of the tensor, or the amax of its scales, when there is no `tensor_amax`.
  float of_tensor;
  // The amax of the whole tensor in device memory, so that a captured graph sees a new one; or NULL.
  const float* tensor_amax;
};

__device__ __forceinline__ void make(const FormatParams& p, IntRounding& r) { r = {p.max, p.min}; }
__device__ __forceinline__ void make(const FormatParams&, E4m3Rounding&) {}
template <int E, int M>
__device__ __forceinline__ void make(const FormatParams& p, MxRounding<Minifloat<E, M>>& r) {
  r.element.max = p.max;
}
__device__ __forceinline__ void make(const FormatParams& p, MxRounding<MxInt8>& r) { r.element.max = p.max; }
__device__ __forceinline__ void make(const FormatParams& p, Nvfp4Rounding& r) {
  r.global_scale = p.of_tensor;
  if (p.tensor_amax == nullptr) return;
  float scale = __fdiv_rn(*p.tensor_amax, kE2m1Max * kE4m3Max);
  r.global_scale = scale > 0.0f ? scale : 1e-12f;
}
__device__ __forceinline__ void make(const FormatParams& p, Nvfp4StaticRounding& r) {
  float scale_amax = p.of_tensor;
  if (p.tensor_amax != nullptr) {
    scale_amax = __fdiv_rn(__fmul_rn(*p.tensor_amax, __fdiv_rn(kE4m3Max, p.max)), kE2m1Max);
  }
  r.of_scales = e4m3_scale(scale_amax);
}

using MxE4m3 = MxRounding<Minifloat<4, 3>>;
using MxE5m2 = MxRounding<Minifloat<5, 2>>;
using MxE3m2 = MxRounding<Minifloat<3, 2>>;
using MxE2m3 = MxRounding<Minifloat<2, 3>>;
using MxE2m1 = MxRounding<Minifloat<2, 1>>;
using MxE1m2 = MxRounding<Minifloat<1, 2>>;
using MxInt8Rounding = MxRounding<MxInt8>;

// X(name, rounding, ...) for formats whose blocks are given their amax, and for those that find it.
#define MQ_FOR_EACH_GIVEN_FORMAT(X, ...) \
  X(int, IntRounding, __VA_ARGS__)       \
  X(e4m3, E4m3Rounding, __VA_ARGS__)     \
  X(nvfp4_static, Nvfp4StaticRounding, __VA_ARGS__)

#define MQ_FOR_EACH_SELF_SCALED_FORMAT(X, ...) \
  X(nvfp4, Nvfp4Rounding, __VA_ARGS__)         \
  X(mx_e4m3, MxE4m3, __VA_ARGS__)              \
  X(mx_e5m2, MxE5m2, __VA_ARGS__)              \
  X(mx_e3m2, MxE3m2, __VA_ARGS__)              \
  X(mx_e2m3, MxE2m3, __VA_ARGS__)              \
  X(mx_e2m1, MxE2m1, __VA_ARGS__)              \
  X(mx_e1m2, MxE1m2, __VA_ARGS__)              \
  X(mx_int8, MxInt8Rounding, __VA_ARGS__)
