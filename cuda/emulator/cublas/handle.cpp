// Handles of the mock of cuBLAS.
#include <mutex>
#include <set>

#include "cublas.h"

using namespace mock;

// Handles are made and ended on any thread.
static std::mutex g_mutex;
static std::set<const Blas *> g_live;

bool mock::is_live(const Blas *handle) {
    std::lock_guard<std::mutex> lock(g_mutex);
    return g_live.count(handle) != 0;
}

static constexpr size_t kPool = 1 << 20;

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    if (int64_t status = mq_mock_get("fail_cublas_create")) {
        return static_cast<cublasStatus_t>(status);
    }
    CUcontext context = nullptr;
    if (cuCtxGetCurrent(&context) != kSuccess || context == nullptr) {
        return kBlasNotInitialized;
    }
    CUdeviceptr pool = 0;
    // As the real one it takes memory of its own: not while that would break a capture.
    if (cuMemAlloc_v2(&pool, kPool) != kSuccess) {
        return kBlasAllocationFailed;
    }
    *handle = new Blas{context, pool, nullptr, 0, 0, 0, 0};
    {
        std::lock_guard<std::mutex> lock(g_mutex);
        g_live.insert(*handle);
    }
    mq_mock_count("cublas_handles", 1);
    return kOk;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    CUcontext context = nullptr;
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    if (cuCtxGetCurrent(&context) != kSuccess || context != handle->context) {
        return kBlasExecutionFailed;
    }
    // As documented, this waits for the device.
    cuCtxSynchronize();
    cuMemFree_v2(handle->pool);
    {
        std::lock_guard<std::mutex> lock(g_mutex);
        g_live.erase(handle);
    }
    delete handle;
    mq_mock_count("cublas_handles", -1);
    return kOk;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version) {
    *version = static_cast<int>(mq_mock_get("cublas_version"));
    return is_live(handle) ? kOk : kBlasNotInitialized;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, CUstream stream) {
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    handle->stream = stream;
    // Back to its own, whatever was set before.
    handle->workspace = 0;
    return kOk;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    auto address = reinterpret_cast<CUdeviceptr>(workspace);
    if (address % 256 != 0) {
        return kBlasInvalidValue;
    }
    handle->workspace = address;
    handle->workspace_bytes = bytes;
    return kOk;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, int mode) {
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    handle->math_mode = mode;
    return kOk;
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, int mode) {
    if (!is_live(handle)) {
        return kBlasNotInitialized;
    }
    handle->atomics_mode = mode;
    return mode == 0 || mode == 1 ? kOk : kBlasInvalidValue;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, int mode) {
    // Numbers in device memory are not read here.
    return !is_live(handle) ? kBlasNotInitialized : mode == 0 ? kOk : kBlasInvalidValue;
}
