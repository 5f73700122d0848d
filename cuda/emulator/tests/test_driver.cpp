// Devices, contexts and memory: what the driver answers, and what it refuses.
#include <cstring>
#include <thread>

#include "check.h"

void test_devices() {
    CHECK_IS(cuInit(1), kInvalidValue);
    CUcontext context = nullptr;
    CHECK_IS(cuCtxGetCurrent(&context), kNotInitialized);
    CHECK_IS(cuInit(0), kSuccess);
    CHECK_IS(cuCtxSynchronize(), kInvalidContext);
    int value = 0, device = -1;
    CHECK_IS(cuDeviceGetCount(&value), kSuccess);
    CHECK_IS(value, 2);
    CHECK_IS(cuDeviceGet(&device, 2), kInvalidDevice);
    CHECK_IS(cuDeviceGet(&device, 1), kSuccess);
    char name[64];
    CHECK_IS(cuDeviceGetName(name, sizeof name, device), kSuccess);
    CHECK(std::strcmp(name, "Mock GPU 1") == 0);
    mq_mock_set("compute_capability", 75);
    CHECK_IS(cuDeviceGetAttribute(&value, 75, 0), kSuccess);
    CHECK_IS(value, 7);
    CHECK_IS(cuDeviceGetAttribute(&value, 97, 0), kSuccess);
    CHECK_IS(value, 64 << 10);
    mq_mock_set("compute_capability", 90);
    mq_mock_set("driver_version", 11080);
    CHECK_IS(cuDriverGetVersion(&value), kSuccess);
    CHECK_IS(value, 11080);
    const char *text = nullptr;
    CHECK_IS(cuGetErrorName(900, &text), kSuccess);
    CHECK(std::strcmp(text, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED") == 0);
    CHECK_IS(cuGetErrorName(12345, &text), kInvalidValue);
    void *function = nullptr;
    CHECK_IS(cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 0, nullptr), kSuccess);
    CHECK(function == reinterpret_cast<void *>(&cuMemAlloc_v2));
    CHECK_IS(cuGetProcAddress_v2("cuNothing", &function, 12000, 0, nullptr), kNotFound);
    CHECK_IS(mq_mock_set("nothing", 1), -1);
    CHECK_IS(mq_mock_get("nothing"), -1);
}

void test_contexts() {
    CUcontext primary = nullptr, again = nullptr, current = nullptr;
    CHECK_IS(cuDevicePrimaryCtxRetain(&primary, 0), kSuccess);
    CHECK_IS(cuDevicePrimaryCtxRetain(&again, 0), kSuccess);
    CHECK(primary == again);
    CHECK_IS(mq_mock_get("retained"), 2);
    CHECK_IS(cuDevicePrimaryCtxRelease_v2(0), kSuccess);
    unsigned flags = 0;
    int active = 0;
    CHECK_IS(cuDevicePrimaryCtxGetState(0, &flags, &active), kSuccess);
    CHECK_IS(active, 1);
    CHECK_IS(cuCtxGetCurrent(&current), kSuccess);
    CHECK(current == nullptr);
    CHECK_IS(cuCtxPopCurrent_v2(&current), kInvalidContext);
    CHECK_IS(cuCtxPushCurrent_v2(primary), kSuccess);
    std::thread([&] { // another thread has a stack of its own
        CUcontext there = primary;
        CHECK_IS(cuCtxGetCurrent(&there), kSuccess);
        CHECK(there == nullptr);
    })
        .join();
    {
        Gpu one, two(1);
        int device = -1;
        CHECK_IS(cuCtxGetDevice(&device), kSuccess);
        CHECK_IS(device, 1);
        CHECK_IS(mq_mock_get("current_context_depth"), 3);
        CUstream stream = nullptr;
        CHECK_IS(cuStreamCreate(&stream, 1), kSuccess);
        CHECK_IS(cuStreamGetCtx(stream, &current), kSuccess);
        CHECK(current == two.context);
        Buffer<int> x(std::vector<int>(4, 1));
        // Neither a function nor a stream of another context.
        CHECK_IS(two.launch("add_one", 1, 4, 0, {&x.address}, stream), kSuccess);
        CUfunction foreign = two.function("add_one");
        void *arguments[] = {&x.address};
        CHECK_IS(cuCtxSetCurrent(one.context), kSuccess);
        CHECK_IS(one.launch("add_one", 1, 4, 0, {&x.address}, stream), kInvalidHandle);
        CHECK_IS(cuLaunchKernel(foreign, 1, 1, 1, 4, 1, 1, 0, nullptr, arguments, nullptr),
                 kInvalidHandle);
        CHECK_IS(cuCtxSetCurrent(two.context), kSuccess);
        CHECK_IS(x.read()[0], 2);
        CHECK_IS(cuStreamDestroy_v2(stream), kSuccess);
        CHECK_IS(cuStreamSynchronize(stream), kInvalidHandle);
    }
    // What is left of the stack may name contexts that are gone.
    while (cuCtxPopCurrent_v2(&current) == kSuccess) {
    }
    CHECK_IS(cuDevicePrimaryCtxRelease_v2(0), kSuccess);
    CHECK_IS(cuDevicePrimaryCtxRelease_v2(0), kInvalidContext);
    CHECK_IS(cuCtxPushCurrent_v2(primary), kInvalidContext);
}

static void launches() {
    Gpu gpu;
    Buffer<int> x(1024);
    void *arguments[] = {&x.address};
    CUfunction function = gpu.function("add_one"), unknown = nullptr;
    auto launch = [&](unsigned gx, unsigned gy, unsigned block, unsigned shared) {
        return cuLaunchKernel(function, gx, gy, 1, block, 1, 1, shared, nullptr, arguments,
                              nullptr);
    };
    CHECK_IS(cuModuleGetFunction(&unknown, gpu.module, "nothing"), kNotFound);
    CUmodule module = nullptr;
    CHECK_IS(cuModuleLoadData(&module, "what is this?"), kInvalidImage);
    CHECK_IS(launch(1, 1, 0, 0), kInvalidValue);
    CHECK_IS(launch(1, 1, 1025, 0), kInvalidValue);
    CHECK_IS(launch(0, 1, 32, 0), kInvalidValue);
    CHECK_IS(launch(1, 65536, 32, 0), kInvalidValue);
    CHECK_IS(launch(1, 1, 1024, 48 << 10), kSuccess);
    CHECK_IS(launch(1, 1, 32, (48 << 10) + 1), kInvalidValue);
    CHECK_IS(cuFuncSetAttribute(function, 8, 227 << 10), kSuccess);
    CHECK_IS(launch(1, 1, 32, 227 << 10), kSuccess);
    CHECK_IS(cuFuncSetAttribute(function, 8, (227 << 10) + 1), kInvalidValue);
    int value = 0;
    CHECK_IS(cuFuncGetAttribute(&value, 8, function), kSuccess);
    CHECK_IS(value, 227 << 10);
    CHECK_IS(cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, function, 256, 0), kSuccess);
    CHECK_IS(value, 8);
}

