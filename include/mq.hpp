// mq.hpp: C++17 face of mq.h, header only, with the folder mq beside it.
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A status other than MQ_OK becomes an mq::Error. Callbacks are any callable; what they throw stops
// the call they run in and reaches its caller with its own type. mq.h has the contract of each
// call.

#ifndef MQ_HPP
#define MQ_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "mq.h"
#include "mq/auto_quantize.hpp"
#include "mq/base.hpp"

namespace mq {

// Context

/// Receives a log line. What it throws is dropped: a log line cannot stop a call.
using Log = std::function<void(mq_log_level level, std::string_view text)>;

/// How far a verb has come, as mq_progress; valid during the callback.
struct Progress {
    std::string_view phase; ///< "observe", "solve" or "score"
    std::string_view layer; ///< the layer or quantizer that was just solved; empty for none
    uint64_t done;          ///< steps of this phase
    uint64_t total;
};

/// Receives progress, on the thread of the verb. What it throws or answers stops the verb.
using OnProgress = Callback<const Progress &>;

/// How a Context works; the defaults are those of mq_context_options.
struct ContextOptions {
    uint32_t num_threads = 0;
    Log log = nullptr;
    uint64_t memory_limit_bytes = 0; ///< of statistics and work memory; 0: no limit
    OnProgress progress = nullptr;
    mq_device device = {MQ_DEVICE_CPU, 0}; ///< where tensors may live beside host memory
    void *cuda_context = nullptr;          ///< CUcontext, borrowed; NULL: see mq_context_options
    void *cuda_stream = nullptr; ///< CUstream or cudaStream_t, borrowed; NULL: the default one
    mq_device_memory_fn device_memory = {}; ///< handed to mq, which calls its `release`
};

/// Threads and log of the library.
///
/// Owns an mq_context; movable. May be shared by threads and models, and destroyed before them.
class Context {
  public:
    Context() : Context(ContextOptions{}) {}

    explicit Context(ContextOptions options) {
        mq_context_options raw;
        check(mq_context_options_init(&raw, sizeof raw));
        raw.num_threads = options.num_threads;
        raw.memory_limit_bytes = options.memory_limit_bytes;
        raw.device = options.device;
        raw.cuda_context = options.cuda_context;
        raw.cuda_stream = options.cuda_stream;
        raw.device_memory = options.device_memory;
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

    mq_context *get() const noexcept { return context_.get(); }

  private:
    struct Destroy {
        void operator()(mq_context *context) const noexcept { mq_context_destroy(context); }
    };
    std::unique_ptr<mq_context, Destroy> context_;
};

// Model

/// A layer of a Model, whose handle it borrows. Any thread may call it, also inside a callback.
class Layer {
  public:
    Layer() = default;
    explicit Layer(mq_layer *layer) noexcept : layer_(layer) {}

    /// The layer's input on its way in: into `out`, which may be `x`.
    void input(const ConstTensorRef &x, const TensorRef &out) const {
        check(mq_layer_input(layer_, x, out));
    }
    /// The layer's input, observed only.
    void input(const ConstTensorRef &x) const { check(mq_layer_input(layer_, x, nullptr)); }
    /// The layer's output on its way out: into `out`, which may be `y`.
    void output(const ConstTensorRef &y, const TensorRef &out) const {
        check(mq_layer_output(layer_, y, out));
    }
    /// The layer's output, observed only.
    void output(const ConstTensorRef &y) const { check(mq_layer_output(layer_, y, nullptr)); }
    /// The gradient of a loss at the layer's output, for Model::auto_quantize(); nothing happens
    /// outside its scoring steps.
    void grad(const ConstTensorRef &g) const { check(mq_layer_grad(layer_, g)); }
    /// The weight as the quantized layer uses it.
    void weight(const TensorRef &out) const { check(mq_layer_weight(layer_, out)); }
    /// What the quantized layer uses of a new weight: into `out`, which may be `weight`. `scales`
    /// is MQ_SCALES_KEEP or MQ_SCALES_REFRESH.
    void requantize_into(const ConstTensorRef &weight, const TensorRef &out,
                         int32_t scales = MQ_SCALES_KEEP) const {
        check(mq_requantize_into(layer_, weight, out, scales));
    }

    mq_layer *get() const noexcept { return layer_; }

