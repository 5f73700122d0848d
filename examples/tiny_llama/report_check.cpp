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

// Wide enough for another order of summation, which moves values across rounding boundaries, and
// for dynamic scales, which depend on the batch. It does not tell a format that changes little from
// float; that the bits are right is for mq's own tests.
constexpr double kTolerance = 0.0005;

// Where layers that serving engines fuse share a scale here, and have one each in the expected
// figure.
constexpr double kToleranceOfSharedScales = 0.005;

json::Value read_json(const std::string &path) {
    const std::string text = read_file(path);
    return in_context(path, [&] { return json::parse(text); });
}

bool names(const json::Value &configs, const json::Value &row) {
    const json::Array &all = configs.array();
    return std::any_of(all.begin(), all.end(), [&](const json::Value &config) {
        return row.at("config").string() == config.string();
    });
}

// How much worse a row is than expected, relative to that; negative when it is better, which only
// configurations may be that search for something.
double check_row(const json::Value &row, const json::Value &expected) {
    const std::string &model = row.at("model").string();
    const std::string &config = row.at("config").string();
    return in_context(model + ", " + config, [&] {
        const double figure = expected.at("perplexity").at(model).at(config).number();
        const double perplexity = row.at("perplexity").number();
        const double worse = perplexity / figure - 1;
        const bool may_be_better = names(expected.at("may_be_better"), row);
        const double apart = may_be_better ? worse : std::abs(worse);
        const bool shares = names(expected.at("shared_scales"), row);
        if (!(apart <= (shares ? kToleranceOfSharedScales : kTolerance))) { // also when it is NaN
            throw std::runtime_error("perplexity is " + std::to_string(perplexity) + ", expected " +
                                     std::to_string(figure));
        }
        return worse;
    });
}

const json::Value &find_row(const json::Array &rows, const std::string &model,
                            const std::string &config) {
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const json::Value &row) {
        return row.at("model").string() == model && row.at("config").string() == config;
    });
    if (found == rows.end()) {
        throw std::runtime_error(model + ", " + config + ": the row is missing");
    }
    return *found;
}

// That a search keeps to its limit, and that what it spends beyond the cheapest of its formats is
// worth something.
void check_search(const json::Value &row, const json::Array &rows, const json::Value &search) {
    const std::string &model = row.at("model").string();
    in_context(model + ", " + row.at("config").string(), [&] {
        const double bits = row.at("effective_bits").number();
        const double limit = search.at("at_most_bits").number();
        if (!(bits <= limit)) { // also when it is NaN
            throw std::runtime_error("effective bits are " + std::to_string(bits) +
                                     ", expected at most " + std::to_string(limit));
        }
        const std::string &config = search.at("better_than").string();
        const double perplexity = row.at("perplexity").number();
        const double other = find_row(rows, model, config).at("perplexity").number();
        if (!(perplexity < other)) {
            throw std::runtime_error("perplexity is " + std::to_string(perplexity) +
                                     ", expected less than that of " + config + ", " +
                                     std::to_string(other));
        }
    });
}

void run(const std::string &report_path, const std::string &expected_path) {
    const json::Value report = read_json(report_path);
    const json::Value expected = read_json(expected_path);
    const json::Array &rows = report.at("rows").array();

    double worst = 0;
    std::size_t compared = 0;
    std::size_t searched = 0;
    for (const json::Value &row : rows) {
        const json::Value *search = expected.at("searched").find(row.at("config").string());
        if (search != nullptr) {
            check_search(row, rows, *search);
            ++searched;
        }
        if (!names(expected.at("without_figure"), row)) { // nobody else has measured these
            worst = std::max(worst, check_row(row, expected));
            ++compared;
        }
    }
    for (const json::Member &model : expected.at("required").object()) {
        for (const json::Value &config : model.value.array()) {
            find_row(rows, model.key, config.string());
        }
    }
    std::printf("check: %zu perplexities as expected, at most %.1g %% worse; %zu without a figure; "
                "%zu searches within their bits, better than their cheapest format\n",
                compared, 100 * worst, rows.size() - compared, searched);
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
