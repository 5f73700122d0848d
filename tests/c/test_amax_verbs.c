/* mq_postprocess_amax() and mq_reset_amax(). */
#include <math.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

struct process {
    float factor;
    int32_t result;
    int stop_at; /* the call that returns `result` */
    int calls, released;
    size_t values;
};

static int32_t multiply(void *user_data, const char *name, float *amax, size_t count) {
    struct process *process = user_data;
    process->calls++;
    process->values += count;
    for (size_t i = 0; i < count; i++) {
        amax[i] *= process->factor;
    }
    return name[0] != '\0' && process->calls == process->stop_at ? process->result : 0;
}

static void process_release(void *user_data) { ((struct process *)user_data)->released++; }

static void expect_amax(struct fixture *fixture, float input, float row0, float row1) {
    const float want[2] = {row0, row1};
    float values[2] = {0};
    size_t count = 0;
    CHECK_STATUS(mq_quantizer_amax(fixture->input, values, 2, &count, NULL, NULL), MQ_OK);
    CHECK(count == 1);
    CHECK_FLOATS(values, &input, 1);
    CHECK_STATUS(mq_quantizer_amax(fixture->weight_quantizer, values, 2, &count, NULL, NULL),
                 MQ_OK);
    CHECK(count == 2);
    CHECK_FLOATS(values, want, 2);
}

static void the_host_changes_amax_in_place(void) {
    struct fixture fixture;
    size_t matched = 0;
    fixture_init_quantized(&fixture, INT8);
    struct process process = {0.5f, 0, 0, 0, 0, 0};
    mq_amax_fn callback = {&process, multiply, process_release};
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &callback, 0, &matched), MQ_OK);
    CHECK(matched == 2 && process.calls == 2 && process.values == 3); /* those with an amax */
    CHECK(process.released == 1);
    expect_amax(&fixture, 1.0f, 2.0f, 0.25f);
    process.factor = 3.0f;
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*input*", &callback, 0, &matched), MQ_OK);
    CHECK(matched == 1 && process.released == 2);
    expect_amax(&fixture, 3.0f, 2.0f, 0.25f);

    /* the new amax is what the tap uses: it clips at 3 */
    float x[IN] = {9.0f, 0.0f, 0.0f, 0.0f}, want[IN] = {3.0f, 0.0f, 0.0f, 0.0f};
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    fixture_free(&fixture);
}

static void values_that_cannot_be_an_amax_are_refused(void) {
    const float factors[] = {-1.0f, NAN, INFINITY, -INFINITY};
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    for (int i = 0; i < 4; i++) {
        struct process process = {factors[i], 0, 0, 0, 0, 0};
        mq_amax_fn callback = {&process, multiply, process_release};
        struct snapshot snapshot;
        size_t matched = 99;
        snapshot_take(&snapshot, &fixture);
        CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &callback, 0, &matched),
                     MQ_ERR_NUMERIC);
        CHECK_SAYS("fc.");
        CHECK(matched == 99 && process.released == 1);
        CHECK(snapshot_holds(&snapshot, &fixture));
        expect_amax(&fixture, 2.0f, 4.0f, 0.5f);
    }
    struct process zero = {0.0f, 0, 0, 0, 0, 0}; /* finite and not negative */
    mq_amax_fn callback = {&zero, multiply, process_release};
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &callback, 0, NULL), MQ_OK);
    expect_amax(&fixture, 0.0f, 0.0f, 0.0f);
    fixture_free(&fixture);
}

static void a_failing_process_changes_nothing(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    for (int stop_at = 1; stop_at <= 2; stop_at++) { /* also after the first was changed */
        struct process process = {0.5f, 42, stop_at, 0, 0, 0};
        mq_amax_fn callback = {&process, multiply, process_release};
        struct snapshot snapshot;
        size_t matched = 99;
        snapshot_take(&snapshot, &fixture);
        CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &callback, 0, &matched),
                     MQ_ERR_CALLBACK);
        CHECK_SAYS("42");
        CHECK(process.calls == stop_at && process.released == 1 && matched == 99);
        CHECK(snapshot_holds(&snapshot, &fixture));
        expect_amax(&fixture, 2.0f, 4.0f, 0.5f);
    }
    fixture_free(&fixture);
}

static void bad_arguments_are_refused(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    struct process process = {0.5f, 0, 0, 0, 0, 0};
    mq_amax_fn callback = {&process, multiply, process_release}, nothing = {NULL, NULL, NULL};
    struct snapshot snapshot;
    size_t matched = 99;
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_postprocess_amax(NULL, "*", &callback, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, NULL, &callback, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", NULL, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &nothing, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &callback, 2, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "nobody", &callback, 0, &matched),
                 MQ_ERR_NOT_FOUND);
    CHECK_STATUS(mq_reset_amax(NULL, "*", 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_reset_amax(fixture.model, NULL, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_reset_amax(fixture.model, "*", 2, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_reset_amax(fixture.model, "nobody", 0, &matched), MQ_ERR_NOT_FOUND);
    CHECK(matched == 99 && process.calls == 0);
    CHECK_STATUS(
        mq_postprocess_amax(fixture.model, "nobody", &callback, MQ_ALLOW_NO_MATCH, &matched),
        MQ_OK);
    CHECK(matched == 0);
    matched = 99;
    CHECK_STATUS(mq_reset_amax(fixture.model, "nobody", MQ_ALLOW_NO_MATCH, &matched), MQ_OK);
    CHECK(matched == 0);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void reset_forgets(void) {
    struct fixture fixture;
    size_t matched = 0, count = 99;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_reset_amax(fixture.model, "*input_quantizer", 0, &matched), MQ_OK);
    CHECK(matched == 1);
    CHECK_STATUS(mq_quantizer_amax(fixture.input, NULL, 0, &count, NULL, NULL), MQ_OK);
    CHECK(count == 0);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, NULL, 0, &count, NULL, NULL), MQ_OK);
    CHECK(count == 2);
    CHECK_STATUS(mq_reset_amax(fixture.model, "*", 0, &matched), MQ_OK);
    CHECK(matched == 4);

    /* the taps quantize by what they see */
    float x[IN] = {8.0f, 4.0f, 0.0f, 0.0f}, want[IN] = {8.0f, 4.03149605f, 0.0f, 0.0f};
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    fixture_free(&fixture);
}

void test_amax_verbs(void) {
    the_host_changes_amax_in_place();
    values_that_cannot_be_an_amax_are_refused();
    a_failing_process_changes_nothing();
    bad_arguments_are_refused();
    reset_forgets();
}
