// A minimal test harness over the mock driver: counted checks, and a context with short names for
// what tests do.
#pragma once

#include <cstdio>
#include <initializer_list>
#include <string>
#include <vector>

#include "control.h"

extern int passed, failed;

inline bool check(bool holds, const char *text, const char *file, int line) {
    ++(holds ? passed : failed);
    if (!holds) {
        std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
    }
    return holds;
}
#define CHECK(holds) check(holds, #holds, __FILE__, __LINE__)
#define CHECK_IS(call, wanted)                                                                     \
    do {                                                                                           \
        long long got_ = (long long)(call), wanted_ = (long long)(wanted);                         \
        if (!check(got_ == wanted_, #call, __FILE__, __LINE__)) {                                  \
            std::fprintf(stderr, "    is %lld, expected %lld\n", got_, wanted_);                   \
        }                                                                                          \
    } while (0)

/// A context of its own, so that a fault in it ruins nothing for others.
struct Gpu {
    CUcontext context = nullptr;
    CUmodule module = nullptr;

    explicit Gpu(int device = 0) {
        CHECK_IS(cuInit(0), kSuccess);
        CHECK_IS(cuCtxCreate_v2(&context, 0, device), kSuccess);
        CHECK_IS(cuModuleLoadData(&module, ".version 8.0"), kSuccess);
    }
    ~Gpu() {
        cuModuleUnload(module); // fails where a test has ruined the context
        CHECK_IS(cuCtxDestroy_v2(context), kSuccess);
    }
    Gpu(const Gpu &) = delete;
    Gpu &operator=(const Gpu &) = delete;

    CUfunction function(const char *name) {
        CUfunction found = nullptr;
        CHECK_IS(cuModuleGetFunction(&found, module, name), kSuccess);
        return found;
    }
    CUresult launch(const char *name, unsigned grid, unsigned block, unsigned shared,
                    std::initializer_list<const void *> arguments, CUstream stream = nullptr) {
        std::vector<void *> addresses;
        for (const void *argument : arguments) {
            addresses.push_back(const_cast<void *>(argument));
        }
        return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, stream,
                              addresses.data(), nullptr);
    }
};

/// Device memory with these values.
template <class T> struct Buffer {
    CUdeviceptr address = 0;
    size_t count;

    explicit Buffer(size_t count) : count(count) {
        CHECK_IS(cuMemAlloc_v2(&address, count * sizeof(T)), kSuccess);
    }
    explicit Buffer(const std::vector<T> &values) : Buffer(values.size()) { write(values); }
    void write(const std::vector<T> &values) {
        CHECK_IS(cuMemcpyHtoD_v2(address, values.data(), count * sizeof(T)), kSuccess);
    }
    std::vector<T> read() const {
        std::vector<T> values(count);
        CHECK_IS(cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)), kSuccess);
        return values;
    }
};

void test_primitives();
void test_faults();
void test_order();
void test_devices();
void test_contexts();
void test_memory();
void test_streams();
void test_capture();
void test_cublas();
