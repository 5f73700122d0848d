// The Context: threads, log, progress, and a GPU if the host lends one.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_CONTEXT_HPP
#define MQ_CONTEXT_HPP

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "../mq.h"
#include "base.hpp"

namespace mq {

/// Receives a log line. What it throws is dropped: a log line cannot stop a call.
using Log = std::function<void(mq_log_level level, std::string_view text)>;

/// How far a verb has come, as mq_progress; valid during the callback.
struct Progress {
    std::string_view phase; ///< "observe", "solve" or "score"
    std::string_view layer; ///< the layer or quantizer that was just solved; empty for none
    uint64_t done;          ///< steps of this phase
    uint64_t total;         ///< all steps of this phase
};

/// Receives progress, on the thread of the verb. What it throws or answers stops the verb.
using OnProgress = Callback<const Progress &>;

/// How a Context works; the defaults are those of mq_context_options.
struct ContextOptions {
    uint32_t num_threads = 0;              ///< 0: one for each CPU
    Log log = nullptr;                     ///< receives warnings and notes
    uint64_t memory_limit_bytes = 0;       ///< of statistics and work memory; 0: no limit
    OnProgress progress = nullptr;         ///< told how far verbs are, and may stop them
    mq_device device = {MQ_DEVICE_CPU, 0}; ///< where tensors may live beside host memory
    void *cuda_context = nullptr;          ///< CUcontext, borrowed; NULL: see mq_context_options
    void *cuda_stream = nullptr; ///< CUstream or cudaStream_t, borrowed; NULL: the default one
    mq_device_memory_fn device_memory = {}; ///< handed to mq, which calls its `release`
    uint32_t cublas = MQ_CUBLAS_DEFAULT;    ///< whether cuBLAS may make large products there
};

/// Threads and log of the library.
///
/// Owns an mq_context; movable. May be shared by threads and models, and destroyed before them.
class Context {
  public:
    Context() : Context(ContextOptions{}) {}

    /// As mq_context_create().
    explicit Context(ContextOptions options) {
        mq_context_options raw;
        check(mq_context_options_init(&raw, sizeof raw));
        raw.num_threads = options.num_threads;
        raw.memory_limit_bytes = options.memory_limit_bytes;
        raw.device = options.device;
        raw.cuda_context = options.cuda_context;
        raw.cuda_stream = options.cuda_stream;
        raw.device_memory = options.device_memory;
        raw.cublas = options.cublas;
        // What is in `raw` is released by mq, also when creation fails.
        std::unique_ptr<OnProgress> progress;
        if (options.progress)
            progress = std::make_unique<OnProgress>(std::move(options.progress));
        if (options.log) {
            raw.log.user_data = new Log(std::move(options.log));
            raw.log.log = [](void *data, int32_t level, const char *text) {
                try {
                    (*static_cast<Log *>(data))(static_cast<mq_log_level>(level), text);
                } catch (...) {
                }
            };
            raw.log.release = [](void *data) { delete static_cast<Log *>(data); };
        }
        if (progress) {
            raw.progress.user_data = progress.release();
            raw.progress.progress = [](void *data, const mq_progress *told) -> int32_t {
                try {
                    detail::thrown_meanwhile() = nullptr;
                    const Progress step{told->phase, told->layer, told->done, told->total};
                    return (*static_cast<OnProgress *>(data))(step);
                } catch (...) {
                    detail::thrown_meanwhile() = std::current_exception();
                    return -1;
                }
            };
            raw.progress.release = [](void *data) { delete static_cast<OnProgress *>(data); };
        }
        mq_context *context = nullptr;
        check(mq_context_create(&raw, &context));
        context_.reset(context);
    }

    /// Puts work on another stream of the same CUDA context from now on, as
    /// mq_context_set_cuda_stream(); borrowed.
    void set_cuda_stream(void *stream) { check(mq_context_set_cuda_stream(get(), stream)); }

    /// Fake-quantizes one tensor with its own amax. `out` may be `x`.
    void fake_quant(const ConstTensorRef &x, const std::string &attributes,
                    const TensorRef &out) const {
        check(mq_fake_quant(get(), x, attributes.c_str(), nullptr, out));
    }

    /// Fake-quantizes one tensor with a given amax. `out` may be `x`.
    void fake_quant(const ConstTensorRef &x, const std::string &attributes,
                    const ConstTensorRef &amax, const TensorRef &out) const {
        check(mq_fake_quant(get(), x, attributes.c_str(), amax, out));
    }

    /// The handle.
    mq_context *get() const noexcept { return context_.get(); }

  private:
    struct Destroy {
        void operator()(mq_context *context) const noexcept { mq_context_destroy(context); }
    };
    std::unique_ptr<mq_context, Destroy> context_;
};

} // namespace mq

#endif // MQ_CONTEXT_HPP
