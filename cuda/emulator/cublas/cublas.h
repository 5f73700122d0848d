// The functions of cuBLAS that the mock has, and the object behind its handle. Statuses and modes
// are plain integers with cuBLAS' numbers.
#pragma once

#include "../control.h"

namespace mock {

/// What cublasCreate gives. One thread at a time may set it and use what was set, as with the real
/// one.
struct Blas {
    CUcontext context;
    CUdeviceptr pool; // its own workspace, which the real one takes as well
    CUstream stream;
    CUdeviceptr workspace; // the caller's, until the stream is set again
    size_t workspace_bytes;
    int math_mode, atomics_mode;
};

bool is_live(const Blas *handle);

} // namespace mock

using cublasStatus_t = int;
using cublasHandle_t = mock::Blas *;

enum : cublasStatus_t {
    kOk = 0,
    kBlasNotInitialized = 1,
    kBlasAllocationFailed = 3,
    kBlasInvalidValue = 7,
    kBlasExecutionFailed = 13,
    kBlasInternalError = 14,
};
enum : int { kLowerFill = 0, kPlain = 0, kTransposed = 1, kPedantic = 2 };

// handle.cpp
MQ_MOCK_EXPORT cublasStatus_t cublasCreate_v2(cublasHandle_t *handle);
MQ_MOCK_EXPORT cublasStatus_t cublasDestroy_v2(cublasHandle_t handle);
MQ_MOCK_EXPORT cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version);
MQ_MOCK_EXPORT cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, CUstream stream);
MQ_MOCK_EXPORT cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace,
                                                    size_t bytes);
MQ_MOCK_EXPORT cublasStatus_t cublasSetMathMode(cublasHandle_t handle, int mode);
MQ_MOCK_EXPORT cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, int mode);
MQ_MOCK_EXPORT cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, int mode);

// products.cpp
MQ_MOCK_EXPORT cublasStatus_t cublasSsyrk_v2(cublasHandle_t handle, int fill, int operation, int n,
                                             int k, const float *alpha, const float *a, int lda,
                                             const float *beta, float *c, int ldc);
MQ_MOCK_EXPORT cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, int operation_a,
                                             int operation_b, int m, int n, int k,
                                             const float *alpha, const float *a, int lda,
                                             const float *b, int ldb, const float *beta, float *c,
                                             int ldc);
