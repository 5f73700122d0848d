// Buffers for what flows through a Llama, all [batch, context, channels].
#pragma once

#include "config.hpp"

#include <cstddef>
#include <vector>

namespace tiny_llama {

/// What a block makes of its input on the way to what it adds to the stream. A backward pass
/// through the block reads these.
struct BlockActivations {
    std::vector<float> q, k, v; // q and k rotated
    std::vector<float> gate, up;

    /// Makes room for that many tokens; never shrinks.
    void reserve(const Config &config, std::size_t tokens);
};

/// One of each activation. A block that is done leaves them to the next.
struct Activations {
    std::vector<float> stream; // the residual stream
    std::vector<float> normed;
    BlockActivations block;
    std::vector<float> attended;
    std::vector<float> logits;

    void reserve(const Config &config, std::size_t tokens);
};

/// What a forward pass keeps for a backward pass.
struct Record {
    /// The residual stream before each attention, before each MLP, and at the end.
    std::vector<std::vector<float>> streams;
    std::vector<BlockActivations> blocks;

    void reserve(const Config &config, std::size_t tokens);
};

} // namespace tiny_llama
