// Products of the mock of cuBLAS: float32, every sum from its first product to its last. Another
// order than that of mq's kernels, so that tests can tell one from the other.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cublas.h"

using namespace mock;

// Column by column, as all of cuBLAS.
struct Operand {
    const float *values;
    int rows, columns, ld;
    bool is_transposed;
    bool is_rounded; // to the 10 bits of TF32

    float at(int row, int column) const {
        float value = is_transposed ? values[static_cast<size_t>(row) * ld + column]
                                    : values[static_cast<size_t>(column) * ld + row];
        if (is_rounded) {
            uint32_t bits = 0;
            std::memcpy(&bits, &value, sizeof bits);
            bits &= ~0x1fffu;
            std::memcpy(&value, &bits, sizeof bits);
        }
        return value;
    }
    mq_mock_range range() const {
        size_t stored = is_transposed ? rows : columns, across = is_transposed ? columns : rows;
        return {reinterpret_cast<CUdeviceptr>(values),
                ((stored - 1) * static_cast<size_t>(ld) + across) * sizeof(float)};
    }
};

struct Product {
    Operand a, b;
    float alpha, beta;
    float *c;
    int ldc;
    bool is_lower; // all of c, or what is on and below the diagonal
    unsigned char *workspace;
    size_t workspace_bytes;
};

static void compute(const void *arguments) {
    Product product;
    std::memcpy(&product, arguments, sizeof product);
    // Whoever has something there loses it.
    std::memset(product.workspace, 0x5a, product.workspace_bytes);
    int sums = product.a.columns;
    std::vector<float> row(static_cast<size_t>(sums));
    for (int i = 0; i < product.a.rows; ++i) {
        for (int k = 0; k < sums; ++k) {
            row[static_cast<size_t>(k)] = product.a.at(i, k);
        }
        for (int j = 0; j < (product.is_lower ? i + 1 : product.b.columns); ++j) {
            float sum = 0.0f;
            for (int k = 0; k < sums; ++k) {
                sum += row[static_cast<size_t>(k)] * product.b.at(k, j);
            }
            float &to = product.c[static_cast<size_t>(j) * product.ldc + i];
            to = product.beta == 0.0f ? product.alpha * sum
                                      : product.alpha * sum + product.beta * to;
        }
    }
}

static cublasStatus_t refuse(const char *what, const char *why) {
    std::fprintf(stderr, "mq mock: %s: %s\n", what, why);
    mq_mock_count("faults", 1);
    return kBlasInternalError;
}

static cublasStatus_t enqueue(const char *what, cublasHandle_t handle, Product product) {
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    CUcontext context = nullptr;
    if (cuCtxGetCurrent(&context) != kSuccess || context != handle->context) {
        return refuse(what, "the context of the handle is not current");
    }
    if (handle->workspace == 0) {
        return refuse(what, "no workspace was set since the stream was");
    }
    if (int64_t status = mq_mock_get("fail_cublas_product")) {
        return static_cast<cublasStatus_t>(status);
    }
    // Less is kept than the real one promises, so that a mode which was forgotten shows.
    product.a.is_rounded = product.b.is_rounded = handle->math_mode != kPedantic;
    product.workspace = reinterpret_cast<unsigned char *>(handle->workspace);
    product.workspace_bytes = handle->workspace_bytes;
    size_t columns = static_cast<size_t>(product.b.columns);
    const mq_mock_range ranges[] = {
        product.a.range(),
        product.b.range(),
        {reinterpret_cast<CUdeviceptr>(product.c),
         ((columns - 1) * static_cast<size_t>(product.ldc) + product.a.rows) * sizeof(float)},
        {handle->workspace, handle->workspace_bytes},
    };
    mq_mock_count("cublas_products", 1);
    CUresult status =
        mq_mock_enqueue(handle->stream, what, ranges, 4, compute, &product, sizeof product);
    return status == kSuccess ? kOk : kBlasExecutionFailed;
}

static int stored_rows(int operation, int rows, int columns) {
    return operation == kPlain ? rows : columns;
}

cublasStatus_t cublasSsyrk_v2(cublasHandle_t handle, int fill, int operation, int n, int k,
                              const float *alpha, const float *a, int lda, const float *beta,
                              float *c, int ldc) {
    if (fill != kLowerFill || operation < kPlain || operation > kTransposed || n < 1 || k < 1 ||
        lda < stored_rows(operation, n, k) || ldc < n) {
        return kBlasInvalidValue;
    }
    bool is_transposed = operation == kTransposed;
    Operand left = {a, n, k, lda, is_transposed, false};
    Operand right = {a, k, n, lda, !is_transposed, false};
    return enqueue("cublasSsyrk", handle, {left, right, *alpha, *beta, c, ldc, true, nullptr, 0});
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, int operation_a, int operation_b, int m, int n,
                              int k, const float *alpha, const float *a, int lda, const float *b,
                              int ldb, const float *beta, float *c, int ldc) {
    if (operation_a < kPlain || operation_a > kTransposed || operation_b < kPlain ||
        operation_b > kTransposed || m < 1 || n < 1 || k < 1 ||
        lda < stored_rows(operation_a, m, k) || ldb < stored_rows(operation_b, k, n) || ldc < m) {
        return kBlasInvalidValue;
    }
    Operand left = {a, m, k, lda, operation_a == kTransposed, false};
    Operand right = {b, k, n, ldb, operation_b == kTransposed, false};
    return enqueue("cublasSgemm", handle, {left, right, *alpha, *beta, c, ldc, false, nullptr, 0});
}
