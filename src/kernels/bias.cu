// Takes the bias of an affine quantizer off, or adds it again. Exact.
#include "cuda/grid.cuh"

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
  MQ_KERNEL(shift_##suffix)(const T* x, T* out, GridParams grid, u64 tiles, const float* bias, float sign) {  \
    shift<T>(x, out, grid, tiles, bias, sign);                                                                \
  }                                                                                                           \
  MQ_REGISTER(shift_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
