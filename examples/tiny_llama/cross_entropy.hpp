// How badly logits predict a token, and the gradient of that.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tiny_llama {

/// -ln softmax(logits)[target], in double precision.
double cross_entropy(const float *logits, std::size_t vocabulary, std::uint8_t target);

/// gradient[n] = scale * d cross_entropy / d logits[n]; n is the vocabulary.
void cross_entropy_gradient(const float *logits, std::size_t vocabulary, std::uint8_t target,
                            float scale, float *gradient);

} // namespace tiny_llama
