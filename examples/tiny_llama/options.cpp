// Reads arguments from left to right.
#include "options.hpp"

#include <cstddef>
#include <filesystem>

namespace tiny_llama {

const char *const kUsage =
    "usage: tiny_llama [NAME=]MODEL_DIR... [--config CONFIG]... [--report FILE]\n"
    "\n"
    "  MODEL_DIR        has config.json and model.safetensors; the first one also has the texts\n"
    "                   for all, calib.bin and test.bin. NAME is what the table calls it.\n"
    "  --config CONFIG  one of mq's presets, or a configuration in a file that ends in .json, or\n"
    "                   PRESET+PRESET@BITS, a search of one of these, or none, for every layer,\n"
    "                   with so many bits of a weight on average; without it the program has a\n"
    "                   list of its own, of which it leaves some to the first model.\n"
    "  --report FILE    writes the table as JSON, and beside it what each search found:\n"
    "                   NAME-PRESET+PRESET.json, of which `python -m mq.report` makes a page.\n";

Options::Model parse_model(const std::string &argument) {
    const std::size_t equals = argument.find('=');
    if (equals != std::string::npos) {
        return {argument.substr(0, equals), argument.substr(equals + 1)};
    }
    const std::filesystem::path ending_in_slash = std::filesystem::path(argument) / "";
    return {ending_in_slash.parent_path().filename().string(), argument};
}

std::optional<Options> parse_options(const std::vector<std::string> &arguments) {
    Options options;
    for (auto argument = arguments.begin(); argument != arguments.end(); ++argument) {
        const bool is_config = *argument == "--config";
        if (is_config || *argument == "--report") {
            if (++argument == arguments.end() || argument->empty()) {
                return std::nullopt;
            }
            if (is_config) {
                options.configs.push_back(*argument);
            } else {
                options.report = *argument;
            }
        } else if (argument->empty() || argument->front() == '-') {
            return std::nullopt;
        } else {
            options.models.push_back(parse_model(*argument));
        }
    }
    return options.models.empty() ? std::nullopt : std::optional(options);
}

} // namespace tiny_llama
