// The program's own list, and how arguments are read.
#include "configurations.hpp"

#include "file.hpp"

#include <cstddef>
#include <filesystem>

namespace tiny_llama {
namespace {

Configuration preset(const char *name) { return {name, name}; }

Configuration first_model_only(Configuration config) {
    config.first_model_only = true;
    return config;
}

// An INT8 scale per row of a weight and one for all activations.
const char *const kInt8 = R"({
    "*weight_quantizer": {"num_bits": 8, "axis": 0},
    "*input_quantizer": {"num_bits": 8, "axis": null},
    "*lm_head*": {"enable": false},
    "default": {"enable": false}
})";

// INT4 weights with a scale per 128 values of a row, and activations as they are.
const char *const kInt4 = R"({
    "*weight_quantizer": {"num_bits": 4, "block_sizes": {"-1": 128, "type": "static"}},
    "*input_quantizer": {"enable": false},
    "*lm_head*": {"enable": false},
    "default": {"enable": false}
})";

// Such INT4 weights, whose values are rounded to E4M3 in turn, and E4M3 activations.
const char *const kW4A8 = R"({
    "*weight_quantizer": [{"num_bits": 4, "block_sizes": {"-1": 128, "type": "static"}},
                          {"num_bits": [4, 3]}],
    "*input_quantizer": {"num_bits": [4, 3]},
    "*lm_head*": {"enable": false},
    "default": {"enable": false}
})";

Configuration custom(const char *name, const std::string &formats, const std::string &algorithm) {
    return {name, R"({"quant_cfg": )" + formats + R"(, "algorithm": )" + algorithm + "}"};
}

const char *const kEntropy =
    R"({"method": "histogram", "amax_method": "entropy", "num_bins": 2048})";

// "A+B@4.8": a search among presets for a number of bits.
Configuration search(const std::string &name) {
    const std::size_t at = name.rfind('@');
    std::string formats = "[\"";
    for (const char c : name.substr(0, at)) {
        formats += c == '+' ? "\", \"" : std::string(1, c);
    }
    return {name, formats + "\"]", name.substr(at + 1)};
}

const std::vector<Configuration> kConfigs = {
    preset("INT8_DEFAULT_CFG"), // weights: a scale per row; activations: one
    first_model_only(custom("INT8 entropy", kInt8, kEntropy)),
    preset("INT8_SMOOTHQUANT_CFG"),
    first_model_only(preset("FP8_DEFAULT_CFG")),      // E4M3; weights and activations: a scale each
    first_model_only(preset("INT8_WEIGHT_ONLY_CFG")), // a scale per row
    preset("INT4_BLOCKWISE_WEIGHT_ONLY_CFG"),         // a scale per 128 values of a row
    preset("INT4_AWQ_CFG"),                           // scales the channels of weights, "lite"
    custom("INT4 AWQ clip", kInt4, R"({"method": "awq_clip"})"),
    custom("INT4 AWQ full", kInt4, R"({"method": "awq_full", "alpha_step": 0.1})"),
    first_model_only(preset("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG")), // a scale per 128 x 128 values
    first_model_only(preset("FP8_PER_CHANNEL_PER_TOKEN_CFG")),    // a scale per row and per token
    first_model_only(custom("W4A8 (max)", kW4A8, R"("max")")),
    preset("W4A8_AWQ_BETA_CFG"),
    first_model_only(preset("MXFP8_DEFAULT_CFG")), // a power of two per 32 values, here and below
    first_model_only(preset("MXFP4_DEFAULT_CFG")),
    preset("NVFP4_DEFAULT_CFG"), // an E4M3 scale per 16 values
    preset("NVFP4_AWQ_LITE_CFG"),
    // A format, or none, for each layer, lm_head too. The first of a pair searches; the others are
    // solved with what it has calibrated and scored.
    search("INT4_AWQ_CFG+INT8_DEFAULT_CFG@4.8"),
    search("INT4_AWQ_CFG+INT8_DEFAULT_CFG@6.0"),
    search("INT4_AWQ_CFG+INT8_DEFAULT_CFG@8.0"),
    search("W4A8_AWQ_BETA_CFG+FP8_DEFAULT_CFG@4.8"),
    search("W4A8_AWQ_BETA_CFG+FP8_DEFAULT_CFG@6.0"),
    search("W4A8_AWQ_BETA_CFG+FP8_DEFAULT_CFG@8.0"),
};

Configuration read(const std::string &argument) {
    if (std::filesystem::path(argument).extension() == ".json") {
        return {argument, read_file(argument)};
    }
    const bool is_search = argument.find('@') != std::string::npos;
    return is_search ? search(argument) : preset(argument.c_str());
}

} // namespace

std::vector<Configuration> read_configurations(const std::vector<std::string> &arguments) {
    if (arguments.empty()) {
        return kConfigs;
    }
    std::vector<Configuration> configs;
    for (const std::string &argument : arguments) {
        configs.push_back(read(argument));
    }
    return configs;
}

} // namespace tiny_llama
