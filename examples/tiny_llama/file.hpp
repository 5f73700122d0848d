// Reads whole files.
#pragma once

#include <string>

namespace tiny_llama {

/// The bytes of a regular file. Throws std::runtime_error naming the file.
std::string read_file(const std::string &path);

} // namespace tiny_llama
