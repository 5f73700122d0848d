// The amax that a block is best rounded under: of several candidates the one of least squared error. Reducing, but the
// sums are taken in the order of kernels/fake_quant/error.rs: the choice and its error are those of the CPU.
//
// A sum goes over sixteens: lane i of sixteen adds up every sixteenth element of a stretch in float32, and the sixteen
// are added in halves. Two threads share a candidate, one has the even lanes, the other the odd ones, so that only the
// last addition goes across. Elements lie in shared memory in that order: of every sixteen first the even ones.
//
// What it costs, for the 126 scales of static NVFP4 on blocks of 16: trying everything is 126 * 16 = 2016 roundings for
// a block. Instead a warp tries the 16 candidates around the one that just holds the largest magnitude (8 roundings for
// each thread), asks of the others what they do to the largest magnitude alone (126 / 32, 4 more), which no sum is
// below, and tries those that are still open (on weights that look normal about 16 of them: 8 more). A rounding is
// about 14 instructions, for the reciprocal of a scale is found once and the division is a product and four fused
// steps: some 300 instructions of a warp for a block, with loading and choosing 400. An 8192 x 4096 weight has 2^21
// blocks; 132 multiprocessors issue 4 warp instructions a cycle: 2^21 * 400 / 528 cycles, 0.9 ms at 1.8 GHz.
#include "../cuda/grid.cuh"
#include "trial.cuh"

constexpr u32 kWarps = kThreads / kWarp;
constexpr u32 kSixteen = 16;
// Elements that are summed in float32, `STRETCH` in Rust.
constexpr u32 kStretch = 128;
// Elements of a block that a warp holds at most, `HELD` in Rust.
constexpr u32 kHeld = 512;
// Elements of a part of a long block, `PIECE` in Rust.
constexpr u64 kPart = 32768;
// Sums of the last stretch of a part, beyond one: of 64, 32, 16 elements and of what is left.
constexpr u64 kTail = 3;
// Candidates whose scales are kept when they are the same for every block.
constexpr u32 kKept = 256;
constexpr u32 kNone = 0xffffffffu;

// What is tried: `values` themselves, or times the block's amax.
struct Candidates {
  const float* amax;
  const float* values;
  u32 count;
  // Of multiples: where to begin.
  u32 likely;

  template <class R>
  __device__ __forceinline__ Scale scale(const R& rounding, u64 block, u32 candidate) const {
    float value = values[candidate < count ? candidate : count - 1];
    return rounding.scale(amax != nullptr ? __fmul_rn(amax[block], value) : value);
  }
};

struct Best {
  double error;
  u32 candidate;

  __device__ __forceinline__ void offer(double other_error, u32 other) {
    bool is_better = other_error < error || (other_error == error && other < candidate);
    error = is_better ? other_error : error;
    candidate = is_better ? other : candidate;
  }

  // The best of all lanes, which all of them get.
  __device__ __forceinline__ void share() {
    for (int step = (int)kWarp / 2; step > 0; step /= 2) {
      double other_error = __shfl_xor_sync(kAllLanes, error, step);
      u32 other = __shfl_xor_sync(kAllLanes, candidate, step);
      offer(other_error, other);
    }
  }
};

__device__ __forceinline__ double infinity() { return (double)float_of(kInfinity); }

// Where element `i` is held.
__device__ __forceinline__ u32 held_at(u32 i) { return (i & ~15u) | (i & 1u) << 3 | (i >> 1 & 7u); }

// Elements that the next sum takes when so many are left.
__device__ __forceinline__ u32 next_stretch(u32 left) {
  return left >= kStretch ? kStretch : left >= 64 ? 64u : left >= 32 ? 32u : kSixteen;
}

// The sum over some sixteens, for the candidate of a pair of threads.
template <bool kOrdinary, class R>
__device__ __forceinline__ float sum_of_stretch(const float* held, u32 count, const R& rounding, const Scale& scale) {
  held += (threadIdx.x & 1u) * (kSixteen / 2);
  float lanes[kSixteen / 2];
#pragma unroll
  for (u32 k = 0; k < kSixteen / 2; ++k) lanes[k] = 0.0f;
  for (u32 i = 0; i < count; i += kSixteen) {
#pragma unroll
    for (u32 k = 0; k < kSixteen / 2; ++k) {
      lanes[k] = __fadd_rn(lanes[k], squared<kOrdinary>(rounding, held[i + k], scale));
    }
  }
#pragma unroll
  for (u32 half = kSixteen / 4; half > 0; half /= 2) {
#pragma unroll
    for (u32 k = 0; k < half; ++k) lanes[k] = __fadd_rn(lanes[k], lanes[k + half]);
  }
  return __fadd_rn(lanes[0], __shfl_xor_sync(kAllLanes, lanes[0], 1));
}