static void copies() {
    Gpu gpu;
    Buffer<int> x(std::vector<int>{1, 2, 3}), y(3);
    int host[3] = {};
    CHECK_IS(y.read()[0], static_cast<int>(0xa5a5a5a5u));
    CHECK_IS(cuMemcpyDtoH_v2(host, x.address, 13), kInvalidValue);
    CHECK_IS(cuMemcpyHtoD_v2(reinterpret_cast<CUdeviceptr>(host), host, 4), kInvalidValue);
    CHECK_IS(cuMemcpyHtoD_v2(x.address, reinterpret_cast<void *>(y.address), 4), kInvalidValue);
    CHECK_IS(cuMemcpyDtoHAsync_v2(reinterpret_cast<void *>(y.address), x.address, 4, nullptr),
             kInvalidValue);
    CHECK_IS(cuMemcpyDtoDAsync_v2(y.address, x.address, 12, nullptr), kSuccess);
    CHECK(y.read() == std::vector<int>({1, 2, 3}));
    CHECK_IS(cuMemsetD8Async(y.address + 1, 0, 2, nullptr), kSuccess);
    CHECK_IS(cuMemsetD32Async(y.address + 4, 7, 2, nullptr), kSuccess);
    CHECK_IS(cuMemsetD32Async(y.address + 1, 7, 1, nullptr), kInvalidValue);
    CHECK(y.read() == std::vector<int>({1, 7, 7}));
}

