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
    "INT8_DEFAULT_CFG",               // weights: a scale per row; activations: a scale per tensor
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

// What mq takes for a configuration: the name of a preset as it is, or the content of a file.
std::string read_configuration(const std::string &config) {
    const bool is_file = std::filesystem::path(config).extension() == ".json";
    return is_file ? read_file(config) : config;
}

Row measure_float(const Options::Model &files, const Texts &texts, ThreadPool &pool) {
    Llama model(files.directory, pool);
    LinearHooks none;
    Row row;
    row.model = files.name;
    row.perplexity = perplexity(model, texts.test, none);
    return row;
}

Row measure(const Options::Model &files, const std::string &config, const Texts &texts,
            ThreadPool &pool) {
    const std::string configuration = read_configuration(config);
    Llama model(files.directory, pool); // anew, for quantizing changes its weights
    const auto start = std::chrono::steady_clock::now();
    Quantizer quantizer(model, pool.size());
    in_context(config, [&] { quantizer.quantize(configuration, texts.calibration); });
    Row row;
    row.quantize_seconds = seconds_since(start);
    row.model = files.name;
    row.config = config;
    row.forward_passes = quantizer.forward_passes();
    row.effective_bits = quantizer.effective_bits();
    row.perplexity = perplexity(model, texts.test, quantizer);
    return row;
}

void run(const Options &options) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::string> &configs = options.configs.empty() ? kConfigs : options.configs;
    std::vector<std::string> names;
    for (const Options::Model &files : options.models) {
        names.push_back(files.name);
    }

    ThreadPool pool;
    Report report(names, configs);
    const std::string &text_directory = options.models.front().directory;
    for (const Options::Model &files : options.models) {
        const std::size_t length = read_config(files.directory + "/config.json").context;
        const Texts texts = {{text_directory + "/calib.bin", length},
                             {text_directory + "/test.bin", length}};
        const Row baseline = measure_float(files, texts, pool);
        report.add(baseline, baseline.perplexity);
        for (const std::string &config : configs) {
            report.add(measure(files, config, texts, pool), baseline.perplexity);
        }
    }
    std::printf("eff. bits: mean over all weights of linear layers; "
                "passes: over the calibration text\n"
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
