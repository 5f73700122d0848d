// The names of settings and counters, and the settings' values from the environment.
#include "control.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "driver.h"
#include "thread_state.h"

namespace mock {

static std::map<std::string, int64_t *> setting_names(Settings &s) {
    return {{"devices", &s.devices},
            {"driver_version", &s.driver_version},
            {"memory_limit_bytes", &s.memory_limit_bytes},
            {"compute_capability", &s.compute_capability},
            {"multiprocessors", &s.multiprocessors},
            {"memory_pools", &s.memory_pools},
            {"threads", &s.threads},
            {"check", &s.check},
            {"late_errors", &s.late_errors},
            {"null_pointer_context", &s.null_pointer_context},
            {"fail_allocation_after", &s.fail_allocation_after},
            {"fail_launch_after", &s.fail_launch_after},
            {"fail_launch_error", &s.fail_launch_error},
            {"cublas_version", &s.cublas_version},
            {"fail_cublas_create", &s.fail_cublas_create},
            {"fail_cublas_product", &s.fail_cublas_product}};
}

static std::map<std::string, int64_t *> counter_names(Counters &c) {
    return {{"launches", &c.launches},
            {"graph_launches", &c.graph_launches},
            {"synchronizations", &c.synchronizations},
            {"allocations", &c.allocations},
            {"live_allocations", &c.live_allocations},
            {"live_bytes", &c.live_bytes},
            {"peak_bytes", &c.peak_bytes},
            {"host_to_device_bytes", &c.host_to_device_bytes},
            {"device_to_host_bytes", &c.device_to_host_bytes},
            {"device_to_device_bytes", &c.device_to_device_bytes},
            {"retained", &c.retained},
            {"contexts", &c.contexts},
            {"modules", &c.modules},
            {"streams", &c.streams},
            {"events", &c.events},
            {"graphs", &c.graphs},
            {"graph_execs", &c.graph_execs},
            {"host_allocations", &c.host_allocations},
            {"faults", &c.faults},
            {"cublas_handles", &c.cublas_handles},
            {"cublas_products", &c.cublas_products}};
}

static void read_order(const char *text, cuda_on_cpu::Order &order) {
    using Kind = cuda_on_cpu::Order::Kind;
    if (std::strcmp(text, "reverse") == 0) {
        order.kind = Kind::Reverse;
    } else if (std::strncmp(text, "shuffle", 7) == 0) {
        order = {Kind::Shuffle, text[7] == ':' ? std::strtoull(text + 8, nullptr, 10) : 1};
    } else if (std::strcmp(text, "forward") != 0) {
        std::fprintf(stderr, "mq mock: MQ_MOCK_ORDER is forward, reverse or shuffle:SEED, not %s\n",
                     text);
        std::abort();
    }
}

// MQ_MOCK_ and the name in capitals; MQ_MOCK_MEMORY_LIMIT needs no _BYTES.
static Settings from_environment() {
    Settings s = {1,  12080, int64_t{80} << 30,  90,     16, 1, 2, 0, 0, 0,
                  -1, -1,    kLaunchFailedError, 120804, 0,  0, {}};
    for (auto &entry : setting_names(s)) {
        std::string variable = "MQ_MOCK_";
        for (char letter : entry.first) {
            variable += static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 32 : letter);
        }
        const char *text = std::getenv(variable.c_str());
        if (text == nullptr && entry.first == "memory_limit_bytes") {
            text = std::getenv("MQ_MOCK_MEMORY_LIMIT");
        }
        if (text != nullptr) {
            *entry.second = std::strtoll(text, nullptr, 10);
        }
    }
    if (const char *text = std::getenv("MQ_MOCK_ORDER")) {
        read_order(text, s.order);
    }
    return s;
}

Settings &settings() {
    static Settings current = from_environment();
    return current;
}

Counters &counters() {
    static Counters current = {};
    return current;
}

} // namespace mock

int64_t mq_mock_get(const char *what) {
    std::lock_guard<std::recursive_mutex> lock(mock::driver_mutex());
    if (std::strcmp(what, "current_context_depth") == 0) {
        return cuda_on_cpu::thread_state.context_depth;
    }
    for (const auto &names :
         {mock::counter_names(mock::counters()), mock::setting_names(mock::settings())}) {
        auto found = names.find(what);
        if (found != names.end()) {
            return *found->second;
        }
    }
    return -1;
}

void mq_mock_count(const char *what, int64_t more) {
    std::lock_guard<std::recursive_mutex> lock(mock::driver_mutex());
    auto names = mock::counter_names(mock::counters());
    auto found = names.find(what);
    if (found != names.end()) {
        *found->second += more;
    }
}

int mq_mock_set(const char *what, int64_t value) {
    std::lock_guard<std::recursive_mutex> lock(mock::driver_mutex());
    mock::Settings &settings = mock::settings();
    mock::Counters &counters = mock::counters();
    if (std::strcmp(what, "reset") == 0) {
        counters.launches = counters.graph_launches = counters.synchronizations = 0;
        counters.allocations = counters.faults = counters.host_to_device_bytes = 0;
        counters.device_to_host_bytes = counters.device_to_device_bytes = 0;
        counters.peak_bytes = counters.live_bytes;
        counters.cublas_products = 0;
        return 0;
    }
    // Below 0: forward; 0: reverse; else the seed of a shuffle.
    if (std::strcmp(what, "order") == 0) {
        using Kind = cuda_on_cpu::Order::Kind;
        settings.order = {value < 0    ? Kind::Forward
                          : value == 0 ? Kind::Reverse
                                       : Kind::Shuffle,
                          static_cast<uint64_t>(value)};
        return 0;
    }
    auto names = mock::setting_names(settings);
    auto found = names.find(what);
    if (found == names.end()) {
        return -1;
    }
    *found->second = value;
    return 0;
}
