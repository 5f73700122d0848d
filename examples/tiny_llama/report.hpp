// What the program measured: a table for people and a JSON file for programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tiny_llama {

/// A model under a configuration. The defaults are those of the model as it is.
struct Row {
    std::string model;
    std::string config;
    double perplexity = 0;
    double effective_bits = 16; // files store weights as BF16, though the engine computes in float
    double quantize_seconds = 0;
    std::size_t forward_passes = 0;
};

/// Prints to the standard output, row by row as they come.
class Table {
  public:
    /// Prints the head. The columns are as wide as the names that will come.
    Table(const std::vector<std::string> &models, const std::vector<std::string> &configs);

    /// Prints a row, and how far its perplexity is from that of `baseline`, the float model.
    void print(const Row &row, const Row &baseline) const;

  private:
    int model_width_;
    int config_width_;
};

/// Writes {"rows": [...]}, keys as in Row. Throws std::runtime_error naming the file.
void write_report(const std::string &path, const std::vector<Row> &rows);

} // namespace tiny_llama