  private:
    mq_layer *layer_ = nullptr;
};

/// The amax of a quantizer: values row-major, and their extents. No values: there is none.
struct Amax {
    std::vector<float> values;
    std::vector<int64_t> shape;
};

/// A quantizer of a Model, whose handle it borrows. forward() may be called by any thread, also
/// inside a callback; the rest holds the model.
class Quantizer {
  public:
    Quantizer() = default;
    explicit Quantizer(mq_quantizer *quantizer) noexcept : quantizer_(quantizer) {}

    /// A tensor on its way through: into `out`, which may be `x`.
    void forward(const ConstTensorRef &x, const TensorRef &out) const {
        check(mq_quantizer_forward(quantizer_, x, out));
    }
    /// A tensor that is observed only.
    void forward(const ConstTensorRef &x) const {
        check(mq_quantizer_forward(quantizer_, x, nullptr));
    }

    std::string name() const { return detail::copied_text(mq_quantizer_name, quantizer_); }

    bool is_enabled() const {
        int32_t enabled = 0;
        check(mq_quantizer_is_enabled(quantizer_, &enabled));
        return enabled != 0;
    }

    /// JSON: an object, or an array of them for a sequential quantizer.
    std::string attributes() const {
        return detail::copied_text(mq_quantizer_attributes, quantizer_);
    }

    Amax amax() const {
        std::array<int64_t, MQ_MAX_RANK> shape{};
        uint32_t rank = 0;
        std::vector<float> values =
            detail::copied_values([&](float *buffer, size_t capacity, size_t *count) {
                return mq_quantizer_amax(quantizer_, buffer, capacity, count, shape.data(), &rank);
            });
        return {std::move(values), {shape.begin(), shape.begin() + rank}};
    }

    void set_amax(const ConstTensorRef &amax) const {
        check(mq_quantizer_set_amax(quantizer_, amax));
    }
    /// Sets the amax of a whole tensor.
    void set_amax(float amax) const { set_amax(tensor(&amax, {})); }

    std::vector<float> pre_quant_scale() const {
        return detail::copied_values(mq_quantizer_pre_quant_scale, quantizer_);
    }
    void set_pre_quant_scale(const ConstTensorRef &scale) const {
        check(mq_quantizer_set_pre_quant_scale(quantizer_, scale));
    }
    void remove_pre_quant_scale() const {
        check(mq_quantizer_set_pre_quant_scale(quantizer_, nullptr));
    }

    mq_quantizer *get() const noexcept { return quantizer_; }

