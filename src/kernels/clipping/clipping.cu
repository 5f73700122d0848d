// Of several ratios of each block's amax the one that changes the output of its columns least: the block is rounded under
// each, and δ G δᵀ taken of what that changes, with G the block of the Gram matrix.
//
// As in quadratic.cu with T the upper triangle of G, doubled above the diagonal, as the sum of (δ T) * δ. A thread block
// has 64 candidates (a row under a ratio, one after the other) of one block of columns: it makes their δ in shared memory,
// a panel of columns at a time, and T in steps of rows. What is written is one float64 for each candidate.
//
// Reducing: an element of δ T is summed over a panel of rows from zero, one product after the other, the panels after that;
// its products with δ in float32 over four neighbours, these in float64. The order depends on the sizes alone.
#include "../cuda/formats.cuh"
#include "../cuda/sums.cuh"
#include "../cuda/tile.cuh"

// Candidates of a thread block, `CANDIDATES` in Rust.
constexpr u32 kCandidates = 64;

// Blocks of columns of a weight, and the matrix that their errors are taken under.
struct ClippedColumns {
  u64 channels, block;
  // Entries on and above the diagonal are read, [blocks, block, block].
  const float* grams;
  // The matrix is that of activations before they were multiplied with these; NULL: with nothing.
  const float* factors;
};

// Ratios that are tried of the amax values of [rows, blocks]; behind them comes a weight of nothing.
struct Ratios {
  const float* amax;
  const float* values;
  u32 count;
};

// What a thread brings of T: one column of every so many rows.
template <u32 kPanel>
struct TrianglePart {
  static constexpr u32 kApart = kThreads / kPanel, kCount = kTileStep / kApart;
  float values[kCount];

  // Rows from `row` on, up to `width`, of the columns from `side` on.
  __device__ __forceinline__ void fetch(const float* gram, const float* factors, u64 block, u64 width, u64 row,
                                        u64 side) {
    u64 column = side + threadIdx.x % kPanel;
    row += threadIdx.x / kPanel;
    float factor = factors != nullptr && column < width ? factors[column] : 1.0f;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i, row += kApart) {
      float entry = 0.0f;
      if (column < width && row <= column) {
        entry = gram[row * block + column];
        if (factors != nullptr) entry = __fmul_rn(entry, __fmul_rn(factors[row], factor));
        if (row < column) entry = __fmul_rn(entry, 2.0f);
      }
      values[i] = entry;
    }
  }

  __device__ __forceinline__ void put(TileRows<kPanel>& to) const {
    u32 column = threadIdx.x % kPanel, row = threadIdx.x / kPanel;
#pragma unroll
    for (u32 i = 0; i < kCount; ++i) to[row + i * kApart][column / 4].values[column % 4] = values[i];
  }
};

// The errors of all candidates of `rows` rows, [blocks, rows, ratios + 1]. kIsLong: a block may have more than one panel,
// whose sums take as many registers again.
template <u32 kPanel, bool kIsLong, class R>
__device__ void clipped_errors(Elements w, u64 rows, const ClippedColumns& columns, const Ratios& ratios,
                               const FormatParams& params, double* errors) {
  // Groups of four neighbouring columns that a thread has of a panel.
  constexpr u32 kGroups = kPanel / 64;
  __shared__ Vector<float> deltas[kPanel][kCandidates / 4];
  __shared__ TileRows<kPanel> triangle[2];
  R rounding;
  make(params, rounding);
  const u64 block = columns.block, per_row = (columns.channels + block - 1) / block;
  const u64 tried = ratios.count + 1ull, count = rows * tried, tiles = (count + kCandidates - 1) / kCandidates;
  const u64 number = blockIdx.x / tiles, first = blockIdx.x % tiles * kCandidates, start = number * block;
  const u64 width = block < columns.channels - start ? block : columns.channels - start;
  const float* gram = columns.grams + number * block * block;
  const float* factors = columns.factors == nullptr ? nullptr : columns.factors + start;

  // The candidate whose δ this thread makes, and every so many columns of it.
  constexpr u32 kApart = kThreads / kCandidates;
  const u32 own = threadIdx.x % kCandidates;
  const bool is_there = first + own < count;
  const u64 own_row = is_there ? (first + own) / tried : 0;
  const u32 ratio = is_there ? (u32)(first + own - own_row * tried) : 0;
  const bool is_whole = ratio == ratios.count;
  const u64 from = own_row * columns.channels + start;
  Scale scale = multiplying(0.0f, 1.0f);
  if (!is_whole) scale = rounding.scale(__fmul_rn(ratios.amax[own_row * per_row + number], ratios.values[ratio]));
  const bool is_ordinary = R::kDivides && scale.is_ordinary();
  auto change_of = [&](u64 column) {
    if (!is_there || column >= width) return 0.0f;
    float plain = w[from + column];
    if (is_whole) return plain;
    float rounded = is_ordinary ? rounding.template apply<R::kDivides>(plain, scale)
                                : rounding.template apply<false>(plain, scale);
    return __fsub_rn(w.stored(rounded), plain);
  };

  const u32 y = threadIdx.x / kTileThreads, x = threadIdx.x % kTileThreads;
  double error[4] = {};
  u32 buffer = 0;
  for (u64 side = 0; side < (kIsLong ? width : 1); side += kPanel) {
    float sums[4][4 * kGroups] = {};
    for (u64 panel = 0; panel <= side; panel += kPanel) {
      // Whoever still reads the panel before.
      __syncthreads();
      for (u32 c = threadIdx.x / kCandidates; c < kPanel; c += kApart) {
        deltas[c][own / 4].values[own % 4] = change_of(panel + c);
      }
      const u64 end = panel + kPanel < width ? panel + kPanel : width;
      float of_panel[4][4 * kGroups] = {};
      TrianglePart<kPanel> part;
      part.fetch(gram, factors, block, width, panel, side);
      for (u64 row = panel; row < end; row += kTileStep, buffer ^= 1) {
        part.put(triangle[buffer]);
        // Also: everybody is done with the other buffer, which is filled next.
        __syncthreads();
        part.fetch(gram, factors, block, width, row + kTileStep, side);
        const u32 step = (u32)(row - panel);
#pragma unroll 4
        for (u32 r = 0; r < kTileStep; ++r) {
          Vector<float> left = deltas[step + r][y], right[kGroups];
#pragma unroll
          for (u32 g = 0; g < kGroups; ++g) right[g] = triangle[buffer][r][g * kTileThreads + x];
#pragma unroll
          for (u32 i = 0; i < 4; ++i) {
#pragma unroll
            for (u32 j = 0; j < 4 * kGroups; ++j) {
              of_panel[i][j] = __fmaf_rn(left.values[i], right[j / 4].values[j % 4], of_panel[i][j]);
            }
          }
        }
      }
#pragma unroll
      for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 j = 0; j < 4 * kGroups; ++j) {
          sums[i][j] = kIsLong ? __fadd_rn(sums[i][j], of_panel[i][j]) : of_panel[i][j];
        }
      }
    }
    // The last panel was that of these columns.
