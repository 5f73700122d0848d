// A Llama that scores byte sequences: weights, buffers and the forward pass.
#pragma once

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

    /// All linear layers in the order in which a forward pass uses them; owned by the model.
    std::vector<Linear *> linears() { return weights_.linears(); }

    /// Runs `batch` sequences of config().context tokens, each alone from position 0.
    /// Returns the logits, [batch, context, vocabulary], valid until the next call.
    const float *forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks);
    const float *forward(const std::uint8_t *tokens, std::size_t batch);

  private:
    // Activations of the largest batch so far, all [batch, context, channels].
    struct Buffers {
        std::size_t batch = 0;
        std::vector<float> stream; // the residual stream
        std::vector<float> normed;
        std::vector<float> q, k, v, attended;
        std::vector<float> gate, up;
        std::vector<float> projected; // what a block adds to the stream
        std::vector<float> logits;
        std::vector<float> input_scratch;
        std::vector<float> weight_scratch;
    };

    void reserve(std::size_t batch);

    void embed(const std::uint8_t *tokens, std::size_t batch);
    void attend(Weights::Block &block, std::size_t batch, LinearHooks &hooks);
    void feed_forward(Weights::Block &block, std::size_t batch, LinearHooks &hooks);
    void normalize(const Tensor &gain, std::size_t batch);
    void add_to_stream(std::size_t batch);
    void apply(const Linear &layer, const std::vector<float> &x, std::vector<float> &y,
               std::size_t batch, LinearHooks &hooks);
    template <typename Body> void for_each_token(std::size_t batch, const Body &body);

    Config config_;
    ThreadPool &pool_;
    Weights weights_;
    Matmul matmul_;
    Rotary rotary_;
    Attention attention_;

    Buffers buffers_;
};

} // namespace tiny_llama
