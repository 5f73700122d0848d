// Events: marks in streams, through which streams wait for each other, and join a capture.
#include <ctime>

#include "driver.h"

using namespace mock;

static double now() {
    timespec time = {};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    *event = new Event{call.context, flags, false, 0.0, {}, false, nullptr};
    live<Event>().insert(*event);
    ++counters().events;
    return kSuccess;
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (!is_live(event) || stream == nullptr || stream->context != event->context) {
        return kInvalidHandle;
    }
    if (stream->capture == nullptr) {
        *event = {event->context, event->flags, true, now(), {}, false, stream};
        return kSuccess;
    }
    if (stream->capture->is_invalid) {
        return kCaptureInvalidated;
    }
    event->capture = stream->capture;
    event->is_captured = true;
    event->stream = stream;
    return kSuccess;
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (!is_live(event) || stream == nullptr) {
        return kInvalidHandle;
    }
    std::shared_ptr<Capture> capture = event->capture.lock();
    if (stream->capture != nullptr && stream->capture != capture && event->is_recorded) {
        stream->capture->is_invalid = true;
        return kCaptureIsolation;
    }
    if (capture == nullptr || stream == stream->context->default_stream) {
        return kSuccess;
    }
    if (event->stream != stream) {
        event->stream->has_unjoined_work = false;
    }
    if (stream->capture == nullptr) {
        stream->capture = capture;
        capture->joined.push_back(stream);
        // Until somebody waits for it.
        stream->has_unjoined_work = true;
    }
    return kSuccess;
}

static CUresult check_outside_capture(CUevent event) {
    if (!is_live(event)) {
        return kInvalidHandle;
    }
    if (std::shared_ptr<Capture> capture = event->capture.lock()) {
        capture->is_invalid = true;
    }
    return event->is_captured ? kCapturedEvent : event->context->sticky;
}

CUresult cuEventSynchronize(CUevent event) {
    Call call;
    counters().synchronizations += call.status == kSuccess;
    return call.status != kSuccess ? call.status : check_outside_capture(event);
}

CUresult cuEventQuery(CUevent event) {
    Call call;
    return call.status != kSuccess ? call.status : check_outside_capture(event);
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (!is_live(start) || !is_live(end) || !start->is_recorded || !end->is_recorded ||
        ((start->flags | end->flags) & 2u) != 0) {
        return kInvalidHandle;
    }
    *milliseconds = static_cast<float>(1e3 * (end->seconds - start->seconds));
    return kSuccess;
}

CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

CUresult cuEventDestroy_v2(CUevent event) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_live(event)) {
        return kInvalidHandle;
    }
    live<Event>().erase(event);
    delete event;
    --counters().events;
    return kSuccess;
}
