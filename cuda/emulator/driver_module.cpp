// Modules, functions and launches. Every module holds all kernels of this library, whatever the
// image says.
#include <cstdio>
#include <cstring>

#include "driver.h"
#include "launch.h"

using namespace mock;

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    // A fatbin, its wrapper, ELF, or PTX as text.
    static const unsigned char kFatbin[] = {0x50, 0xed, 0x55, 0xba},
                               kWrapper[] = {0xb1, 0x43, 0x62, 0x46};
    if (image == nullptr) {
        return kInvalidValue;
    }
    if (std::memcmp(image, kFatbin, 4) != 0 && std::memcmp(image, kWrapper, 4) != 0 &&
        std::memcmp(image,
                    "\x7f"
                    "ELF",
                    4) != 0 &&
        std::strstr(static_cast<const char *>(image), ".version") == nullptr) {
        return kInvalidImage;
    }
    *module = new Module{call.context, {}};
    live<Module>().insert(*module);
    ++counters().modules;
    return kSuccess;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, int *, void **) {
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (!is_live(module) || module->context != call.context) {
        return kInvalidHandle;
    }
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    for (const auto &function : module->functions) {
        live<Function>().erase(function.get());
    }
    live<Module>().erase(module);
    delete module;
    --counters().modules;
    return kSuccess;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (!is_live(module) || module->context != call.context) {
        return kInvalidHandle;
    }
    const cuda_on_cpu::Kernel *kernel = cuda_on_cpu::find_kernel(name);
    if (kernel == nullptr) {
        return kNotFound;
    }
    module->functions.push_back(std::make_unique<Function>(Function{kernel, module, 48 << 10}));
    *function = module->functions.back().get();
    live<Function>().insert(*function);
    return kSuccess;
}

constexpr int kMostThreads = 0, kStaticShared = 1, kMostDynamicShared = 8, kSharedCarveout = 9;

static int device_shared(const Context *context) {
    int bytes = 0;
    cuDeviceGetAttribute(&bytes, 97, context->device);
    return bytes;
}

CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function) {
    Call call;
    if (call.status != kSuccess || !is_live(function)) {
        return call.status != kSuccess ? call.status : kInvalidHandle;
    }
    *value = attribute == kMostThreads         ? 1024
             : attribute == kMostDynamicShared ? function->most_dynamic_shared
                                               : 0; // static shared memory: not known here
    return attribute >= 0 && attribute < 16 ? kSuccess : kInvalidValue;
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    Call call;
    if (call.status != kSuccess || !is_live(function)) {
        return call.status != kSuccess ? call.status : kInvalidHandle;
    }
    if (attribute == kMostDynamicShared && value >= 0 && value <= device_shared(call.context)) {
        function->most_dynamic_shared = value;
        return kSuccess;
    }
    return attribute == kSharedCarveout && value >= -1 && value <= 100 ? kSuccess : kInvalidValue;
}

CUresult cuFuncSetCacheConfig(CUfunction function, int) {
    Call call;
    return call.status != kSuccess ? call.status : is_live(function) ? kSuccess : kInvalidHandle;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int size,
                                                     size_t shared) {
    Call call;
    if (call.status != kSuccess || !is_live(function)) {
        return call.status != kSuccess ? call.status : kInvalidHandle;
    }
    if (size < 1 || size > 1024) {
        return kInvalidValue;
    }
    // By threads and dynamic shared memory; registers are not known.
    int by_threads = 2048 / ((size + 31) / 32 * 32);
    size_t all = static_cast<size_t>(device_shared(call.context)) + 1024;
    auto by_shared = static_cast<int>(all / (shared + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    return kSuccess;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function,
                                                              int size, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, size, shared);
}

static CUresult launch(Context *context, const cuda_on_cpu::Launch &launch) {
    Settings &now = settings();
    ++counters().launches;
    cuda_on_cpu::Fault fault;
    if (now.fail_launch_after == 0) {
        // Asked for: no line about it.
        fault = {static_cast<int>(now.fail_launch_error), ""};
    } else {
        now.fail_launch_after -= now.fail_launch_after > 0;
        bool is_checked = now.check != 0 && !launch.kernel->may_depend_on_order;
        fault = is_checked ? run_grid_checked(launch, now.order)
                           : run_grid(launch, now.order, static_cast<int>(now.threads));
    }
    if (fault.status == 0) {
        return kSuccess;
    }
    ++counters().faults;
    if (!fault.text.empty()) {
        std::fprintf(stderr, "mq mock: %s\n", fault.text.c_str());
    }
    remember(context, fault.status);
    // The real driver learns of it later, at the next call that looks.
    return now.late_errors != 0 ? kSuccess : fault.status;
}

// The parameters of a launch, as they were when it was made.
struct Arguments {
    std::vector<std::vector<uint64_t>> words;
    std::vector<void *> addresses;

    Arguments(const cuda_on_cpu::Kernel &kernel, void **parameters) {
        for (size_t i = 0; i < kernel.parameter_sizes.size(); ++i) {
            size_t bytes = kernel.parameter_sizes[i];
            // One word more, so that any alignment up to 16 can be had.
            words.emplace_back((bytes + 7) / 8 + 1);
            auto at = reinterpret_cast<uintptr_t>(words.back().data());
            addresses.push_back(reinterpret_cast<void *>((at + 15) & ~uintptr_t{15}));
            std::memcpy(addresses.back(), parameters[i], bytes);
        }
    }
};

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void **parameters, void **extra) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *on = stream_of(call.context, stream);
    if (!is_live(function) || function->module->context != call.context || on == nullptr ||
        on->context != call.context) {
        return kInvalidHandle;
    }
    uint64_t threads = static_cast<uint64_t>(block_x) * block_y * block_z;
    bool is_block = block_x >= 1 && block_y >= 1 && block_z >= 1 && block_x <= 1024 &&
                    block_y <= 1024 && block_z <= 64 && threads <= 1024;
    bool is_grid = grid_x >= 1 && grid_y >= 1 && grid_z >= 1 && grid_x <= 0x7fffffffu &&
                   grid_y <= 65535 && grid_z <= 65535;
    if (!is_block || !is_grid || shared > static_cast<unsigned>(function->most_dynamic_shared) ||
        extra != nullptr || (parameters == nullptr && !function->kernel->parameter_sizes.empty())) {
        return kInvalidValue;
    }
    auto arguments = std::make_shared<Arguments>(*function->kernel, parameters);
    Context *context = call.context;
    cuda_on_cpu::Launch recorded = {function->kernel,
                                    arguments->addresses.data(),
                                    {grid_x, grid_y, grid_z},
                                    {block_x, block_y, block_z},
                                    shared};
    return submit(stream, context,
                  [context, recorded, arguments] { return launch(context, recorded); });
}
