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

const std::vector<std::string> kConfigs = {
    "INT8_DEFAULT_CFG",               // weights: a scale per row; activations: one per tensor
    "FP8_DEFAULT_CFG",                // E4M3; weights and activations: a scale per tensor
    "INT8_WEIGHT_ONLY_CFG",           // a scale per row
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG", // a scale per 128 values of a row
};

struct Texts {
    Sequences calibration;
    Sequences test;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What mq takes: the name of a preset as it is, or the content of a file.
std::string read_configuration(const std::string &config) {
    const bool is_file = std::filesystem::path(config).extension() == ".json";
    return is_file ? read_file(config) : config;
}

Row measure_float(Llama &model, const Texts &texts) {
    LinearHooks none;
    Row row;
    row.config = "FP32";
    row.perplexity = perplexity(model, texts.test, none);
    return row;
}

Row measure(Llama &model, const std::string &config, const Texts &texts, std::size_t threads) {
    const std::string configuration = read_configuration(config);
    const auto start = std::chrono::steady_clock::now();
    Quantizer quantizer(model, threads);
    quantizer.quantize(configuration, texts.calibration);
    Row row;
    row.config = config;
    row.quantize_seconds = seconds_since(start);
    row.forward_passes = quantizer.forward_passes();
    row.effective_bits = quantizer.effective_bits();
    row.perplexity = perplexity(model, texts.test, quantizer);
    return row;
}

void run(const Options &options) {
    const auto start = std::chrono::steady_clock::now();
    const std::string &text_directory = options.models.front().directory;
    const std::vector<std::string> &configs = options.configs.empty() ? kConfigs : options.configs;
    ThreadPool pool;
    Table table(options.models, configs);
    for (const Options::Model &named : options.models) {
        Llama model(named.directory, pool);
        const std::size_t length = model.config().context;
        const Texts texts = {{text_directory + "/calib.bin", length},
                             {text_directory + "/test.bin", length}};
    }
}

} // namespace
