// Loads a file of bytes as sequences of tokens: a token is a byte.
#include "sequences.hpp"

#include "file.hpp"

#include <stdexcept>

namespace tiny_llama {

Sequences::Sequences(const std::string &path, std::size_t length) : length_(length) {
    const std::string bytes = read_file(path);
    if (bytes.empty() || bytes.size() % length != 0) {
        throw std::runtime_error(path + ": has " + std::to_string(bytes.size()) +
                                 " bytes, expected a positive multiple of " +
                                 std::to_string(length));
    }
    tokens_.assign(bytes.begin(), bytes.end());
}

} // namespace tiny_llama
