// Streams: work on them runs at once, or is recorded.
#include "driver.h"
#include "thread_state.h"

using namespace mock;

namespace mock {

Stream *stream_of(Context *context, CUstream handle) {
    auto number = reinterpret_cast<uintptr_t>(handle);
    if (number <= 2) {
        return context->default_stream;
    }
    return is_live(handle) ? handle : nullptr;
}

void forget_stream(Stream *stream) {
    if (stream->capture != nullptr) {
        stream->capture->is_invalid = true;
    }
    live<Stream>().erase(stream);
    --counters().streams;
    // The object itself stays, so that no later one gets the same handle.
}

CUresult submit(CUstream handle, Context *context, const Operation &operation) {
    Stream *stream = stream_of(context, handle);
    if (stream == nullptr || stream->context != context) {
        return kInvalidHandle;
    }
    if (stream == context->default_stream) {
        if (CUresult refused = refuse_default_stream(context)) {
            return refused;
        }
        return operation();
    }
    if (stream->capture == nullptr) {
        return operation();
    }
    if (stream->capture->is_invalid) {
        return kCaptureInvalidated;
    }
    stream->capture->graph->operations.push_back(operation);
    stream->has_unjoined_work = true;
    return kSuccess;
}

} // namespace mock

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (flags > 1) {
        return kInvalidValue;
    }
    *stream = new Stream{call.context, flags, nullptr, false};
    live<Stream>().insert(*stream);
    ++counters().streams;
    return kSuccess;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int) {
    return cuStreamCreate(stream, flags);
}

CUresult cuStreamDestroy_v2(CUstream stream) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_live(stream)) {
        return kInvalidHandle;
    }
    forget_stream(stream);
    return kSuccess;
}

// A stream may be waited for under another context than its own.
static CUresult wait_for(CUstream handle, bool is_query) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (stream == nullptr) {
        return kInvalidHandle;
    }
    if (stream->capture != nullptr) {
        stream->capture->is_invalid = true;
        return kCaptureUnsupported;
    }
    // An H200 with driver 580 refuses this for any stream.
    if (CUresult refused = refuse_during_capture()) {
        return refused;
    }
    if (stream == stream->context->default_stream) {
        if (CUresult refused = refuse_default_stream(stream->context)) {
            return refused;
        }
    }
    counters().synchronizations += is_query ? 0 : 1;
    return stream->context->sticky;
}

CUresult cuStreamSynchronize(CUstream stream) { return wait_for(stream, false); }

CUresult cuStreamQuery(CUstream stream) { return wait_for(stream, true); }

CUresult cuStreamGetCtx(CUstream stream, CUcontext *context) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (reinterpret_cast<uintptr_t>(stream) <= 2) {
        Call call;
        *context = call.context;
        return call.status;
    }
    if (!is_live(stream)) {
        return kInvalidHandle;
    }
    *context = stream->context;
    return kSuccess;
}

CUresult cuStreamGetFlags(CUstream stream, unsigned *flags) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *found = stream_of(call.context, stream);
    *flags = found == nullptr ? 0 : found->flags;
    return found == nullptr ? kInvalidHandle : kSuccess;
}

CUresult cuLaunchHostFunc(CUstream stream, void (*function)(void *), void *data) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    return submit(stream, call.context, [function, data]() -> CUresult {
        function(data);
        return kSuccess;
    });
}
