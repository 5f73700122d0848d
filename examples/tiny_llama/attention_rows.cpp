// Products with a row of vectors per key: sums stay in registers, in an order that is always the
// same.
#include "attention_rows.hpp"

namespace tiny_llama {

void copy_rows(const float *x, std::size_t x_stride, std::size_t rows, std::size_t n, float factor,
               float *out, std::size_t out_stride) {
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < n; ++i) {
            out[row * out_stride + i] = x[row * x_stride + i] * factor;
        }
    }
}

void transpose_rows(const float *x, std::size_t x_stride, std::size_t rows, std::size_t n,
                    float *out, std::size_t out_stride) {
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < n; ++i) {
            out[i * out_stride + row] = x[row * x_stride + i];
        }
    }
}

void multiply(const float *a, std::size_t a_stride, const float *b, std::size_t b_stride, float *y,
              std::size_t y_stride, std::size_t n, std::size_t depth) {
    for (std::size_t column = 0; column < n; column += kColumns) {
        Vector total[kRows][2] = {};
        for (std::size_t p = 0; p < depth; ++p) {
            const Vector b0 = load(b + p * b_stride + column);
            const Vector b1 = load(b + p * b_stride + column + kLanes);
#pragma GCC unroll 4
            for (std::size_t row = 0; row < kRows; ++row) {
                total[row][0] += a[row * a_stride + p] * b0;
                total[row][1] += a[row * a_stride + p] * b1;
            }
        }
        for (std::size_t row = 0; row < kRows; ++row) {
            store(y + row * y_stride + column, total[row][0]);
            store(y + row * y_stride + column + kLanes, total[row][1]);
        }
    }
}

void add_transposed_product(const float *a, std::size_t a_stride, const float *b,
                            std::size_t b_stride, float *y, std::size_t y_stride, std::size_t m,
                            std::size_t n) {
    for (std::size_t column = 0; column < n; column += kColumns) {
        Vector rows[kRows][2];
        for (std::size_t row = 0; row < kRows; ++row) {
            rows[row][0] = load(b + row * b_stride + column);
            rows[row][1] = load(b + row * b_stride + column + kLanes);
        }
        for (std::size_t p = 0; p < m; ++p) {
            float *at = y + p * y_stride + column;
            Vector total[2] = {load(at), load(at + kLanes)};
#pragma GCC unroll 4
            for (std::size_t row = 0; row < kRows; ++row) {
                total[0] += a[row * a_stride + p] * rows[row][0];
                total[1] += a[row * a_stride + p] * rows[row][1];
            }
            store(at, total[0]);
            store(at + kLanes, total[1]);
        }
    }
}

} // namespace tiny_llama
