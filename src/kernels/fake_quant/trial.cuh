// Rounding under a scale that is tried: as `apply` of formats.cuh, with the division by a scale taken apart.
#pragma once

#include "../cuda/formats.cuh"

// A scale, and the reciprocal that divisions by it begin with.
struct Trial {
  Scale scale;
  float inverse;

  // Whether `divided` may be used: far from where the steps of a division overflow or vanish. A NaN is not.
  __device__ __forceinline__ bool is_ordinary() const {
    u32 exponent = bits_of(scale.back) >> 23;
    return exponent >= 27u && exponent <= 227u;
  }
};

template <class R>
__device__ __forceinline__ Trial trial_of(R rounding, float amax) {
  Scale scale = rounding.scale(amax);
  return {scale, __fdiv_rn(1.0f, scale.back)};
}

// x / divisor, correctly rounded: two corrections of the product with the correctly rounded reciprocal (Markstein). A
// quotient that overflows on the way is infinite or NaN.
__device__ __forceinline__ float divided(float x, float divisor, float inverse) {
  float q = __fmul_rn(x, inverse);
  q = __fmaf_rn(__fmaf_rn(-divisor, q, x), inverse, q);
  return __fmaf_rn(__fmaf_rn(-divisor, q, x), inverse, q);
}

// What rounding changes `x` by, but for its sign. kOrdinary: the trial is.
template <bool kOrdinary>
__device__ __forceinline__ float change(IntRounding rounding, float x, const Trial& trial) {
  if (!kOrdinary) return __fsub_rn(rounding.apply(x, trial.scale), x);
  float q = rintf(__fmul_rn(x, trial.scale.multiplier));
  q = q < rounding.min ? rounding.min : q;
  q = q > rounding.max ? rounding.max : q;
  return __fsub_rn(divided(q, trial.scale.back, trial.inverse), x);
}

template <bool kOrdinary>
__device__ __forceinline__ float change(E4m3Rounding rounding, float x, const Trial& trial) {
  return __fsub_rn(rounding.apply(x, trial.scale), x);
}

template <bool kOrdinary>
__device__ __forceinline__ float change(Nvfp4StaticRounding rounding, float x, const Trial& trial) {
  if (!kOrdinary) return __fsub_rn(rounding.apply(x, trial.scale), x);
  // E2M1 is symmetric. A quotient that is not finite ends as the largest element, as it should.
  float magnitude = fabsf(x);
  float y = round_mantissa<1>(bits_of(divided(magnitude, trial.scale.back, trial.inverse)) & 0x7fffffffu, 0);
  y = y < kE2m1Max ? y : kE2m1Max;
  return __fsub_rn(__fmul_rn(y, trial.scale.back), magnitude);
}

template <bool kOrdinary, class R>
__device__ __forceinline__ float squared(R rounding, float x, const Trial& trial) {
  float difference = change<kOrdinary>(rounding, x, trial);
  return __fmul_rn(difference, difference);
}
