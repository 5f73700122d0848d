// The small operations between the matrix products. Sums go lane by lane, then over the lanes.
#include "rowwise.hpp"

#include "simd.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {
namespace {

float rms_norm_factor(const float *x, float epsilon, std::size_t n) {
    Vector squares = {};
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Vector v = load(x + i, n - i);
        squares += v * v;
    }
    return 1.0F / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon);
}

} // namespace

void rms_norm(const float *x, const float *gain, float epsilon, std::size_t n, float *out) {
    const float factor = rms_norm_factor(x, epsilon, n);
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = x[i] * factor * gain[i];
    }
}

// With f the factor: d out[j] / d x[i] = f * gain[j] * ((i == j) - f^2 / n * x[i] * x[j]).
void rms_norm_backward(const float *x, const float *gain, float epsilon, std::size_t n,
                       const float *g, float *x_gradient) {
    const float factor = rms_norm_factor(x, epsilon, n);
    Vector products = {};
    for (std::size_t i = 0; i < n; i += kLanes) {
        products += load(x + i, n - i) * load(gain + i, n - i) * load(g + i, n - i);
    }
    const float share = factor * factor / static_cast<float>(n) * sum(products);
    for (std::size_t i = 0; i < n; ++i) {
        x_gradient[i] += factor * (gain[i] * g[i] - share * x[i]);
    }
}

void swiglu(const float *gate, const float *up, std::size_t n, float *out) {
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Vector g = load(gate + i, n - i);
        store(out + i, g / (1.0F + exp(-g)) * load(up + i, n - i), n - i);
    }
}

// silu(x) = x * s with s = 1 / (1 + e^-x), and silu'(x) = s + x * s * (1 - s).
void swiglu_backward(const float *gate, const float *up, std::size_t n, const float *g,
                     float *gate_gradient, float *up_gradient) {
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Vector x = load(gate + i, n - i);
        const Vector u = load(up + i, n - i);
        const Vector out = load(g + i, n - i);
        const Vector s = 1.0F / (1.0F + exp(-x));
        store(gate_gradient + i, out * u * s * (1.0F + x * (1.0F - s)), n - i);
        store(up_gradient + i, out * x * s, n - i);
    }
}

void add(const float *x, const float *y, std::size_t n, float *out) {
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = x[i] + y[i];
    }
}

void softmax(float *x, std::size_t n, std::size_t padded) {
    std::fill(x + n, x + padded, x[0]); // changes no maximum
    Vector largest = load(x);
    for (std::size_t i = kLanes; i < padded; i += kLanes) {
        largest = max(largest, load(x + i));
    }
    const float shift = max(largest);
    for (std::size_t i = 0; i < padded; i += kLanes) {
        store(x + i, exp(load(x + i) - shift));
    }
    std::fill(x + n, x + padded, 0.0F);
    Vector total = {};
    for (std::size_t i = 0; i < padded; i += kLanes) {
        total += load(x + i);
    }
    const float factor = 1.0F / sum(total);
    for (std::size_t i = 0; i < padded; i += kLanes) {
        store(x + i, load(x + i) * factor);
    }
}

void softmax_backward(const float *y, std::size_t n, float *g) {
    Vector products = {};
    for (std::size_t i = 0; i < n; i += kLanes) {
        products += load(y + i) * load(g + i);
    }
    const float mean = sum(products); // of g, with weights y
    for (std::size_t i = 0; i < n; i += kLanes) {
        store(g + i, load(y + i) * (load(g + i) - mean));
    }
}

} // namespace tiny_llama
