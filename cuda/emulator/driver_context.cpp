// Contexts: a primary one for each device, created ones, and every thread's stack of current ones.
#include <map>

#include "driver.h"
#include "thread_state.h"

using namespace mock;
using cuda_on_cpu::thread_state;

static std::map<int, Context *> g_primary;

namespace mock {

Context *current_context() {
    int depth = thread_state.context_depth;
    return depth == 0 ? nullptr : thread_state.contexts[depth - 1];
}

Call::Call() : lock_(driver_mutex()) {
    context = current_context();
    if (!is_initialized()) {
        status = kNotInitialized;
    } else if (context == nullptr) {
        status = kInvalidContext;
    } else if (!is_live(context)) {
        status = kContextIsDestroyed;
    } else {
        status = context->sticky;
    }
}

CUresult remember(Context *context, CUresult error) {
    if (error == kIllegalAddressError || error == kMisalignedAddressError ||
        error == kLaunchFailedError) {
        context->sticky = error;
    }
    return error;
}

} // namespace mock

static Context *create(int device, bool is_primary, unsigned flags) {
    auto *context = new Context{device, 0, is_primary, flags, kSuccess, nullptr};
    context->default_stream = new Stream{context, 0, nullptr, false};
    live<Context>().insert(context);
    ++counters().contexts;
    return context;
}

static void destroy(Context *context) {
    end_memory_of(context);
    std::set<Stream *> streams = live<Stream>();
    for (Stream *stream : streams) {
        if (stream->context == context) {
            forget_stream(stream);
        }
    }
    delete context->default_stream;
    live<Context>().erase(context);
    --counters().contexts;
    // The object itself stays, so that no later one gets the same handle.
}

static CUresult check_device(CUdevice device) {
    return !is_initialized()                            ? kNotInitialized
           : device < 0 || device >= settings().devices ? kInvalidDevice
                                                        : kSuccess;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    CUresult status = check_device(device);
    if (status != kSuccess) {
        return status;
    }
    Context *&primary = g_primary[device];
    if (primary == nullptr) {
        primary = create(device, true, 0);
    }
    ++primary->retained;
    ++counters().retained;
    *context = primary;
    return kSuccess;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    CUresult status = check_device(device);
    if (status != kSuccess) {
        return status;
    }
    Context *&primary = g_primary[device];
    if (primary == nullptr || primary->retained == 0) {
        return kInvalidContext;
    }
    --counters().retained;
    if (--primary->retained == 0) {
        destroy(primary);
        primary = nullptr;
    }
    return kSuccess;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    CUresult status = check_device(device);
    if (status == kSuccess && g_primary[device] != nullptr) {
        end_memory_of(g_primary[device]);
        g_primary[device]->sticky = kSuccess;
    }
    return status;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    CUresult status = check_device(device);
    if (status == kSuccess) {
        *active = g_primary[device] != nullptr;
        *flags = *active ? g_primary[device]->flags : 0;
    }
    return status;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    CUresult status = check_device(device);
    if (status == kSuccess) {
        *context = create(device, false, flags);
        status = cuCtxPushCurrent_v2(*context);
    }
    return status;
}

CUresult cuCtxCreate_v3(CUcontext *context, void *, int, unsigned flags, CUdevice device) {
    return cuCtxCreate_v2(context, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext *context, void *, unsigned flags, CUdevice device) {
    return cuCtxCreate_v2(context, flags, device);
}

CUresult cuCtxDestroy_v2(CUcontext context) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_live(context) || context->is_primary) {
        return kInvalidContext;
    }
    if (current_context() == context) {
        --thread_state.context_depth;
    }
    destroy(context);
    return kSuccess;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    if (!is_initialized()) {
        return kNotInitialized;
    }
    *context = current_context();
    return kSuccess;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_initialized()) {
        return kNotInitialized;
    }
    if (context != nullptr && !is_live(context)) {
        return kInvalidContext;
    }
    thread_state.context_depth -= thread_state.context_depth > 0;
    return context == nullptr ? kSuccess : cuCtxPushCurrent_v2(context);
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_initialized()) {
        return kNotInitialized;
    }
    // Null can be pushed: the thread has no current context until it is popped.
    if ((context != nullptr && !is_live(context)) ||
        thread_state.context_depth == cuda_on_cpu::kMostContexts) {
        return kInvalidContext;
    }
    thread_state.contexts[thread_state.context_depth++] = context;
    return kSuccess;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    if (!is_initialized()) {
        return kNotInitialized;
    }
    if (thread_state.context_depth == 0) {
        return kInvalidContext;
    }
    --thread_state.context_depth;
    if (context != nullptr) {
        *context = thread_state.contexts[thread_state.context_depth];
    }
    return kSuccess;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    Call call;
    if (call.status == kSuccess) {
        *device = call.context->device;
    }
    return call.status;
}

CUresult cuCtxGetFlags(unsigned *flags) {
    Call call;
    if (call.status == kSuccess) {
        *flags = call.context->flags;
    }
    return call.status;
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    *version = 3020;
    return context == nullptr || is_live(context) ? kSuccess : kInvalidContext;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    Call call;
    *least = 0;
    *greatest = -5;
    return call.status;
}

CUresult cuCtxSynchronize() {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    ++counters().synchronizations;
    return refuse_during_capture();
}
