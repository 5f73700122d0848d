// Causal attention with grouped key-value heads.
#pragma once

#include "thread_pool.hpp"

#include <cstddef>
#include <vector>

namespace tiny_llama {

struct AttentionShape {
    std::size_t tokens; // of each sequence
    std::size_t heads;
    std::size_t kv_heads; // divides heads
    std::size_t head_size;
};

class Attention {
  public:
    Attention(ThreadPool &pool, const AttentionShape &shape);

    /// q and out are [batch, tokens, heads, head_size]; k and v have kv_heads instead of heads.
    /// Query head h reads key-value head h / (heads / kv_heads).
    void operator()(const float *q, const float *k, const float *v, float *out, std::size_t batch);

  private:
    // What one thread works with: copies of one head, padded to whole vectors.
    struct Workspace {
        std::vector<float> keys;    // [head_size, padded tokens]: transposed
        std::vector<float> values;  // [tokens, padded head_size]
        std::vector<float> queries; // [block, head_size]
        std::vector<float> scores;  // [block, padded tokens]
        std::vector<float> mixed;   // [block, padded head_size]
    };

    void load_head(const float *k, const float *v, Workspace &work) const;
    void attend(const float *q, float *out, Workspace &work) const;

    ThreadPool &pool_;
    AttentionShape shape_;
    std::size_t padded_tokens_;
    std::size_t padded_head_;
    std::vector<Workspace> workspaces_;
};

} // namespace tiny_llama
