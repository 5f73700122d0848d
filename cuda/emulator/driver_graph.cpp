// Stream capture and graphs. A graph is its operations in the order they were made, which respects
// what they wait for.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <thread>

#include "driver.h"
#include "thread_state.h"

using namespace mock;

enum : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };

static std::vector<std::weak_ptr<Capture>> g_captures;
static uint64_t g_next_id = 1;

static uint64_t this_thread() { return std::hash<std::thread::id>{}(std::this_thread::get_id()); }

namespace mock {

// By the rules of cuThreadExchangeStreamCaptureMode.
CUresult refuse_during_capture() {
    int own_mode = cuda_on_cpu::thread_state.capture_mode;
    CUresult refused = kSuccess;
    for (const auto &weak : g_captures) {
        std::shared_ptr<Capture> capture = weak.lock();
        if (capture == nullptr || own_mode == kRelaxed) {
            continue;
        }
        bool is_own = capture->thread == this_thread();
        if ((is_own && capture->mode != kRelaxed) ||
            (!is_own && capture->mode == kGlobal && own_mode == kGlobal)) {
            capture->is_invalid = true;
            refused = kCaptureUnsupported;
        }
    }
    return refused;
}

CUresult refuse_default_stream(Context *context, bool is_question) {
    CUresult refused = kSuccess;
    for (const auto &weak : g_captures) {
        std::shared_ptr<Capture> capture = weak.lock();
        if (capture != nullptr && capture->origin->context == context &&
            (capture->origin->flags & 1u) == 0) {
            capture->is_invalid = capture->is_invalid || !is_question;
            refused = kCaptureImplicit;
        }
    }
    return refused;
}

} // namespace mock

CUresult cuStreamBeginCapture_v2(CUstream handle, int mode) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (stream == nullptr) {
        return kInvalidHandle;
    }
    if (stream == stream->context->default_stream) {
        return kCaptureUnsupported;
    }
    if (stream->capture != nullptr) {
        stream->capture->is_invalid = true;
        return kIllegalState;
    }
    if (mode < kGlobal || mode > kRelaxed) {
        return kInvalidValue;
    }
    auto capture = std::make_shared<Capture>(
        Capture{stream, mode, this_thread(), g_next_id++, false, std::make_unique<Graph>(), {}});
    stream->capture = capture;
    g_captures.push_back(capture);
    return kSuccess;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    *graph = nullptr;
    if (stream == nullptr) {
        return kInvalidHandle;
    }
    std::shared_ptr<Capture> capture = stream->capture;
    if (capture == nullptr) {
        return kIllegalState;
    }
    if (capture->origin != stream) {
        capture->is_invalid = true;
        return kCaptureUnmatched;
    }
    if (capture->mode != kRelaxed && capture->thread != this_thread()) {
        return kCaptureWrongThread;
    }
    stream->capture = nullptr;
    stream->has_unjoined_work = false;
    bool is_joined = true;
    for (Stream *other : capture->joined) {
        is_joined = is_joined && !other->has_unjoined_work;
        other->capture = nullptr;
        other->has_unjoined_work = false;
    }
    g_captures.erase(std::remove_if(g_captures.begin(), g_captures.end(),
                                    [&](const auto &weak) { return weak.lock() == capture; }),
                     g_captures.end());
    if (capture->is_invalid || !is_joined) {
        for (Allocation *allocation : capture->graph->allocations) {
            device_memory().release(allocation);
        }
        return capture->is_invalid ? kCaptureInvalidated : kCaptureUnjoined;
    }
    *graph = capture->graph.release();
    live<Graph>().insert(*graph);
    ++counters().graphs;
    return kSuccess;
}

CUresult cuStreamIsCapturing(CUstream stream, int *status) {
    return cuStreamGetCaptureInfo_v2(stream, status, nullptr, nullptr, nullptr, nullptr);
}

CUresult cuStreamGetCaptureInfo_v2(CUstream handle, int *status, uint64_t *id, CUgraph *graph,
                                   const void **dependencies, size_t *count) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    Stream *stream = stream_of(call.context, handle);
    if (stream == nullptr) {
        return kInvalidHandle;
    }
    if (stream == stream->context->default_stream) {
        if (CUresult refused = refuse_default_stream(stream->context, true)) {
            return refused;
        }
    }
    // 0: no, 1: yes, 2: yes, but invalidated.
    *status = stream->capture == nullptr ? 0 : stream->capture->is_invalid ? 2 : 1;
    if (id != nullptr && *status == 1) {
        *id = stream->capture->id;
    }
    if (graph != nullptr) {
        *graph = *status == 1 ? stream->capture->graph.get() : nullptr;
    }
    if (dependencies != nullptr) {
        *dependencies = nullptr;
    }
    if (count != nullptr) {
        *count = 0;
    }
    return kSuccess;
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    if (*mode < kGlobal || *mode > kRelaxed) {
        return kInvalidValue;
    }
    std::swap(*mode, cuda_on_cpu::thread_state.capture_mode);
    return kSuccess;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (!is_live(graph)) {
        return kInvalidValue;
    }
    *exec = new GraphExec{call.context, graph->operations, graph->allocations};
    graph->allocations.clear();
    live<GraphExec>().insert(*exec);
    ++counters().graph_execs;
    return kSuccess;
}

CUresult cuGraphInstantiate_v2(CUgraphExec *exec, CUgraph graph, void **node, char *, size_t) {
    if (node != nullptr) {
        *node = nullptr;
    }
    return cuGraphInstantiateWithFlags(exec, graph, 0);
}

CUresult cuGraphUpload(CUgraphExec exec, CUstream) {
    Call call;
    return call.status != kSuccess ? call.status : is_live(exec) ? kSuccess : kInvalidHandle;
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    Call call;
    if (call.status != kSuccess) {
        return call.status;
    }
    if (!is_live(exec)) {
        return kInvalidHandle;
    }
    ++counters().graph_launches;
    Context *context = call.context;
    return submit(stream, context, [context, operations = exec->operations]() -> CUresult {
        for (const Operation &operation : operations) {
            CUresult status = operation();
            if (status == kInvalidValue) {
                // What a recorded operation needs is gone; a GPU finds no memory there.
                std::fprintf(stderr, "mq mock: a graph uses memory that has been freed\n");
                return remember(context, kIllegalAddressError);
            }
            if (status != kSuccess || context->sticky != kSuccess) {
                return status;
            }
        }
        return kSuccess;
    });
}

CUresult cuGraphDestroy(CUgraph graph) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_live(graph)) {
        return kInvalidValue;
    }
    live<Graph>().erase(graph);
    delete graph;
    --counters().graphs;
    return kSuccess;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
    std::lock_guard<std::recursive_mutex> lock(driver_mutex());
    if (!is_live(exec)) {
        return kInvalidValue;
    }
    for (Allocation *allocation : exec->allocations) {
        if (allocation->is_live) {
            free_device(allocation);
        } else {
            device_memory().release(allocation);
        }
    }
    live<GraphExec>().erase(exec);
    delete exec;
    --counters().graph_execs;
    return kSuccess;
}
