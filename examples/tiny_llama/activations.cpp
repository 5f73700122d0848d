// How large each activation is.
#include "activations.hpp"

#include <algorithm>

namespace tiny_llama {
namespace {

void grow(std::vector<float> &buffer, std::size_t size) {
    buffer.resize(std::max(buffer.size(), size));
}

} // namespace

void BlockActivations::reserve(const Config &config, std::size_t tokens) {
    grow(q, tokens * config.heads * config.head_size);
    for (std::vector<float> *buffer : {&k, &v}) {
        grow(*buffer, tokens * config.kv_heads * config.head_size);
    }
    for (std::vector<float> *buffer : {&gate, &up}) {
        grow(*buffer, tokens * config.intermediate);
    }
}

void Activations::reserve(const Config &config, std::size_t tokens) {
    for (std::vector<float> *buffer : {&stream, &normed}) {
        grow(*buffer, tokens * config.hidden);
    }
    block.reserve(config, tokens);
    grow(attended, tokens * config.heads * config.head_size);
    grow(logits, tokens * config.vocabulary);
}

void Record::reserve(const Config &config, std::size_t tokens) {
    streams.resize(2 * config.layers + 1);
    for (std::vector<float> &stream : streams) {
        grow(stream, tokens * config.hidden);
    }
    blocks.resize(config.layers);
    for (BlockActivations &block : blocks) {
        block.reserve(config, tokens);
    }
}

} // namespace tiny_llama
