// The scales of NF4 blocks, as they come back from 8-bit integers around their mean. Exact: kernels/pack/nf4_scales.rs.
#include "../cuda/tree_sum.cuh"

// The sum of every chunk of the amax values: a warp for each.
MQ_KERNEL(nf4_sums)(const float* amax, u64 blocks, u64 chunks, double* sums) {
  u32 lane = threadIdx.x % kWarp;
  u64 step = (u64)gridDim.x * (kThreads / kWarp);
  for (u64 chunk = (u64)blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp; chunk < chunks; chunk += step) {
    u64 first = chunk * kSumChunk, end = first + kSumChunk < blocks ? first + kSumChunk : blocks;
    double own = 0.0;
#pragma unroll 4
    for (u64 i = first + lane; i < end; i += kWarp) own = __dadd_rn(own, (double)amax[i]);
    own = sum_of_lanes(own);
    if (lane == 0) sums[chunk] = own;
  }
}
MQ_REGISTER(nf4_sums)

// The distance from the mean; that of a NaN does not count.
__device__ __forceinline__ u32 distance_from(float zero, float amax) {
  float distance = fabsf(__fsub_rn(amax, zero));
  return is_nan(distance) ? 0u : bits_of(distance);
}

// A thread block for a group of scales that share a multiplier; the last group is padded with zeros.
MQ_KERNEL(nf4_scales)(const float* amax, u64 blocks, u64 group, u64 chunks, const double* sums, float* scales) {
  __shared__ u32 scratch[kThreads / kWarp];
  u64 groups = (blocks + group - 1) / group;
  float zero = (float)__ddiv_rn(sum_of_chunks(sums, chunks), (double)(groups * group));
  for (u64 index = blockIdx.x; index < groups; index += gridDim.x) {
    u64 first = index * group, end = first + group < blocks ? first + group : blocks;
    u32 farthest = first + group > blocks ? distance_from(zero, 0.0f) : 0u;
    for (u64 i = first + threadIdx.x; i < end; i += kThreads) {
      farthest = larger(farthest, distance_from(zero, amax[i]));
    }
    float multiplier = __fdiv_rn(127.0f, float_of(largest_of_block(farthest, scratch)));
    // Scales that are all alike are all zero from their mean.
    multiplier = is_finite(multiplier) ? multiplier : 1.0f;
    for (u64 i = first + threadIdx.x; i < end; i += kThreads) {
      float code = rintf(__fmul_rn(__fsub_rn(amax[i], zero), multiplier));
      code = is_nan(code) ? 0.0f : code < -128.0f ? -128.0f : code > 127.0f ? 127.0f : code;
      // There is no -0 among integers.
      scales[i] = __fadd_rn(__fdiv_rn((float)(int)code, multiplier), zero);
    }
  }
}
MQ_REGISTER(nf4_scales)
