// The wrapper as a C++ host sees it.
#include <cstdio>

#include "check.hpp"

static int passed, failed;

void check_true(bool holds, const char *text, const char *file, int line) {
    if (holds) {
        passed++;
        return;
    }
    failed++;
    std::fprintf(stderr, "%s:%d: failed: %s\n    last error: %s\n", file, line, text,
                 mq_last_error_message());
}

int main() {
    try {
        CHECK(mq::version() == MQ_VERSION); // not some older libmq.so
        CHECK(mq::abi_version() == MQ_ABI_VERSION);
        CHECK(mq::status_name(MQ_ERR_CONFIG) == "MQ_ERR_CONFIG");
        test_tensors();
        test_model();
        test_callbacks();
        test_calibration();
        test_auto_quantize();
        test_compress();
        test_requantize();
        test_lifetime();
        test_second_unit(mq::Context());
    } catch (const std::exception &error) {
        std::fprintf(stderr, "stopped by: %s\n", error.what());
        failed++;
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
