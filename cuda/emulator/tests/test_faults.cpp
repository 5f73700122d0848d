// Planted defects are found, and ruin the context as on a GPU.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "check.h"

// Expects the status of the launch, of what comes after it, and nothing of that in another context.
static void expect_fault(CUresult wanted, const char *kernel, unsigned block, unsigned shared,
                         long long offset = 0, size_t bytes = 256) {
    Gpu other;
    {
        Gpu gpu;
        Buffer<unsigned char> x(bytes);
        long long moved = static_cast<long long>(x.address) + offset;
        Buffer<unsigned> y(64);
        const void *first = kernel == std::string("vector_at") ? static_cast<void *>(&moved)
                                                               : static_cast<void *>(&x.address);
        const void *second = kernel == std::string("vector_at") ? static_cast<void *>(&y.address)
                                                                : static_cast<void *>(&offset);
        int64_t faults = mq_mock_get("faults");
        CHECK_IS(gpu.launch(kernel, 1, block, shared, {first, second}), wanted);
        CHECK_IS(mq_mock_get("faults"), faults + (wanted != 0));
        CHECK_IS(cuCtxSynchronize(), wanted);
        CUdeviceptr more = 0;
        CHECK_IS(cuMemAlloc_v2(&more, 4), wanted);
        CHECK_IS(cuStreamSynchronize(nullptr), wanted);
    }
    CHECK_IS(cuCtxSynchronize(), kSuccess);
}

static void barriers() {
    expect_fault(kLaunchFailedError, "two_barriers", 64, 0);
    expect_fault(kLaunchFailedError, "barrier_and_shuffle", 32, 0);
    expect_fault(kLaunchFailedError, "foreign_mask", 32, 0);
}

static void addresses() {
    expect_fault(kSuccess, "writes_at", 1, 0, 99, 100);
    expect_fault(kIllegalAddressError, "writes_at", 1, 0, 100, 100); // the canary
    expect_fault(kIllegalAddressError, "writes_at", 1, 0, 256, 256); // the page behind it
    expect_fault(kIllegalAddressError, "writes_at", 1, 0, -1, 256);
    expect_fault(kIllegalAddressError, "writes_behind_shared", 32, 128);
    expect_fault(kIllegalAddressError, "writes_behind_shared", 31, 124);
    expect_fault(kSuccess, "vector_at", 1, 0, 16);
    expect_fault(kMisalignedAddressError, "vector_at", 1, 0, 8);

    Gpu gpu;
    CUdeviceptr freed = Buffer<unsigned char>(64).address;
    long long offset = 0;
    CHECK_IS(cuMemFree_v2(freed), kSuccess);
    CHECK_IS(cuMemFree_v2(freed), kInvalidValue);
    CHECK_IS(gpu.launch("writes_at", 1, 1, 0, {&freed, &offset}), kIllegalAddressError);
}

static void settings_that_fail() {
    Gpu gpu;
    Buffer<int> x(std::vector<int>(32, 1));
    mq_mock_set("fail_launch_after", 1);
    mq_mock_set("fail_launch_error", 701);
    CHECK_IS(gpu.launch("add_one", 1, 32, 0, {&x.address}), kSuccess);
    CHECK_IS(gpu.launch("add_one", 1, 32, 0, {&x.address}), 701);
    mq_mock_set("fail_launch_after", -1);
    mq_mock_set("fail_launch_error", kLaunchFailedError);
    CHECK_IS(x.read()[31], 2); // that one does not stick
    mq_mock_set("late_errors", 1);
    CHECK_IS(gpu.launch("two_barriers", 1, 64, 0, {&x.address}), kSuccess);
    CHECK_IS(cuStreamSynchronize(nullptr), kLaunchFailedError);
    mq_mock_set("late_errors", 0);
}

// The signal that ends a child which does this.
template <class Action> static int signal_of_child(Action action) {
    std::fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
        action();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void host_access() {
    Gpu gpu;
    Buffer<int> x(std::vector<int>(4, 1));
    CHECK_IS(gpu.launch("add_one", 1, 4, 0, {&x.address}), kSuccess);
    auto *address = reinterpret_cast<volatile int *>(x.address);
    CHECK_IS(signal_of_child([&] { return *address; }), SIGSEGV);
    CHECK_IS(signal_of_child([&] { *address = 1; }), SIGSEGV);
    CHECK_IS(signal_of_child([&] { x.read(); }), 0);
}

void test_faults() {
    // With the check on, orders are compared as well; the faults are the same.
    barriers();
    addresses();
    settings_that_fail();
    host_access();
}
