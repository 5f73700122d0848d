// How far two tensors are apart. Reducing: squares and sums in float64.
#include "cuda/grid.cuh"
#include "cuda/sums.cuh"

// The sums of every tile of kTile elements.
template <class T>
__device__ void difference(const T* a, const T* b, u64 count, Sums* sums) {
  __shared__ Sums scratch[kThreads];
  u64 tiles = (count + kTile - 1) / kTile;
  for (u64 index = blockIdx.x; index < tiles; index += gridDim.x) {
    u64 end = (index + 1) * kTile < count ? (index + 1) * kTile : count;
    Sums own = {0.0, 0.0};
    for (u64 i = index * kTile + threadIdx.x; i < end; i += kThreads) {
      double other = (double)load(b[i]), change = (double)load(a[i]) - other;
      own.error += change * change;
      own.energy += other * other;
    }
    own = sum_of_block(own, scratch);
    if (threadIdx.x == 0) sums[index] = own;
  }
}

// The sum of so many sums, at the place of the first: one block.
// mq: reducing sum_up difference_*
MQ_KERNEL(sum_up)(Sums* sums, u64 count) {
  __shared__ Sums scratch[kThreads];
  Sums own = {0.0, 0.0};
  for (u64 i = threadIdx.x; i < count; i += kThreads) {
    own.error += sums[i].error;
    own.energy += sums[i].energy;
  }
  own = sum_of_block(own, scratch);
  if (threadIdx.x == 0) sums[0] = own;
}
MQ_REGISTER(sum_up)

#define MQ_INSTANTIATE(suffix, T)                                                                \
  MQ_KERNEL(difference_##suffix)(const T* a, const T* b, u64 count, Sums* sums) {                \
    difference<T>(a, b, count, sums);                                                            \
  }                                                                                              \
  MQ_REGISTER(difference_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
