// Runs all tests of the emulator and the mock driver, under the settings that the environment
// gives.
#include "check.h"

#include <cstdlib>

int passed, failed;

int main() {
    if (mq_mock_get("devices") == 0) {
        CHECK_IS(cuInit(0), kNoDevice);
    } else {
        int count = 0;
        CHECK_IS(cuDeviceGetCount(&count), kNotInitialized);
        CHECK_IS(mq_mock_set("devices", 2), 0);
        test_devices();
        test_primitives();
        test_memory();
        test_streams();
        test_capture();
        test_contexts();
        test_faults();
        test_order();
        test_cublas();
        for (const char *what :
             {"contexts", "streams", "events", "graphs", "graph_execs", "retained",
              "live_allocations", "live_bytes", "current_context_depth"}) {
            if (mq_mock_get(what) != 0) {
                std::fprintf(stderr, "left: %s\n", what);
            }
            CHECK_IS(mq_mock_get(what), 0);
        }
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
