/* Callbacks that fail: the status, the value in the text, and a model that is exactly as before. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static void says_number(int32_t number) {
    char text[16];
    snprintf(text, sizeof text, "%ld", (long)number);
    CHECK_SAYS(text);
}

static void a_failing_pass_leaves_a_fresh_model_alone(void) {
    const int32_t results[] = {1, -1, 42, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        struct fixture fixture;
        struct snapshot snapshot;
        fixture_init(&fixture);
        snapshot_take(&snapshot, &fixture);
        struct pass pass = {&fixture, results[i], NULL, 0, 0};
        mq_forward_fn forward = forward_of(&pass);
        CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_ERR_CALLBACK);
        says_number(results[i]);
        CHECK(pass.calls == 1 && pass.released == 1);
        CHECK(snapshot_holds(&snapshot, &fixture));
        CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_ERR_STATE); /* still not quantized */
        CHECK_STATUS(mq_model_add_quantizer(fixture.model, "late_quantizer", NULL, NULL), MQ_OK);
        CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
        fixture_free(&fixture);
    }
}

static void a_failing_pass_leaves_a_quantized_model_alone(void) {
    static const char *const from[] = {INT8, FP8, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"}, *const to[] = {
                                                                                         INT8, FP8};
    for (int i = 0; i < 6; i++) {
        struct fixture fixture;
        struct snapshot snapshot;
        float x[ROWS * IN], before[ROWS * IN], after[ROWS * IN];
        fixture_init_quantized(&fixture, from[i / 2]);
        memcpy(x, fixture.x, sizeof x);
        CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, ROWS, IN), F32(before, ROWS, IN)), MQ_OK);
        snapshot_take(&snapshot, &fixture);
        fixture.x[0] = 99.0f; /* seen by the pass that fails */
        struct pass pass = {&fixture, 7, NULL, 0, 0};
        mq_forward_fn forward = forward_of(&pass);
        CHECK_STATUS(mq_quantize(fixture.model, to[i % 2], &forward), MQ_ERR_CALLBACK);
        CHECK(pass.released == 1);
        CHECK(snapshot_holds(&snapshot, &fixture));
        CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, ROWS, IN), F32(after, ROWS, IN)), MQ_OK);
        CHECK(memcmp(before, after, sizeof before) == 0);
        fixture_free(&fixture);
    }
}

static void a_failing_pass_undoes_a_sequence(void) {
    struct fixture fixture;
    struct snapshot snapshot;
    fixture_init_quantized(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]")));
    mq_quantizer *member = find_quantizer(fixture.model, "fc.weight_quantizer.1");
    int32_t enabled = 0;
    snapshot_take(&snapshot, &fixture);
    struct pass pass = {&fixture, 1, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_ERR_CALLBACK);
    CHECK(snapshot_holds(&snapshot, &fixture));
    CHECK_STATUS(mq_quantizer_is_enabled(member, &enabled), MQ_OK); /* it is not gone */
    CHECK(enabled == 1);
    fixture_free(&fixture);
}

static void a_failing_calibration_changes_nothing(void) {
    struct fixture fixture;
    struct snapshot snapshot;
    fixture_init_quantized(&fixture, INT8);
    snapshot_take(&snapshot, &fixture);
    fixture.x[0] = 50.0f;
    struct pass pass = {&fixture, 3, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_calibrate(fixture.model, "max", &forward), MQ_ERR_CALLBACK);
    CHECK(pass.calls == 1 && pass.released == 1);
    CHECK(snapshot_holds(&snapshot, &fixture));

    /* what the failed pass saw does not come back with the next one */
    float amax = 0.0f;
    size_t count = 0;
    fixture.x[0] = 1.0f;
    pass.result = 0;
    CHECK_STATUS(mq_calibrate(fixture.model, "max", &forward), MQ_OK);
    CHECK_STATUS(mq_quantizer_amax(fixture.input, &amax, 1, &count, NULL, NULL), MQ_OK);
    CHECK(count == 1 && amax == 2.0f);
    fixture_free(&fixture);
}

static void a_pass_nobody_waits_for_is_not_run(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    struct pass pass = {&fixture, 9, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG", &forward), MQ_OK);
    CHECK(pass.calls == 0 && pass.released == 1);
    fixture_free(&fixture);
}

struct stopper {
    int stop_at, calls, released;
};

static int32_t stop(void *user_data, const char *name, int32_t *selected) {
    struct stopper *stopper = user_data;
    *selected = name != NULL;
    return ++stopper->calls == stopper->stop_at ? -9 : 0;
}

static void stopper_release(void *user_data) { ((struct stopper *)user_data)->released++; }

static void a_failing_filter_changes_nothing(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    for (int stop_at = 1; stop_at <= 4; stop_at++) {
        for (int verb = 0; verb < 3; verb++) {
            struct stopper stopper = {stop_at, 0, 0};
            mq_filter_fn filter = {&stopper, stop, stopper_release};
            struct snapshot snapshot;
            size_t matched = 99;
            mq_status status;
            snapshot_take(&snapshot, &fixture);
            if (verb == 0) {
                status = mq_enable_quantizer_if(fixture.model, &filter, 0, &matched);
            } else if (verb == 1) {
                status =
                    mq_disable_quantizer_if(fixture.model, &filter, MQ_ALLOW_NO_MATCH, &matched);
            } else {
                status = mq_set_quantizer_attributes_if(fixture.model, &filter, "{\"num_bits\": 4}",
                                                        0, &matched);
            }
            CHECK_STATUS(status, MQ_ERR_CALLBACK);
            says_number(-9);
            CHECK(stopper.calls == stop_at && stopper.released == 1 && matched == 99);
            CHECK(snapshot_holds(&snapshot, &fixture));
        }
    }
    fixture_free(&fixture);
}

void test_callbacks(void) {
    a_failing_pass_leaves_a_fresh_model_alone();
    a_failing_pass_leaves_a_quantized_model_alone();
    a_failing_pass_undoes_a_sequence();
    a_failing_calibration_changes_nothing();
    a_pass_nobody_waits_for_is_not_run();
    a_failing_filter_changes_nothing();
}