  private:
    mq_quantizer *quantizer_ = nullptr;
};

/// Computes a layer as mq_layer_forward_fn: the output for an input and a weight of mq's into `y`.
/// Their memory is under get(), valid during the call.
using LayerForward = Callback<const ConstTensorRef & /*x*/, const ConstTensorRef & /*weight*/,
                              const TensorRef & /*y*/>;

namespace detail {

/// A LayerForward as C calls it, which owns it; NULL members for none.
inline mq_layer_forward_fn owned(const LayerForward &forward) {
    if (!forward)
        return {nullptr, nullptr, nullptr};
    const auto call = [](void *data, const mq_tensor *x, const mq_tensor *weight,
                         const mq_tensor *y) -> int32_t {
        try {
            thrown_meanwhile() = nullptr;
            return (*static_cast<const LayerForward *>(data))(*x, *weight, *y);
        } catch (...) {
            thrown_meanwhile() = std::current_exception();
            return -1;
        }
    };
    const auto release = [](void *data) { delete static_cast<LayerForward *>(data); };
    return {new LayerForward(forward), call, release};
}

} // namespace detail

/// One layer to register, as mq_layer_desc; empty strings are not given.
struct LayerDesc {
    std::string name;
    mq_layer_kind kind = MQ_LAYER_LINEAR;
    std::optional<TensorRef> weight = std::nullopt;
    std::optional<ConstTensorRef> bias = std::nullopt;
    std::string class_name = {};
    std::string fused_group = {};
    std::string shared_input_group = {};
    std::string expert_group = {};
    /// What Model::fold_pre_quant_scale() may write to: the norm before the layer, or the layer of
    /// that name.
    std::optional<TensorRef> norm_gain = std::nullopt;
    std::optional<TensorRef> norm_bias = std::nullopt;
    bool norm_adds_one = false;
    std::string producer = {};
    /// For Model::auto_quantize(): computes the layer where mq cannot. Lives as long as the Model.
    LayerForward forward = nullptr;
    /// Of a convolution, for Model::auto_quantize(), by spatial axis; a stride or dilation of 0
    /// is 1.
    std::array<uint32_t, 3> conv_stride = {};
    std::array<uint32_t, 3> conv_padding = {};
    std::array<uint32_t, 3> conv_dilation = {};
};

/// How the calibrations of a Model work; the defaults are those of mq_calibration_options.
struct CalibrationOptions {
    uint64_t min_tokens = 0; ///< fewer that pass an enabled quantizer of activations: MQ_ERR_STATE
    std::string resume_file = {}; ///< keeps what a calibration has finished; empty: none
};

/// What Model::check() found, as mq_check_report and the JSON of mq_check().
struct CheckReport {
    uint32_t errors = 0;     ///< problems that make scales wrong
    uint32_t warnings = 0;   ///< problems that do not
    uint32_t quantizers = 0; ///< of the model
    uint32_t enabled = 0;
    uint32_t unseen = 0;                   ///< enabled ones of activations that no token reached
    std::optional<uint64_t> fewest_tokens; ///< that one of those saw; none: nothing was calibrated
    std::string json;                      ///< the numbers, every problem and every quantizer
};

/// The host's model as mq knows it.
///
/// Owns an mq_model, and with it its Layer and Quantizer handles; movable. The tensors' memory is
/// borrowed until it is destroyed. One registration or verb at a time; a second one throws an Error
/// with MQ_ERR_BUSY. Do not destroy it inside one of its callbacks: nothing happens, and it leaks.
class Model {
  public:
    explicit Model(const Context &context) {
        mq_model *model = nullptr;
        mq::check(mq_model_create(context.get(), &model));
        model_.reset(model);
    }

    Layer add_layer(const LayerDesc &desc) {
        mq_layer_desc raw;
        mq::check(mq_layer_desc_init(&raw, sizeof raw));
        raw.kind = desc.kind;
        raw.name = desc.name.c_str();
        raw.class_name = detail::or_null(desc.class_name);
        raw.weight = desc.weight ? desc.weight->get() : nullptr;
        raw.bias = desc.bias ? desc.bias->get() : nullptr;
        raw.fused_group = detail::or_null(desc.fused_group);
        raw.shared_input_group = detail::or_null(desc.shared_input_group);
        raw.expert_group = detail::or_null(desc.expert_group);
        raw.norm_gain = desc.norm_gain ? desc.norm_gain->get() : nullptr;
        raw.norm_bias = desc.norm_bias ? desc.norm_bias->get() : nullptr;
        raw.producer = detail::or_null(desc.producer);
        raw.norm_flags = desc.norm_adds_one ? MQ_NORM_ADDS_ONE : 0;
        std::copy_n(desc.conv_stride.data(), 3, raw.conv_stride);
        std::copy_n(desc.conv_padding.data(), 3, raw.conv_padding);
        std::copy_n(desc.conv_dilation.data(), 3, raw.conv_dilation);
        const mq_layer_forward_fn forward = detail::owned(desc.forward); // mq's from here on
        raw.forward = desc.forward ? &forward : nullptr;
        mq_layer *layer = nullptr;
        mq::check(mq_model_add_layer(get(), &raw, &layer));
        return Layer(layer);
    }

    Layer add_layer(const std::string &name, const TensorRef &weight,
                    mq_layer_kind kind = MQ_LAYER_LINEAR) {
        LayerDesc desc;
        desc.name = name;
        desc.kind = kind;
        desc.weight = weight;
        return add_layer(desc);
    }

    Quantizer add_quantizer(const std::string &name, const std::string &class_name = {}) {
        mq_quantizer *quantizer = nullptr;
        mq::check(
            mq_model_add_quantizer(get(), name.c_str(), detail::or_null(class_name), &quantizer));
        return Quantizer(quantizer);
    }

    Layer find_layer(const std::string &name) const {
        mq_layer *layer = nullptr;
        mq::check(mq_model_find_layer(get(), name.c_str(), &layer));
        return Layer(layer);
    }

