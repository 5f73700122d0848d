// What the program quantizes models with, one row of its table each.
#pragma once

#include <string>
#include <vector>

namespace tiny_llama {

struct Configuration {
    std::string name; // in the table
    std::string text; // what mq takes: the name of a preset, or JSON
    /// JSON: what a search may spend, for which `text` is a list of formats; empty: no search.
    std::string effective_bits = {};
    /// Where a model with outliers has little to add, to save time.
    bool first_model_only = false;

    bool is_search() const { return !effective_bits.empty(); }
};

/// Those of --config: the name of a preset, a file that ends in .json, or "PRESET+PRESET@4.8", a
/// search; without any, the program's own.
std::vector<Configuration> read_configurations(const std::vector<std::string> &arguments);

} // namespace tiny_llama
