// Errors that say where they happened: exceptions gain the file, tensor or key they belong to.
#pragma once

#include <stdexcept>
#include <string>

namespace tiny_llama {

/// Returns what `body` returns; an exception leaves it as "place: message".
template <typename Body> decltype(auto) in_context(const std::string &place, Body &&body) {
    try {
        return body();
    } catch (const std::exception &error) {
        throw std::runtime_error(place + ": " + error.what());
    }
}

} // namespace tiny_llama
