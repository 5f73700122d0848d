// Runs a grid in several orders: a kernel whose result depends on the order has a race.
#include <cstdio>
#include <cstring>

#include "device_memory.h"
#include "launch.h"

namespace cuda_on_cpu {

using Contents = std::vector<std::vector<unsigned char>>;

static Contents save() {
    Contents contents;
    mock::device_memory().for_each([&](mock::Allocation &allocation) {
        mock::device_memory().open(allocation);
        contents.emplace_back(allocation.start, allocation.start + allocation.bytes);
    });
    mock::device_memory().close();
    return contents;
}

static void restore(const Contents &contents) {
    size_t i = 0;
    mock::device_memory().for_each([&](mock::Allocation &allocation) {
        mock::device_memory().open(allocation);
        std::memcpy(allocation.start, contents[i++].data(), allocation.bytes);
    });
    mock::device_memory().close();
}

// Empty when nothing differs.
static std::string difference(const Contents &a, const Contents &b) {
    std::string text;
    size_t i = 0;
    mock::device_memory().for_each([&](mock::Allocation &allocation) {
        if (text.empty() && a[i] != b[i]) {
            size_t at = 0;
            while (a[i][at] == b[i][at]) {
                ++at;
            }
            char line[160];
            std::snprintf(line, sizeof line, "byte %zu of the allocation of %zu bytes at %p", at,
                          allocation.bytes, static_cast<void *>(allocation.start));
            text = line;
        }
        ++i;
    });
    return text;
}

Fault run_grid_checked(const Launch &launch, const Order &order) {
    const Contents before = save();
    const struct {
        Order order;
        const char *name;
    } others[] = {{{Order::Kind::Reverse, 0}, "reverse"},
                  {{Order::Kind::Shuffle, order.seed + 1}, "shuffled"}};
    Fault fault = run_grid(launch, {Order::Kind::Forward, 0}, 1);
    const Contents forward = save();
    for (const auto &other : others) {
        if (fault.status != 0) {
            return fault;
        }
        restore(before);
        fault = run_grid(launch, other.order, 1);
        std::string differs = difference(forward, save());
        if (fault.status == 0 && !differs.empty()) {
            fault = {kLaunchFailed, std::string("kernel ") + launch.kernel->name +
                                        ": the result depends on the order of threads: forward and " +
                                        other.name + " differ first in " + differs};
        }
    }
    return fault;
}

} // namespace cuda_on_cpu
