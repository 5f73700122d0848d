// The weights of a Llama, and how they are found in a file.
#pragma once

#include "config.hpp"
#include "linear.hpp"
#include "tensor.hpp"

#include <map>
#include <string>
#include <vector>

namespace tiny_llama {

struct Weights {
    struct Block {
        Tensor attention_norm;
        Linear q, k, v, o;
        Tensor mlp_norm;
        Linear gate, up, down;
    };

    /// Loads a safetensors file. Throws std::runtime_error naming the file and the tensor that is
    /// wrong.
    Weights(const std::string &path, const Config &config);
    Weights(const Weights &) = delete; // layers point to norms beside them
    Weights &operator=(const Weights &) = delete;

    /// All linear layers in the order in which a forward pass uses them.
    std::vector<Linear *> linears();

    Tensor embedding;
    std::vector<Block> blocks;
    Tensor norm;
    Linear head;

  private:
    void load(std::map<std::string, Tensor> tensors, const Config &config);
    void connect();
};

} // namespace tiny_llama
