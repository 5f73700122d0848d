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
    /// The inverse, which is also the transpose: what a gradient goes back through.
    void rotate_back(float *x, std::size_t heads, std::size_t position) const;

  private:
    // `direction` is 1 or -1.
    void turn(float *x, std::size_t heads, std::size_t position, float direction) const;

    std::size_t half_;
    std::vector<float> cos_; // [positions, half_]
    std::vector<float> sin_;
};

} // namespace tiny_llama
