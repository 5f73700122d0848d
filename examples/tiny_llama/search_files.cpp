// Names the files of searches and cleans up behind them.
#include "search_files.hpp"

#include <algorithm>
#include <fstream>
#include <random>
#include <stdexcept>
#include <system_error>

namespace tiny_llama {
namespace {

namespace fs = std::filesystem;

// Of this run only: an earlier one's checkpoint may be that of another model of the same name.
fs::path new_directory() {
    std::random_device random;
    const fs::path parent = fs::temp_directory_path();
    fs::path path;
    do {
        path = parent / ("tiny_llama-" + std::to_string(random()));
    } while (!fs::create_directory(path)); // false: it is someone else's
    return path;
}

std::string file_name(const std::string &model, const std::string &config) {
    std::string name = model + "-" + config.substr(0, config.rfind('@'));
    std::replace(name.begin(), name.end(), '/', '_');
    return name;
}

} // namespace

SearchFiles::SearchFiles(const std::string &report)
    : keeps_(!report.empty()), beside_report_(fs::path(report).parent_path()),
      checkpoints_(new_directory()) {}

SearchFiles::~SearchFiles() {
    std::error_code ignored; // a destructor cannot tell
    fs::remove_all(checkpoints_, ignored);
}

std::string SearchFiles::checkpoint(const std::string &model, const std::string &config) const {
    return (checkpoints_ / file_name(model, config)).string();
}

void SearchFiles::keep(const std::string &model, const std::string &config,
                       const std::string &state) const {
    if (!keeps_) {
        return;
    }
    const std::string path = (beside_report_ / (file_name(model, config) + ".json")).string();
    std::ofstream file(path);
    file << state << "\n";
    if (!file.flush()) {
        throw std::runtime_error(path + ": cannot be written");
    }
}

} // namespace tiny_llama
