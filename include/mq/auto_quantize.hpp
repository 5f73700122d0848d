// The search for the format of every layer, as C++ gives it to mq.h: options, callbacks, costs.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_AUTO_QUANTIZE_HPP
#define MQ_AUTO_QUANTIZE_HPP

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "../mq.h"
#include "base.hpp"

namespace mq {

/// What Model::auto_quantize() is to do, as mq_auto_quantize_options, whose defaults it has; empty
/// strings are not given.
struct AutoQuantizeOptions {
    std::string constraints = {};          ///< JSON: {"effective_bits": 4.8} or {"max_cost": x}
    std::string quantization_formats = {}; ///< JSON: a list of presets, configurations and null
    std::string disabled_layers = {};      ///< JSON: a pattern, or a list of them
    std::string grouping_rules = {};       ///< JSON: a list of regular expressions
    std::string method = {};               ///< "gradient" (default), "gram", "fisher" or "kl_div"
    std::string checkpoint = {};           ///< path of a file that keeps the search
    uint64_t num_calib_steps = 512;        ///< batches
    uint64_t num_score_steps = 128;        ///< batches
    bool verbose = false;                  ///< tell of every choice through the log
    bool all_layers = false;               ///< no layer may stay unquantized but disabled ones
};

/// The host's side of Model::auto_quantize(), as mq_auto_quantize_fn. What is left out is not
/// called. What a callback throws stops the search, and reaches its caller with its own type.
struct AutoQuantizeHost {
    /// Makes a batch the current one; false when there is none.
    std::function<bool(uint64_t step)> data = nullptr;
    /// Runs the model over the current batch, calling Layer::input().
    Callback<uint64_t /*step*/> forward_step = nullptr;
    /// The loss of the forward_step before; with `backward`.
    std::function<double(uint64_t step)> loss = nullptr;
    /// Runs back from that loss, calling Layer::grad().
    Callback<uint64_t /*step*/> backward = nullptr;
    /// All three at once.
    std::function<double(uint64_t step)> forward_backward_step = nullptr;
    /// The logits `[.., classes]` of the forward_step before, for "kl_div"; their elements stay
    /// valid until the next callback.
    std::function<ConstTensorRef(uint64_t step)> logits = nullptr;
};

/// What a layer with so many elements of weight costs under a format, in any unit: finite, not
/// negative.
using LayerCost = std::function<double(const char *layer, const char *format, uint64_t elements)>;

namespace detail {

/// The host's callbacks during one search.
struct SearchHost {
    const AutoQuantizeHost &given;
    /// What C reads until the next callback.
    std::optional<ConstTensorRef> logits = std::nullopt;
};

using LentHost = Lent<SearchHost>;
using LentCost = Lent<const LayerCost>;

/// The callbacks that are given, with the signatures of mq.h.
inline mq_auto_quantize_fn lent_to_c(LentHost &lent) {
    const AutoQuantizeHost &given = lent.function.given;
    mq_auto_quantize_fn c{};
    c.user_data = &lent;
    if (given.data)
        c.data = [](void *data, uint64_t step, int32_t *available) -> int32_t {
            return static_cast<LentHost *>(data)->guard([&](SearchHost &host) -> int32_t {
                *available = host.given.data(step) ? 1 : 0;
                return 0;
            });
        };
    if (given.forward_step)
        c.forward_step = [](void *data, uint64_t step) -> int32_t {
            return static_cast<LentHost *>(data)->guard(
                [&](SearchHost &host) { return host.given.forward_step(step); });
        };
    if (given.loss)
        c.loss = [](void *data, uint64_t step, double *loss) -> int32_t {
            return static_cast<LentHost *>(data)->guard([&](SearchHost &host) -> int32_t {
                *loss = host.given.loss(step);
                return 0;
            });
        };
    if (given.backward)
        c.backward = [](void *data, uint64_t step) -> int32_t {
            return static_cast<LentHost *>(data)->guard(
                [&](SearchHost &host) { return host.given.backward(step); });
        };
    if (given.forward_backward_step)
        c.forward_backward_step = [](void *data, uint64_t step, double *loss) -> int32_t {
            return static_cast<LentHost *>(data)->guard([&](SearchHost &host) -> int32_t {
                *loss = host.given.forward_backward_step(step);
                return 0;
            });
        };
    if (given.logits)
        c.logits = [](void *data, uint64_t step, mq_tensor *logits) -> int32_t {
            return static_cast<LentHost *>(data)->guard([&](SearchHost &host) -> int32_t {
                *logits = *host.logits.emplace(host.given.logits(step)).get();
                return 0;
            });
        };
    return c;
}

inline int32_t call_cost(void *data, const char *layer, const char *format, uint64_t elements,
                         double *cost) noexcept {
    return static_cast<LentCost *>(data)->guard([&](const LayerCost &f) -> int32_t {
        *cost = f(layer, format, elements);
        return 0;
    });
}

/// Model::auto_quantize().
inline void auto_quantize(mq_model *model, const AutoQuantizeOptions &options,
                          const AutoQuantizeHost &host, const LayerCost &cost) {
    mq_auto_quantize_options raw;
    check(mq_auto_quantize_options_init(&raw, sizeof raw));
    raw.flags = (options.verbose ? MQ_AUTO_QUANTIZE_VERBOSE : 0) |
                (options.all_layers ? MQ_AUTO_QUANTIZE_ALL_LAYERS : 0);
    raw.constraints = or_null(options.constraints);
    raw.quantization_formats = or_null(options.quantization_formats);
    raw.disabled_layers = or_null(options.disabled_layers);
    raw.grouping_rules = or_null(options.grouping_rules);
    raw.method = or_null(options.method);
    raw.checkpoint = or_null(options.checkpoint);
    raw.num_calib_steps = options.num_calib_steps;
    raw.num_score_steps = options.num_score_steps;
    SearchHost search{host};
    LentHost lent_host{search, nullptr};
    LentCost lent_cost{cost, nullptr};
    const mq_auto_quantize_fn c_host = lent_to_c(lent_host);
    const mq_layer_cost_fn c_cost{&lent_cost, call_cost, nullptr};
    const mq_status status = mq_auto_quantize(model, &raw, &c_host, cost ? &c_cost : nullptr);
    if (lent_cost.thrown)
        std::rethrow_exception(lent_cost.thrown);
    lent_host.finish(status);
}

} // namespace detail

} // namespace mq

#endif // MQ_AUTO_QUANTIZE_HPP
