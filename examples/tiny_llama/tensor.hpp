// A dense row-major float32 array that owns its memory.
#pragma once

#include <cstddef>
#include <vector>

namespace tiny_llama {

struct Tensor {
    std::vector<std::size_t> shape;
    std::vector<float> values;
};

} // namespace tiny_llama
