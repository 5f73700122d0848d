// The Model: registration, and the verbs that quantize it.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_MODEL_HPP
#define MQ_MODEL_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../mq.h"
#include "auto_quantize.hpp"
#include "base.hpp"
#include "context.hpp"
#include "layer.hpp"
#include "layer_desc.hpp"
#include "quantizer.hpp"

namespace mq {

/// How the calibrations of a Model work; the defaults are those of mq_calibration_options.
struct CalibrationOptions {
    uint64_t min_tokens = 0; ///< fewer that pass an enabled quantizer of activations: MQ_ERR_STATE
    std::string resume_file = {}; ///< keeps what a calibration has finished; empty: none
};

/// What Model::check() found, as mq_check_report and the JSON of mq_check().
struct CheckReport {
    uint32_t errors = 0;                   ///< problems that make scales wrong
    uint32_t warnings = 0;                 ///< problems that do not
    uint32_t quantizers = 0;               ///< of the model
    uint32_t enabled = 0;                  ///< of those
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
    /// An empty model; keeps what it needs of the context.
    explicit Model(const Context &context) {
        mq_model *model = nullptr;
        mq::check(mq_model_create(context.get(), &model));
        model_.reset(model);
    }

    /// Registers a layer and its quantizers, as mq_model_add_layer().
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

    /// Registers a layer by name and weight alone.
    Layer add_layer(const std::string &name, const TensorRef &weight,
                    mq_layer_kind kind = MQ_LAYER_LINEAR) {
        LayerDesc desc;
        desc.name = name;
        desc.kind = kind;
        desc.weight = weight;
        return add_layer(desc);
    }

    /// Registers a quantizer of the host's own, as mq_model_add_quantizer().
    Quantizer add_quantizer(const std::string &name, const std::string &class_name = {}) {
        mq_quantizer *quantizer = nullptr;
        mq::check(
            mq_model_add_quantizer(get(), name.c_str(), detail::or_null(class_name), &quantizer));
        return Quantizer(quantizer);
    }

    /// The layer of that name; none throws MQ_ERR_NOT_FOUND.
    Layer find_layer(const std::string &name) const {
        mq_layer *layer = nullptr;
        mq::check(mq_model_find_layer(get(), name.c_str(), &layer));
        return Layer(layer);
    }

    /// The quantizer of that name; none throws MQ_ERR_NOT_FOUND.
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

    /// Calibrates again without data, as mq_calibrate() without a forward.
    void calibrate(const std::string &algorithm) {
        mq::check(mq_calibrate(get(), algorithm.c_str(), nullptr));
    }

    /// Calibrates again; `forward()` runs the calibration set and calls the taps.
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
        return detail::copied_text(mq_auto_quantize_solve, get(), text, uint32_t{MQ_SOLVE_DRY_RUN});
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

    /// Writes the fake-quantized weights over the host's, as mq_fold_weight().
    void fold_weight(uint32_t flags = 0) { mq::check(mq_fold_weight(get(), flags)); }

    /// Packs weights into memory of mq's; the host may then free its own. `config` as in
    /// mq_compress(), empty for all. Returns how many were packed.
    size_t compress(const std::string &config = {}, uint32_t flags = 0) {
        size_t matched = 0;
        mq::check(mq_compress(get(), detail::or_null(config), nullptr, flags, &matched));
        return matched;
    }

    /// The same into memory of the host's: `allocate(layer, part, size_bytes)` returns a `void *`
    /// to memory that is the host's, on the device of the layer's weight, and lives as long as the
    /// Model; NULL: there is none.
    template <class Allocate, class = std::enable_if_t<std::is_invocable_r_v<
                                  void *, Allocate &, const char *, const char *, size_t>>>
    size_t compress(const std::string &config, Allocate &&allocate, uint32_t flags = 0) {
        using Lent = detail::Lent<std::remove_reference_t<Allocate>>;
        Lent lent{allocate, nullptr};
        const auto call = [](void *data, const char *layer, const char *part, size_t size_bytes,
                             void **memory) -> int32_t {
            return static_cast<Lent *>(data)->guard([&](auto &f) -> int32_t {
                *memory = std::invoke(f, layer, part, size_bytes);
                return 0;
            });
        };
        const mq_buffer_fn callback{&lent, call, nullptr};
        size_t matched = 0;
        lent.finish(mq_compress(get(), detail::or_null(config), &callback, flags, &matched));
        return matched;
    }

    // The verbs below return how many quantizers matched. They choose them by a wildcard, or by
    // `predicate(name)`, which takes a const char *, a std::string or a std::string_view.

    /// Enables quantizers by wildcard.
    size_t enable_quantizer(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_enable_quantizer, get(), wildcard.c_str(), flags);
    }

    /// Enables the quantizers that a predicate selects.
    template <class Predicate, class = detail::if_predicate<Predicate>>
    size_t enable_quantizer(Predicate &&predicate, uint32_t flags = 0) {
        return detail::with_filter(predicate, mq_enable_quantizer_if, get(), flags);
    }

    /// Disables quantizers by wildcard.
    size_t disable_quantizer(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_disable_quantizer, get(), wildcard.c_str(), flags);
    }

    /// Disables the quantizers that a predicate selects.
    template <class Predicate, class = detail::if_predicate<Predicate>>
    size_t disable_quantizer(Predicate &&predicate, uint32_t flags = 0) {
        return detail::with_filter(predicate, mq_disable_quantizer_if, get(), flags);
    }

    /// Changes attributes (JSON) by wildcard, as mq_set_quantizer_attributes().
    size_t set_quantizer_attributes(const std::string &wildcard, const std::string &attributes,
                                    uint32_t flags = 0) {
        return detail::matched_by(mq_set_quantizer_attributes, get(), wildcard.c_str(),
                                  attributes.c_str(), flags);
    }

    /// Changes attributes of the quantizers that a predicate selects.
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

    /// Forgets amax and statistics by wildcard.
    size_t reset_amax(const std::string &wildcard, uint32_t flags = 0) {
        return detail::matched_by(mq_reset_amax, get(), wildcard.c_str(), flags);
    }

    /// MQ_SUMMARY_TEXT or MQ_SUMMARY_JSON.
    std::string summary(int32_t format = MQ_SUMMARY_TEXT) const {
        return detail::copied_text(mq_print_quant_summary, get(), format);
    }

    /// The handle.
    mq_model *get() const noexcept { return model_.get(); }

  private:
    struct Destroy {
        void operator()(mq_model *model) const noexcept {
            static_cast<void>(mq_model_destroy(model));
        }
    };
    std::unique_ptr<mq_model, Destroy> model_;
};

} // namespace mq

#endif // MQ_MODEL_HPP
