// How many magnitudes of a tensor fall into each of some equal bins from zero up. Exact: counts are integers, and a
// value's bin is found by the CPU's operations.
//
// The range of a running histogram lies in device memory and grows there: observe/histogram.rs has the rules.
#include "../cuda/mq.cuh"

// MAX_BINS of mod.rs.
constexpr u32 kMaxBins = 1 << 16;
// Counts that a thread block has in shared memory. Where there are more bins, the first ones have most values.
constexpr u32 kNearBins = 1 << 13;

// Finds a value's bin, as `Bins` of mod.rs does.
struct HistogramBins {
  u32 count;
  float last_edge, factor, divisor;

  __device__ HistogramBins(float last_edge, u32 count) : count(count), last_edge(last_edge) {
    // 2^64 and 2^-64: the product with the number of bins must not overflow.
    float down = last_edge > float_of((127u + 64u) << 23) ? float_of((127u - 64u) << 23) : 1.0f;
    factor = __fmul_rn((float)count, down);
    divisor = __fmul_rn(last_edge, down);
  }

  // The number of bins when it is in none.
  __device__ __forceinline__ u32 slot(u32 magnitude) const {
    float value = float_of(magnitude);
    if (!(value <= last_edge)) return count;
    u32 bin = (u32)__fdiv_rn(__fmul_rn(value, factor), divisor);
    // The last bin has its right edge too.
    return bin < count ? bin : count - 1;
  }
};

// Adds to `counts`, one for each bin and one for what is in none. A thread block counts less than 2^32 elements: a GPU
// has at least 32 of them at work, and no memory for more.
template <class T>
__device__ void histogram_count(const T* x, u64 n, const HistogramBins& bins, u64* counts) {
  __shared__ u32 near[kNearBins];
  u32 kept = bins.count + 1 < kNearBins ? bins.count + 1 : kNearBins;
  for (u32 i = threadIdx.x; i < kept; i += kThreads) near[i] = 0;
  __syncthreads();
  auto add = [&](T value) {
    u32 slot = bins.slot(magnitude(value));
    if (slot < kept) {
      atomicAdd(&near[slot], 1u);
    } else {
      atomicAdd(&counts[slot], 1ull);
    }
  };
  constexpr u32 kCount = Vector<T>::kCount;
  u64 mine = (u64)blockIdx.x * kThreads + threadIdx.x, step = (u64)gridDim.x * kThreads;
  u64 vectors = is_aligned(x, x) ? n / kCount : 0;
  for (u64 v = mine; v < vectors; v += step) {
    Vector<T> values = load_vector(x + v * kCount);
#pragma unroll
    for (u32 k = 0; k < kCount; ++k) add(values.values[k]);
  }
  for (u64 i = vectors * kCount + mine; i < n; i += step) add(x[i]);
  __syncthreads();
  for (u32 i = threadIdx.x; i < kept; i += kThreads) {
    if (near[i] != 0) atomicAdd(&counts[i], (u64)near[i]);
  }
}

// How the edges of a running histogram came to be: the host makes them from that.
constexpr u32 kEdgesKept = 0;   // as the host has them
constexpr u32 kEdgesZeros = 1;  // one bin from 0 to 0
constexpr u32 kEdgesFirst = 2;  // of the first batch
constexpr u32 kEdgesNext = 3;   // of a range that has grown

// A running histogram but for its counts: `State` of cuda.rs.
struct HistogramState {
  // Bins at present; 0 before the first batch.
  u32 bins;
  u32 edges;
  float last_edge;
  float width;
  // The largest magnitude that the edges were made for.
  float reached;
  // Of the batch that is to be counted, as bits.
  u32 batch_max;
  // Bit 0: a batch held NaN or infinity; bit 1: a negative value where none may be.
  u32 flaws;
  // Whether the batch is left out.
  u32 is_skipped;
};

// The edge `index` of a range that has grown, `count` edges in all.
__device__ float histogram_edge(u64 index, u64 count, float width) {
  u64 in_steps = count - count % 16;
  double step = (double)width;
  float value = 0.0f;
  if (index < in_steps) {
    float first = (float)((double)(index - index % 8) * step);
    double into = (double)(index % 8) * step;
    value = (float)((double)first + into);
  } else {
    value = (float)((double)index * step);
  }
  float largest = float_of(kInfinity - 1);
  return value < largest ? value : largest;
}

