// What tests can ask the mock, and make it do. The names are listed in control.cpp.
#pragma once

#include <cstdint>

#include "driver_api.h"
#include "order.h"

/// A counter or a setting by name; -1 when there is none of this name.
MQ_MOCK_EXPORT int64_t mq_mock_get(const char *what);
/// Changes a setting; "reset" puts all counters that only grow to 0. Returns 0, or -1: no such
/// setting.
MQ_MOCK_EXPORT int mq_mock_set(const char *what, int64_t value);

// For mocks of other libraries that work on this one.

/// Adds to a counter.
MQ_MOCK_EXPORT void mq_mock_count(const char *what, int64_t more);
struct mq_mock_range {
    CUdeviceptr start;
    size_t bytes;
};
/// Puts work on a stream of the current context: done now, or recorded where the stream is
/// captured. It may access these ranges of device memory, which are looked for when it is done, and
/// gets a copy of the arguments.
MQ_MOCK_EXPORT CUresult mq_mock_enqueue(CUstream stream, const char *what,
                                        const mq_mock_range *ranges, size_t count,
                                        void (*work)(const void *), const void *arguments,
                                        size_t bytes);

namespace mock {

struct Settings {
    int64_t devices, driver_version, memory_limit_bytes, compute_capability, multiprocessors;
    int64_t memory_pools, threads, check, late_errors, null_pointer_context;
    // How many more succeed before all fail; -1: none fails. And the status that a launch fails
    // with.
    int64_t fail_allocation_after, fail_launch_after, fail_launch_error;
    // Of the mock of cuBLAS: its version, and the statuses that a handle and a product fail with.
    int64_t cublas_version, fail_cublas_create, fail_cublas_product;
    cuda_on_cpu::Order order;
};
Settings &settings();

struct Counters {
    int64_t launches, graph_launches, synchronizations, allocations, live_allocations, live_bytes;
    int64_t peak_bytes, host_to_device_bytes, device_to_host_bytes, device_to_device_bytes;
    int64_t retained, contexts, modules, streams, events, graphs, graph_execs, host_allocations;
    int64_t faults, cublas_handles, cublas_products;
};
Counters &counters();

} // namespace mock
