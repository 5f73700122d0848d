// How far the probabilities of two rows of logits are apart. Reducing: sums are float64, by trees that the number of
// classes decides; the same bytes every run.
#include "../cuda/mq.cuh"
#include "../cuda/sums.cuh"
#include "exponential.cuh"

// A row of logits less this is a row of logarithms of probabilities.
struct RowShift {
  double largest, shift;

  __device__ __forceinline__ float apply(float x) const { return (float)((double)x - largest - shift); }
};

// The shifts of rows, a block for each at a time. A flag is set where one is NaN: that row holds NaN or Inf.
// mq: reducing logit_shifts divergence_rows
MQ_KERNEL(logit_shifts)(Elements logits, u64 rows, u64 classes, RowShift* shifts, u32* flaws) {
  __shared__ u32 largest_scratch[kThreads / kWarp];
  __shared__ double scratch[kThreads];
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    Elements x = logits.from(row * classes);
    // Ordered as numbers are; a NaN is left out, as it comes back in the sum.
    u32 own = 0;
    for (u64 i = threadIdx.x; i < classes; i += kThreads) {
      float value = x[i];
      u32 bits = bits_of(value), key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
      if (!is_nan(value)) own = larger(own, key);
    }
    u32 key = largest_of_block(own, largest_scratch);
    // Nothing but NaN leaves 0.
    double largest = (double)float_of((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < classes; i += kThreads) sum += exponential((double)x[i] - largest);
    sum = sum_of_block(sum, scratch);
    if (threadIdx.x != 0) continue;
    double shift = logarithm(sum);
    shifts[row] = {largest, shift};
    if (shift != shift) atomicOr(flaws, 1u);
  }
}
MQ_REGISTER(logit_shifts)

// Σ p (log p - log q) of rows, a block for each at a time; a class that p rules out takes no part.
MQ_KERNEL(divergence_rows)
(Elements of_p, const RowShift* p_shifts, Elements of_q, const RowShift* q_shifts, u64 rows, u64 classes,
 double* of_rows) {
  __shared__ double scratch[kThreads];
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    Elements p_logits = of_p.from(row * classes), q_logits = of_q.from(row * classes);
    RowShift p_shift = p_shifts[row], q_shift = q_shifts[row];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < classes; i += kThreads) {
      float p = p_shift.apply(p_logits[i]), q = q_shift.apply(q_logits[i]);
      if (p > -float_of(kInfinity)) sum += exponential((double)p) * ((double)p - (double)q);
    }
    sum = sum_of_block(sum, scratch);
    if (threadIdx.x == 0) of_rows[row] = sum;
  }
}
MQ_REGISTER(divergence_rows)