void test_memory() {
    launches();
    copies();
    Gpu gpu;
    int64_t allocations = mq_mock_get("allocations");
    Buffer<float> x(100);
    CHECK_IS(mq_mock_get("allocations"), allocations + 1);
    CHECK_IS(mq_mock_get("live_bytes"), 400);
    CHECK_IS(x.address % 256, 0);

    CUdeviceptr address = 0;
    CHECK_IS(cuMemAlloc_v2(&address, 0), kInvalidValue);
    mq_mock_set("memory_limit_bytes", 1000);
    CHECK_IS(cuMemAlloc_v2(&address, 601), kOutOfMemory);
    CHECK_IS(cuMemAlloc_v2(&address, 600), kSuccess);
    size_t free = 1, total = 0;
    CHECK_IS(cuMemGetInfo_v2(&free, &total), kSuccess);
    CHECK_IS(free, 0);
    CHECK_IS(total, 1000);
    mq_mock_set("memory_limit_bytes", int64_t{80} << 30);
    CHECK_IS(cuMemFree_v2(address + 256), kInvalidValue);
    CHECK_IS(cuMemFree_v2(address), kSuccess);
    mq_mock_set("fail_allocation_after", 1);
    CHECK_IS(cuMemAllocAsync(&address, 4, nullptr), kSuccess);
    CHECK_IS(cuMemFreeAsync(address, nullptr), kSuccess);
    CHECK_IS(cuMemAllocAsync(&address, 4, nullptr), kOutOfMemory);
    mq_mock_set("fail_allocation_after", -1);

    int type = 0, ordinal = -1;
    CUcontext context = nullptr;
    CUdeviceptr start = 0;
    size_t bytes = 0;
    CHECK_IS(cuPointerGetAttribute(&type, 2, x.address + 4), kSuccess);
    CHECK_IS(type, 2);
    CHECK_IS(cuPointerGetAttribute(&type, 2, x.address + 400), kInvalidValue);
    CHECK_IS(cuPointerGetAttribute(&type, 2, reinterpret_cast<CUdeviceptr>(&type)), kInvalidValue);
    int attributes[] = {1, 2, 9, 11, 12};
    void *data[] = {&context, &type, &ordinal, &start, &bytes};
    CHECK_IS(cuPointerGetAttributes(5, attributes, data, x.address + 8), kSuccess);
    CHECK(context == gpu.context && type == 2 && ordinal == 0 && start == x.address &&
          bytes == 400);
    CHECK_IS(cuPointerGetAttributes(5, attributes, data, reinterpret_cast<CUdeviceptr>(&type)),
             kSuccess);
    CHECK(context == nullptr && type == 0 && start == 0);
    void *pinned = nullptr;
    CHECK_IS(cuMemHostAlloc(&pinned, 64, 0), kSuccess);
    CHECK_IS(cuPointerGetAttribute(&type, 2, reinterpret_cast<CUdeviceptr>(pinned)), kSuccess);
    CHECK_IS(type, 1);
    CHECK_IS(cuMemFreeHost(pinned), kSuccess);
    CHECK_IS(cuMemFreeHost(pinned), kInvalidValue);
}
