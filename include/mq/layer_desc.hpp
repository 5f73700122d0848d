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
    std::string name;                               ///< dotted and unique; required
    mq_layer_kind kind = MQ_LAYER_LINEAR;           ///< what it computes
    std::optional<TensorRef> weight = std::nullopt; ///< borrowed; required but for MQ_LAYER_GENERIC
    std::optional<ConstTensorRef> bias = std::nullopt; ///< borrowed
    std::string class_name = {};         ///< for class scopes; empty: that of the kind
    std::string fused_group = {};        ///< layers that the runtime computes as one
    std::string shared_input_group = {}; ///< layers that read the same activation
    std::string expert_group = {};       ///< the same projection of several experts
    /// What Model::fold_pre_quant_scale() may write to: the norm before the layer, or the layer of
    /// that name.
    std::optional<TensorRef> norm_gain = std::nullopt;
    std::optional<TensorRef> norm_bias = std::nullopt; ///< the norm's bias
    bool norm_adds_one = false;                        ///< the norm multiplies with 1 + gain
    std::string producer = {}; ///< the layer whose rows can take the factors over
    /// For Model::auto_quantize(): computes the layer where mq cannot. Lives as long as the Model.
    LayerForward forward = nullptr;
    /// Of a convolution, for Model::auto_quantize(), by spatial axis; a stride or dilation of 0
    /// is 1.
    std::array<uint32_t, 3> conv_stride = {};
    std::array<uint32_t, 3> conv_padding = {};  ///< zeros before and after each spatial axis
    std::array<uint32_t, 3> conv_dilation = {}; ///< elements from one of the kernel to the next
};

} // namespace mq

#endif // MQ_LAYER_DESC_HPP
