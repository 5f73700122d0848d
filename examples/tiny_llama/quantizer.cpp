// What an engine does for mq: it registers its layers, lends its forward pass, and lets what flows
// through each layer pass a tap.
#include "quantizer.hpp"

#include "gradients.hpp"
#include "json.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string_view>

namespace tiny_llama {
namespace {

// Sequences per forward pass while calibrating. Another number finds the same maxima.
constexpr std::size_t kBatch = 32;

// While searching, as in the runs of the reference that this one is compared with. Another number
// gives other scores: an algorithm that searches, such as AWQ, looks at a quarter of the batches.
constexpr std::size_t kSearchBatch = 16;

// An engine has threads of its own, and mq may use as many: a tap returns when its work is done,
// so that the two never compete.
mq::Context make_context(std::size_t threads) {
    mq::ContextOptions options;
    options.num_threads = static_cast<std::uint32_t>(threads);
    options.log = [](mq_log_level level, std::string_view text) {
        if (level == MQ_LOG_WARNING) {
            std::fprintf(stderr, "mq: %.*s\n", static_cast<int>(text.size()), text.data());
        }
    };
    return mq::Context(std::move(options));
}

// Serving engines compute q, k and v as one product, and gate and up as another. Formats with a
// scale for the whole tensor must then give the layers of a product the same one. This engine
// computes them apart, but what it measures holds for those that do not.
std::string fused_group(const std::string &layer) {
    const std::size_t dot = layer.rfind('.');
    const std::string parent = layer.substr(0, dot + 1); // empty without a dot
    const std::string name = layer.substr(dot + 1);
    if (name == "q_proj" || name == "k_proj" || name == "v_proj") {
        return parent + "qkv_proj";
    }
    if (name == "gate_proj" || name == "up_proj") {
        return parent + "gate_up_proj";
    }
    return {}; // not fused
}

mq::LayerDesc describe(Linear &layer) {
    mq::LayerDesc desc;
    // Configurations choose layers by these names: "*lm_head*", "model.layers.0.*".
    desc.name = layer.name;
    // Borrowed, not copied: mq reads the weight to find its scales, and folding writes to it.
    desc.weight = mq::tensor(layer.weight.values.data(), {layer.outputs(), layer.inputs()});
    desc.fused_group = fused_group(layer.name);
    // Layers that read the same activation can share what is measured of it.
    desc.shared_input_group = "input " + std::to_string(layer.input_group);
    return desc;
}

mq::Shape extents(const ActivationShape &shape) {
    return {shape.batch, shape.tokens, shape.channels};
}

} // namespace

// Step 1: tell mq which layers there are.
Quantizer::Quantizer(Llama &model, std::size_t threads)
    : llama_(model), context_(make_context(threads)), model_(context_) {
    for (Linear *layer : llama_.linears()) {
        taps_.push_back(model_.add_layer(describe(*layer)));
    }
}

// Step 2: mq gives the quantizers their formats, measures the weights, and asks for a pass over the
// calibration text if an activation needs measuring too. A configuration that quantizes weights
// only never runs the model.
void Quantizer::quantize(const std::string &config, const Sequences &calibration) {
    model_.quantize(config, [&] { run(calibration); });
    pack_weights();
}

// Or step 2 with a search: mq calibrates every format, and then scores it by what its rounding of a
// layer's output does to the loss, for which the engine lends its backward pass too. Layers it
// leaves unquantized have taps that hand the values on.
void Quantizer::auto_quantize(const Search &search, const Sequences &calibration) {
    std::size_t first = 0; // the batch of the current step
    std::size_t batch = 0;
    { // the gradients go before the weights are packed
        Gradients gradients(llama_, Reduction::sum);
        mq::AutoQuantizeHost host;
        host.data = [&](std::uint64_t step) {
            forward_passes_ += step == 0 ? 1 : 0;
            first = std::min(step * kSearchBatch, calibration.count());
            batch = std::min(kSearchBatch, calibration.count() - first);
            return batch > 0;
        };
        host.forward_step = [&](std::uint64_t /*step*/) {
            llama_.forward(calibration[first], batch, *this);
        };
        host.forward_backward_step = [&](std::uint64_t /*step*/) {
            return gradients.loss_and_gradients(calibration[first], batch, *this);
        };
        mq::AutoQuantizeOptions options;
        options.constraints = "{\"effective_bits\": " + search.effective_bits + "}";
        options.quantization_formats = search.formats;
        options.checkpoint = search.checkpoint;
        options.num_calib_steps = (calibration.count() + kSearchBatch - 1) / kSearchBatch;
        options.num_score_steps = options.num_calib_steps;
        model_.auto_quantize(options, host);
    }
    search_state_ = model_.auto_quantize_state();
    pack_weights();
}

// Step 3: the weights are packed, and those of the engine given back. (An engine that has use for
// float weights would fold the quantized values into them: model_.fold_weight().)
void Quantizer::pack_weights() {
    try {
        model_.compress({}, MQ_ALLOW_NO_MATCH);
    } catch (const mq::Error &error) {
        if (error.status() != MQ_ERR_UNSUPPORTED) {
            throw;
        }
        model_.fold_weight(); // a format that has no packed form, such as MXFP6
    }
    const json::Value summary = json::parse(model_.summary(MQ_SUMMARY_JSON));
    const json::Array &layers = summary.at("layers").array();
    for (Linear *layer : llama_.linears()) {
        if (!layers.at(layer->index).at("packed").is_null()) {
            layer->weight.values = {};
        }
    }
}

// An exception in here, of a tap or of the engine, ends mq's call and leaves quantize().
void Quantizer::run(const Sequences &calibration) {
    ++forward_passes_;
    for (std::size_t first = 0; first < calibration.count(); first += kBatch) {
        const std::size_t batch = std::min(kBatch, calibration.count() - first);
        llama_.forward(calibration[first], batch, *this);
    }
}

// Step 4: the taps. While mq calibrates they observe; afterwards they quantize; where the
// configuration names nothing they hand the values on. The engine need not know which.
const float *Quantizer::input(const Linear &layer, const float *x, const ActivationShape &shape,
                              float *scratch) {
    taps_[layer.index].input(mq::tensor(x, extents(shape)), mq::tensor(scratch, extents(shape)));
    return scratch;
}

// The other half of the tap of the input: what an algorithm multiplies the channels of an
// activation with, this divides the weight by. A packed weight is unpacked here.
const float *Quantizer::weight(const Linear &layer, float *scratch) {
    taps_[layer.index].weight(mq::tensor(scratch, {layer.outputs(), layer.inputs()}));
    return scratch;
}

void Quantizer::output(const Linear &layer, float *y, const ActivationShape &shape) {
    taps_[layer.index].output(mq::tensor(y, extents(shape)), mq::tensor(y, extents(shape)));
}

// Only a search calls this, which is told the gradient of the loss by what a layer returns.
void Quantizer::gradient(const Linear &layer, const float *g, const ActivationShape &shape) {
    taps_[layer.index].grad(mq::tensor(g, extents(shape)));
}

// The summary also has the attributes and scales of every quantizer.
double Quantizer::effective_bits() const {
    if (!search_state_.empty()) {
        const json::Value state = json::parse(search_state_);
        return state.at("best").at("constraints").at("effective_bits").number();
    }
    return json::parse(model_.summary(MQ_SUMMARY_JSON)).at("effective_bits").number();
}

Quantizer::Bytes Quantizer::weight_bytes() const {
    const json::Value summary = json::parse(model_.summary(MQ_SUMMARY_JSON));
    return {static_cast<std::size_t>(summary.at("weight_bytes_before").number()),
            static_cast<std::size_t>(summary.at("weight_bytes_after").number())};
}

} // namespace tiny_llama
