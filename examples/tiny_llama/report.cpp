// Prints rows as they come, writes them at the end.
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string_view>

namespace tiny_llama {
namespace {

int widest(std::string_view title, const std::vector<std::string> &names) {
    std::size_t width = title.size();
    for (const std::string &name : names) {
        width = std::max(width, name.size());
    }
    return static_cast<int>(width);
}

template <typename Value> std::string formatted(const char *format, Value value) {
    char buffer[32] = "";
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

// JSON has no NaN and no infinity.
std::string json(double value) { return std::isfinite(value) ? formatted("%.10g", value) : "null"; }

std::string json(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20) {
            result += formatted("\\u%04x", static_cast<unsigned>(byte));
        } else {
            result += c == '"' || c == '\\' ? "\\" : "";
            result += c;
        }
    }
    return result + "\"";
}

std::string json(const Row &row) {
    return "{\"model\": " + json(row.model) + ", \"config\": " + json(row.config) +
           ", \"perplexity\": " + json(row.perplexity) +
           ", \"effective_bits\": " + json(row.effective_bits) +
           ", \"quantize_seconds\": " + json(row.quantize_seconds) +
           ", \"forward_passes\": " + std::to_string(row.forward_passes) +
           ", \"weight_bytes_before\": " + std::to_string(row.weight_bytes_before) +
           ", \"weight_bytes_after\": " + std::to_string(row.weight_bytes_after) + "}";
}

} // namespace

Report::Report(const std::vector<std::string> &models, const std::vector<std::string> &configs)
    : model_width_(widest("model", models)), config_width_(widest("config", configs)) {
    std::printf("%-*s  %-*s  perplexity    change  eff. bits  quantize s  passes  weights KiB\n",
                model_width_, "model", config_width_, "config");
}

void Report::add(const Row &row, double float_perplexity) {
    const double change = 100 * (row.perplexity / float_perplexity - 1);
    std::printf("%-*s  %-*s  %10.4f  %+6.2f %%  %9.2f  %10.2f  %6zu  %11zu\n", model_width_,
                row.model.c_str(), config_width_, row.config.c_str(), row.perplexity, change,
                row.effective_bits, row.quantize_seconds, row.forward_passes,
                row.weight_bytes_after / 1024);
    std::fflush(stdout);
    rows_.push_back(row);
}

void Report::write(const std::string &path) const {
    std::ofstream file(path);
    file << "{\"rows\": [";
    const char *separator = "\n  ";
    for (const Row &row : rows_) {
        file << separator << json(row);
        separator = ",\n  ";
    }
    file << "\n]}\n";
    if (!file.flush()) {
        throw std::runtime_error(path + ": cannot be written");
    }
}

} // namespace tiny_llama
