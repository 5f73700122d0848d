// The files that searches leave: what they calibrated and scored, and what people may look at.
#pragma once

#include <filesystem>
#include <string>

namespace tiny_llama {

/// Searches of one run of the program share checkpoints, which are gone after it.
class SearchFiles {
  public:
    /// States come to lie beside a report; nowhere when its path is empty. Throws
    /// std::filesystem::filesystem_error.
    explicit SearchFiles(const std::string &report);
    ~SearchFiles();
    SearchFiles(const SearchFiles &) = delete;
    SearchFiles &operator=(const SearchFiles &) = delete;

    /// The path for a search of a model, which "A+B@4.8" shares with "A+B@6.0".
    std::string checkpoint(const std::string &model, const std::string &config) const;

    /// Writes what a search found to "model-A+B.json". Throws std::runtime_error naming the file.
    void keep(const std::string &model, const std::string &config, const std::string &state) const;

  private:
    bool keeps_;
    std::filesystem::path beside_report_;
    std::filesystem::path checkpoints_; // a directory of ours
};

} // namespace tiny_llama
