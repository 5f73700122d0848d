// The forward pass of a Llama.
#include "llama.hpp"

#include "rowwise.hpp"
#include "token_loop.hpp"

#include <algorithm>

namespace tiny_llama {

Llama::Llama(const std::string &directory, ThreadPool &pool)
    : config_(read_config(directory + "/config.json")), pool_(pool),
      weights_(directory + "/model.safetensors", config_), matmul_(pool),
      rotary_(config_.context, config_.head_size, config_.rope_theta),
      attention_(pool, {config_.context, config_.heads, config_.kv_heads, config_.head_size}) {}

void Llama::reserve(std::size_t tokens) {
    activations_.reserve(config_, tokens);
    std::size_t widest = 0;
    std::size_t largest = 0;
    for (const Linear *layer : weights_.linears()) {
        widest = std::max(widest, layer->inputs());
        largest = std::max(largest, layer->outputs() * layer->inputs());
    }
    projected_.resize(std::max(projected_.size(), tokens * config_.hidden));
    input_scratch_.resize(std::max(input_scratch_.size(), tokens * widest));
    weight_scratch_.resize(largest);
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch) {
    LinearHooks none;
    return forward(tokens, batch, none);
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks) {
    return forward(tokens, batch, hooks, nullptr);
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks,
                            Record &record) {
    record.reserve(config_, batch * config_.context);
    return forward(tokens, batch, hooks, &record);
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks,
                            Record *record) {
    reserve(batch * config_.context);
    // Without a record the stream is changed in place, and all blocks share their activations.
    const auto stream = [&](std::size_t index) {
        return record != nullptr ? record->streams[index].data() : activations_.stream.data();
    };
    embed(tokens, batch, stream(0));
    for (std::size_t i = 0; i < weights_.blocks.size(); ++i) {
        const Weights::Block &block = weights_.blocks[i];
        BlockActivations &kept = record != nullptr ? record->blocks[i] : activations_.block;
        attend(block, kept, batch, hooks, stream(2 * i), stream(2 * i + 1));
        feed_forward(block, kept, batch, hooks, stream(2 * i + 1), stream(2 * i + 2));
    }
    normalize(stream(2 * weights_.blocks.size()), weights_.norm, batch);
    apply(weights_.head, activations_.normed, activations_.logits, batch, hooks);
    return activations_.logits.data();
}

void Llama::embed(const std::uint8_t *tokens, std::size_t batch, float *stream) {
    for_each_token(pool_, batch * config_.context, [&](std::size_t token) {
        std::copy_n(weights_.embedding.values.data() + tokens[token] * config_.hidden,
                    config_.hidden, stream + token * config_.hidden);
    });
}

void Llama::attend(const Weights::Block &block, BlockActivations &kept, std::size_t batch,
                   LinearHooks &hooks, const float *stream, float *sum) {
    Activations &a = activations_;
    normalize(stream, block.attention_norm, batch);
    apply(block.q, a.normed, kept.q, batch, hooks);
    apply(block.k, a.normed, kept.k, batch, hooks);
    apply(block.v, a.normed, kept.v, batch, hooks);
    for_each_token(pool_, batch * config_.context, [&](std::size_t token) {
        const std::size_t position = token % config_.context;
        const std::size_t size = config_.head_size;
        rotary_.rotate(kept.q.data() + token * config_.heads * size, config_.heads, position);
        rotary_.rotate(kept.k.data() + token * config_.kv_heads * size, config_.kv_heads, position);
    });
    attention_(kept.q.data(), kept.k.data(), kept.v.data(), a.attended.data(), batch);
    apply(block.o, a.attended, projected_, batch, hooks);
    add_projected(stream, sum, batch);
}

void Llama::feed_forward(const Weights::Block &block, BlockActivations &kept, std::size_t batch,
                         LinearHooks &hooks, const float *stream, float *sum) {
    std::vector<float> &product = activations_.block.gate; // in place without a record
    normalize(stream, block.mlp_norm, batch);
    apply(block.gate, activations_.normed, kept.gate, batch, hooks);
    apply(block.up, activations_.normed, kept.up, batch, hooks);
    for_each_token(pool_, batch * config_.context, [&](std::size_t token) {
        const std::size_t at = token * config_.intermediate;
        swiglu(kept.gate.data() + at, kept.up.data() + at, config_.intermediate,
               product.data() + at);
    });
    apply(block.down, product, projected_, batch, hooks);
    add_projected(stream, sum, batch);
}

void Llama::normalize(const float *stream, const Tensor &gain, std::size_t batch) {
    for_each_token(pool_, batch * config_.context, [&](std::size_t token) {
        const std::size_t at = token * config_.hidden;
        rms_norm(stream + at, gain.values.data(), config_.norm_epsilon, config_.hidden,
                 activations_.normed.data() + at);
    });
}

void Llama::add_projected(const float *stream, float *sum, std::size_t batch) {
    for_each_token(pool_, batch * config_.context, [&](std::size_t token) {
        const std::size_t at = token * config_.hidden;
        add(stream + at, projected_.data() + at, config_.hidden, sum + at);
    });
}

void Llama::apply(const Linear &layer, const std::vector<float> &x, std::vector<float> &y,
                  std::size_t batch, LinearHooks &hooks) {
    const ActivationShape in = {batch, config_.context, layer.inputs()};
    const ActivationShape out = {batch, config_.context, layer.outputs()};
    const float *input = hooks.input(layer, x.data(), in, input_scratch_.data());
    const float *weight = hooks.weight(layer, weight_scratch_.data());
    matmul_(input, weight, y.data(), batch * config_.context, layer.outputs(), layer.inputs());
    hooks.output(layer, y.data(), out);
}

} // namespace tiny_llama
