// Streams, events, capture and graphs.
#include <thread>

#include "check.h"

void test_streams() {
    Gpu gpu;
    CUstream a = nullptr, b = nullptr;
    CUevent start = nullptr, end = nullptr;
    CHECK_IS(cuStreamCreate(&a, 1), kSuccess);
    CHECK_IS(cuStreamCreateWithPriority(&b, 0, -1), kSuccess);
    CHECK_IS(cuEventCreate(&start, 0), kSuccess);
    CHECK_IS(cuEventCreate(&end, 0), kSuccess);
    Buffer<int> x(std::vector<int>(32, 1));
    CHECK_IS(cuEventRecord(start, a), kSuccess);
    CHECK_IS(gpu.launch("add_one", 1, 32, 0, {&x.address}, a), kSuccess);
    CHECK_IS(cuStreamWaitEvent(b, start, 0), kSuccess);
    CHECK_IS(gpu.launch("add_one", 1, 32, 0, {&x.address}, b), kSuccess);
    CHECK_IS(cuEventRecord(end, b), kSuccess);
    CHECK_IS(cuEventSynchronize(end), kSuccess);
    float milliseconds = -1;
    CHECK_IS(cuEventElapsedTime(&milliseconds, start, end), kSuccess);
    CHECK(milliseconds >= 0);
    int64_t synchronizations = mq_mock_get("synchronizations");
    CHECK_IS(cuStreamSynchronize(b), kSuccess);
    CHECK_IS(cuStreamQuery(b), kSuccess);
    CHECK_IS(mq_mock_get("synchronizations"), synchronizations + 1);
    CHECK_IS(x.read()[0], 3);
    int ran = 0;
    CHECK_IS(cuLaunchHostFunc(a, [](void *data) { ++*static_cast<int *>(data); }, &ran), kSuccess);
    CHECK_IS(ran, 1);
    for (CUevent event : {start, end}) {
        CHECK_IS(cuEventDestroy_v2(event), kSuccess);
    }
    for (CUstream stream : {a, b}) {
        CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
    }
}

enum : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };

// Contents of buffers are those of the replay, parameters those of the capture.
static void replays() {
    Gpu gpu;
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    CHECK_IS(cuStreamCreate(&stream, 0), kSuccess);
    Buffer<float> x(std::vector<float>(8, 1.0f)), y(std::vector<float>(8, 0.0f));
    unsigned long long count = 8;
    float factor = 2.0f;
    CHECK_IS(cuStreamBeginCapture_v2(stream, kGlobal), kSuccess);
    int status = 0;
    uint64_t id = 0;
    CHECK_IS(cuStreamGetCaptureInfo_v2(stream, &status, &id, nullptr, nullptr, nullptr), kSuccess);
    CHECK_IS(status, 1);
    CHECK(id != 0);
    CHECK_IS(gpu.launch("scale", 1, 32, 0, {&x.address, &y.address, &count, &factor}, stream),
             kSuccess);
    CHECK_IS(cuMemcpyDtoDAsync_v2(x.address, y.address, 4, stream), kSuccess);
    CUdeviceptr own = 0;
    CHECK_IS(cuMemAllocAsync(&own, 16, stream), kSuccess);
    CHECK_IS(cuMemsetD8Async(own, 1, 16, stream), kSuccess);
    CHECK_IS(cuMemFreeAsync(own, stream), kSuccess);
    CHECK_IS(cuStreamEndCapture(stream, &graph), kSuccess);
    CHECK_IS(cuStreamIsCapturing(stream, &status), kSuccess);
    CHECK_IS(status, 0);
    CHECK_IS(y.read()[0], 0); // nothing has run
    CHECK_IS(cuGraphInstantiateWithFlags(&exec, graph, 0), kSuccess);
    CHECK_IS(cuGraphDestroy(graph), kSuccess);
    factor = 100.0f;
    CUdeviceptr kept = x.address;
    x.address = 0;
    for (float expected : {2.0f, 4.0f}) {
        CHECK_IS(cuGraphLaunch(exec, stream), kSuccess);
        CHECK_IS(y.read()[0], expected);
    }
    x.address = kept;
    x.write(std::vector<float>(8, 5.0f));
    CHECK_IS(cuGraphLaunch(exec, stream), kSuccess);
    CHECK_IS(y.read()[7], 10);
    CHECK_IS(cuMemFree_v2(y.address), kSuccess);
    CHECK_IS(cuGraphLaunch(exec, stream), kIllegalAddressError);
    CHECK_IS(cuGraphExecDestroy(exec), kSuccess);
    CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
}

// A call that may not be made while a stream is captured: its status, and that the capture is lost.
template <class Action>
static void expect_refusal(CUresult wanted, int mode, Action action, bool is_lost = true) {
    Gpu gpu;
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    CHECK_IS(cuStreamCreate(&stream, 0), kSuccess);
    Buffer<int> x(std::vector<int>(4, 1));
    CHECK_IS(cuStreamBeginCapture_v2(stream, mode), kSuccess);
    CHECK_IS(action(stream, x.address), wanted);
    CHECK_IS(gpu.launch("add_one", 1, 4, 0, {&x.address}, stream),
             is_lost ? kCaptureInvalidated : kSuccess);
    CHECK_IS(cuStreamEndCapture(stream, &graph), is_lost ? kCaptureInvalidated : kSuccess);
    CHECK((graph == nullptr) == is_lost);
    if (graph != nullptr) {
        CHECK_IS(cuGraphDestroy(graph), kSuccess);
    }
    CHECK_IS(cuStreamSynchronize(stream), kSuccess);
    CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
}

