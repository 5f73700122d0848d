// Device memory, pinned host memory, and what a pointer is.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "driver.h"

using namespace mock;

static std::map<void *, size_t> g_pinned;

namespace mock {

void count_live(int64_t allocations, int64_t bytes) {
    Counters &now = counters();
    now.live_allocations += allocations;
    now.live_bytes += bytes;
    now.allocations += allocations > 0;
    now.peak_bytes = now.live_bytes > now.peak_bytes ? now.live_bytes : now.peak_bytes;
}

Allocation *allocate_device(Context *context, size_t bytes, CUresult *error) {
    Settings &now = settings();
    *error = bytes == 0 ? kInvalidValue : kOutOfMemory;
    if (bytes == 0 || now.fail_allocation_after == 0 ||
        bytes > static_cast<uint64_t>(now.memory_limit_bytes) ||
        counters().live_bytes + static_cast<int64_t>(bytes) > now.memory_limit_bytes) {
        return nullptr;
    }
    now.fail_allocation_after -= now.fail_allocation_after > 0;
    Allocation *allocation = device_memory().allocate(bytes, context, context->device);
    *error = allocation == nullptr ? kOutOfMemory : kSuccess;
    return allocation;
}

CUresult free_device(Allocation *allocation) {
    device_memory().open(*allocation);
    CUresult status = kSuccess;
    if (device_memory().close() != nullptr) {
        std::fprintf(stderr, "mq mock: a write beside the allocation of %zu bytes at %p\n",
                     allocation->bytes, static_cast<void *>(allocation->start));
        ++counters().faults;
        status = kIllegalAddressError;
        if (is_live(allocation->context)) {
            remember(allocation->context, status);
        }
    }
    count_live(-1, -static_cast<int64_t>(allocation->bytes));
    device_memory().release(allocation);
    return status;
}

void end_memory_of(Context *context) {
    std::vector<Allocation *> owned;
    device_memory().for_each([&](Allocation &allocation) {
        if (allocation.context == context && allocation.is_live) {
            owned.push_back(&allocation);
        }
    });
    for (Allocation *allocation : owned) {
        free_device(allocation);
    }
}

} // namespace mock

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    CUresult status = kSuccess;
    if (Allocation *allocation = allocate_device(call.context, bytes, &status)) {
        count_live(1, static_cast<int64_t>(bytes));
        *address = reinterpret_cast<CUdeviceptr>(allocation->start);
    }
    return status;
}

// Only what an allocation gave can be freed.
static Allocation *freeable(CUdeviceptr address) {
    Allocation *allocation = device_memory().find(address, 1);
    bool is_start =
        allocation != nullptr && reinterpret_cast<CUdeviceptr>(allocation->start) == address;
    return is_start ? allocation : nullptr;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (address == 0) {
        return kSuccess;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    Allocation *allocation = freeable(address);
    return allocation == nullptr || !allocation->is_live ? kInvalidValue : free_device(allocation);
}

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream handle) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (stream == nullptr || stream->context != call.context) {
        return kInvalidHandle;
    }
    // On a stream that is not captured itself, an H200 with driver 580 takes it for as unsafe as
    // cuMemAlloc.
    if (stream->capture == nullptr) {
        if (CUresult refused = refuse_during_capture()) {
            return refused;
        }
    }
    CUresult status = kSuccess;
    Allocation *allocation = allocate_device(call.context, bytes, &status);
    if (allocation == nullptr) {
        return status;
    }
    // In a graph the address is known from the start, the memory is there when the graph gets to
    // it.
    allocation->is_live = false;
    Context *context = call.context;
    status = submit(handle, context, [context, allocation]() -> CUresult {
        if (allocation->is_live) {
            return remember(context, kIllegalAddressError);
        }
        allocation->is_live = true;
        device_memory().open(*allocation);
        DeviceMemory::fill_with_poison(*allocation);
        device_memory().close();
        count_live(1, static_cast<int64_t>(allocation->bytes));
        return kSuccess;
    });
    if (status != kSuccess) {
        device_memory().release(allocation);
        return status;
    }
    if (stream->capture != nullptr) {
        stream->capture->graph->allocations.push_back(allocation);
    }
    *address = reinterpret_cast<CUdeviceptr>(allocation->start);
    return kSuccess;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Allocation *allocation = freeable(address);
    Stream *stream = stream_of(call.context, handle);
    if (address == 0 || stream == nullptr || allocation == nullptr) {
        return stream == nullptr ? kInvalidHandle : address == 0 ? kSuccess : kInvalidValue;
    }
    if (stream->capture == nullptr) {
        return submit(handle, call.context, [allocation]() -> CUresult {
            return allocation->is_live ? free_device(allocation) : kInvalidValue;
        });
    }
    // The graph keeps the address for its next launch.
    return submit(handle, call.context, [allocation]() -> CUresult {
        if (!allocation->is_live) {
            return kInvalidValue;
        }
        allocation->is_live = false;
        count_live(-1, -static_cast<int64_t>(allocation->bytes));
        return kSuccess;
    });
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    Call call;
    *total = static_cast<size_t>(settings().memory_limit_bytes);
    *free = *total - static_cast<size_t>(counters().live_bytes);
    return call.status;
}

CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    *address = std::malloc(bytes);
    if (*address == nullptr) {
        return kOutOfMemory;
    }
    std::memset(*address, 0xa5, bytes);
    g_pinned[*address] = bytes;
    ++counters().host_allocations;
    return kSuccess;
}

CUresult cuMemFreeHost(void *address) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (g_pinned.erase(address) == 0) {
        return kInvalidValue;
    }
    std::free(address);
    --counters().host_allocations;
    return kSuccess;
}

enum : int {
    kAttributeContext = 1,
    kAttributeMemoryType = 2,
    kAttributeDevicePointer = 3,
    kAttributeHostPointer = 4,
    kAttributeIsManaged = 8,
    kAttributeDeviceOrdinal = 9,
    kAttributeRangeStart = 11,
    kAttributeRangeSize = 12,
};

static size_t size_of(int attribute) {
    bool is_int = attribute == kAttributeMemoryType || attribute == kAttributeDeviceOrdinal;
    return attribute == kAttributeIsManaged ? 1 : is_int ? 4 : 8;
}

// The value in the low bytes; false for an address the driver does not know.
static bool attribute_of(int attribute, CUdeviceptr address, uint64_t *value) {
    Allocation *allocation = device_memory().find(address, 1);
    auto *host = reinterpret_cast<unsigned char *>(address);
    auto next = g_pinned.upper_bound(host);
    bool is_pinned =
        next != g_pinned.begin() &&
        host < static_cast<unsigned char *>(std::prev(next)->first) + std::prev(next)->second;
    *value = 0;
    if (allocation == nullptr && !is_pinned) {
        return false;
    }
    switch (attribute) {
    case kAttributeContext: // null for memory of pools and for mapped memory
        if (allocation != nullptr && settings().null_pointer_context == 0) {
            *value = reinterpret_cast<uint64_t>(allocation->context);
        }
        return true;
    case kAttributeMemoryType:
        *value = is_pinned ? 1 : 2;
        return true;
    case kAttributeDevicePointer:
        *value = address;
        return true;
    case kAttributeHostPointer:
        *value = address;
        return is_pinned;
    case kAttributeDeviceOrdinal:
        *value = is_pinned ? 0 : static_cast<uint64_t>(allocation->device);
        return true;
    case kAttributeRangeStart:
        *value = is_pinned ? reinterpret_cast<uint64_t>(std::prev(next)->first)
                           : reinterpret_cast<uint64_t>(allocation->start);
        return true;
    case kAttributeRangeSize:
        *value = is_pinned ? std::prev(next)->second : allocation->bytes;
        return true;
    default:
        return attribute == kAttributeIsManaged;
    }
}

CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr address) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_initialized()) {
        return kNotInitialized;
    }
    uint64_t value = 0;
    if (!attribute_of(attribute, address, &value)) {
        return kInvalidValue;
    }
    std::memcpy(data, &value, size_of(attribute));
    return kSuccess;
}

// Unlike the other one, this answers with zeros for an address the driver does not know.
CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **data, CUdeviceptr address) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_initialized()) {
        return kNotInitialized;
    }
    for (unsigned i = 0; i < count; ++i) {
        uint64_t value = 0;
        if (!attribute_of(attributes[i], address, &value)) {
            value = attributes[i] == kAttributeDeviceOrdinal ? 0xfffffffeu : 0;
        }
        std::memcpy(data[i], &value, size_of(attributes[i]));
    }
    return kSuccess;
}
