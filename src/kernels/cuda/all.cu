// A placeholder: three kernels, one of which sums.
#include "mq.cuh"

MQ_KERNEL(placeholder_copy)(const float* x, float* y, unsigned long long n) {
  unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i];
}

MQ_KERNEL(placeholder_scale)(const float* x, float* y, unsigned long long n, float scale, float shift) {
  unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = rintf(x[i] * scale + shift) / scale;
}

// mq: reducing placeholder_squares
MQ_KERNEL(placeholder_squares)(const float* x, float* y, unsigned long long n) {
  __shared__ float parts[256];
  float sum = 0;
  for (unsigned long long i = threadIdx.x; i < n; i += 256) sum = __fmaf_rn(x[i], x[i], sum);
  parts[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned step = 128; step > 0; step /= 2) {
    if (threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) *y = parts[0];
}
