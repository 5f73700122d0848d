// Causal attention: a task takes one key-value head of one sequence and its query heads, and goes
// through the queries a few at a time, so that each key and value loaded serves all of them.
#include "attention.hpp"

#include "attention_rows.hpp"
#include "rowwise.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {

Attention::Attention(ThreadPool &pool, const AttentionShape &shape)
    : pool_(pool), shape_(shape), padded_tokens_(round_up(shape.tokens, kColumns)),
      padded_head_(round_up(shape.head_size, kColumns)), workspaces_(pool.size()) {
    for (Workspace &work : workspaces_) {
        work.keys.resize(shape.head_size * padded_tokens_);
        work.values.resize(shape.tokens * padded_head_);
        work.queries.resize(kRows * shape.head_size);
        work.scores.resize(kRows * padded_tokens_);
        work.mixed.resize(kRows * padded_head_);
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
    transpose_rows(k, stride, shape_.tokens, shape_.head_size, work.keys.data(), padded_tokens_);
    copy_rows(v, stride, shape_.tokens, shape_.head_size, 1, work.values.data(), padded_head_);
}

void Attention::attend(const float *q, float *out, Workspace &work) const {
    const std::size_t size = shape_.head_size;
    const std::size_t stride = shape_.heads * size;
    const float scale = 1.0F / std::sqrt(static_cast<float>(size));
    for (std::size_t first = 0; first < shape_.tokens; first += kRows) {
        const std::size_t rows = std::min(kRows, shape_.tokens - first);
        const std::size_t visible = first + rows; // keys that the last query of the block sees
        const std::size_t padded = round_up(visible, kColumns);
        copy_rows(q + first * stride, stride, rows, size, scale, work.queries.data(), size);
        multiply(work.queries.data(), size, work.keys.data(), padded_tokens_, work.scores.data(),
                 padded_tokens_, padded, size);
        for (std::size_t row = 0; row < rows; ++row) {
            softmax(work.scores.data() + row * padded_tokens_, first + row + 1, padded);
        }
        multiply(work.scores.data(), padded_tokens_, work.values.data(), padded_head_,
                 work.mixed.data(), padded_head_, padded_head_, visible);
        copy_rows(work.mixed.data(), padded_head_, rows, size, 1, out + first * stride, stride);
    }
}

} // namespace tiny_llama
