// The small operations between the matrix products, each on one row.
#pragma once

#include <cstddef>

namespace tiny_llama {

/// out[n] = x[n] / sqrt(mean(x^2) + epsilon) * gain[n]
void rms_norm(const float *x, const float *gain, float epsilon, std::size_t n, float *out);

/// x_gradient[n] += what rms_norm() makes of its out's gradient g[n].
void rms_norm_backward(const float *x, const float *gain, float epsilon, std::size_t n,
                       const float *g, float *x_gradient);

/// out[n] = silu(gate[n]) * up[n], silu(g) = g / (1 + e^-g); out may be gate.
void swiglu(const float *gate, const float *up, std::size_t n, float *out);

/// The gradients of gate and up from g[n], that of swiglu()'s out; g may be one of them.
void swiglu_backward(const float *gate, const float *up, std::size_t n, const float *g,
                     float *gate_gradient, float *up_gradient);

/// out[n] = x[n] + y[n]; out may be x.
void add(const float *x, const float *y, std::size_t n, float *out);

/// x[n] = e^x / sum(e^x); the values from there to `padded`, a multiple of kLanes, become zero.
void softmax(float *x, std::size_t n, std::size_t padded);

/// Turns g[n], the gradient of a softmax's result y[n], into that of its argument; n is a multiple
/// of kLanes.
void softmax_backward(const float *y, std::size_t n, float *g);

} // namespace tiny_llama
