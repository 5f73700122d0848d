// tiny_llama: the perplexity of models as they are, and under each of several quantizations.
#include "config.hpp"
#include "error.hpp"
#include "file.hpp"
#include "llama.hpp"
#include "options.hpp"
#include "perplexity.hpp"
#include "quantizer.hpp"
#include "report.hpp"
#include "sequences.hpp"
#include "thread_pool.hpp"

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace tiny_llama;

struct Configuration {
    std::string name; // in the table
    std::string text; // what mq takes: the name of a preset, or JSON
    bool first_model_only = false;
};

Configuration preset(const char *name) { return {name, name}; }

// Where a model with outliers has little to add, to save time.
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
};

struct Texts {
    Sequences calibration;
    Sequences test;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The name of a preset as it is, or the content of a file.
Configuration read_configuration(const std::string &argument) {
    const bool is_file = std::filesystem::path(argument).extension() == ".json";
    return {argument, is_file ? read_file(argument) : argument};
}

std::vector<Configuration> read_configurations(const Options &options) {
    if (options.configs.empty()) {
        return kConfigs;
    }
    std::vector<Configuration> configs;
    for (const std::string &argument : options.configs) {
        configs.push_back(read_configuration(argument));
    }
    return configs;
}

std::size_t weight_bytes(Llama &model) {
    std::size_t bytes = 0;
    for (const Linear *layer : model.linears()) {
        bytes += layer->weight.values.size() * sizeof(float);
    }
    return bytes;
}

Row measure_float(const Options::Model &files, const Texts &texts, ThreadPool &pool) {
    Llama model(files.directory, pool);
    LinearHooks none;
    Row row;
    row.model = files.name;
    row.perplexity = perplexity(model, texts.test, none);
    row.weight_bytes_before = row.weight_bytes_after = weight_bytes(model);
    return row;
}

Row measure(const Options::Model &files, const Configuration &config, const Texts &texts,
            ThreadPool &pool) {
    Llama model(files.directory, pool); // anew, for quantizing changes its weights
    const auto start = std::chrono::steady_clock::now();
    Quantizer quantizer(model, pool.size());
    in_context(files.name + ", " + config.name,
               [&] { quantizer.quantize(config.text, texts.calibration); });
    Row row;
    row.quantize_seconds = seconds_since(start);
    row.model = files.name;
    row.config = config.name;
    row.forward_passes = quantizer.forward_passes();
    row.effective_bits = quantizer.effective_bits();
    row.weight_bytes_before = quantizer.weight_bytes().before;
    row.weight_bytes_after = quantizer.weight_bytes().after;
    row.perplexity = perplexity(model, texts.test, quantizer);
    return row;
}

void run(const Options &options) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Configuration> configs = read_configurations(options);
    std::vector<std::string> config_names;
    for (const Configuration &config : configs) {
        config_names.push_back(config.name);
    }
    std::vector<std::string> names;
    for (const Options::Model &files : options.models) {
        names.push_back(files.name);
    }

    ThreadPool pool;
    Report report(names, config_names);
    const std::string &text_directory = options.models.front().directory;
    for (const Options::Model &files : options.models) {
        const std::size_t length = read_config(files.directory + "/config.json").context;
        const Texts texts = {{text_directory + "/calib.bin", length},
                             {text_directory + "/test.bin", length}};
        const bool is_first = &files == &options.models.front();
        const Row baseline = measure_float(files, texts, pool);
        report.add(baseline, baseline.perplexity);
        for (const Configuration &config : configs) {
            if (is_first || !config.first_model_only) {
                report.add(measure(files, config, texts, pool), baseline.perplexity);
            }
        }
    }
    std::printf(
        "eff. bits: mean over all weights of linear layers; "
        "passes: over the calibration text; weights: linear layers, packed where quantized\n"
        "%.0f s with %zu threads\n",
        seconds_since(start), pool.size());
    if (!options.report.empty()) {
        report.write(options.report);
    }
}

} // namespace

int main(int argc, char **argv) {
    const std::optional<Options> options = parse_options({argv + 1, argv + argc});
    if (!options) {
        std::fputs(kUsage, stderr);
        return 2;
    }
    try {
        run(*options);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "tiny_llama: %s\n", error.what());
        return 1;
    }
    return 0;
}
