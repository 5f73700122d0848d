// A linear layer, and the seam where a quantizer sees what flows through it.
#pragma once

#include "tensor.hpp"

#include <cstddef>
#include <string>

namespace tiny_llama {

/// y = x * weight^T.
struct Linear {
    std::string name;      // Hugging Face's, "model.layers.0.self_attn.q_proj"
    std::size_t index = 0; // position in Llama::linears()
    Tensor weight;         // [outputs, inputs]; may be changed between forward passes

    /// Layers with the same number read the same activation: q, k, v; gate, up.
    std::size_t input_group = 0;
    /// The norm gain whose product is this layer's input; nullptr when there is none.
    Tensor *input_norm = nullptr;

    std::size_t outputs() const { return weight.shape[0]; }
    std::size_t inputs() const { return weight.shape[1]; }
};

/// The shape of an activation, row-major.
struct ActivationShape {
    std::size_t batch;
    std::size_t tokens;
    std::size_t channels;

    std::size_t size() const { return batch * tokens * channels; }
};

/// Called around every linear layer of a forward pass, in the order input, weight, output, on the
/// thread that runs it. What these functions do by default is the float model.
class LinearHooks {
  public:
    virtual ~LinearHooks() = default;

    /// The activation to multiply with: `x`, or a changed copy in `scratch`, which has room for
    /// it. `x` itself must stay as it is: other layers of the input group read it too.
    virtual const float *input(const Linear & /*layer*/, const float *x,
                               const ActivationShape & /*shape*/, float * /*scratch*/) {
        return x;
    }

    /// The weight to multiply with: the layer's own, or a changed copy in `scratch`, which has
    /// room for it, or in memory of the hooks that lives until the next call.
    virtual const float *weight(const Linear &layer, float * /*scratch*/) {
        return layer.weight.values.data();
    }

    /// The product, to be looked at or changed in place.
    virtual void output(const Linear & /*layer*/, float * /*y*/,
                        const ActivationShape & /*shape*/) {}

    /// Called in a backward pass, in the reverse order of the forward pass, on the thread that
    /// runs it: the gradient of the loss with respect to the layer's product, [batch, tokens,
    /// outputs].
    virtual void gradient(const Linear & /*layer*/, const float * /*g*/,
                          const ActivationShape & /*shape*/) {}
};

} // namespace tiny_llama
