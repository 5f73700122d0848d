// The backward pass: llama.cpp's functions from the last to the first. What is computed there from
// what flows in, is here the gradient of what flows in, from the gradient of what flows out.
#include "gradients.hpp"

#include "cross_entropy.hpp"
#include "rowwise.hpp"
#include "token_loop.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace tiny_llama {

Gradients::Gradients(Llama &model, Reduction reduction)
    : model_(model), config_(model.config()), reduction_(reduction), matmul_(model.pool()),
      rotary_(config_.context, config_.head_size, config_.rope_theta),
      attention_(model.pool(),
                 {config_.context, config_.heads, config_.kv_heads, config_.head_size}) {}

const float *Gradients::forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks) {
    tokens_.assign(tokens, tokens + batch * config_.context);
    batch_ = batch;
    logits_ = model_.forward(tokens, batch, hooks, record_);
    return logits_;
}

double Gradients::loss() {
    nats_.assign(tokens_.size(), 0);
    for_each_token(model_.pool(), tokens_.size(), [&](std::size_t token) {
        if (predicts(token)) {
            nats_[token] = cross_entropy(logits_ + token * config_.vocabulary, config_.vocabulary,
                                         tokens_[token + 1]);
        }
    });
    const double sum = std::accumulate(nats_.begin(), nats_.end(), 0.0);
    return reduction_ == Reduction::sum ? sum : sum / static_cast<double>(predictions());
}

double Gradients::loss_and_gradients(const std::uint8_t *tokens, std::size_t batch,
                                     LinearHooks &hooks) {
    forward(tokens, batch, hooks);
    const double result = loss();
    backward(hooks);
    return result;
}

void Gradients::backward(LinearHooks &hooks) {
    const Weights &weights = model_.weights();
    const std::size_t blocks = weights.blocks.size();
    gradients_.reserve(config_, tokens_.size());
    predict();
    apply(weights.head, gradients_.logits, gradients_.normed, hooks);
    std::fill(gradients_.stream.begin(), gradients_.stream.end(), 0.0F);
    normalize(record_.streams[2 * blocks], weights.norm);
    for (std::size_t i = blocks; i-- > 0;) {
        const Weights::Block &block = weights.blocks[i];
        feed_forward(block, record_.blocks[i], record_.streams[2 * i + 1], hooks);
        attend(block, record_.blocks[i], record_.streams[2 * i], hooks);
    }
}

void Gradients::predict() {
    const std::size_t size = config_.vocabulary;
    const float scale =
        reduction_ == Reduction::sum ? 1.0F : 1.0F / static_cast<float>(predictions());
    for_each_token(model_.pool(), tokens_.size(), [&](std::size_t token) {
        float *g = gradients_.logits.data() + token * size;
        if (predicts(token)) {
            cross_entropy_gradient(logits_ + token * size, size, tokens_[token + 1], scale, g);
        } else {
            std::fill_n(g, size, 0.0F);
        }
    });
}

// The stream goes around the MLP and through it: what comes back through it is added.
void Gradients::feed_forward(const Weights::Block &block, const BlockActivations &kept,
                             const std::vector<float> &stream, LinearHooks &hooks) {
    BlockActivations &g = gradients_.block;
    apply(block.down, gradients_.stream, g.gate, hooks); // for now that of the product
    for_each_token(model_.pool(), tokens_.size(), [&](std::size_t token) {
        const std::size_t at = token * config_.intermediate;
        swiglu_backward(kept.gate.data() + at, kept.up.data() + at, config_.intermediate,
                        g.gate.data() + at, g.gate.data() + at, g.up.data() + at);
    });
    apply(block.up, g.up, gradients_.normed, hooks);
    apply(block.gate, g.gate, gradients_.normed, hooks, true);
    normalize(stream, block.mlp_norm);
}

void Gradients::attend(const Weights::Block &block, const BlockActivations &kept,
                       const std::vector<float> &stream, LinearHooks &hooks) {
    BlockActivations &g = gradients_.block;
    apply(block.o, gradients_.stream, gradients_.attended, hooks);
    attention_(kept.q.data(), kept.k.data(), kept.v.data(), gradients_.attended.data(), g.q.data(),
               g.k.data(), g.v.data(), batch_);
    for_each_token(model_.pool(), tokens_.size(), [&](std::size_t token) {
        const std::size_t position = token % config_.context;
        const std::size_t size = config_.head_size;
        rotary_.rotate_back(g.q.data() + token * config_.heads * size, config_.heads, position);
        rotary_.rotate_back(g.k.data() + token * config_.kv_heads * size, config_.kv_heads,
                            position);
    });
    apply(block.v, g.v, gradients_.normed, hooks);
    apply(block.k, g.k, gradients_.normed, hooks, true);
    apply(block.q, g.q, gradients_.normed, hooks, true);
    normalize(stream, block.attention_norm);
}

// Adds what comes back through a norm to the gradient of the stream.
void Gradients::normalize(const std::vector<float> &stream, const Tensor &gain) {
    for_each_token(model_.pool(), tokens_.size(), [&](std::size_t token) {
        const std::size_t at = token * config_.hidden;
        rms_norm_backward(stream.data() + at, gain.values.data(), config_.norm_epsilon,
                          config_.hidden, gradients_.normed.data() + at,
                          gradients_.stream.data() + at);
    });
}

// The gradient of a layer's input, or that added to what is there: of all layers of its group.
void Gradients::apply(const Linear &layer, const std::vector<float> &g,
                      std::vector<float> &x_gradient, LinearHooks &hooks, bool add) {
    if (layer.weight.values.empty()) {
        throw std::runtime_error(layer.name + " has no float weight to go back through");
    }
    hooks.gradient(layer, g.data(), {batch_, config_.context, layer.outputs()});
    matmul_.untransposed(g.data(), layer.weight.values.data(), x_gradient.data(), tokens_.size(),
                         layer.inputs(), layer.outputs(), add);
}

} // namespace tiny_llama
