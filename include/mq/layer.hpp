// A layer of a Model, and its taps.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_LAYER_HPP
#define MQ_LAYER_HPP

#include <cstdint>
#include <string>

#include "../mq.h"
#include "base.hpp"

namespace mq {

/// A layer of a Model, whose handle it borrows. Any thread may call it, also inside a callback.
class Layer {
  public:
    Layer() = default;
    /// A handle that mq.h gave.
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

    /// A part of the weight that Model::compress() packed: "weight", "scale", "double_scale" or
    /// "scale_zeros". To read, on the device of the weight; borrowed from the Model.
    mq_tensor packed(const std::string &part) const {
        mq_tensor tensor{};
        check(mq_layer_packed(layer_, part.c_str(), &tensor));
        return tensor;
    }

    /// The handle.
    mq_layer *get() const noexcept { return layer_; }

  private:
    mq_layer *layer_ = nullptr;
};

} // namespace mq

#endif // MQ_LAYER_HPP
