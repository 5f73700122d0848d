// A Llama that scores byte sequences: weights, buffers and the forward pass.
#pragma once

#include "activations.hpp"
#include "attention.hpp"
#include "config.hpp"
#include "linear.hpp"
#include "matmul.hpp"
#include "rotary.hpp"
#include "thread_pool.hpp"
#include "weights.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tiny_llama {

class Llama {
  public:
    /// Loads config.json and model.safetensors of a directory. The pool outlives the model.
    Llama(const std::string &directory, ThreadPool &pool);

    const Config &config() const { return config_; }
    const Weights &weights() const { return weights_; }
    ThreadPool &pool() { return pool_; }

    /// All linear layers in the order in which a forward pass uses them; owned by the model.
    std::vector<Linear *> linears() { return weights_.linears(); }

    /// Runs `batch` sequences of config().context tokens, each alone from position 0.
    /// Returns the logits, [batch, context, vocabulary], valid until the next call.
    const float *forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks);
    const float *forward(const std::uint8_t *tokens, std::size_t batch);

    /// The same bits, and what a backward pass reads is in `record`, which may be used again.
    const float *forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks,
                         Record &record);

  private:
    const float *forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks,
                         Record *record);
    void reserve(std::size_t tokens);

    // A residual stream goes in, and the same with something added comes out; both may be one.
    void attend(const Weights::Block &block, BlockActivations &kept, std::size_t batch,
                LinearHooks &hooks, const float *stream, float *sum);
    void feed_forward(const Weights::Block &block, BlockActivations &kept, std::size_t batch,
                      LinearHooks &hooks, const float *stream, float *sum);

    void embed(const std::uint8_t *tokens, std::size_t batch, float *stream);
    void normalize(const float *stream, const Tensor &gain, std::size_t batch);
    void add_projected(const float *stream, float *sum, std::size_t batch);
    void apply(const Linear &layer, const std::vector<float> &x, std::vector<float> &y,
               std::size_t batch, LinearHooks &hooks);

    Config config_;
    ThreadPool &pool_;
    Weights weights_;
    Matmul matmul_;
    Rotary rotary_;
    Attention attention_;

    // Of the largest batch so far.
    Activations activations_;
    std::vector<float> projected_; // what a block adds to the stream
    std::vector<float> input_scratch_;
    std::vector<float> weight_scratch_;
};

} // namespace tiny_llama
