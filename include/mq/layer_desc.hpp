// What a Model is told of a layer when it is registered.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_LAYER_DESC_HPP
#define MQ_LAYER_DESC_HPP

#include <array>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>

#include "../mq.h"
#include "base.hpp"

namespace mq {

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

} // namespace mq

#endif // MQ_LAYER_DESC_HPP
