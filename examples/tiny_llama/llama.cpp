// The forward pass of a Llama.
#include "llama.hpp"

#include "rowwise.hpp"

#include <algorithm>

namespace tiny_llama {

Llama::Llama(const std::string &directory, ThreadPool &pool)
    : config_(read_config(directory + "/config.json")), pool_(pool),
      weights_(directory + "/model.safetensors", config_), matmul_(pool),
      rotary_(config_.context, config_.head_size, config_.rope_theta),
      attention_(pool, {config_.context, config_.heads, config_.kv_heads, config_.head_size}) {}

void Llama::reserve(std::size_t batch) {
    if (batch <= buffers_.batch) {
        return;
    }
    const Config &c = config_;
    const std::size_t tokens = batch * c.context;
    for (std::vector<float> *buffer : {&buffers_.stream, &buffers_.normed, &buffers_.projected}) {
        buffer->resize(tokens * c.hidden);
    }
    for (std::vector<float> *buffer : {&buffers_.q, &buffers_.attended}) {
        buffer->resize(tokens * c.heads * c.head_size);
    }
    for (std::vector<float> *buffer : {&buffers_.k, &buffers_.v}) {
        buffer->resize(tokens * c.kv_heads * c.head_size);
    }
    for (std::vector<float> *buffer : {&buffers_.gate, &buffers_.up}) {
        buffer->resize(tokens * c.intermediate);
    }
    buffers_.logits.resize(tokens * c.vocabulary);
    std::size_t widest = 0;
    std::size_t largest = 0;
    for (const Linear *layer : weights_.linears()) {
        widest = std::max(widest, layer->inputs());
        largest = std::max(largest, layer->outputs() * layer->inputs());
    }
    buffers_.input_scratch.resize(tokens * widest);
    buffers_.weight_scratch.resize(largest);
    buffers_.batch = batch;
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch) {
    LinearHooks none;
    return forward(tokens, batch, none);
}

const float *Llama::forward(const std::uint8_t *tokens, std::size_t batch, LinearHooks &hooks) {
    reserve(batch);
    embed(tokens, batch);
    for (Weights::Block &block : weights_.blocks) {
        attend(block, batch, hooks);
        feed_forward(block, batch, hooks);
    }
    normalize(weights_.norm, batch);
    apply(weights_.head, buffers_.normed, buffers_.logits, batch, hooks);
    return buffers_.logits.data();
}

void Llama::embed(const std::uint8_t *tokens, std::size_t batch) {
    for_each_token(batch, [&](std::size_t token) {
        std::copy_n(weights_.embedding.values.data() + tokens[token] * config_.hidden,
                    config_.hidden, buffers_.stream.data() + token * config_.hidden);
    });
}

void Llama::attend(Weights::Block &block, std::size_t batch, LinearHooks &hooks) {
    Buffers &b = buffers_;
    normalize(block.attention_norm, batch);
    apply(block.q, b.normed, b.q, batch, hooks);
    apply(block.k, b.normed, b.k, batch, hooks);
    apply(block.v, b.normed, b.v, batch, hooks);
    for_each_token(batch, [&](std::size_t token) {
        const std::size_t position = token % config_.context;
        const std::size_t size = config_.head_size;
        rotary_.rotate(b.q.data() + token * config_.heads * size, config_.heads, position);
        rotary_.rotate(b.k.data() + token * config_.kv_heads * size, config_.kv_heads, position);
    });
    attention_(b.q.data(), b.k.data(), b.v.data(), b.attended.data(), batch);
    apply(block.o, b.attended, b.projected, batch, hooks);
    add_to_stream(batch);
}

void Llama::feed_forward(Weights::Block &block, std::size_t batch, LinearHooks &hooks) {
    Buffers &b = buffers_;
    normalize(block.mlp_norm, batch);
    apply(block.gate, b.normed, b.gate, batch, hooks);
    apply(block.up, b.normed, b.up, batch, hooks);
    for_each_token(batch, [&](std::size_t token) {
        const std::size_t at = token * config_.intermediate;
        swiglu(b.gate.data() + at, b.up.data() + at, config_.intermediate);
    });
    apply(block.down, b.gate, b.projected, batch, hooks);
    add_to_stream(batch);
}

void Llama::normalize(const Tensor &gain, std::size_t batch) {
    for_each_token(batch, [&](std::size_t token) {
        const std::size_t at = token * config_.hidden;
        rms_norm(buffers_.stream.data() + at, gain.values.data(), config_.norm_epsilon,
                 config_.hidden, buffers_.normed.data() + at);
    });
}

void Llama::add_to_stream(std::size_t batch) {
    for_each_token(batch, [&](std::size_t token) {
        const std::size_t at = token * config_.hidden;
        add(buffers_.stream.data() + at, buffers_.projected.data() + at, config_.hidden);
    });
}

void Llama::apply(const Linear &layer, const std::vector<float> &x, std::vector<float> &y,
                  std::size_t batch, LinearHooks &hooks) {
    const ActivationShape in = {batch, config_.context, layer.inputs()};
    const ActivationShape out = {batch, config_.context, layer.outputs()};
    const float *input = hooks.input(layer, x.data(), in, buffers_.input_scratch.data());
    const float *weight = hooks.weight(layer, buffers_.weight_scratch.data());
    matmul_(input, weight, y.data(), batch * config_.context, layer.outputs(), layer.inputs());
    hooks.output(layer, y.data(), out);
}

template <typename Body> void Llama::for_each_token(std::size_t batch, const Body &body) {
    constexpr std::size_t kTokensPerTask = 64; // enough work to be worth handing out
    const std::size_t tokens = batch * config_.context;
    pool_.run((tokens + kTokensPerTask - 1) / kTokensPerTask, [&](std::size_t task, std::size_t) {
        const std::size_t end = std::min(tokens, (task + 1) * kTokensPerTask);
        for (std::size_t token = task * kTokensPerTask; token < end; ++token) {
            body(token);
        }
    });
}

} // namespace tiny_llama