    Quantizer find_quantizer(const std::string &name) const {
        mq_quantizer *quantizer = nullptr;
        mq::check(mq_model_find_quantizer(get(), name.c_str(), &quantizer));
        return Quantizer(quantizer);
    }

    /// Every quantizer, in registration order.
    std::vector<Quantizer> quantizers() const {
        size_t count = 0;
        mq::check(mq_model_quantizer_count(get(), &count));
        std::vector<Quantizer> all;
        for (size_t i = 0; i < count; ++i) {
            mq_quantizer *quantizer = nullptr;
            mq::check(mq_model_quantizer_at(get(), i, &quantizer));
            all.emplace_back(quantizer);
        }
        return all;
    }

    /// Weights are calibrated; activation quantizers stay dynamic.
    void quantize(const std::string &config) {
        mq::check(mq_quantize(get(), config.c_str(), nullptr));
    }

    /// `forward()` runs the calibration set and calls the taps.
    template <class Forward> void quantize(const std::string &config, Forward &&forward) {
        detail::with_forward(forward, mq_quantize, get(), config.c_str());
    }

    void calibrate(const std::string &algorithm) {
        mq::check(mq_calibrate(get(), algorithm.c_str(), nullptr));
    }

    template <class Forward> void calibrate(const std::string &algorithm, Forward &&forward) {
        detail::with_forward(forward, mq_calibrate, get(), algorithm.c_str());
    }

    /// Sets how the calibrations work from now on.
    void set_calibration_options(const CalibrationOptions &options) {
        mq_calibration_options raw;
        mq::check(mq_calibration_options_init(&raw, sizeof raw));
        raw.min_tokens = options.min_tokens;
        raw.resume_file = detail::or_null(options.resume_file);
        mq::check(mq_model_set_calibration_options(get(), &raw));
    }

    /// Searches the format of every layer, and leaves the model with the best choice. `cost` says
    /// what a layer costs under a format; none: mq counts the bits of weights.
    void auto_quantize(const AutoQuantizeOptions &options, const AutoQuantizeHost &host,
                       const LayerCost &cost = nullptr) {
        detail::auto_quantize(get(), options, host, cost);
    }

    /// Solves the search anew for other constraints, and puts the choice into effect unless it is a
    /// dry run, which also takes a list. JSON: the "best" of auto_quantize_state(), or a list of
    /// it.
    std::string auto_quantize_solve(const std::string &constraints, bool dry_run = false) {
        const char *text = constraints.c_str();
        if (!dry_run)
            mq::check(mq_auto_quantize_solve(get(), text, 0, nullptr, 0, nullptr));
        return detail::copied_text(mq_auto_quantize_solve, get(), text, MQ_SOLVE_DRY_RUN);
    }

    /// JSON: what auto_quantize() found.
    std::string auto_quantize_state() const {
        return detail::copied_text(mq_auto_quantize_state, get());
    }

    /// JSON: the configuration that gives quantize() the choice under constraints; none: the choice
    /// that is in effect.
    std::string auto_quantize_config(const std::string &constraints = {}) const {
        return detail::copied_text(mq_auto_quantize_config, get(), detail::or_null(constraints));
    }

    /// JSON: what quantize() of a configuration, or calibrate() of an algorithm, would do.
    std::string plan(const std::string &config) const {
        return detail::copied_text(mq_plan, get(), config.c_str());
    }

    /// Checks whether what a calibration left can be deployed. Changes nothing.
    CheckReport check() const {
        size_t quantizers = 0;
        mq::check(mq_model_quantizer_count(get(), &quantizers));
        mq_check_report raw{};
        raw.struct_size = sizeof raw;
        std::string text;
        size_t length = 4096 + 512 * quantizers; // asking for it would check everything twice
        do {
            text.resize(length);
            mq::check(mq_check(get(), &raw, text.data(), text.size() + 1, &length));
        } while (length > text.size());
        text.resize(length);
        CheckReport report{raw.errors, raw.warnings, raw.quantizers, raw.enabled,
                           raw.unseen, std::nullopt, std::move(text)};
        if (raw.fewest_tokens != UINT64_MAX)
            report.fewest_tokens = raw.fewest_tokens;
        return report;
    }

    /// Moves what activations are multiplied with into the norms and layers that LayerDesc names.
    /// Returns the number of layers whose input is no longer multiplied.
    size_t fold_pre_quant_scale(uint32_t flags = 0) {
        return detail::matched_by(mq_fold_pre_quant_scale, get(), flags);
    }

