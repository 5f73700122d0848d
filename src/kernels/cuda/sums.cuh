// Sums in float64 that are the same in every run: each thread its own elements in order, the threads of a block in
// halves, and the blocks' sums in order.
#pragma once

#include "mq.cuh"

// Two sums that are taken side by side.
struct Sums {
  double error, energy;
};

// The sum of a block of kThreads, which its first thread gets. `scratch` has a place for every thread.
__device__ __forceinline__ double sum_of_block(double own, double* scratch) {
  // Whoever still reads the scratch of a call before.
  __syncthreads();
  scratch[threadIdx.x] = own;
  for (u32 half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] = __dadd_rn(scratch[threadIdx.x], scratch[threadIdx.x + half]);
  }
  return scratch[0];
}

// The sums of a block of kThreads, which its first thread gets. `scratch` has a place for every thread.
__device__ __forceinline__ Sums sum_of_block(Sums own, Sums* scratch) {
  // Whoever still reads the scratch of a call before.
  __syncthreads();
  scratch[threadIdx.x] = own;
  for (u32 half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      scratch[threadIdx.x].error += scratch[threadIdx.x + half].error;
      scratch[threadIdx.x].energy += scratch[threadIdx.x + half].energy;
    }
  }
  return scratch[0];
}
