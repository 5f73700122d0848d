// tiny_llama_golden [NAME=]MODEL_DIR...: checks the engine against logits recorded in golden.json,
// which lies with the texts in the first directory and has every model by its name.
#include "error.hpp"
#include "file.hpp"
#include "json.hpp"
#include "llama.hpp"
#include "options.hpp"
#include "perplexity.hpp"
#include "sequences.hpp"
#include "thread_pool.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace tiny_llama;

// Two float32 forward passes in different orders of summation are 4e-5 apart.
constexpr double kLogitTolerance = 1e-3;
constexpr double kNatsTolerance = 1e-5;

void require(bool fact, const std::string &otherwise) {
    if (!fact) {
        throw std::runtime_error(otherwise);
    }
}

struct Difference {
    std::size_t logits = 0;
    double largest = 0;
};

// Checks the logits at one position.
void check_logits(const json::Array &expected, const float *row, std::size_t vocabulary,
                  Difference &difference) {
    require(expected.size() == vocabulary, "has " + std::to_string(expected.size()) + " logits");
    for (std::size_t i = 0; i < vocabulary; ++i) {
        const double apart = std::abs(expected[i].number() - static_cast<double>(row[i]));
        require(apart <= kLogitTolerance, // false for NaN
                "logit " + std::to_string(i) + " is " + std::to_string(row[i]) + ", expected " +
                    std::to_string(expected[i].number()));
        difference.largest = std::max(difference.largest, apart);
        ++difference.logits;
    }
}

void check_sequence(const json::Value &expected, const float *logits, const std::uint8_t *tokens,
                    const Config &config, Difference &difference) {
    for (const json::Member &position : expected.at("logits").object()) {
        in_context("position " + position.key, [&] {
            const std::size_t at = json::parse(position.key).count();
            require(at < config.context, "is outside the sequence");
            check_logits(position.value.array(), logits + at * config.vocabulary, config.vocabulary,
                         difference);
        });
    }

    const json::Array &argmax = expected.at("argmax_all_positions").array();
    require(argmax.size() == config.context, "argmax_all_positions has the wrong length");
    for (std::size_t at = 0; at < config.context; ++at) {
        const float *row = logits + at * config.vocabulary;
        const auto best =
            static_cast<std::size_t>(std::max_element(row, row + config.vocabulary) - row);
        require(best == argmax[at].count(), "position " + std::to_string(at) + ": argmax is " +
                                                std::to_string(best) + ", expected " +
                                                std::to_string(argmax[at].count()));
    }

    const double nats = mean_nats(logits, tokens, config.context, config.vocabulary);
    const double expected_nats = expected.at("mean_nats").number();
    require(std::abs(nats - expected_nats) <= kNatsTolerance,
            "mean nats are " + std::to_string(nats) + ", expected " +
                std::to_string(expected_nats));
}

void run(const Options::Model &files, const json::Value &golden, const std::string &texts) {
    const json::Array &sequences = golden.at("variants").at(files.name).at("sequences").array();

    ThreadPool pool;
    Llama model(files.directory, pool);
    const Config &config = model.config();
    const Sequences text(texts, config.context);
    require(!sequences.empty() && sequences.size() <= text.count(),
            "golden.json has " + std::to_string(sequences.size()) + " sequences");

    const std::size_t size = config.context * config.vocabulary;
    const float *logits = model.forward(text[0], sequences.size());
    Difference difference;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
        in_context("sequence " + std::to_string(i), [&] {
            require(sequences[i].at("index").count() == i, "is not number " + std::to_string(i));
            check_sequence(sequences[i], logits + i * size, text[i], config, difference);
        });
    }

    // Another division of the work must not change a bit.
    ThreadPool other_pool(pool.size() + 1);
    Llama other(files.directory, other_pool);
    require(std::equal(logits, logits + sequences.size() * size,
                       other.forward(text[0], sequences.size())),
            "the logits depend on the number of threads");

    std::printf("golden: %s, %zu logits, max abs diff %.2g\n", files.name.c_str(),
                difference.logits, difference.largest);
}

void run(const std::vector<Options::Model> &models) {
    const std::string &texts = models.front().directory;
    const std::string path = texts + "/golden.json";
    const std::string document = read_file(path);
    const json::Value golden = in_context(path, [&] { return json::parse(document); });
    for (const Options::Model &files : models) {
        in_context(files.name, [&] { run(files, golden, texts + "/test.bin"); });
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: tiny_llama_golden [NAME=]MODEL_DIR...\n");
        return 2;
    }
    try {
        std::vector<Options::Model> models;
        for (int i = 1; i < argc; ++i) {
            models.push_back(parse_model(argv[i]));
        }
        run(models);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "golden: %s\n", error.what());
        return 1;
    }
    return 0;
}
