/* mq_quantize() and mq_calibrate(): what they find, and values they refuse. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static size_t amax_of(mq_quantizer *quantizer, float *values) {
    size_t count = 99;
    CHECK_STATUS(mq_quantizer_amax(quantizer, values, 8, &count, NULL, NULL), MQ_OK);
    return count;
}

static mq_status calibrate(struct fixture *fixture, const char *algorithm, int *calls) {
    struct pass pass = {fixture, 0, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    mq_status status = mq_calibrate(fixture->model, algorithm, &forward);
    CHECK(pass.released == 1);
    *calls = pass.calls;
    return status;
}

static void null_arguments_are_refused(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    CHECK_STATUS(mq_quantize(NULL, INT8, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantize(fixture.model, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantize(fixture.model, "\xff", NULL), MQ_ERR_INVALID_ARGUMENT);
    mq_forward_fn nothing = {NULL, NULL, NULL};
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &nothing), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_calibrate(NULL, "max", NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_calibrate(fixture.model, "max", NULL), MQ_ERR_STATE); /* before mq_quantize() */
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_calibrate(fixture.model, "\xff", NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_calibrate(fixture.model, "max", &nothing), MQ_ERR_INVALID_ARGUMENT);
    fixture_free(&fixture);
}

static void a_preset_calibrates_weights_and_inputs(void) {
    static const float rows[2] = {4.0f, 0.5f};
    struct fixture fixture;
    float values[8];
    fixture_init(&fixture);
    CHECK(amax_of(fixture.input, values) == 0 && amax_of(fixture.weight_quantizer, values) == 0);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK(amax_of(fixture.input, values) == 1 && values[0] == 2.0f);
    CHECK(amax_of(fixture.weight_quantizer, values) == 2);
    CHECK_FLOATS(values, rows, 2);
    CHECK(amax_of(fixture.output, values) == 0 && amax_of(fixture.own, values) == 0);
    fixture_free(&fixture);
}

static void without_a_forward_pass_activations_stay_dynamic(void) {
    static const float want[IN] = {2.0f, -2.0f, 0.992125988f, 0.503937006f};
    struct fixture fixture;
    float values[8], x[IN] = {2.0f, -2.0f, 0.99f, 0.5f};
    fixture_init(&fixture);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, NULL), MQ_OK);
    CHECK(amax_of(fixture.input, values) == 0);
    CHECK(amax_of(fixture.weight_quantizer, values) == 2);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    CHECK(amax_of(fixture.input, values) == 0); /* it looked, but learnt nothing */
    fixture_free(&fixture);
}

static void a_second_calibration_takes_the_maximum_of_both(void) {
    struct fixture fixture;
    float values[8];
    int calls;
    fixture_init_quantized(&fixture, INT8);
    fixture.x[0] = 1.75f; /* the largest is gone */
    CHECK_STATUS(calibrate(&fixture, "max", &calls), MQ_OK);
    CHECK(calls == 1 && amax_of(fixture.input, values) == 1 && values[0] == 2.0f);
    fixture.x[0] = -3.0f;
    CHECK_STATUS(calibrate(&fixture, "{\"method\": \"max\"}", &calls), MQ_OK);
    CHECK(calls == 1 && amax_of(fixture.input, values) == 1 && values[0] == 3.0f);
    CHECK_STATUS(mq_reset_amax(fixture.model, "*input_quantizer", 0, NULL), MQ_OK);
    fixture.x[0] = 0.0f;
    CHECK_STATUS(calibrate(&fixture, "\"max\"", &calls), MQ_OK);
    CHECK(amax_of(fixture.input, values) == 1 && values[0] == 1.5f); /* anew */
    fixture_free(&fixture);
}

static void no_algorithm_calibrates_nothing(void) {
    static const char *const none[] = {NULL, "", "null"};
    struct fixture fixture;
    int calls;
    fixture_init_quantized(&fixture, INT8);
    for (int i = 0; i < 3; i++) {
        struct snapshot snapshot;
        snapshot_take(&snapshot, &fixture);
        fixture.x[0] = 9.0f;
        CHECK_STATUS(calibrate(&fixture, none[i], &calls), MQ_OK);
        CHECK(snapshot_holds(&snapshot, &fixture));
    }
    CHECK_STATUS(calibrate(&fixture, "[\"max\", {\"method\": \"max\"}]", &calls), MQ_OK);
    CHECK(calls >= 1);
    fixture_free(&fixture);
}

