// Configurations that have a name.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_PRESETS_HPP
#define MQ_PRESETS_HPP

#include <cstddef>
#include <string>
#include <vector>

#include "../mq.h"
#include "base.hpp"

namespace mq {

/// Names of all presets.
inline std::vector<std::string> presets() {
    std::vector<std::string> names;
    for (size_t i = 0; i < mq_preset_count(); ++i)
        names.push_back(detail::copied_text(mq_preset_name, i));
    return names;
}

/// The configuration of a preset as JSON.
inline std::string preset_json(const std::string &name) {
    return detail::copied_text(mq_preset_json, name.c_str());
}

} // namespace mq

#endif // MQ_PRESETS_HPP
