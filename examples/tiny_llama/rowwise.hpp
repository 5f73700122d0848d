// The small operations between the matrix products, each on one row.
#pragma once

#include <cstddef>

namespace tiny_llama {

/// out[n] = x[n] / sqrt(mean(x^2) + epsilon) * gain[n]
void rms_norm(const float *x, const float *gain, float epsilon, std::size_t n, float *out);

/// gate[n] = silu(gate[n]) * up[n], silu(g) = g / (1 + e^-g)
void swiglu(float *gate, const float *up, std::size_t n);

/// x[n] += y[n]
void add(float *x, const float *y, std::size_t n);

/// x[n] = e^x / sum(e^x); the values from there to `padded`, a multiple of kLanes, become zero.
void softmax(float *x, std::size_t n, std::size_t padded);

} // namespace tiny_llama