static void several_batches_are_one_calibration_set(struct pass *pass) {
    float more[IN] = {0.0f, -5.0f, 0.0f, 0.0f};
    CHECK_STATUS(mq_layer_input(pass->fixture->layer, F32(more, 1, IN), NULL), MQ_OK);
    CHECK_STATUS(mq_layer_input(pass->fixture->layer, F32(NULL, 0, IN), NULL), MQ_OK);
}

static void a_pass_may_have_many_batches(void) {
    struct fixture fixture;
    float values[8];
    fixture_init(&fixture);
    struct pass pass = {&fixture, 0, several_batches_are_one_calibration_set, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_OK);
    CHECK(amax_of(fixture.input, values) == 1 && values[0] == 5.0f);
    fixture_free(&fixture);
}

static void a_second_quantize_is_applied_on_top(void) {
    struct fixture fixture;
    float values[8];
    int32_t enabled = -1;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(
        fixture_quantize(
            &fixture,
            json("{'quant_cfg': [{'quantizer_name': '*weight_quantizer', 'cfg': {'num_bits': 4}}, "
                 "{'quantizer_name': '*input_quantizer', 'enable': false}], 'algorithm': 'max'}")),
        MQ_OK);
    CHECK(amax_of(fixture.weight_quantizer, values) == 1 && values[0] == 4.0f);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.input, &enabled), MQ_OK);
    CHECK(enabled == 0);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.output, &enabled), MQ_OK);
    CHECK(enabled == 0); /* not touched by the second */
    fixture_free(&fixture);
}

static void a_dictionary_takes_its_default_first(void) {
    struct fixture fixture;
    int32_t enabled = -1;
    fixture_init(&fixture);
    CHECK_STATUS(fixture_quantize(
                     &fixture, json("{'quant_cfg': {'*weight_quantizer': {'num_bits': 8, 'axis': "
                                    "0}, 'default': {'enable': false}}, 'algorithm': 'max'}")),
                 MQ_OK);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.weight_quantizer, &enabled), MQ_OK);
    CHECK(enabled == 1);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.input, &enabled), MQ_OK);
    CHECK(enabled == 0);
    fixture_free(&fixture);
}

static void a_list_takes_its_last_match(void) {
    struct fixture fixture;
    int32_t enabled = -1;
    fixture_init(&fixture);
    CHECK_STATUS(
        mq_quantize(fixture.model,
                    json("{'quant_cfg': [{'quantizer_name': 'fc.*', 'parent_class': 'nn.Linear', "
                         "'cfg': {'num_bits': 8}}, {'quantizer_name': '*in[op]ut_quantizer', "
                         "'enable': false}, {'quantizer_name': '*', 'parent_class': 'nn.Conv2d', "
                         "'enable': false}], 'algorithm': 'max'}"),
                    NULL),
        MQ_OK);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.input, &enabled), MQ_OK);
    CHECK(enabled == 0);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.output, &enabled), MQ_OK);
    CHECK(enabled == 1);
    fixture_free(&fixture);
}

static void weights_with_nan_or_infinity_are_refused(void) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        for (int was_quantized = 0; was_quantized < 2; was_quantized++) {
            struct fixture fixture;
            struct snapshot snapshot;
            fixture_init(&fixture);
            if (was_quantized) {
                CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
            }
            fixture.weight[5] = bad[i];
            snapshot_take(&snapshot, &fixture);
            CHECK_STATUS(fixture_quantize(&fixture, FP8), MQ_ERR_NUMERIC);
            CHECK_SAYS("fc");
            CHECK(snapshot_holds(&snapshot, &fixture));
            fixture.weight[5] = 0.25f;
            CHECK_STATUS(fixture_quantize(&fixture, FP8), MQ_OK);
            fixture_free(&fixture);
        }
    }
}

