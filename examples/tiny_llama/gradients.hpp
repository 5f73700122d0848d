// The loss of a Llama on a text, and its gradient at the output of every linear layer.
#pragma once

#include "activations.hpp"
#include "attention_backward.hpp"
#include "linear.hpp"
#include "llama.hpp"
#include "matmul.hpp"
#include "rotary.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tiny_llama {

/// Over all predictions of a batch: each position of a sequence but the last predicts the next
/// token.
enum class Reduction { sum, mean };

/// Runs a model forward and backward. It holds what the backward pass reads, 2.5 MB per block and
/// sequence of the models beside it; destroy it when the gradients are known.
///
///     Gradients gradients(model, Reduction::sum);
///     const double loss = gradients.loss_and_gradients(tokens, batch, hooks);
///
/// Or its three steps one by one, in this order. No bit depends on the number of threads.
class Gradients {
  public:
    /// The model outlives this.
    Gradients(Llama &model, Reduction reduction);

    /// Llama::forward(), whose logits it returns; nothing else may run the model before the other
    /// steps are done.
    const float *forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks);

    /// The cross-entropy of what forward() predicted.
    double loss();

    /// Calls hooks.gradient() for every layer, from the last one to the first. A layer's weight is
    /// Linear::weight here, whatever the hooks of the forward pass said: rounding counts as
    /// the identity. Throws std::runtime_error when a layer has no such weight any more.
    void backward(LinearHooks &hooks);

    double loss_and_gradients(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks);

  private:
    std::size_t predictions() const { return batch_ * (config_.context - 1); }
    bool predicts(std::size_t token) const { return (token + 1) % config_.context != 0; }

    // From the gradient of what a block returns to that of its input, both in gradients_.stream.
    void feed_forward(const Weights::Block &block, const BlockActivations &kept,
                      const std::vector<float> &stream, LinearHooks &hooks);
    void attend(const Weights::Block &block, const BlockActivations &kept,
                const std::vector<float> &stream, LinearHooks &hooks);

    void predict();
    void normalize(const std::vector<float> &stream, const Tensor &gain);
    void apply(const Linear &layer, const std::vector<float> &g, std::vector<float> &x_gradient,
               LinearHooks &hooks, bool add = false);

    Llama &model_;
    const Config &config_;
    Reduction reduction_;
    Matmul matmul_;
    Rotary rotary_;
    AttentionBackward attention_;

    // Of the latest forward pass.
    std::vector<std::uint8_t> tokens_;
    std::size_t batch_ = 0;
    const float *logits_ = nullptr;
    Record record_;

    std::vector<double> nats_; // of each prediction
    Activations gradients_;
};

} // namespace tiny_llama
