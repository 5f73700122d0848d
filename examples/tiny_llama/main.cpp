// tiny_llama: the perplexity of models as they are, and under each of several quantizations.
#include "config.hpp"
#include "configurations.hpp"
#include "error.hpp"
#include "llama.hpp"
#include "options.hpp"
#include "perplexity.hpp"
#include "quantizer.hpp"
#include "report.hpp"
#include "search_files.hpp"
#include "sequences.hpp"
#include "thread_pool.hpp"

#include <chrono>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace tiny_llama;

struct Texts {
    Sequences calibration;
    Sequences test;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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

void quantize(Quantizer &quantizer, const Options::Model &files, const Configuration &config,
              const Sequences &calibration, const SearchFiles &search_files) {
    if (!config.is_search()) {
        quantizer.quantize(config.text, calibration);
        return;
    }
    const std::string checkpoint = search_files.checkpoint(files.name, config.name);
    quantizer.auto_quantize({config.text, config.effective_bits, checkpoint}, calibration);
    if (quantizer.forward_passes() > 0) { // else the checkpoint is that of a row before
        search_files.keep(files.name, config.name, quantizer.search_state());
    }
}

Row measure(const Options::Model &files, const Configuration &config, const Texts &texts,
            const SearchFiles &search_files, ThreadPool &pool) {
    Llama model(files.directory, pool); // anew, for quantizing changes its weights
    const auto start = std::chrono::steady_clock::now();
    Quantizer quantizer(model, pool.size());
    in_context(files.name + ", " + config.name,
               [&] { quantize(quantizer, files, config, texts.calibration, search_files); });
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
    const std::vector<Configuration> configs = read_configurations(options.configs);
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
    const SearchFiles search_files(options.report);
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
                report.add(measure(files, config, texts, search_files, pool), baseline.perplexity);
            }
        }
    }
    std::printf(
        "eff. bits: mean over all weights of linear layers; of a search: by its cost model, and "
        "behind @ its limit\n"
        "passes: forward, over the calibration text; weights: linear layers, packed where "
        "quantized\n"
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
