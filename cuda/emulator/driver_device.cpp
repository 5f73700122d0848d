// Devices, versions and error texts.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "driver.h"

using namespace mock;

static bool g_is_initialized = false;

namespace mock {

std::recursive_mutex &driver_mutex() {
    static auto *mutex = new std::recursive_mutex;
    return *mutex;
}

bool is_initialized() { return g_is_initialized; }

} // namespace mock

CUresult cuInit(unsigned flags) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (flags != 0) {
        return kInvalidValue;
    }
    if (settings().devices == 0) {
        return kNoDevice;
    }
    g_is_initialized = true;
    return kSuccess;
}

CUresult cuDriverGetVersion(int *version) {
    if (version == nullptr) {
        return kInvalidValue;
    }
    *version = static_cast<int>(settings().driver_version);
    return kSuccess;
}

static CUresult check_device(CUdevice device) {
    return !g_is_initialized                            ? kNotInitialized
           : device < 0 || device >= settings().devices ? kInvalidDevice
                                                        : kSuccess;
}

CUresult cuDeviceGetCount(int *count) {
    if (!g_is_initialized) {
        return kNotInitialized;
    }
    *count = static_cast<int>(settings().devices);
    return kSuccess;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CUresult status = check_device(ordinal);
    if (status == kSuccess) {
        *device = ordinal;
    }
    return status;
}

CUresult cuDeviceGetName(char *name, int capacity, CUdevice device) {
    CUresult status = check_device(device);
    if (status == kSuccess) {
        std::snprintf(name, static_cast<size_t>(capacity), "Mock GPU %d", device);
    }
    return status;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    CUresult status = check_device(device);
    if (status == kSuccess) {
        *bytes = static_cast<size_t>(settings().memory_limit_bytes);
    }
    return status;
}

CUresult cuDeviceGetUuid_v2(void *uuid, CUdevice device) {
    CUresult status = check_device(device);
    if (status == kSuccess) {
        std::memset(uuid, device + 1, 16);
    }
    return status;
}

// The most dynamic shared memory a block can ask for, by the table of the programming guide.
static int most_shared(int64_t capability) {
    switch (capability) {
    case 75:
        return 64 << 10;
    case 80:
    case 87:
        return 163 << 10;
    case 86:
    case 89:
    case 120:
        return 99 << 10;
    default:
        return 227 << 10;
    }
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    CUresult status = check_device(device);
    if (status != kSuccess) {
        return status;
    }
    const Settings &now = settings();
    const struct {
        int attribute;
        int64_t value;
    } known[] = {
        {1, 1024},                 // threads of a block
        {2, 1024},                 // its x
        {3, 1024},                 // its y
        {4, 64},                   // its z
        {5, 2147483647},           // x of a grid
        {6, 65535},                // its y
        {7, 65535},                // its z
        {8, 48 << 10},             // shared memory of a block, unless asked for
        {9, 64 << 10},             // constant memory
        {10, 32},                  // lanes of a warp
        {12, 65536},               // registers of a block
        {13, 1500000},             // kHz
        {14, 512},                 // alignment of textures
        {16, now.multiprocessors}, // multiprocessors
        {31, 0},                   // concurrent kernels
        {36, 2000000},             // kHz of memory
        {37, 5120},                // bits of its bus
        {38, 50 << 20},            // L2 cache
        {39, 2048},                // threads of a multiprocessor
        {41, 1},                   // unified addresses
        {75, now.compute_capability / 10},
        {76, now.compute_capability % 10},
        {81, most_shared(now.compute_capability) + 1024}, // of a multiprocessor
        {82, 65536},                                      // its registers
        {83, 0},                                          // managed memory
        {95, 0},                                          // cooperative launches
        {97, most_shared(now.compute_capability)},        // of a block that asks for it
        {115, now.memory_pools},                          // cuMemAllocAsync
    };
    for (const auto &entry : known) {
        if (entry.attribute == attribute) {
            *value = static_cast<int>(entry.value);
            return kSuccess;
        }
    }
    *value = 0;
    return attribute > 0 && attribute < 150 ? kSuccess : kInvalidValue;
}

static const struct {
    CUresult error;
    const char *name;
    const char *text;
} kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "failed due to a previous error in capture"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency on uncaptured work"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "would make the legacy stream depend on capture"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "not permitted on an event last recorded in capture"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "capture was started by another thread"},
};

CUresult cuGetErrorName(CUresult error, const char **name) {
    for (const auto &known : kErrors) {
        if (known.error == error) {
            *name = known.name;
            return kSuccess;
        }
    }
    *name = nullptr;
    return kInvalidValue;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    for (const auto &known : kErrors) {
        if (known.error == error) {
            *text = known.text;
            return kSuccess;
        }
    }
    *text = nullptr;
    return kInvalidValue;
}

// Asks for the plain name and gets the newest function behind it.
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int, uint64_t, int *status) {
    *function = nullptr;
    Dl_info self = {};
    dladdr(reinterpret_cast<void *>(&cuInit), &self);
    if (void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD)) {
        for (const char *suffix : {"_v2", ""}) {
            if (*function == nullptr) {
                *function = dlsym(library, (std::string(symbol) + suffix).c_str());
            }
        }
        dlclose(library);
    }
    if (status != nullptr) {
        *status = *function == nullptr ? 1 : 0;
    }
    return *function == nullptr ? kNotFound : kSuccess;
}
