// Reads safetensors files: a JSON header of names, dtypes, shapes and offsets, then the bytes.
#pragma once

#include "tensor.hpp"

#include <map>
#include <string>

namespace tiny_llama {

/// All tensors of a file, by name, widened to float32. Takes BF16 and F32.
/// Throws std::runtime_error naming the file and the tensor that is wrong.
std::map<std::string, Tensor> read_safetensors(const std::string &path);

} // namespace tiny_llama