template <class R>
__device__ __forceinline__ float stretch(const float* held, u32 count, const R& rounding, const Scale& scale) {
  // One way for all lanes, for they exchange.
  return __all_sync(kAllLanes, scale.is_ordinary()) ? sum_of_stretch<true>(held, count, rounding, scale)
                                                    : sum_of_stretch<false>(held, count, rounding, scale);
}

// ---- Blocks that a warp holds.
template <class R>
__device__ void search_blocks(Elements x, const GridParams& grid, u64 blocks, const Candidates& candidates,
                              const FormatParams& params, double* errors, u32* chosen) {
  __shared__ float all_held[kWarps][kHeld];
  __shared__ Scale kept[kKept];
  __shared__ u32 all_queued[kWarps][kSixteen + kWarp];
  R rounding;
  make(params, rounding);
  const u32 count = candidates.count;
  const bool is_kept = candidates.amax == nullptr && count <= kKept;
  if (is_kept) {
    for (u32 i = threadIdx.x; i < count; i += kThreads) kept[i] = candidates.scale(rounding, 0, i);
  }
  __syncthreads();
  const u32 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float* held = all_held[warp];
  u32* queued = all_queued[warp];
  u64 step = (u64)gridDim.x * kWarps;
  for (u64 block = (u64)blockIdx.x * kWarps + warp; block < blocks; block += step) {
    u32 length = (u32)grid.count_of_block(block), padded = (length + kSixteen - 1) / kSixteen * kSixteen;
    // A value of largest magnitude: magnitudes with their sign behind them.
    u32 highest = 0;
    for (u32 i = lane; i < padded; i += kWarp) {
      // A zero has no error, or every element is NaN under the same scale.
      float value = i < length ? x[grid.element_of_block(block, i)] : 0.0f;
      highest = larger(highest, bits_of(value) << 1 | bits_of(value) >> 31);
      held[held_at(i)] = value;
    }
    highest = largest_of_lanes(highest, kWarp);
    float peak = float_of(highest >> 1 | highest << 31);
    __syncwarp();

    auto scale_at = [&](u32 candidate) {
      return is_kept ? kept[candidate < count ? candidate : count - 1] : candidates.scale(rounding, block, candidate);
    };
    Best best = {infinity(), kNone};
    // Tries one candidate for each pair of threads.
    auto attempt = [&](u32 candidate) {
      Scale scale = scale_at(candidate);
      double error = 0.0;
      for (u32 done = 0; done < length;) {
        u32 part = next_stretch(length - done);
        error += (double)stretch(held + done, part, rounding, scale);
        done += part;
      }
      // What is infinite or NaN is never chosen.
      if (candidate < count && error < infinity()) best.offer(error, candidate);
      best.share();
    };

    u32 likely = candidates.likely;
    if (candidates.amax == nullptr) {
      likely = 0;
      for (u32 first = 0; first < count; first += kWarp) {
        bool is_below = first + lane < count && candidates.values[first + lane] < fabsf(peak);
        likely += (u32)__popc(__ballot_sync(kAllLanes, is_below));
      }
    }
    u32 window = likely > 4 ? likely - 4 : 0, last = count > kSixteen ? count - kSixteen : 0;
    window = window < last ? window : last;
    attempt(window + lane / 2);

    u32 waiting = 0;
    for (u32 first = 0; first < count; first += kWarp) {
      u32 candidate = first + lane;
      Scale scale = scale_at(candidate);
      float least = __all_sync(kAllLanes, scale.is_ordinary()) ? squared<true>(rounding, peak, scale)
                                                               : squared<false>(rounding, peak, scale);
      // Not `<=`: what is NaN must not be left out here, but by its sum.
      bool is_out = (double)least > best.error || ((double)least == best.error && candidate > best.candidate);
      bool is_open = candidate < count && candidate - window >= kSixteen && !is_out;
      u32 open = __ballot_sync(kAllLanes, is_open);
      if (is_open) queued[waiting + (u32)__popc(open & ((1u << lane) - 1u))] = candidate;
      waiting += (u32)__popc(open);
      __syncwarp();
      while (waiting >= kSixteen) {
        waiting -= kSixteen;
        attempt(queued[waiting + lane / 2]);
        __syncwarp();
      }
    }
    if (waiting > 0) attempt(lane / 2 < waiting ? queued[lane / 2] : kNone);
    if (lane == 0) {
      errors[block] = best.error;
      chosen[block] = best.candidate;
    }
    __syncwarp();
  }
}

