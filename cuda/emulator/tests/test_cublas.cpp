// The mock of cuBLAS: what it computes, and what it refuses.
#include <cstring>

#include "../cublas/cublas.h"
#include "check.h"

namespace {

struct Blas {
    cublasHandle_t handle = nullptr;

    Blas() {
        CHECK_IS(cublasCreate_v2(&handle), kOk);
        CHECK_IS(cublasSetMathMode(handle, kPedantic), kOk);
    }
    ~Blas() { CHECK_IS(cublasDestroy_v2(handle), kOk); }

    cublasStatus_t set(CUstream stream, const Buffer<float> &workspace) {
        CHECK_IS(cublasSetStream_v2(handle, stream), kOk);
        return cublasSetWorkspace_v2(handle, reinterpret_cast<void *>(workspace.address),
                                     workspace.count * sizeof(float));
    }
    /// c += a a', of two rows and three columns.
    cublasStatus_t square(CUdeviceptr a, CUdeviceptr c) {
        float one = 1.0f;
        return cublasSsyrk_v2(handle, kLowerFill, kPlain, 2, 3, &one,
                              reinterpret_cast<const float *>(a), 2, &one,
                              reinterpret_cast<float *>(c), 2);
    }
};

const std::vector<float> kRows = {1, 4, 2, 5, 3, 6}; // [1 2 3; 4 5 6], column by column

void products() {
    Gpu gpu;
    Blas blas;
    Buffer<float> workspace(256), a(kRows), c(std::vector<float>{1, 1, 7, 1});
    CHECK_IS(blas.set(nullptr, workspace), kOk);
    CHECK_IS(blas.square(a.address, c.address), kOk);
    CHECK((c.read() == std::vector<float>{15, 33, 7, 78})); // what is above stays
    float one = 1.0f, zero = 0.0f;
    // Of [1 2 3; 4 5 6] and the same with its rows exchanged; what was there is not read.
    Buffer<float> b(std::vector<float>{4, 1, 5, 2, 6, 3});
    auto pointer = [](const Buffer<float> &of) { return reinterpret_cast<float *>(of.address); };
    CHECK_IS(cublasSgemm_v2(blas.handle, kPlain, kTransposed, 2, 2, 3, &one, pointer(a), 2,
                            pointer(b), 2, &zero, pointer(c), 2),
             kOk);
    CHECK((c.read() == std::vector<float>{32, 77, 14, 32}));
    Buffer<float> large(9);
    CHECK_IS(cublasSgemm_v2(blas.handle, kTransposed, kPlain, 3, 3, 2, &one, pointer(a), 2,
                            pointer(a), 2, &zero, pointer(large), 3),
             kOk);
    CHECK((large.read() == std::vector<float>{17, 22, 27, 22, 29, 36, 27, 36, 45}));
    // The workspace is used.
    CHECK(workspace.read()[0] != 0.0f);
    // In other modes it computes with fewer bits.
    Buffer<float> fine(std::vector<float>{1.0f + 1.0f / 8192, 0, 0, 0, 0, 0});
    c.write({0, 0, 0, 0});
    CHECK_IS(blas.square(fine.address, c.address), kOk);
    CHECK(c.read()[0] > 1.0f);
    CHECK_IS(cublasSetMathMode(blas.handle, 0), kOk);
    c.write({0, 0, 0, 0});
    CHECK_IS(blas.square(fine.address, c.address), kOk);
    CHECK(c.read()[0] == 1.0f);
}

void refusals() {
    Gpu gpu;
    Blas blas;
    Buffer<float> workspace(256), a(kRows), c(std::vector<float>(4));
    int64_t faults = mq_mock_get("faults");
    CHECK_IS(blas.square(a.address, c.address), kBlasInternalError); // no workspace
    CHECK_IS(blas.set(nullptr, workspace), kOk);
    CHECK_IS(blas.square(a.address, c.address), kOk);
    CHECK_IS(cublasSetStream_v2(blas.handle, nullptr), kOk);
    CHECK_IS(blas.square(a.address, c.address), kBlasInternalError); // forgotten again
    CHECK_IS(
        cublasSetWorkspace_v2(blas.handle, reinterpret_cast<void *>(workspace.address + 4), 64),
        kBlasInvalidValue);
    CHECK_IS(blas.set(nullptr, workspace), kOk);
    {
        Gpu other;
        CHECK_IS(blas.square(a.address, c.address), kBlasInternalError); // not its context
    }
    CHECK_IS(mq_mock_get("faults"), faults + 3);
    float one = 1.0f;
    CHECK_IS(cublasSsyrk_v2(blas.handle, kLowerFill, kPlain, 2, 3, &one,
                            reinterpret_cast<const float *>(a.address), 1, &one,
                            reinterpret_cast<float *>(c.address), 2),
             kBlasInvalidValue); // columns of two floats, one apart
    CHECK_IS(cublasDestroy_v2(nullptr), kBlasNotInitialized);
    CHECK_IS(mq_mock_set("fail_cublas_product", 15), 0);
    CHECK_IS(blas.square(a.address, c.address), 15);
    CHECK_IS(mq_mock_set("fail_cublas_product", 0), 0);
    CHECK_IS(mq_mock_set("fail_cublas_create", 1), 0);
    cublasHandle_t none = nullptr;
    CHECK_IS(cublasCreate_v2(&none), 1);
    CHECK_IS(mq_mock_set("fail_cublas_create", 0), 0);
}

void operands_beyond_their_memory() {
    for (int which = 0; which < 3; ++which) {
        Gpu gpu;
        cublasHandle_t handle = nullptr;
        CHECK_IS(cublasCreate_v2(&handle), kOk);
        Buffer<float> workspace(256), a(kRows), c(std::vector<float>(4));
        CHECK_IS(cublasSetWorkspace_v2(handle, reinterpret_cast<void *>(workspace.address),
                                       which == 2 ? 2048 : 1024),
                 kOk);
        float one = 1.0f, host[8] = {};
        auto *from = which == 0 ? host : reinterpret_cast<const float *>(a.address);
        auto *to = reinterpret_cast<float *>(c.address) + (which == 1);
        CHECK_IS(cublasSsyrk_v2(handle, kLowerFill, kPlain, 2, 3, &one, from, 2, &one, to, 2),
                 kBlasExecutionFailed);
        CHECK_IS(cuCtxSynchronize(), kIllegalAddressError);
        // Ended all the same; what it had goes with the context.
        CHECK_IS(cublasDestroy_v2(handle), kOk);
    }
}

void captures() {
    Gpu gpu;
    Blas blas;
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    CHECK_IS(cuStreamCreate(&stream, 1), kSuccess);
    Buffer<float> workspace(256), a(kRows), c(std::vector<float>(4));
    CHECK_IS(cuStreamBeginCapture_v2(stream, 0), kSuccess);
    CHECK_IS(blas.set(stream, workspace), kOk);
    CHECK_IS(blas.square(a.address, c.address), kOk);
    CHECK_IS(cuStreamEndCapture(stream, &graph), kSuccess);
    CHECK_IS(cuGraphInstantiateWithFlags(&exec, graph, 0), kSuccess);
    CHECK((c.read() == std::vector<float>(4)));
    a.write({2, 0, 0, 0, 0, 0});
    CHECK_IS(cuGraphLaunch(exec, stream), kSuccess);
    CHECK_IS(cuGraphLaunch(exec, stream), kSuccess);
    CHECK((c.read() == std::vector<float>{8, 0, 0, 0}));
    CHECK_IS(cuGraphExecDestroy(exec), kSuccess);
    CHECK_IS(cuGraphDestroy(graph), kSuccess);
    // A handle takes memory, which breaks a capture.
    cublasHandle_t none = nullptr;
    CHECK_IS(cuStreamBeginCapture_v2(stream, 0), kSuccess);
    CHECK_IS(cublasCreate_v2(&none), kBlasAllocationFailed);
    CHECK_IS(cuStreamEndCapture(stream, &graph), kCaptureInvalidated);
    CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
}

} // namespace

void test_cublas() {
    products();
    refusals();
    operands_beyond_their_memory();
    captures();
    CHECK_IS(mq_mock_get("cublas_handles"), 0);
}
