// What the parts of the mock driver share: the objects behind its handles, and how a call begins.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "control.h"
#include "device_memory.h"
#include "driver_api.h"
#include "kernel_registry.h"

namespace mock {

/// Calls of all threads run one at a time.
std::recursive_mutex &driver_mutex();

using Operation = std::function<CUresult()>;

struct Context {
    int device;
    int retained; // of a primary context
    bool is_primary;
    unsigned flags;
    CUresult sticky; // the error that has ruined it, which every later call gets
    Stream *default_stream;
};

struct Module {
    Context *context;
    std::vector<std::unique_ptr<Function>> functions;
};

struct Function {
    const cuda_on_cpu::Kernel *kernel;
    Module *module;
    int most_dynamic_shared;
};

struct Graph {
    std::vector<Operation> operations;
    std::vector<Allocation *> allocations; // that its nodes make
};

struct GraphExec {
    Context *context;
    std::vector<Operation> operations;
    std::vector<Allocation *> allocations;
};

/// One capture; all streams that have joined it share it.
struct Capture {
    Stream *origin;
    int mode;
    uint64_t thread;
    uint64_t id;
    bool is_invalid;
    std::unique_ptr<Graph> graph;
    std::vector<Stream *> joined; // beside the origin
};

struct Stream {
    Context *context;
    unsigned flags; // bit 0: does not synchronize with the default stream
    std::shared_ptr<Capture> capture;
    bool has_unjoined_work; // of a stream that joined a capture
};

struct Event {
    Context *context;
    unsigned flags;
    bool is_recorded;
    double seconds;
    std::weak_ptr<Capture> capture; // it was recorded in
    bool is_captured;
    Stream *stream;
};

/// The live objects of a kind: a handle that is not among them is refused.
template <class T> std::set<T *> &live() {
    static auto *objects = new std::set<T *>; // never destroyed: calls may come at exit
    return *objects;
}
template <class T> bool is_live(T *handle) { return live<T>().count(handle) != 0; }

/// How a call begins: alone, the driver started, with a current context that is not ruined.
class Call {
  public:
    Call();
    /// kSuccess, or why the call cannot go on.
    CUresult status = kSuccess;
    Context *context = nullptr;

  private:
    std::lock_guard<std::recursive_mutex> lock_;
};

bool is_initialized();
Context *current_context();
/// The error as it is kept: some ruin the context for good.
CUresult remember(Context *context, CUresult error);

/// The stream behind a handle: null and 1 are the default stream, 2 is that of the thread. Null: no
/// such stream.
Stream *stream_of(Context *context, CUstream handle);
/// Runs it now, or records it where the stream is being captured.
CUresult submit(CUstream handle, Context *context, const Operation &operation);
/// For calls that may not be made while a capture is on; they invalidate it.
CUresult refuse_during_capture();
/// For calls that use the default stream; those that only ask about it invalidate nothing.
CUresult refuse_default_stream(Context *context, bool is_question = false);
void forget_stream(Stream *stream);
void end_memory_of(Context *context);
Allocation *allocate_device(Context *context, size_t bytes, CUresult *error);
void count_live(int64_t allocations, int64_t bytes);
CUresult free_device(Allocation *allocation);

} // namespace mock
