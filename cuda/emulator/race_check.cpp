// Runs a grid in several orders: a kernel whose result depends on the order has a race.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

#include "device_memory.h"
#include "launch.h"

namespace cuda_on_cpu {

using Bytes = std::vector<unsigned char>;
using Contents = std::map<mock::Allocation *, Bytes>;

// Visits what the kernel has touched in any of its runs. All else is as it was.
static void for_each_touched(const std::function<void(mock::Allocation &)> &visit) {
    mock::device_memory().for_each([&](mock::Allocation &allocation) {
        if (allocation.is_recorded) {
            mock::device_memory().open(allocation);
            visit(allocation);
        }
    });
    mock::device_memory().close();
}

static Contents save() {
    Contents contents;
    for_each_touched([&](mock::Allocation &allocation) {
        contents[&allocation].assign(allocation.start, allocation.start + allocation.bytes);
    });
    return contents;
}

static void restore() {
    for_each_touched([](mock::Allocation &allocation) {
        std::memcpy(allocation.start, allocation.before.data(), allocation.bytes);
    });
}

// Where memory is not as the first run has left it; empty when it is.
static std::string difference(const Contents &first) {
    std::string text;
    for_each_touched([&](mock::Allocation &allocation) {
        auto found = first.find(&allocation);
        // What only a later run has touched, the first one has left as it was.
        const Bytes &wanted = found == first.end() ? allocation.before : found->second;
        if (text.empty() && std::memcmp(wanted.data(), allocation.start, allocation.bytes) != 0) {
            size_t at = 0;
            while (wanted[at] == allocation.start[at]) {
                ++at;
            }
            char line[160];
            std::snprintf(line, sizeof line, "byte %zu of the allocation of %zu bytes at %p", at,
                          allocation.bytes, static_cast<void *>(allocation.start));
            text = line;
        }
    });
    return text;
}

Fault run_grid_checked(const Launch &launch, const Order &order) {
    const struct {
        Order order;
        const char *name;
    } others[] = {{{Order::Kind::Reverse, 0}, "reverse"},
                  {{Order::Kind::Shuffle, order.seed + 1}, "shuffled"}};
    mock::device_memory().record(true);
    // On one OS thread: the handler of faults records, and orders are to be what they say.
    Fault fault = run_grid(launch, {Order::Kind::Forward, 0}, 1);
    const Contents forward = save();
    for (const auto &other : others) {
        if (fault.status != 0) {
            break;
        }
        restore();
        fault = run_grid(launch, other.order, 1);
        std::string differs = difference(forward);
        if (fault.status == 0 && !differs.empty()) {
            fault = {kLaunchFailed,
                     std::string("kernel ") + launch.kernel->name +
                         ": the result depends on the order of threads: forward and " + other.name +
                         " differ first in " + differs};
        }
    }
    mock::device_memory().record(false);
    return fault;
}

} // namespace cuda_on_cpu
