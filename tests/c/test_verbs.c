/* Folding, the summary, and verbs that come before mq_quantize(). */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static size_t amax_count(mq_quantizer *quantizer) {
    size_t count = 99;
    CHECK_STATUS(mq_quantizer_amax(quantizer, NULL, 0, &count, NULL, NULL), MQ_OK);
    return count;
}

static void folding_writes_what_the_layer_used(void) {
    static const char *const configs[] = {INT8, FP8, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct fixture fixture;
        float used[OUT * IN], again[OUT * IN], original[OUT * IN];
        int32_t enabled = -1;
        fixture_init_quantized(&fixture, configs[i]);
        memcpy(original, fixture.weight, sizeof original);
        CHECK_STATUS(mq_layer_weight(fixture.layer, F32(used, OUT, IN)), MQ_OK);
        CHECK(memcmp(original, fixture.weight, sizeof original) == 0);
        CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
        CHECK(memcmp(used, fixture.weight, sizeof used) == 0); /* bit for bit */
        CHECK(memcmp(original, fixture.weight, sizeof original) != 0);
        CHECK_STATUS(mq_quantizer_is_enabled(fixture.weight_quantizer, &enabled), MQ_OK);
        CHECK(enabled == 0 && amax_count(fixture.weight_quantizer) == 0);
        CHECK_STATUS(mq_layer_weight(fixture.layer, F32(again, OUT, IN)), MQ_OK);
        CHECK(memcmp(used, again, sizeof used) == 0);

        struct snapshot snapshot;
        snapshot_take(&snapshot, &fixture);
        CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
        CHECK(snapshot_holds(&snapshot, &fixture));
        fixture_free(&fixture);
    }
}

static void folding_may_keep_the_amax(void) {
    struct fixture fixture;
    int32_t enabled = -1;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_fold_weight(fixture.model, MQ_FOLD_KEEP_ATTRIBUTES), MQ_OK);
    CHECK_STATUS(mq_quantizer_is_enabled(fixture.weight_quantizer, &enabled), MQ_OK);
    CHECK(enabled == 0 && amax_count(fixture.weight_quantizer) == 2);
    fixture_free(&fixture);
}

static void a_disabled_weight_is_not_folded(void) {
    struct fixture fixture;
    float original[OUT * IN];
    fixture_init_quantized(&fixture, INT8);
    memcpy(original, fixture.weight, sizeof original);
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "fc.weight_quantizer", 0, NULL), MQ_OK);
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
    CHECK(memcmp(original, fixture.weight, sizeof original) == 0);
    fixture_free(&fixture);
}

static void folding_refuses_bad_arguments(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_fold_weight(NULL, 0), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fold_weight(fixture.model, 2), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fold_weight(fixture.model, UINT32_MAX), MQ_ERR_INVALID_ARGUMENT);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void nothing_is_folded_when_one_weight_is_bad(void) {
    struct fixture fixture;
    float second[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "second";
    desc.weight = F32(second, 2, 2);
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "second.weight_quantizer",
                                             "{\"unsigned\": true}", 0, NULL),
                 MQ_OK);
    second[3] = -4.0f;
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_ERR_NUMERIC);
    CHECK_SAYS("second");
    CHECK(snapshot_holds(&snapshot, &fixture)); /* not the first one either */
    CHECK(second[0] == 1.0f && second[3] == -4.0f);
    second[3] = 4.0f;
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
    fixture_free(&fixture);
}

static int32_t select_all(void *user_data, const char *name, int32_t *selected) {
    (void)user_data, (void)name;
    *selected = 1;
    return 0;
}

static int32_t keep_amax(void *user_data, const char *name, float *amax, size_t count) {
    (void)user_data, (void)name, (void)amax, (void)count;
    return 0;
}

static void verbs_before_quantize_are_out_of_turn(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    mq_filter_fn filter = {NULL, select_all, NULL};
    mq_amax_fn process = {NULL, keep_amax, NULL};
    struct snapshot snapshot;
    size_t matched = 99;
    float one = 1.0f, scale[IN] = {1.0f, 1.0f, 1.0f, 1.0f};
    const char *attributes = "{\"num_bits\": 4}";
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_calibrate(fixture.model, "max", NULL), MQ_ERR_STATE);
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_ERR_STATE);
    CHECK_STATUS(mq_enable_quantizer(fixture.model, "*", 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "*", 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_enable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_disable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "*", attributes, 0, &matched),
                 MQ_ERR_STATE);
    CHECK_STATUS(mq_set_quantizer_attributes_if(fixture.model, &filter, attributes, 0, &matched),
                 MQ_ERR_STATE);
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "*", &process, 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_reset_amax(fixture.model, "*", 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32_SCALAR(&one)), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(scale, IN)), MQ_ERR_STATE);
    CHECK(matched == 99);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void the_summary_names_every_quantizer(void) {
    static const char *const names[] = {"fc.input_quantizer", "fc.output_quantizer",
                                        "fc.weight_quantizer", "kv.k_bmm_quantizer"};
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    for (int32_t format = MQ_SUMMARY_TEXT; format <= MQ_SUMMARY_JSON; format++) {
        size_t length = 0;
        CHECK_STATUS(mq_print_quant_summary(fixture.model, format, NULL, 0, &length), MQ_OK);
        char *text = calloc(length + 1, 1);
        CHECK_STATUS(mq_print_quant_summary(fixture.model, format, text, length + 1, &length),
                     MQ_OK);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            CHECK(strstr(text, names[i]) != NULL ||
                  (format == MQ_SUMMARY_JSON && strstr(text, "\"fc\"") != NULL));
        }
        CHECK(format == MQ_SUMMARY_TEXT || text[0] == '{');
        free(text);
    }
    char text[8] = "#######";
    size_t length = 99;
    CHECK_STATUS(mq_print_quant_summary(NULL, MQ_SUMMARY_TEXT, text, sizeof text, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_print_quant_summary(fixture.model, 2, text, sizeof text, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_print_quant_summary(fixture.model, -1, text, sizeof text, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK(length == 99 && text[0] == '#');
    fixture_free(&fixture);
}

void test_verbs(void) {
    folding_writes_what_the_layer_used();
    folding_may_keep_the_amax();
    a_disabled_weight_is_not_folded();
    folding_refuses_bad_arguments();
    nothing_is_folded_when_one_weight_is_bad();
    verbs_before_quantize_are_out_of_turn();
    the_summary_names_every_quantizer();
}
