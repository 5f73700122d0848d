// Sums of float32 values in float64 whose order their number alone decides: kernels/tree_sum.rs, whose bits these are.
//
// A warp adds a chunk: every lane each 32nd value, then the lanes in halves. The sums of chunks likewise.
#pragma once

#include "mq.cuh"

// Values of a chunk: CHUNK of tree_sum.rs.
constexpr u64 kSumChunk = 4096;

// The sum of the lanes of a warp; all of them get it.
__device__ __forceinline__ double sum_of_lanes(double own) {
#pragma unroll
  for (int half = (int)kWarp / 2; half > 0; half /= 2) own = __dadd_rn(own, __shfl_xor_sync(kAllLanes, own, half));
  return own;
}

// The sum of so many sums of chunks; all lanes of the warp get it.
__device__ __forceinline__ double sum_of_chunks(const double* sums, u64 chunks) {
  double own = 0.0;
#pragma unroll 4
  for (u64 chunk = threadIdx.x % kWarp; chunk < chunks; chunk += kWarp) own = __dadd_rn(own, sums[chunk]);
  return sum_of_lanes(own);
}
