// The forward pass of a Llama, and how its weights are found in a file.
#include "llama.hpp"

#include "error.hpp"
#include "rowwise.hpp"
#include "safetensors.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace tiny_llama {
namespace {

std::string text(const std::vector<std::size_t> &shape) {
    std::string result;
    for (const std::size_t dimension : shape) {
        result += (result.empty() ? "[" : ", ") + std::to_string(dimension);
    }
    return result.empty() ? "[]" : result + "]";
}

// Moves a tensor out of the file's content.
Tensor take(std::map<std::string, Tensor> &tensors, const std::string &name,
            const std::vector<std::size_t> &shape) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
        throw std::runtime_error("tensor " + name + " is missing");
    }
    if (found->second.shape != shape) {
        throw std::runtime_error("tensor " + name + " has shape " + text(found->second.shape) +
                                 ", expected " + text(shape));
    }
    return std::move(found->second);
}

Linear take_linear(std::map<std::string, Tensor> &tensors, const std::string &name,
                   std::size_t outputs, std::size_t inputs) {
    Linear layer;
    layer.name = name;
    layer.weight = take(tensors, name + ".weight", {outputs, inputs});
    return layer;
}

} // namespace

Llama::Llama(const std::string &directory, ThreadPool &pool)
    : config_(read_config(directory + "/config.json")), pool_(pool), matmul_(pool),
      rotary_(config_.context, config_.head_size, config_.rope_theta),
      attention_(pool, {config_.context, config_.heads, config_.kv_heads, config_.head_size}) {
    const std::string path = directory + "/model.safetensors";
    std::map<std::string, Tensor> tensors = read_safetensors(path);
    in_context(path, [&] { load(std::move(tensors)); });
    connect();
}

void Llama::load(std::map<std::string, Tensor> tensors) {
    const Config &c = config_;
    const std::size_t q_size = c.heads * c.head_size;
    const std::size_t kv_size = c.kv_heads * c.head_size;
    embedding_ = take(tensors, "model.embed_tokens.weight", {c.vocabulary, c.hidden});
    for (std::size_t layer = 0; layer < c.layers; ++layer) {
        const std::string at = "model.layers." + std::to_string(layer) + ".";
        Block block;
        block.attention_norm = take(tensors, at + "input_layernorm.weight", {c.hidden});
        block.q = take_linear(tensors, at + "self_attn.q_proj", q_size, c.hidden);
        block.k = take_linear(tensors, at + "self_attn.k_proj", kv_size, c.hidden);
        block.v = take_linear(tensors, at + "self_attn.v_proj", kv_size, c.hidden);
        block.o = take_linear(tensors, at + "self_attn.o_proj", c.hidden, q_size);
        block.mlp_norm = take(tensors, at + "post_attention_layernorm.weight", {c.hidden});
        block.gate = take_linear(tensors, at + "mlp.gate_proj", c.intermediate, c.hidden);
        block.up = take_linear(tensors, at + "mlp.up_proj", c.intermediate, c.hidden);
        block.down = take_linear(tensors, at + "mlp.down_proj", c.hidden, c.intermediate);
        blocks_.push_back(std::move(block));
    }
    norm_ = take(tensors, "model.norm.weight", {c.hidden});
    head_ = take_linear(tensors, "lm_head", c.vocabulary, c.hidden);
}

// Numbers the layers and tells each where its input comes from, once nothing moves any more.
void Llama::connect() {
    for (Block &block : blocks_) {
        for (Linear *layer : {&block.q, &block.k, &block.v}) {
            layer->input_norm = &block.attention_norm;
        }
        for (Linear *layer : {&block.gate, &block.up}) {
            layer->input_norm = &block.mlp_norm;
        }
    }
    head_.input_norm = &norm_;

    const std::vector<Linear *> layers = linears();
    std::size_t group = 0;
    for (std::size_t index = 0; index < layers.size(); ++index) {
        const Tensor *norm = layers[index]->input_norm;
        const bool shares = index > 0 && norm != nullptr && norm == layers[index - 1]->input_norm;
        group += index > 0 && !shares ? 1 : 0;
        layers[index]->index = index;
        layers[index]->input_group = group;
    }
}

std::vector<Linear *> Llama::linears() {
    std::vector<Linear *> layers;
    for (Block &block : blocks_) {
        layers.insert(layers.end(), {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up,
                                     &block.down});
    }
    layers.push_back(&head_);
    return layers;
}

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
    for (const Linear *layer : linears()) {
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
    for (Block &block : blocks_) {
        attend(block, batch, hooks);
        feed_forward(block, batch, hooks);
    }
    normalize(norm_, batch);
    apply(head_, buffers_.normed, buffers_.logits, batch, hooks);
    return buffers_.logits.data();
}

void Llama::embed(const std::uint8_t *tokens, std::size_t batch) {
    for_each_token(batch, [&](std::size_t token) {
        std::copy_n(embedding_.values.data() + tokens[token] * config_.hidden, config_.hidden,
                    buffers_.stream.data() + token * config_.hidden);
    });
}

void Llama::attend(Block &block, std::size_t batch, LinearHooks &hooks) {
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

void Llama::feed_forward(Block &block, std::size_t batch, LinearHooks &hooks) {
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
