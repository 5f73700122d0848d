// The small operations between the matrix products. Sums go lane by lane, then over the lanes.
#include "rowwise.hpp"

#include "simd.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {

void rms_norm(const float *x, const float *gain, float epsilon, std::size_t n, float *out) {
    Vector squares = {};
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Vector v = load(x + i, n - i);
        squares += v * v;
    }
    const float factor = 1.0F / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon);
    for (std::size_t i = 0; i < n; ++i) {
        out[i] = x[i] * factor * gain[i];
    }
}

void swiglu(const float *gate, const float *up, std::size_t n, float *out) {
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Vector g = load(gate + i, n - i);
        store(out + i, g / (1.0F + exp(-g)) * load(up + i, n - i), n - i);
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

} // namespace tiny_llama
