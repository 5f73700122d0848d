// A text as the model sees it: a file of bytes, cut into sequences of equal length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tiny_llama {

class Sequences {
  public:
    /// Throws std::runtime_error when the file is empty or no whole number of sequences.
    Sequences(const std::string &path, std::size_t length);

    std::size_t count() const { return tokens_.size() / length_; }
    std::size_t length() const { return length_; }
    /// The tokens of sequence `index`; those of the next follow them.
    const std::uint8_t *operator[](std::size_t index) const {
        return tokens_.data() + index * length_;
    }

  private:
    std::size_t length_;
    std::vector<std::uint8_t> tokens_;
};

} // namespace tiny_llama
