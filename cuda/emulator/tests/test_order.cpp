// Results that depend on the order of threads are found by running in several.
#include "check.h"

static CUresult checked(const char *kernel, unsigned block, unsigned shared, bool with_sum) {
    Gpu gpu;
    std::vector<float> values(64);
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = i % 3 == 0 ? 1e8f : static_cast<float>(i) * 0.37f;
    }
    Buffer<float> x(values), sum(std::vector<float>{0.0f});
    int64_t before = mq_mock_get("check");
    mq_mock_set("check", 1);
    CUresult status = with_sum ? gpu.launch(kernel, 1, block, shared, {&x.address, &sum.address})
                               : gpu.launch(kernel, 1, block, shared, {&x.address});
    mq_mock_set("check", before);
    return status;
}

void test_order() {
    CHECK_IS(checked("missing_barrier", 64, 0, false), kLaunchFailedError);
    CHECK_IS(checked("missing_warp_barrier", 32, 128, false), kLaunchFailedError);
    CHECK_IS(checked("float_sum", 64, 0, true), kLaunchFailedError);
    CHECK_IS(checked("allowed_float_sum", 64, 0, true), kSuccess);
    CHECK_IS(checked("reverse_blocks", 64, 256, false), kSuccess);
    CHECK_IS(checked("add_one", 64, 0, false), kSuccess);

    // Without the check the orders can be chosen, and show it too.
    std::vector<std::vector<int>> results;
    int64_t was_checked = mq_mock_get("check");
    mq_mock_set("check", 0);
    for (int order : {-1, 0, 5}) {
        Gpu gpu;
        std::vector<int> values(64);
        for (int i = 0; i < 64; ++i) {
            values[static_cast<size_t>(i)] = i;
        }
        Buffer<int> x(values);
        mq_mock_set("order", order);
        CHECK_IS(gpu.launch("missing_barrier", 1, 64, 0, {&x.address}), kSuccess);
        results.push_back(x.read());
    }
    mq_mock_set("order", -1);
    mq_mock_set("check", was_checked);
    CHECK(results[0] != results[1]);
    CHECK(results[0] != results[2]);
}
