// The squared error of fake quantization and the square of the elements, summed over a tensor. Reducing: terms are
// float32 as on the CPU, and are summed in float64, in an order of their own.
#include "../cuda/formats.cuh"
#include "../cuda/grid.cuh"
#include "../cuda/sums.cuh"

// The sums of every tile.
template <class R>
__device__ void squared_error(Elements x, const GridParams& grid, u64 tiles, const float* amax,
                              const FormatParams& params, Sums* sums) {
  __shared__ Sums scratch[kThreads];
  R rounding;
  make(params, rounding);
  for (u64 index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile tile(grid, index);
    Sums own = {0.0, 0.0};
    u64 known = ~0ull;
    Scale scale = {};
#pragma unroll 1
    for (u32 i = threadIdx.x; i < tile.count; i += kThreads) {
      u64 position = tile.position(i);
      if (position != known) {
        scale = rounding.scale(amax[position]);
        known = position;
      }
      float value = x[tile.offset + i];
      float change = __fsub_rn(rounding.template apply<false>(value, scale), value);
      own.error += (double)__fmul_rn(change, change);
      own.energy += (double)__fmul_rn(value, value);
    }
    own = sum_of_block(own, scratch);
    if (threadIdx.x == 0) sums[index] = own;
  }
}

#define MQ_ERROR(format, R, ...)                                                                            \
  MQ_KERNEL(squared_error_##format)                                                                         \
  (Elements x, GridParams grid, u64 tiles, const float* amax, FormatParams params, Sums* sums) {            \
    squared_error<R>(x, grid, tiles, amax, params, sums);                                                   \
  }                                                                                                         \
  MQ_REGISTER(squared_error_##format)
// mq: reducing squared_error_*
MQ_FOR_EACH_GIVEN_FORMAT(MQ_ERROR, )
MQ_FOR_EACH_SELF_SCALED_FORMAT(MQ_ERROR, )
#undef MQ_ERROR