    /// Stops the calibration that is running, which throws MQ_ERR_CANCELLED. From any thread, also
    /// inside a callback.
    void cancel() const { mq::check(mq_cancel(get())); }

    /// Waits for the CUDA stream, and throws what was found wrong meanwhile; see
    /// mq_model_synchronize(). Does nothing on host memory.
    void synchronize() const { mq::check(mq_model_synchronize(get())); }

    void fold_weight(uint32_t flags = 0) { mq::check(mq_fold_weight(get(), flags)); }

    // Packs weights into memory of mq's; the host may then free its own. `config` as in
    // mq_compress(), empty for all. Returns how many were packed.
    size_t compress(const std::string &config = {}, uint32_t flags = 0) {
        const char *text = config.empty() ? nullptr : config.c_str();
        size_t matched = 0;
        mq::check(mq_compress(get(), text, nullptr, flags, &matched));
        return matched;
    }

    // The verbs below return how many quantizers matched. They choose them by a wildcard, or by
    // `predicate(name)`, which takes a const char *, a std::string or a std::string_view.

    size_t enable_quantizer(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_enable_quantizer, get(), wildcard.c_str(), flags);
    }

    template <class Predicate, class = detail::if_predicate<Predicate>>
    size_t enable_quantizer(Predicate &&predicate, uint32_t flags = 0) {
        return detail::with_filter(predicate, mq_enable_quantizer_if, get(), flags);
    }

    size_t disable_quantizer(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_disable_quantizer, get(), wildcard.c_str(), flags);
    }

    template <class Predicate, class = detail::if_predicate<Predicate>>
    size_t disable_quantizer(Predicate &&predicate, uint32_t flags = 0) {
        return detail::with_filter(predicate, mq_disable_quantizer_if, get(), flags);
    }

    size_t set_quantizer_attributes(const std::string &wildcard, const std::string &attributes,
                                    uint32_t flags = 0) {
        return detail::matched_by(mq_set_quantizer_attributes, get(), wildcard.c_str(),
                                  attributes.c_str(), flags);
    }

    template <class Predicate, class = detail::if_predicate<Predicate>>
    size_t set_quantizer_attributes(Predicate &&predicate, const std::string &attributes,
                                    uint32_t flags = 0) {
        return detail::with_filter(predicate, mq_set_quantizer_attributes_if, get(),
                                   attributes.c_str(), flags);
    }

    /// `process(name, values, count)` changes the `count` floats at `values` in place.
    template <class Process>
    size_t postprocess_amax(const std::string &wildcard, Process &&process, uint32_t flags = 0) {
        using Lent = detail::Lent<std::remove_reference_t<Process>>;
        Lent lent{process, nullptr};
        const auto call = [](void *data, const char *name, float *values, size_t count) -> int32_t {
            return static_cast<Lent *>(data)->guard(
                [&](auto &f) { return detail::outcome(f, name, values, count); });
        };
        const mq_amax_fn callback{&lent, call, nullptr};
        size_t matched = 0;
        lent.finish(mq_postprocess_amax(get(), wildcard.c_str(), &callback, flags, &matched));
        return matched;
    }

    size_t reset_amax(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_reset_amax, get(), wildcard.c_str(), flags);
    }

    /// MQ_SUMMARY_TEXT or MQ_SUMMARY_JSON.
    std::string summary(int32_t format = MQ_SUMMARY_TEXT) const {
        return detail::copied_text(mq_print_quant_summary, get(), format);
    }

    mq_model *get() const noexcept { return model_.get(); }

  private:
    struct Destroy {
        void operator()(mq_model *model) const noexcept {
            static_cast<void>(mq_model_destroy(model));
        }
    };
    std::unique_ptr<mq_model, Destroy> model_;
};

// Presets

/// Names of all presets.
inline std::vector<std::string> presets() {
    std::vector<std::string> names;
    for (size_t i = 0; i < mq_preset_count(); ++i)
        names.push_back(detail::copied_text(mq_preset_name, i));
    return names;
}

/// The configuration of a preset as JSON.
inline std::string preset_json(const std::string &name) {
    return detail::copied_text(mq_preset_json, name.c_str());
}

} // namespace mq

#endif // MQ_HPP
