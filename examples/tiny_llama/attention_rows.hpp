// Operations on a few rows at a time, which attention and its gradient are made of.
#pragma once

#include "simd.hpp"

#include <cstddef>

namespace tiny_llama {

/// Queries at a time, so that each key and value loaded serves all of them.
constexpr std::size_t kRows = 4;
/// What the width of a product is a multiple of.
constexpr std::size_t kColumns = 2 * kLanes;

/// out[i, n] = x[i, n] * factor
void copy_rows(const float *x, std::size_t x_stride, std::size_t rows, std::size_t n, float factor,
               float *out, std::size_t out_stride);

/// out[n, i] = x[i, n]
void transpose_rows(const float *x, std::size_t x_stride, std::size_t rows, std::size_t n,
                    float *out, std::size_t out_stride);

/// y[kRows, n] = a[kRows, depth] * b[depth, n]; n is a multiple of kColumns.
void multiply(const float *a, std::size_t a_stride, const float *b, std::size_t b_stride, float *y,
              std::size_t y_stride, std::size_t n, std::size_t depth);

/// y[m, n] += a[kRows, m]^T * b[kRows, n]; n is a multiple of kColumns.
void add_transposed_product(const float *a, std::size_t a_stride, const float *b,
                            std::size_t b_stride, float *y, std::size_t y_stride, std::size_t m,
                            std::size_t n);

} // namespace tiny_llama
