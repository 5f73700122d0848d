// Rotary position embedding in the rotate-half layout of Hugging Face's Llama.
#pragma once

#include <cstddef>
#include <vector>

namespace tiny_llama {

class Rotary {
  public:
    /// `head_size` is even.
    Rotary(std::size_t positions, std::size_t head_size, double theta);

    /// Rotates each of `heads` consecutive heads of one token in place.
    void rotate(float *x, std::size_t heads, std::size_t position) const;

  private:
    std::size_t half_;
    std::vector<float> cos_; // [positions, half_]
    std::vector<float> sin_;
};

} // namespace tiny_llama
