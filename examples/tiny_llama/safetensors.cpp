// Reads safetensors files; every length and offset is checked before it is used.
#include "safetensors.hpp"

#include "error.hpp"
#include "file.hpp"
#include "json.hpp"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace tiny_llama {
namespace {

constexpr std::size_t kPrefixBytes = 8;

// The format is little-endian whatever the machine.
std::uint64_t little_endian(std::string_view bytes) {
    std::uint64_t result = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) {
        result = result << 8 | static_cast<unsigned char>(bytes[i]);
    }
    return result;
}

std::size_t element_bytes(const std::string &dtype) {
    if (dtype == "BF16") {
        return 2;
    }
    if (dtype == "F32") {
        return 4;
    }
    throw std::runtime_error("dtype is " + dtype + ", expected BF16 or F32");
}

// Reads `width` bytes as the upper part of a float32: BF16 is a float32 without its lower half.
float widen(std::string_view bytes, std::size_t width) {
    const auto bits = static_cast<std::uint32_t>(little_endian(bytes.substr(0, width)))
                      << (32 - 8 * width);
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

Tensor read_tensor(const json::Value &entry, std::string_view data) {
    const std::size_t width = element_bytes(entry.at("dtype").string());
    Tensor tensor;
    std::size_t size = 1;
    for (const json::Value &dimension : entry.at("shape").array()) {
        tensor.shape.push_back(dimension.count());
        if (__builtin_mul_overflow(size, tensor.shape.back(), &size)) {
            throw std::runtime_error("shape is too large");
        }
    }
    const json::Array &offsets = entry.at("data_offsets").array();
    if (offsets.size() != 2) {
        throw std::runtime_error("data_offsets has " + std::to_string(offsets.size()) +
                                 " values, expected 2");
    }
    const std::size_t begin = offsets[0].count();
    const std::size_t end = offsets[1].count();
    if (begin > end || end > data.size()) {
        throw std::runtime_error("data_offsets " + std::to_string(begin) + ".." +
                                 std::to_string(end) + " lie outside the file's " +
                                 std::to_string(data.size()) + " data bytes");
    }
    if ((end - begin) % width != 0 || (end - begin) / width != size) {
        throw std::runtime_error("has " + std::to_string(end - begin) +
                                 " bytes, which is not what its shape needs");
    }
    tensor.values.reserve(size);
    for (std::size_t at = begin; at < end; at += width) {
        tensor.values.push_back(widen(data.substr(at, width), width));
    }
    return tensor;
}

std::map<std::string, Tensor> read_tensors(std::string_view bytes) {
    if (bytes.size() < kPrefixBytes) {
        throw std::runtime_error("is shorter than the 8-byte header length");
    }
    const std::uint64_t header_bytes = little_endian(bytes.substr(0, kPrefixBytes));
    bytes.remove_prefix(kPrefixBytes);
    if (header_bytes > bytes.size()) {
        throw std::runtime_error("header length " + std::to_string(header_bytes) +
                                 " exceeds the file");
    }
    const json::Value header =
        in_context("header", [&] { return json::parse(bytes.substr(0, header_bytes)); });
    bytes.remove_prefix(header_bytes);

    std::map<std::string, Tensor> tensors;
    for (const json::Member &entry : header.object()) {
        if (entry.key != "__metadata__") {
            tensors[entry.key] =
                in_context("tensor " + entry.key, [&] { return read_tensor(entry.value, bytes); });
        }
    }
    return tensors;
}

} // namespace

std::map<std::string, Tensor> read_safetensors(const std::string &path) {
    const std::string bytes = read_file(path);
    return in_context(path, [&] { return read_tensors(bytes); });
}

} // namespace tiny_llama
