// What the program measures: a table for people, and a JSON file for programs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tiny_llama {

/// A model under a configuration; the defaults are those of the model as it is.
struct Row {
    std::string model;
    std::string config = "FP32";
    double perplexity = 0;
    double effective_bits = 16; // stored as BF16, though computed with as float32
    double quantize_seconds = 0;
    std::size_t forward_passes = 0; // over the whole calibration text
    // Of all linear layers, as the engine holds them in memory (float32), and packed.
    std::size_t weight_bytes_before = 0;
    std::size_t weight_bytes_after = 0;
};

class Report {
  public:
    /// Prints the head of the table, its columns as wide as the names that will come.
    Report(const std::vector<std::string> &models, const std::vector<std::string> &configs);

    /// Prints a row, with the change against the perplexity of the float model, and keeps it.
    void add(const Row &row, double float_perplexity);

    /// Writes {"rows": [...]}, keys as in Row. Throws std::runtime_error naming the file.
    void write(const std::string &path) const;

  private:
    int model_width_;
    int config_width_;
    std::vector<Row> rows_;
};

} // namespace tiny_llama
