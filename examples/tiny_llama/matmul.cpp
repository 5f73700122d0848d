// A register-tiled matrix product over packed operands.
//
// W is packed once per call into panels of two vectors of outputs, so that the inner loop reads
// it in order. Each task then packs one strip of kTileRows rows of x and multiplies it with all
// panels. Every output is summed by one task in the order of k: threads cannot change its bits.
#include "matmul.hpp"

#include <algorithm>

namespace tiny_llama {
namespace {

// As many accumulators as the register file holds beside two panel vectors and one x:
// 24 of 32 registers with AVX-512, 12 of 16 with AVX2.
constexpr std::size_t kTileRows = kVectorBytes == 64 ? 12 : 6;
constexpr std::size_t kTileColumns = 2 * kLanes;
// Steps of k per block: a block of a strip (12 KiB) stays in the first-level cache.
constexpr std::size_t kDepth = 256;

struct Block {
    float values[kDepth][kTileRows];
};

struct Tile {
    Vector values[kTileRows][2];
};

// Interleaves `columns` rows of w[n, k], which are outputs; the panel's other columns become zero.
void pack_transposed(const float *w, std::size_t columns, std::size_t k, Matmul::PanelRow *panel) {
    for (std::size_t column = 0; column < kTileColumns; ++column) {
        for (std::size_t p = 0; p < k; ++p) {
            panel[p].values[column] = column < columns ? w[column * k + p] : 0.0F;
        }
    }
}

// Takes `columns` columns of w[k, n], likewise.
void pack_panel(const float *w, std::size_t columns, std::size_t k, std::size_t n,
                Matmul::PanelRow *panel) {
    for (std::size_t p = 0; p < k; ++p) {
        store(panel[p].values, load(w + p * n, columns));
        const std::size_t rest = columns - std::min(columns, kLanes);
        store(panel[p].values + kLanes, rest > 0 ? load(w + p * n + kLanes, rest) : Vector{});
    }
}

// Interleaves `rows` rows of x; the block's other rows keep what they had.
void pack_block(const float *x, std::size_t rows, std::size_t stride, std::size_t depth,
                Block &block) {
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t p = 0; p < depth; ++p) {
            block.values[p][row] = x[row * stride + p];
        }
    }
}

Tile multiply_tile(const Block &block, const Matmul::PanelRow *panel, std::size_t depth) {
    Tile sum = {};
    for (std::size_t p = 0; p < depth; ++p) {
        const Vector w0 = load(panel[p].values);
        const Vector w1 = load(panel[p].values + kLanes);
#pragma GCC unroll 16
        for (std::size_t row = 0; row < kTileRows; ++row) {
            sum.values[row][0] += block.values[p][row] * w0;
            sum.values[row][1] += block.values[p][row] * w1;
        }
    }
    return sum;
}

// Writes the tile's first `rows` x `columns` values to y, or adds them to what is there.
void put_tile(const Tile &tile, float *y, std::size_t rows, std::size_t columns, std::size_t stride,
              bool add) {
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t column = 0; column < columns; column += kLanes) {
            float *at = y + row * stride + column;
            const Vector before = add ? load(at, columns - column) : Vector{};
            store(at, before + tile.values[row][column / kLanes], columns - column);
        }
    }
}

} // namespace

void Matmul::operator()(const float *x, const float *w, float *y, std::size_t m, std::size_t n,
                        std::size_t k) {
    pack(n, k, [&](std::size_t column, std::size_t columns, PanelRow *panel) {
        pack_transposed(w + column * k, columns, k, panel);
    });
    multiply(x, y, m, n, k, false);
}

void Matmul::untransposed(const float *x, const float *w, float *y, std::size_t m, std::size_t n,
                          std::size_t k, bool add) {
    pack(n, k, [&](std::size_t column, std::size_t columns, PanelRow *panel) {
        pack_panel(w + column, columns, k, n, panel);
    });
    multiply(x, y, m, n, k, add);
}

// Has W packed panel by panel.
template <typename Pack> void Matmul::pack(std::size_t n, std::size_t k, const Pack &pack_one) {
    const std::size_t panels = (n + kTileColumns - 1) / kTileColumns;
    packed_w_.resize(std::max(packed_w_.size(), panels * k));
    pool_.run(panels, [&](std::size_t panel, std::size_t) {
        const std::size_t column = panel * kTileColumns;
        const std::size_t columns = std::min(kTileColumns, n - column);
        pack_one(column, columns, packed_w_.data() + panel * k);
    });
}

void Matmul::multiply(const float *x, float *y, std::size_t m, std::size_t n, std::size_t k,
                      bool add) {
    const std::size_t panels = (n + kTileColumns - 1) / kTileColumns;
    const std::size_t strips = (m + kTileRows - 1) / kTileRows;
    pool_.run(strips, [&](std::size_t strip, std::size_t) {
        const std::size_t row = strip * kTileRows;
        const std::size_t rows = std::min(kTileRows, m - row);
        Block block = {};
        for (std::size_t p = 0; p < k; p += kDepth) {
            const std::size_t depth = std::min(kDepth, k - p);
            pack_block(x + row * k + p, rows, k, depth, block);
            for (std::size_t panel = 0; panel < panels; ++panel) {
                const Tile tile = multiply_tile(block, packed_w_.data() + panel * k + p, depth);
                const std::size_t column = panel * kTileColumns;
                const std::size_t columns = std::min(kTileColumns, n - column);
                put_tile(tile, y + row * n + column, rows, columns, n, add || p > 0);
            }
        }
    });
}

} // namespace tiny_llama
