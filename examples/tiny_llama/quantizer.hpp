// Quantizes a Llama with mq. This file and its source are all of the engine that knows mq.
#pragma once

#include "linear.hpp"
#include "llama.hpp"
#include "sequences.hpp"

#include <mq.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace tiny_llama {

/// The hooks of a model that is being quantized, and then of the quantized model.
///
///     Quantizer quantizer(model, threads);
///     quantizer.quantize("INT8_DEFAULT_CFG", calibration_text);
///     model.forward(tokens, batch, quantizer);
///
/// Everything throws std::runtime_error with mq's text.
class Quantizer : public LinearHooks {
  public:
    /// Registers every linear layer. The model outlives the quantizer; its weights stay where they
    /// are, mq keeps no copy of them.
    Quantizer(Llama &model, std::size_t threads);

    /// Calibrates on a text, packs the weights and frees those of the model that were packed.
    /// `config` is the name of one of mq's presets, or JSON.
    void quantize(const std::string &config, const Sequences &calibration);

    /// How often the calibration text went through the model.
    std::size_t forward_passes() const { return forward_passes_; }
    /// Bits of a weight, on average over all linear layers; 16 for one that is not quantized.
    double effective_bits() const;
    /// Bytes of all linear layers' weights, as the engine held them and as they are held now.
    struct Bytes {
        std::size_t before, after;
    };
    Bytes weight_bytes() const;

    const float *input(const Linear &layer, const float *x, const ActivationShape &shape,
                       float *scratch) override;
    const float *weight(const Linear &layer, float *scratch) override;
    void output(const Linear &layer, float *y, const ActivationShape &shape) override;

  private:
    void run(const Sequences &calibration);
    void pack_weights();

    Llama &llama_;
    mq::Context context_;
    mq::Model model_;
    std::vector<mq::Layer> taps_; // at Linear::index
    std::size_t forward_passes_ = 0;
};

} // namespace tiny_llama
