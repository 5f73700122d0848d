// Reads config.json and refuses what the engine does not compute.
#include "config.hpp"

#include "error.hpp"
#include "file.hpp"
#include "json.hpp"

#include <stdexcept>

namespace tiny_llama {
namespace {

// Far above any Llama, and small enough that no product of three overflows.
constexpr std::size_t kLargestSize = std::size_t{1} << 20;

std::size_t read_size(const json::Value &config, const std::string &key) {
    const json::Value &value = config.at(key);
    return in_context(key, [&] {
        const std::size_t size = value.count();
        if (size == 0 || size > kLargestSize) {
            throw std::runtime_error("is " + std::to_string(size) + ", expected 1.." +
                                     std::to_string(kLargestSize));
        }
        return size;
    });
}

double read_positive(const json::Value &config, const std::string &key) {
    const json::Value &value = config.at(key);
    return in_context(key, [&] {
        if (!(value.number() > 0)) {
            throw std::runtime_error("is " + std::to_string(value.number()) +
                                     ", expected a positive number");
        }
        return value.number();
    });
}

void require_text(const json::Value &config, const std::string &key, const std::string &expected) {
    const json::Value &value = config.at(key);
    in_context(key, [&] {
        if (value.string() != expected) {
            throw std::runtime_error("is " + value.string() + ", expected " + expected);
        }
    });
}

// A switch may be absent, null or false.
void require_off(const json::Value &config, const std::string &key) {
    const json::Value *value = config.find(key);
    if (value == nullptr || value->is_null()) {
        return;
    }
    in_context(key, [&] {
        if (value->boolean()) {
            throw std::runtime_error("is true, which is not supported");
        }
    });
}

Config parse_config(const std::string &text) {
    const json::Value json = json::parse(text);
    require_text(json, "model_type", "llama");
    require_text(json, "hidden_act", "silu");
    require_off(json, "attention_bias");
    require_off(json, "mlp_bias");
    require_off(json, "tie_word_embeddings");
    require_off(json, "rope_scaling"); // an object, that is a scaling, is refused as no boolean

    Config config = {};
    config.vocabulary = read_size(json, "vocab_size");
    config.hidden = read_size(json, "hidden_size");
    config.intermediate = read_size(json, "intermediate_size");
    config.layers = read_size(json, "num_hidden_layers");
    config.heads = read_size(json, "num_attention_heads");
    config.kv_heads = read_size(json, "num_key_value_heads");
    config.head_size = read_size(json, "head_dim");
    config.context = read_size(json, "max_position_embeddings");
    config.norm_epsilon = static_cast<float>(read_positive(json, "rms_norm_eps"));
    config.rope_theta = read_positive(json, "rope_theta");

    if (config.vocabulary != 256) {
        throw std::runtime_error("vocab_size is " + std::to_string(config.vocabulary) +
                                 ", expected 256: tokens are bytes");
    }
    if (config.heads % config.kv_heads != 0) {
        throw std::runtime_error("num_attention_heads is no multiple of num_key_value_heads");
    }
    if (config.head_size % 2 != 0) {
        throw std::runtime_error("head_dim is odd, its halves cannot rotate");
    }
    return config;
}

} // namespace

Config read_config(const std::string &path) {
    const std::string text = read_file(path);
    return in_context(path, [&] { return parse_config(text); });
}

} // namespace tiny_llama
