// A quantizer of a Model: its tap, format and scales.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_QUANTIZER_HPP
#define MQ_QUANTIZER_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../mq.h"
#include "base.hpp"

namespace mq {

/// The amax of a quantizer: values row-major, and their extents. No values: there is none.
struct Amax {
    std::vector<float> values;  ///< in the units of the tensor
    std::vector<int64_t> shape; ///< empty for one amax of the tensor
};

/// A quantizer of a Model, whose handle it borrows. forward() may be called by any thread, also
/// inside a callback; the rest holds the model.
class Quantizer {
  public:
    Quantizer() = default;
    /// A handle that mq.h gave.
    explicit Quantizer(mq_quantizer *quantizer) noexcept : quantizer_(quantizer) {}

    /// A tensor on its way through: into `out`, which may be `x`.
    void forward(const ConstTensorRef &x, const TensorRef &out) const {
        check(mq_quantizer_forward(quantizer_, x, out));
    }
    /// A tensor that is observed only.
    void forward(const ConstTensorRef &x) const {
        check(mq_quantizer_forward(quantizer_, x, nullptr));
    }

    /// The dotted name.
    std::string name() const { return detail::copied_text(mq_quantizer_name, quantizer_); }

    /// Whether it rounds; a sequential one does when one of its members does.
    bool is_enabled() const {
        int32_t enabled = 0;
        check(mq_quantizer_is_enabled(quantizer_, &enabled));
        return enabled != 0;
    }

    /// JSON: an object, or an array of them for a sequential quantizer.
    std::string attributes() const {
        return detail::copied_text(mq_quantizer_attributes, quantizer_);
    }

    /// What calibration found or what was set, as mq_quantizer_amax().
    Amax amax() const {
        std::array<int64_t, MQ_MAX_RANK> shape{};
        uint32_t rank = 0;
        std::vector<float> values =
            detail::copied_values([&](float *buffer, size_t capacity, size_t *count) {
                return mq_quantizer_amax(quantizer_, buffer, capacity, count, shape.data(), &rank);
            });
        return {std::move(values), {shape.begin(), shape.begin() + rank}};
    }

    /// Sets the amax, of the shape that amax() has; values are copied.
    void set_amax(const ConstTensorRef &amax) const {
        check(mq_quantizer_set_amax(quantizer_, amax));
    }
    /// Sets the amax of a whole tensor.
    void set_amax(float amax) const { set_amax(tensor(&amax, {})); }

    /// The factors that the tensor is multiplied with; none: empty.
    std::vector<float> pre_quant_scale() const {
        return detail::copied_values(mq_quantizer_pre_quant_scale, quantizer_);
    }
    /// Sets the factors, one for each channel; the caller divides the weight accordingly.
    void set_pre_quant_scale(const ConstTensorRef &scale) const {
        check(mq_quantizer_set_pre_quant_scale(quantizer_, scale));
    }
    /// Removes the factors.
    void remove_pre_quant_scale() const {
        check(mq_quantizer_set_pre_quant_scale(quantizer_, nullptr));
    }

    /// The handle.
    mq_quantizer *get() const noexcept { return quantizer_; }

  private:
    mq_quantizer *quantizer_ = nullptr;
};

} // namespace mq

#endif // MQ_QUANTIZER_HPP
