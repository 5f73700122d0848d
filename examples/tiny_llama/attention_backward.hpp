// The backward pass through causal attention.
#pragma once

#include "attention.hpp"
#include "thread_pool.hpp"

#include <cstddef>
#include <vector>

namespace tiny_llama {

class AttentionBackward {
  public:
    AttentionBackward(ThreadPool &pool, const AttentionShape &shape);

    /// From what Attention took, and the gradient g of what it returned, all shaped as there, to
    /// the gradients of q, k and v. Their bits do not depend on the number of threads.
    void operator()(const float *q, const float *k, const float *v, const float *g,
                    float *q_gradient, float *k_gradient, float *v_gradient, std::size_t batch);

  private:
    // What one thread works with, padded to whole vectors.
    struct Workspace {
        // One key-value head. Those with a T are transposed: [head_size, padded tokens].
        std::vector<float> keys;        // [tokens, padded head_size]
        std::vector<float> keys_t;      //
        std::vector<float> values_t;    //
        std::vector<float> k_gradients; // [tokens, padded head_size]
        std::vector<float> v_gradients; // [tokens, padded head_size]
        // A few of its queries.
        std::vector<float> queries;         // [kRows, padded head_size]
        std::vector<float> gradients;       // [kRows, padded head_size]: of what they returned
        std::vector<float> weights;         // [kRows, padded tokens]: what softmax() returned
        std::vector<float> score_gradients; // [kRows, padded tokens]
        std::vector<float> q_gradients;     // [kRows, padded head_size]
    };

    void load_head(const float *k, const float *v, Workspace &work) const;
    void go_back(const float *q, const float *g, float *q_gradient, Workspace &work) const;
    void store_head(const Workspace &work, float *k_gradient, float *v_gradient) const;

    ThreadPool &pool_;
    AttentionShape shape_;
    std::size_t padded_tokens_;
    std::size_t padded_head_;
    std::vector<Workspace> workspaces_;
};

} // namespace tiny_llama
