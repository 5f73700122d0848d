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

/// What Quantizer::auto_quantize() is to find.
struct Search {
    std::string formats;        // JSON: a list of mq's presets and configurations
    std::string effective_bits; // JSON: how many a weight may have on average
    /// A file that keeps what is calibrated and scored: with it, the same search of the same model
    /// for other bits runs no model. Empty: none.
    std::string checkpoint;
};

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

    /// The same, where mq searches the format of every layer, or none, for the least damage to the
    /// model's predictions. While it does, it takes the memory of Gradients, and reads the weights.
    void auto_quantize(const Search &search, const Sequences &calibration);

    /// JSON: what the search found, of which `python -m mq.report` makes a page; empty without one.
    const std::string &search_state() const { return search_state_; }

    /// How often the calibration text went forward through the model.
    std::size_t forward_passes() const { return forward_passes_; }
    /// Bits of a weight, on average over all linear layers; 16 for one that is not quantized. After
    /// a search, what it held against its limit.
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
    void gradient(const Linear &layer, const float *g, const ActivationShape &shape) override;

  private:
    void run(const Sequences &calibration);
    void pack_weights();

    Llama &llama_;
    mq::Context context_;
    mq::Model model_;
    std::vector<mq::Layer> taps_; // at Linear::index
    std::size_t forward_passes_ = 0;
    std::string search_state_;
};

} // namespace tiny_llama