static void refusals() {
    auto synchronize = [](CUstream stream, CUdeviceptr) { return cuStreamSynchronize(stream); };
    auto query = [](CUstream stream, CUdeviceptr) { return cuStreamQuery(stream); };
    auto allocate = [](CUstream, CUdeviceptr) {
        CUdeviceptr address = 0;
        CUresult status = cuMemAlloc_v2(&address, 4);
        return status == kSuccess ? cuMemFree_v2(address) : status;
    };
    auto copy = [](CUstream, CUdeviceptr x) {
        int host = 0;
        return cuMemcpyDtoH_v2(&host, x, 4);
    };
    auto fill_default = [](CUstream, CUdeviceptr x) { return cuMemsetD8Async(x, 0, 4, nullptr); };
    auto free = [](CUstream, CUdeviceptr x) { return cuMemFree_v2(x); };
    expect_refusal(kCaptureUnsupported, kGlobal, synchronize);
    expect_refusal(kCaptureUnsupported, kRelaxed, synchronize);
    expect_refusal(kCaptureUnsupported, kGlobal, query);
    expect_refusal(kCaptureUnsupported, kGlobal, allocate);
    expect_refusal(kCaptureUnsupported, kThreadLocal, allocate);
    expect_refusal(kSuccess, kRelaxed, allocate, false);
    expect_refusal(kCaptureUnsupported, kGlobal, free);
    expect_refusal(kCaptureUnsupported, kGlobal, copy);
    expect_refusal(kCaptureImplicit, kRelaxed, fill_default);
    expect_refusal(kCaptureUnsupported, kGlobal,
                   [](CUstream, CUdeviceptr) { return cuCtxSynchronize(); });
    auto ask_default = [](CUstream, CUdeviceptr) {
        int status = 0;
        return cuStreamIsCapturing(nullptr, &status);
    };
    expect_refusal(kCaptureImplicit, kGlobal, ask_default, false);
    expect_refusal(
        kSuccess, kGlobal,
        [&](CUstream stream, CUdeviceptr x) {
            int mode = kRelaxed;
            CHECK_IS(cuThreadExchangeStreamCaptureMode(&mode), kSuccess);
            CUresult status = allocate(stream, x);
            CHECK_IS(cuThreadExchangeStreamCaptureMode(&mode), kSuccess);
            CHECK_IS(mode, kRelaxed);
            return status;
        },
        false);
    // From another thread only a global capture refuses.
    auto elsewhere = [&](CUstream stream, CUdeviceptr x) {
        CUcontext context = nullptr;
        cuCtxGetCurrent(&context);
        CUresult status = kSuccess;
        std::thread([&] {
            cuCtxSetCurrent(context);
            status = allocate(stream, x);
        }).join();
        return status;
    };
    expect_refusal(kCaptureUnsupported, kGlobal, elsewhere);
    expect_refusal(kSuccess, kThreadLocal, elsewhere, false);
}

static void forks() {
    Gpu gpu;
    CUstream main = nullptr, side = nullptr;
    CUevent forked = nullptr, joined = nullptr;
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    CHECK_IS(cuStreamCreate(&main, 1), kSuccess);
    CHECK_IS(cuStreamCreate(&side, 1), kSuccess);
    CHECK_IS(cuEventCreate(&forked, 2), kSuccess);
    CHECK_IS(cuEventCreate(&joined, 2), kSuccess);
    CHECK_IS(cuStreamEndCapture(main, &graph), kIllegalState);
    CHECK_IS(cuStreamBeginCapture_v2(nullptr, kGlobal), kCaptureUnsupported);
    Buffer<int> x(std::vector<int>(4, 1));
    for (bool is_joined : {false, true}) {
        CHECK_IS(cuStreamBeginCapture_v2(main, kGlobal), kSuccess);
        CHECK_IS(cuEventRecord(forked, main), kSuccess);
        CHECK_IS(cuStreamWaitEvent(side, forked, 0), kSuccess);
        CHECK_IS(gpu.launch("add_one", 1, 4, 0, {&x.address}, side), kSuccess);
        if (is_joined) {
            CHECK_IS(cuEventRecord(joined, side), kSuccess);
            CHECK_IS(cuStreamWaitEvent(main, joined, 0), kSuccess);
        }
        CHECK_IS(cuStreamEndCapture(main, &graph), is_joined ? kSuccess : kCaptureUnjoined);
    }
    CHECK_IS(x.read()[0], 1);
    CHECK_IS(cuGraphInstantiateWithFlags(&exec, graph, 0), kSuccess);
    CHECK_IS(cuGraphLaunch(exec, main), kSuccess);
    CHECK_IS(x.read()[0], 2);
    CHECK_IS(cuEventQuery(forked), kCapturedEvent);
    CHECK_IS(cuGraphExecDestroy(exec), kSuccess);
    CHECK_IS(cuGraphDestroy(graph), kSuccess);
    for (CUevent event : {forked, joined}) {
        CHECK_IS(cuEventDestroy_v2(event), kSuccess);
    }
    for (CUstream stream : {main, side}) {
        CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
    }
}

void test_capture() {
    replays();
    refusals();
    forks();
}
