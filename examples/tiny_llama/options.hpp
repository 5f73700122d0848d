// The command line of the program.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tiny_llama {

struct Options {
    struct Model {
        std::string name;
        std::string directory;
    };

    std::vector<Model> models;
    std::vector<std::string> configs; // empty: the program's own choice
    std::string report;               // empty: none
};

/// What parse_options() reads, for people.
extern const char *const kUsage;

/// "name=directory", or a directory, which is called by its last component.
Options::Model parse_model(const std::string &argument);

/// Nothing when the arguments are not as kUsage says. `arguments` begin behind the program's name.
std::optional<Options> parse_options(const std::vector<std::string> &arguments);

} // namespace tiny_llama
