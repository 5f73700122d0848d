// tiny_llama_check REPORT EXPECTED: compares the perplexities of a report with expected ones.
#include "error.hpp"
#include "file.hpp"
#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

using namespace tiny_llama;

// A quantized model may be better than expected, but not worse by more than this; the float model
// may be neither. Wide enough for another order of summation, which moves values across rounding
// boundaries, and for dynamic scales, which depend on the batch. It does not tell a format that
// changes little from float; that the bits are right is for mq's own tests.
constexpr double kTolerance = 0.0005;

json::Value read_json(const std::string &path) {
    const std::string text = read_file(path);
    return in_context(path, [&] { return json::parse(text); });
}

// How much worse a row is than expected, relative to that; negative when it is better.
double check_row(const json::Value &row, const json::Value &perplexities) {
    const std::string &model = row.at("model").string();
    const std::string &config = row.at("config").string();
    return in_context(model + ", " + config, [&] {
        const double expected = perplexities.at(model).at(config).number();
        const double perplexity = row.at("perplexity").number();
        const double worse = perplexity / expected - 1;
        const double apart = config == "FP32" ? std::abs(worse) : worse;
        if (!(apart <= kTolerance)) { // also when it is NaN
            throw std::runtime_error("perplexity is " + std::to_string(perplexity) + ", expected " +
                                     std::to_string(expected));
        }
        if (worse < -kTolerance) {
            std::printf("check: %s, %s: perplexity is %f, better than the expected %f\n",
                        model.c_str(), config.c_str(), perplexity, expected);
        }
        return worse;
    });
}

// Nobody else has measured these configurations of this model.
bool has_no_figure(const json::Value &row, const json::Value &without_figure) {
    const json::Array &configs = without_figure.array();
    return std::any_of(configs.begin(), configs.end(), [&](const json::Value &config) {
        return row.at("config").string() == config.string();
    });
}

void check_presence(const json::Array &rows, const std::string &model, const std::string &config) {
    const bool is_there = std::any_of(rows.begin(), rows.end(), [&](const json::Value &row) {
        return row.at("model").string() == model && row.at("config").string() == config;
    });
    if (!is_there) {
        throw std::runtime_error(model + ", " + config + ": the row is missing");
    }
}

void run(const std::string &report_path, const std::string &expected_path) {
    const json::Value report = read_json(report_path);
    const json::Value expected = read_json(expected_path);
    const json::Array &rows = report.at("rows").array();

    double worst = 0;
    std::size_t compared = 0;
    for (const json::Value &row : rows) {
        if (!has_no_figure(row, expected.at("without_figure"))) {
            worst = std::max(worst, check_row(row, expected.at("perplexity")));
            ++compared;
        }
    }
    for (const json::Member &model : expected.at("required").object()) {
        for (const json::Value &config : model.value.array()) {
            check_presence(rows, model.key, config.string());
        }
    }
    std::printf(
        "check: %zu perplexities as expected, at most %.1g %% worse; %zu without a figure\n",
        compared, 100 * worst, rows.size() - compared);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: tiny_llama_check REPORT EXPECTED\n");
        return 2;
    }
    try {
        run(argv[1], argv[2]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "check: %s\n", error.what());
        return 1;
    }
    return 0;
}