// The last edge of a range that has grown.
__device__ float histogram_last_edge(float reached, float width, u32 bins) {
  double count = ceil((double)__fadd_rn(reached, width) / (double)width);
  u64 edges = (u64)bins + 1;
  // Infinite when the end overflows.
  if (count < 9007199254740992.0 && (u64)count > edges) edges = (u64)count;
  float last = histogram_edge(edges - 1, edges, width);
  return last > reached ? last : reached;
}

// Makes neighbouring counts one, two by two; all threads of the block together. Returns how many there are then. Counts
// beyond the bins are zero, before and after it.
__device__ u32 histogram_halve(u64* counts, u32 bins) {
  u32 half = (bins + 1) / 2;
  for (u32 first = 0; first < half; first += kThreads) {
    u32 i = first + threadIdx.x;
    u64 sum = 0;
    if (i < half) sum = counts[2 * i] + counts[2 * i + 1];
    __syncthreads();
    // What is overwritten was read in this round or before.
    if (i < half) counts[i] = sum;
    __syncthreads();
  }
  for (u32 i = half + threadIdx.x; i < bins; i += kThreads) counts[i] = 0;
  __syncthreads();
  return half;
}

// Makes the range include the batch's largest magnitude. One thread block.
MQ_KERNEL(histogram_reach)(HistogramState* state, u32 num_bins, u64* counts) {
  HistogramState now = *state;
  // Everybody has read it before it changes.
  __syncthreads();
  u32 batch = now.batch_max;
  float reached = float_of(batch);
  now.batch_max = 0;
  now.is_skipped = batch >= kInfinity ? 1 : 0;
  now.flaws |= now.is_skipped;
  if (now.is_skipped != 0) {
    // It is an error, which the host finds.
  } else if (now.last_edge > 0.0f) {
    if (reached > now.last_edge) {
      while (ceilf(__fdiv_rn(reached, now.width)) > (float)kMaxBins) {
        now.width = __fmul_rn(now.width, 2.0f);
        now.bins = histogram_halve(counts, now.bins);
      }
      now.bins = larger((u32)ceilf(__fdiv_rn(reached, now.width)), now.bins);
      now.edges = kEdgesNext;
      now.reached = reached;
      now.last_edge = histogram_last_edge(reached, now.width, now.bins);
    }
  } else if (reached > 0.0f) {
    // Zeros that came before lie in the first bin.
    float bins = (float)num_bins, least = __fmul_rn(bins, float_of(1u << 23));
    float end = reached > least ? reached : least;
    now.bins = num_bins;
    now.edges = kEdgesFirst;
    now.reached = reached;
    now.last_edge = end;
    // Also where the second edge is the last but one of two bins: then it is made from the end, but halves are exact.
    now.width = __fdiv_rn(end, bins);
  } else if (now.bins == 0) {
    now.bins = 1;
    now.edges = kEdgesZeros;
  }
  if (threadIdx.x == 0) *state = now;
}
MQ_REGISTER(histogram_reach)

// Counts the batch in the range that was made for it.
template <class T>
__device__ void histogram_collect(const T* x, u64 n, const HistogramState* state, u64* counts) {
  if (state->is_skipped != 0) return;
  if (state->last_edge > 0.0f) {
    histogram_count<T>(x, n, HistogramBins(state->last_edge, state->bins), counts);
  } else if (blockIdx.x == 0 && threadIdx.x == 0) {
    counts[0] += n;
  }
}

#define MQ_INSTANTIATE(suffix, T)                                                                           \
  MQ_KERNEL(histogram_##suffix)(const T* x, u64 n, float last_edge, u32 bins, u64* counts) {                \
    histogram_count<T>(x, n, HistogramBins(last_edge, bins), counts);                                       \
  }                                                                                                         \
  MQ_REGISTER(histogram_##suffix)                                                                           \
  MQ_KERNEL(histogram_collect_##suffix)(const T* x, u64 n, const HistogramState* state, u64* counts) {      \
    histogram_collect<T>(x, n, state, counts);                                                              \
  }                                                                                                         \
  MQ_REGISTER(histogram_collect_##suffix)
MQ_FOR_EACH_ELEMENT(MQ_INSTANTIATE)
#undef MQ_INSTANTIATE
