// What the program quantizes models with, one row of its table each.
#pragma once

#include <string>
#include <vector>

namespace tiny_llama {

struct Configuration {
    std::string name; // in the table
    std::string text; // what mq takes: the name of a preset, or JSON
    /// Where a model with outliers has little to add, to save time.
    bool first_model_only = false;
};

/// Those of --config: the name of a preset, or a file that ends in .json; without any, the
/// program's own.
std::vector<Configuration> read_configurations(const std::vector<std::string> &arguments);

} // namespace tiny_llama
