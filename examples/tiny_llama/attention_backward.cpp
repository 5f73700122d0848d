// The work is divided as in attention.cpp: a task takes one key-value head of one sequence, and
// adds up what all queries that read it say about it. The softmax is computed anew, for it is
// larger than all that it is made of.
#include "attention_backward.hpp"

#include "attention_rows.hpp"
#include "rowwise.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {

AttentionBackward::AttentionBackward(ThreadPool &pool, const AttentionShape &shape)
    : pool_(pool), shape_(shape), padded_tokens_(round_up(shape.tokens, kColumns)),
      padded_head_(round_up(shape.head_size, kColumns)), workspaces_(pool.size()) {
    for (Workspace &work : workspaces_) {
        for (std::vector<float> *buffer : {&work.keys, &work.k_gradients, &work.v_gradients}) {
            buffer->resize(shape.tokens * padded_head_);
        }
        for (std::vector<float> *buffer : {&work.keys_t, &work.values_t}) {
            buffer->resize(shape.head_size * padded_tokens_);
        }
        for (std::vector<float> *buffer : {&work.queries, &work.gradients, &work.q_gradients}) {
            buffer->resize(kRows * padded_head_);
        }
        for (std::vector<float> *buffer : {&work.weights, &work.score_gradients}) {
            buffer->resize(kRows * padded_tokens_);
        }
    }
}

void AttentionBackward::operator()(const float *q, const float *k, const float *v, const float *g,
                                   float *q_gradient, float *k_gradient, float *v_gradient,
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
            go_back(q + at, g + at, q_gradient + at, work);
        }
        store_head(work, k_gradient + kv, v_gradient + kv);
    });
}

void AttentionBackward::load_head(const float *k, const float *v, Workspace &work) const {
    const std::size_t stride = shape_.kv_heads * shape_.head_size;
    copy_rows(k, stride, shape_.tokens, shape_.head_size, 1, work.keys.data(), padded_head_);
    transpose_rows(k, stride, shape_.tokens, shape_.head_size, work.keys_t.data(), padded_tokens_);
    transpose_rows(v, stride, shape_.tokens, shape_.head_size, work.values_t.data(),
                   padded_tokens_);
    std::fill(work.k_gradients.begin(), work.k_gradients.end(), 0.0F);
    std::fill(work.v_gradients.begin(), work.v_gradients.end(), 0.0F);
}

void AttentionBackward::store_head(const Workspace &work, float *k_gradient,
                                   float *v_gradient) const {
    const std::size_t stride = shape_.kv_heads * shape_.head_size;
    copy_rows(work.k_gradients.data(), padded_head_, shape_.tokens, shape_.head_size, 1, k_gradient,
              stride);
    copy_rows(work.v_gradients.data(), padded_head_, shape_.tokens, shape_.head_size, 1, v_gradient,
              stride);
}

// weights = softmax(queries * keys^T), out = weights * values; queries are scaled already.
void AttentionBackward::go_back(const float *q, const float *g, float *q_gradient,
                                Workspace &work) const {
    const std::size_t size = shape_.head_size;
    const std::size_t stride = shape_.heads * size;
    const float scale = 1.0F / std::sqrt(static_cast<float>(size));
    for (std::size_t first = 0; first < shape_.tokens; first += kRows) {
        const std::size_t rows = std::min(kRows, shape_.tokens - first);
        const std::size_t visible = first + rows; // keys that the last query of the block sees
        const std::size_t padded = round_up(visible, kColumns);
        if (rows < kRows) { // a query of zeros with a gradient of zeros adds nothing to any sum
            std::fill(work.queries.begin(), work.queries.end(), 0.0F);
            std::fill(work.gradients.begin(), work.gradients.end(), 0.0F);
        }
        copy_rows(q + first * stride, stride, rows, size, scale, work.queries.data(), padded_head_);
        copy_rows(g + first * stride, stride, rows, size, 1, work.gradients.data(), padded_head_);
        multiply(work.queries.data(), padded_head_, work.keys_t.data(), padded_tokens_,
                 work.weights.data(), padded_tokens_, padded, size);
        multiply(work.gradients.data(), padded_head_, work.values_t.data(), padded_tokens_,
                 work.score_gradients.data(), padded_tokens_, padded, size);
        for (std::size_t row = 0; row < rows; ++row) {
            float *weights = work.weights.data() + row * padded_tokens_;
            softmax(weights, first + row + 1, padded);
            softmax_backward(weights, padded, work.score_gradients.data() + row * padded_tokens_);
        }
        add_transposed_product(work.weights.data(), padded_tokens_, work.gradients.data(),
                               padded_head_, work.v_gradients.data(), padded_head_, visible,
                               padded_head_);
        add_transposed_product(work.score_gradients.data(), padded_tokens_, work.queries.data(),
                               padded_head_, work.k_gradients.data(), padded_head_, visible,
                               padded_head_);
        multiply(work.score_gradients.data(), padded_tokens_, work.keys.data(), padded_head_,
                 work.q_gradients.data(), padded_head_, padded_head_, visible);
        copy_rows(work.q_gradients.data(), padded_head_, rows, size, scale,
                  q_gradient + first * stride, stride);
    }
}

} // namespace tiny_llama