// ---- Longer blocks: the sums of their stretches, then those of parts, then of blocks.

// A warp for a stretch. `sums` is zero, and has a float for every candidate of every slot of every part of every block.
template <class R>
__device__ void search_stretches(Elements x, const GridParams& grid, u64 work, u64 parts, u64 stretches,
                                 const Candidates& candidates, const FormatParams& params, float* sums) {
  __shared__ float all_held[kWarps][kStretch];
  R rounding;
  make(params, rounding);
  u32 lane = threadIdx.x % kWarp;
  float* held = all_held[threadIdx.x / kWarp];
  u64 step = (u64)gridDim.x * kWarps;
  for (u64 index = (u64)blockIdx.x * kWarps + threadIdx.x / kWarp; index < work; index += step) {
    u64 slot = index % stretches, part = index / stretches % parts, block = index / stretches / parts;
    u64 count = grid.count_of_block(block), begin = part * kPart + slot * kStretch;
    u64 end = count < (part + 1) * kPart ? count : (part + 1) * kPart;
    if (begin >= end) continue;
    u32 length = end - begin < kStretch ? (u32)(end - begin) : kStretch;
    __syncwarp();
    for (u32 i = lane; i < kStretch; i += kWarp) {
      held[held_at(i)] = i < length ? x[grid.element_of_block(block, begin + i)] : 0.0f;
    }
    __syncwarp();
    float* to = sums + ((block * parts + part) * (stretches + kTail) + slot) * candidates.count;
    for (u32 first = 0; first < candidates.count; first += kSixteen) {
      u32 candidate = first + lane / 2;
      Scale scale = candidates.scale(rounding, block, candidate);
      u64 at = candidate;
      for (u32 done = 0; done < length; at += candidates.count) {
        u32 next = next_stretch(length - done);
        float sum = stretch(held + done, next, rounding, scale);
        if (candidate < candidates.count && lane % 2 == 0) to[at] = sum;
        done += next;
      }
    }
  }
}

// The sum of the slots of a part, in order: a thread for a part and a candidate.
// mq: reducing search_parts search_best search_blocks_* search_stretches_*
MQ_KERNEL(search_parts)(const float* sums, u64 parts, u64 slots, u64 candidates, double* totals) {
  for (u64 i = (u64)blockIdx.x * kThreads + threadIdx.x; i < parts * candidates; i += (u64)gridDim.x * kThreads) {
    const float* from = sums + i / candidates * slots * candidates + i % candidates;
    double total = 0.0;
    for (u64 slot = 0; slot < slots; ++slot) total += (double)from[slot * candidates];
    totals[i] = total;
  }
}
MQ_REGISTER(search_parts)

// The best candidate of a block, after the sum of its parts in order: a warp for a block.
MQ_KERNEL(search_best)(const double* totals, u64 blocks, u64 parts, u32 candidates, double* errors, u32* chosen) {
  u32 lane = threadIdx.x % kWarp;
  u64 step = (u64)gridDim.x * kWarps;
  for (u64 block = (u64)blockIdx.x * kWarps + threadIdx.x / kWarp; block < blocks; block += step) {
    Best best = {infinity(), kNone};
    for (u32 candidate = lane; candidate < candidates; candidate += kWarp) {
      double error = 0.0;
      for (u64 part = 0; part < parts; ++part) error += totals[(block * parts + part) * candidates + candidate];
      if (error < infinity()) best.offer(error, candidate);
    }
    best.share();
    if (lane == 0) {
      errors[block] = best.error;
      chosen[block] = best.candidate;
    }
  }
}
MQ_REGISTER(search_best)

#define MQ_SEARCH(format, R, ...)                                                                          \
  MQ_KERNEL(search_blocks_##format)                                                                   \
  (Elements x, GridParams grid, u64 blocks, Candidates candidates, FormatParams params, double* errors,          \
   u32* chosen) {                                                                                                \
    search_blocks<R>(x, grid, blocks, candidates, params, errors, chosen);                                    \
  }                                                                                                              \
  MQ_REGISTER(search_blocks_##format)                                                                 \
  MQ_KERNEL(search_stretches_##format)                                                                \
  (Elements x, GridParams grid, u64 work, u64 parts, u64 stretches, Candidates candidates, FormatParams params,  \
   float* sums) {                                                                                                \
    search_stretches<R>(x, grid, work, parts, stretches, candidates, params, sums);                           \
  }                                                                                                              \
  MQ_REGISTER(search_stretches_##format)

MQ_FOR_EACH_GIVEN_FORMAT(MQ_SEARCH, )
#undef MQ_SEARCH