static void activations_with_nan_or_infinity_are_refused(void) {
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        struct fixture fixture;
        struct snapshot snapshot;
        int calls;
        fixture_init(&fixture);
        fixture.x[7] = bad[i];
        snapshot_take(&snapshot, &fixture);
        CHECK_STATUS(fixture_quantize(&fixture, INT8),
                     MQ_ERR_NUMERIC); /* though the callback returned 77 */
        CHECK_SAYS("fc");
        CHECK(snapshot_holds(&snapshot, &fixture));
        fixture.x[7] = 0.5f;
        CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
        snapshot_take(&snapshot, &fixture);
        fixture.x[7] = bad[i];
        CHECK_STATUS(calibrate(&fixture, "max", &calls), MQ_ERR_NUMERIC);
        CHECK_SAYS("fc");
        CHECK(snapshot_holds(&snapshot, &fixture));
        fixture_free(&fixture);
    }
}

static void hides_the_error(struct pass *pass) {
    float x[IN] = {NAN, 0.0f, 0.0f, 0.0f};
    CHECK_STATUS(mq_layer_input(pass->fixture->layer, F32(x, IN), NULL), MQ_ERR_NUMERIC);
}

static void an_error_of_a_tap_cannot_be_hidden(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    struct pass pass = {&fixture, 0, hides_the_error, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward),
                 MQ_ERR_NUMERIC); /* though the callback returned 0 */
    CHECK_SAYS("fc");
    CHECK(pass.released == 1);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void an_embedding_never_quantizes_its_input(void) {
    struct fixture fixture;
    float rows[6] = {1.0f, -2.0f, 3.0f, -4.0f, 5.0f, -6.0f}, values[8];
    mq_layer_desc desc;
    int32_t enabled = -1;
    size_t matched = 0;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "embed";
    desc.kind = MQ_LAYER_EMBEDDING;
    desc.weight = F32(rows, 3, 2);
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixture, json("{'quant_cfg': [{'quantizer_name': '*', 'cfg': "
                                                 "{'num_bits': 8}}], 'algorithm': 'max'}")),
                 MQ_OK);
    mq_quantizer *input = find_quantizer(fixture.model, "embed.input_quantizer");
    CHECK_STATUS(mq_quantizer_is_enabled(input, &enabled), MQ_OK);
    CHECK(enabled == 0);
    CHECK_STATUS(mq_enable_quantizer(fixture.model, "embed.input_quantizer", 0, &matched), MQ_OK);
    CHECK(matched == 1);
    CHECK_STATUS(mq_quantizer_is_enabled(input, &enabled), MQ_OK);
    CHECK(enabled == 0);
    CHECK(amax_of(find_quantizer(fixture.model, "embed.weight_quantizer"), values) == 1 &&
          values[0] == 6.0f);
    fixture_free(&fixture);
}

static void a_weight_without_elements_is_harmless(void) {
    static const char *const configs[] = {INT8, FP8, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct fixture fixture;
        mq_layer_desc desc;
        mq_layer *layer = NULL;
        size_t count = 99;
        fixture_init(&fixture);
        CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
        desc.name = "none";
        desc.weight = F32(NULL, 0, IN);
        CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, &layer), MQ_OK);
        CHECK_STATUS(fixture_quantize(&fixture, configs[i]), MQ_OK);
        CHECK_STATUS(mq_layer_weight(layer, F32(NULL, 0, IN)), MQ_OK);
        CHECK_STATUS(mq_quantizer_amax(find_quantizer(fixture.model, "none.weight_quantizer"), NULL,
                                       0, &count, NULL, NULL),
                     MQ_OK);
        CHECK(count <= 1);
        CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
        fixture_free(&fixture);
    }
}

void test_quantize(void) {
    null_arguments_are_refused();
    a_preset_calibrates_weights_and_inputs();
    without_a_forward_pass_activations_stay_dynamic();
    a_second_calibration_takes_the_maximum_of_both();
    no_algorithm_calibrates_nothing();
    a_pass_may_have_many_batches();
    a_second_quantize_is_applied_on_top();
    a_dictionary_takes_its_default_first();
    a_list_takes_its_last_match();
    weights_with_nan_or_infinity_are_refused();
    activations_with_nan_or_infinity_are_refused();
    an_error_of_a_tap_cannot_be_hidden();
    an_embedding_never_quantizes_its_input();
    a_weight_without_elements_is_harmless();
}