#pragma unroll
    for (u32 g = 0; g < kGroups; ++g) {
      float four[4] = {};
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        Vector<float> delta = deltas[g * 64 + x * 4 + j][y];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) four[i] = __fmaf_rn(sums[i][g * 4 + j], delta.values[i], four[i]);
      }
#pragma unroll
      for (u32 i = 0; i < 4; ++i) error[i] = __dadd_rn(error[i], (double)four[i]);
    }
  }
  // Sixteen neighbouring lanes have the columns of the same candidates.
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    for (int step = (int)kTileThreads / 2; step > 0; step /= 2) {
      error[i] = __dadd_rn(error[i], __shfl_xor_sync(kAllLanes, error[i], step));
    }
    u64 candidate = first + y * 4 + i;
    if (x == 0 && candidate < count) errors[number * count + candidate] = error[i];
  }
}

// mq: reducing clipped_errors_* clipped_best
// The first ratio of least error for every block of every row, whose amax takes the place of what was there; and for each
// thread block the sums of errors: as they were (under the last ratio), the least ones, and those of a weight of nothing,
// `gridDim.x` of each.
MQ_KERNEL(clipped_best)(const double* errors, u64 rows, u64 blocks, const float* ratios, u32 count, float* amax,
                        double* sums) {
  __shared__ double scratch[kThreads];
  u64 at = (u64)blockIdx.x * kThreads + threadIdx.x;
  double plain = 0.0, least = 0.0, energy = 0.0;
  if (at < rows * blocks) {
    const double* tried = errors + at * (count + 1ull);
    u32 best = 0;
    least = tried[0];
    for (u32 ratio = 1; ratio < count; ++ratio) {
      // As on the CPU: what is NaN is never less.
      if (tried[ratio] < least) {
        least = tried[ratio];
        best = ratio;
      }
    }
    plain = tried[count - 1];
    energy = tried[count];
    u64 row = at % rows, number = at / rows;
    amax[row * blocks + number] = __fmul_rn(amax[row * blocks + number], ratios[best]);
  }
  plain = sum_of_block(plain, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = plain;
  least = sum_of_block(least, scratch);
  if (threadIdx.x == 0) sums[gridDim.x + blockIdx.x] = least;
  energy = sum_of_block(energy, scratch);
  if (threadIdx.x == 0) sums[2 * gridDim.x + blockIdx.x] = energy;
}
MQ_REGISTER(clipped_best)

#define MQ_CLIPPED(kernel, panel, is_long, format, R, name)                                                        \
  kernel(clipped_errors_##format##_##name)                                                                         \
  (Elements w, u64 rows, ClippedColumns columns, Ratios ratios, FormatParams params, double* errors) {             \
    clipped_errors<panel, is_long, R>(w, rows, columns, ratios, params, errors);                                   \
  }                                                                                                                \
  MQ_REGISTER(clipped_errors_##format##_##name)

// Blocks of up to 64 columns, of up to 128, and longer ones.
#define MQ_CLIPPED_FORMAT(format, R)                               \
  MQ_CLIPPED(MQ_KERNEL_IN_PAIRS, 64, false, format, R, 64)         \
  MQ_CLIPPED(MQ_KERNEL_IN_PAIRS, 128, false, format, R, 128)       \
  MQ_CLIPPED(MQ_KERNEL, 128, true, format, R, long)
MQ_CLIPPED_FORMAT(int, IntRounding)
MQ_CLIPPED_FORMAT(e4m3, E4m3Rounding)
#undef MQ_CLIPPED_FORMAT
#undef MQ_CLIPPED
