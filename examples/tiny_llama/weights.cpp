// Moves the tensors of a file to their places, each of the shape the configuration asks for.
#include "weights.hpp"

#include "error.hpp"
#include "safetensors.hpp"

#include <cstddef>
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

Weights::Weights(const std::string &path, const Config &config) {
    std::map<std::string, Tensor> tensors = read_safetensors(path);
    in_context(path, [&] { load(std::move(tensors), config); });
    connect();
}

void Weights::load(std::map<std::string, Tensor> tensors, const Config &c) {
    const std::size_t q_size = c.heads * c.head_size;
    const std::size_t kv_size = c.kv_heads * c.head_size;
    embedding = take(tensors, "model.embed_tokens.weight", {c.vocabulary, c.hidden});
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
        blocks.push_back(std::move(block));
    }
    norm = take(tensors, "model.norm.weight", {c.hidden});
    head = take_linear(tensors, "lm_head", c.vocabulary, c.hidden);
}

// Numbers the layers and tells each where its input comes from, once nothing moves any more.
void Weights::connect() {
    for (Block &block : blocks) {
        for (Linear *layer : {&block.q, &block.k, &block.v}) {
            layer->input_norm = &block.attention_norm;
        }
        for (Linear *layer : {&block.gate, &block.up}) {
            layer->input_norm = &block.mlp_norm;
        }
    }
    head.input_norm = &norm;

    const std::vector<Linear *> layers = linears();
    std::size_t group = 0;
    for (std::size_t index = 0; index < layers.size(); ++index) {
        const Tensor *gain = layers[index]->input_norm;
        const bool shares = index > 0 && gain != nullptr && gain == layers[index - 1]->input_norm;
        group += index > 0 && !shares ? 1 : 0;
        layers[index]->index = index;
        layers[index]->input_group = group;
    }
}

std::vector<Linear *> Weights::linears() {
    std::vector<Linear *> layers;
    for (Block &block : blocks) {
        layers.insert(layers.end(), {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up,
                                     &block.down});
    }
    layers.push_back(&head);
    return layers;
}

} // namespace tiny_llama
