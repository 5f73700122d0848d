// Causal attention: a task takes one key-value head of one sequence and its query heads, and goes
// through the queries a few at a time, so that each key and value loaded serves all of them.
#include "attention.hpp"

#include "rowwise.hpp"
#include "simd.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {
namespace {

constexpr std::size_t kBlock = 4; // queries at a time
constexpr std::size_t kColumns = 2 * kLanes;

// y[kBlock, n] = a[kBlock, depth] * b[depth, n]; n is a multiple of kColumns.
void multiply(const float *a, std::size_t a_stride, const float *b, std::size_t b_stride, float *y,
              std::size_t y_stride, std::size_t n, std::size_t depth) {
    for (std::size_t column = 0; column < n; column += kColumns) {
        Vector total[kBlock][2] = {};
        for (std::size_t p = 0; p < depth; ++p) {
            const Vector b0 = load(b + p * b_stride + column);
            const Vector b1 = load(b + p * b_stride + column + kLanes);
#pragma GCC unroll 4
            for (std::size_t row = 0; row < kBlock; ++row) {
                total[row][0] += a[row * a_stride + p] * b0;
                total[row][1] += a[row * a_stride + p] * b1;
            }
        }
        for (std::size_t row = 0; row < kBlock; ++row) {
            store(y + row * y_stride + column, total[row][0]);
            store(y + row * y_stride + column + kLanes, total[row][1]);
        }
    }
}

} // namespace

Attention::Attention(ThreadPool &pool, const AttentionShape &shape)
    : pool_(pool), shape_(shape), padded_tokens_(round_up(shape.tokens, kColumns)),
      padded_head_(round_up(shape.head_size, kColumns)), workspaces_(pool.size()) {
    for (Workspace &work : workspaces_) {
        work.keys.resize(shape.head_size * padded_tokens_);
        work.values.resize(shape.tokens * padded_head_);
        work.queries.resize(kBlock * shape.head_size);
        work.scores.resize(kBlock * padded_tokens_);
        work.mixed.resize(kBlock * padded_head_);
    }
}

void Attention::operator()(const float *q, const float *k, const float *v, float *out,
                           std::size_t batch) {
    const std::size_t group = shape_.heads / shape_.kv_heads;
    const std::size_t size = shape_.head_size;
    pool_.run(batch * shape_.kv_heads, [&](std::size_t index, std::size_t worker) {
        const std::size_t sequence = index / shape_.kv_heads;
        const std::size_t kv_head = index % shape_.kv_heads;
        const std::size_t first_token = sequence * shape_.tokens;
        const std::size_t kv = (first_token * shape_.kv_heads + kv_head) * size;
        Workspace &work = workspaces_[worker];
        load_head(k + kv, v + kv, work);
        for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const std::size_t at = (first_token * shape_.heads + head) * size;
            attend(q + at, out + at, work);
        }
    });
}

void Attention::load_head(const float *k, const float *v, Workspace &work) const {
    const std::size_t stride = shape_.kv_heads * shape_.head_size;
    for (std::size_t token = 0; token < shape_.tokens; ++token) {
        for (std::size_t i = 0; i < shape_.head_size; ++i) {
            work.keys[i * padded_tokens_ + token] = k[token * stride + i];
            work.values[token * padded_head_ + i] = v[token * stride + i];
        }
    }
}

void Attention::attend(const float *q, float *out, Workspace &work) const {
    const std::size_t size = shape_.head_size;
    const std::size_t stride = shape_.heads * size;
    const float scale = 1.0F / std::sqrt(static_cast<float>(size));
    for (std::size_t first = 0; first < shape_.tokens; first += kBlock) {
        const std::size_t rows = std::min(kBlock, shape_.tokens - first);
        const std::size_t visible = first + rows; // keys that the last query of the block sees
        const std::size_t padded = round_up(visible, kColumns);
        for (std::size_t row = 0; row < rows; ++row) {
            for (std::size_t i = 0; i < size; ++i) {
                work.queries[row * size + i] = q[(first + row) * stride + i] * scale;
            }
        }
        multiply(work.queries.data(), size, work.keys.data(), padded_tokens_, work.scores.data(),
                 padded_tokens_, padded, size);
        for (std::size_t row = 0; row < rows; ++row) {
            softmax(work.scores.data() + row * padded_tokens_, first + row + 1, padded);
        }
        multiply(work.scores.data(), padded_tokens_, work.values.data(), padded_head_,
                 work.mixed.data(), padded_head_, padded_head_, visible);
        for (std::size_t row = 0; row < rows; ++row) {
            std::copy_n(work.mixed.data() + row * padded_head_, size, out + (first + row) * stride);
        }
    }
}

} // namespace tiny_llama
