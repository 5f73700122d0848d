// The shape of a Llama, from a Hugging Face config.json.
#pragma once

#include <cstddef>
#include <string>

namespace tiny_llama {

struct Config {
    std::size_t vocabulary;
    std::size_t hidden;
    std::size_t intermediate;
    std::size_t layers;
    std::size_t heads;
    std::size_t kv_heads;
    std::size_t head_size;
    std::size_t context; // tokens of a sequence
    float norm_epsilon;
    double rope_theta;
};

/// Throws std::runtime_error naming the file and the key this engine cannot serve.
Config read_config(const std::string &path);

} // namespace tiny_llama
