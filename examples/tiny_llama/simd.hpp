// The widest float vector of this build, as a GCC/clang vector extension, and its exp().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tiny_llama {

#if defined(__AVX512F__)
constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr std::size_t kVectorBytes = 32;
#else
constexpr std::size_t kVectorBytes = 16;
#endif

using Vector = float __attribute__((vector_size(kVectorBytes)));
constexpr std::size_t kLanes = kVectorBytes / sizeof(float);

/// The smallest multiple of `step` that is not below `n`.
constexpr std::size_t round_up(std::size_t n, std::size_t step) {
    return (n + step - 1) / step * step;
}

inline Vector splat(float x) { return x - Vector{}; }

inline Vector load(const float *p) {
    Vector v;
    std::memcpy(&v, p, sizeof v); // any alignment
    return v;
}

inline void store(float *p, Vector v) { std::memcpy(p, &v, sizeof v); }

/// Loads the first `count` lanes, or all if `count` is larger; the others are zero.
inline Vector load(const float *p, std::size_t count) {
    if (count >= kLanes) {
        return load(p);
    }
    Vector v = {};
    std::memcpy(&v, p, count * sizeof(float));
    return v;
}

/// Stores the first `count` lanes, or all if `count` is larger.
inline void store(float *p, Vector v, std::size_t count) {
    std::memcpy(p, &v, std::min(count, kLanes) * sizeof(float));
}

inline Vector max(Vector a, Vector b) { return a > b ? a : b; }

inline float sum(Vector v) {
    float total = 0;
    for (std::size_t i = 0; i < kLanes; ++i) {
        total += v[i];
    }
    return total;
}

inline float max(Vector v) {
    float largest = v[0];
    for (std::size_t i = 1; i < kLanes; ++i) {
        largest = std::max(largest, v[i]);
    }
    return largest;
}

/// e^x within 2 ulp, for x in [-87, 88]; beyond, the value at the nearer end. NaN stays NaN.
inline Vector exp(Vector x) {
    using Bits = std::uint32_t __attribute__((vector_size(kVectorBytes)));
    x = x < -87.0F ? splat(-87.0F) : x;
    x = x > 88.0F ? splat(88.0F) : x;

    // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits.
    const Vector shifted = x * 1.44269504F + 12582912.0F;
    const Vector n = shifted - 12582912.0F;
    Vector r = x - n * 0.693359375F;
    r -= n * -2.12194440e-4F; // ln 2 in two parts: the first product is exact

    // e^r on [-ln2/2, ln2/2]: the polynomial of Cephes' expf.
    Vector p = r * 1.9875691500e-4F + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;

    // Times 2^n: n moved into the exponent of 1.0.
    Bits bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000U;
    Vector power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

} // namespace tiny_llama
