// Copies and fills. Each checks that its addresses are on the side where they should be.
#include <cstring>

#include "driver.h"

using namespace mock;

// Device memory that is open while this lives.
class Opened {
  public:
    Opened(CUdeviceptr address, size_t bytes) {
        Allocation *allocation = device_memory().find(address, bytes);
        if (allocation != nullptr && allocation->is_live) {
            device_memory().open(*allocation);
            bytes_ = reinterpret_cast<unsigned char *>(address);
        }
    }
    ~Opened() { device_memory().close(); }
    /// Null when it is not all device memory.
    unsigned char *bytes() const { return bytes_; }

  private:
    unsigned char *bytes_ = nullptr;
};

static CUresult to_device(CUdeviceptr to, const void *from, size_t bytes) {
    if (bytes == 0) {
        return kSuccess;
    }
    Opened opened(to, bytes);
    if (opened.bytes() == nullptr || device_memory().touches(from, bytes)) {
        return kInvalidValue;
    }
    std::memcpy(opened.bytes(), from, bytes);
    counters().host_to_device_bytes += static_cast<int64_t>(bytes);
    return kSuccess;
}

static CUresult to_host(void *to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) {
        return kSuccess;
    }
    Opened opened(from, bytes);
    if (opened.bytes() == nullptr || device_memory().touches(to, bytes)) {
        return kInvalidValue;
    }
    std::memcpy(to, opened.bytes(), bytes);
    counters().device_to_host_bytes += static_cast<int64_t>(bytes);
    return kSuccess;
}

static CUresult on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (bytes == 0) {
        return kSuccess;
    }
    Opened target(to, bytes), source(from, bytes);
    if (target.bytes() == nullptr || source.bytes() == nullptr) {
        return kInvalidValue;
    }
    std::memmove(target.bytes(), source.bytes(), bytes);
    counters().device_to_device_bytes += static_cast<int64_t>(bytes);
    return kSuccess;
}

template <class T> CUresult fill(CUdeviceptr to, T value, size_t count) {
    if (count == 0) {
        return kSuccess;
    }
    Opened opened(to, count * sizeof value);
    if (opened.bytes() == nullptr || to % sizeof value != 0) {
        return kInvalidValue;
    }
    for (size_t i = 0; i < count; ++i) {
        std::memcpy(opened.bytes() + i * sizeof value, &value, sizeof value);
    }
    return kSuccess;
}

// What the addresses are is checked when the call is made, also where it is only recorded.
static bool is_device(CUdeviceptr address, size_t bytes) {
    return bytes == 0 || device_memory().find(address, bytes) != nullptr;
}

static bool is_host(const void *address, size_t bytes) {
    return bytes == 0 || (address != nullptr && !device_memory().touches(address, bytes));
}

static CUresult enqueue(CUstream stream, bool is_valid, const Operation &operation) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    return is_valid ? submit(stream, call.context, operation) : kInvalidValue;
}

// Without a stream: not while anything is captured, and the host waits for it.
static CUresult run_now(const Operation &operation) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    if (CUresult refused = refuse_default_stream(call.context)) {
        return refused;
    }
    ++counters().synchronizations;
    return operation();
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    return run_now([=] { return to_device(to, from, bytes); });
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    return run_now([=] { return to_host(to, from, bytes); });
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return run_now([=] { return on_device(to, from, bytes); });
}
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return run_now([=] { return fill(to, value, count); });
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    return run_now([=] { return fill(to, value, count); });
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    return enqueue(stream, is_device(to, bytes) && is_host(from, bytes),
                   [=] { return to_device(to, from, bytes); });
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    return enqueue(stream, is_device(from, bytes) && is_host(to, bytes),
                   [=] { return to_host(to, from, bytes); });
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    return enqueue(stream, is_device(to, bytes) && is_device(from, bytes),
                   [=] { return on_device(to, from, bytes); });
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    return enqueue(stream, is_device(to, count), [=] { return fill(to, value, count); });
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    return enqueue(stream, is_device(to, count * sizeof value) && to % sizeof value == 0,
                   [=] { return fill(to, value, count); });
}
