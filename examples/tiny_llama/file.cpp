// Reads whole files.
#include "file.hpp"

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace tiny_llama {

std::string read_file(const std::string &path) {
    // file_size refuses what has no size, such as a directory, which a stream would open.
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    if (error) {
        throw std::runtime_error(path + ": " + error.message());
    }
    std::string bytes(size, '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
        throw std::runtime_error(path + ": cannot be read");
    }
    return bytes;
}

} // namespace tiny_llama
