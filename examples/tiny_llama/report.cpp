// Prints and writes rows.
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

template <typename... Arguments>
std::string formatted(const char *format, const Arguments &...arguments) {
    char buffer[64] = "";
    std::snprintf(buffer, sizeof buffer, format, arguments...);
    return buffer;
}

std::string json_number(double value) {
    return std::isfinite(value) ? formatted("%.10g", value) : "null";
}

std::string json_string(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x20) {
            result += formatted("\\u%04x", static_cast<unsigned>(c));
        } else {
            result += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
        }
    }
    return result + '"';
}

std::string json_row(const Row &row) {
    return "{\"model\": " + json_string(row.model) + ", \"config\": " + json_string(row.config) +
           ", \"perplexity\": " + json_number(row.perplexity) +
           ", \"effective_bits\": " + json_number(row.effective_bits) +
           ", \"quantize_seconds\": " + json_number(row.quantize_seconds) +
           ", \"forward_passes\": " + std::to_string(row.forward_passes) + "}";
}

} // namespace

Table::Table(const std::vector<std::string> &models, const std::vector<std::string> &configs)
    : model_width_(widest("model", models)), config_width_(widest("config", configs)) {
    std::printf("%-*s  %-*s  perplexity    change  eff. bits  quantize s  passes\n", model_width_,
                "model", config_width_, "config");
}

void Table::print(const Row &row, const Row &baseline) const {
    const double change = 100 * (row.perplexity / baseline.perplexity - 1);
    std::printf("%-*s  %-*s  %10.4f  %+6.2f %%  %9.2f  %10.2f  %6zu\n", model_width_,
                row.model.c_str(), config_width_, row.config.c_str(), row.perplexity, change,
                row.effective_bits, row.quantize_seconds, row.forward_passes);
    std::fflush(stdout);
}

void write_report(const std::string &path, const std::vector<Row> &rows) {
    std::ofstream file(path);
    file << "{\"rows\": [";
    const char *separator = "\n  ";
    for (const Row &row : rows) {
        file << separator << json_row(row);
        separator = ",\n  ";
    }
    file << "\n]}\n";
    if (!file.flush()) {
        throw std::runtime_error(path + ": cannot be written");
    }
}

} // namespace tiny_llama
