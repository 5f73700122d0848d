// What rounding under a scale that is tried changes.
#pragma once

#include "../cuda/formats.cuh"

// What rounding changes `x` by, but for its sign. kOrdinary: the scale is.
template <bool kOrdinary, class R>
__device__ __forceinline__ float change(const R& rounding, float x, const Scale& scale) {
  return __fsub_rn(rounding.template apply<kOrdinary>(x, scale), x);
}

// E2M1 is symmetric.
template <bool kOrdinary>
__device__ __forceinline__ float change(const Nvfp4StaticRounding&, float x, const Scale& scale) {
  return __fsub_rn(nvfp4_magnitude<kOrdinary>(x, scale), fabsf(x));
}

template <bool kOrdinary, class R>
__device__ __forceinline__ float squared(const R& rounding, float x, const Scale& scale) {
  float difference = change<kOrdinary>(rounding, x, scale);
  return __fmul_rn(difference, difference);
}
