/* mq_check(): what it finds, and what it leaves alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

static mq_check_report report_of(mq_model *model) {
    mq_check_report report;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    CHECK_STATUS(mq_check(model, &report, NULL, 0, NULL), MQ_OK);
    CHECK(report.struct_size == sizeof report);
    return report;
}

static char *text_of(mq_model *model) {
    size_t length = 0;
    CHECK_STATUS(mq_check(model, NULL, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_check(model, NULL, text, length + 1, NULL), MQ_OK);
    CHECK(strlen(text) == length);
    return text;
}

static void says(mq_model *model, const char *single_quoted) {
    char *text = text_of(model);
    check_true(strstr(text, json(single_quoted)) != NULL, single_quoted, __FILE__, __LINE__);
    free(text);
}

static void bad_arguments_are_refused(void) {
    struct wide wide;
    struct {
        mq_check_report known;
        uint64_t future;
    } newer;
    char text[8] = "#######";
    size_t length = 99;
    CHECK(sizeof(mq_check_report) == 32);
    wide_init(&wide, NULL);
    memset(&newer, 0xAB, sizeof newer);
    newer.known.struct_size = sizeof newer.known;
    CHECK_STATUS(mq_check(wide.model, &newer.known, text, sizeof text, &length), MQ_ERR_STATE);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    CHECK_STATUS(mq_check(NULL, &newer.known, text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_check(wide.model, NULL, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_check(wide.model, &newer.known, NULL, 8, &length), MQ_ERR_INVALID_ARGUMENT);
    newer.known.struct_size = sizeof newer.known - 1;
    CHECK_STATUS(mq_check(wide.model, &newer.known, text, sizeof text, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("struct_size is 31");
    newer.known.struct_size = 0;
    CHECK_STATUS(mq_check(wide.model, &newer.known, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(length == 99 && text[0] == '#' && newer.known.errors == 0xABABABAB); /* untouched */

    newer.known.struct_size = sizeof newer; /* of a newer header: its own part stays */
    CHECK_STATUS(mq_check(wide.model, &newer.known, text, sizeof text, &length), MQ_OK);
    CHECK(newer.known.struct_size == sizeof newer && newer.future == 0xABABABABABABABABu);
    CHECK(newer.known.errors == 0 && length > sizeof text && strlen(text) == sizeof text - 1);
    CHECK_STATUS(mq_check(wide.model, &newer.known, NULL, 0, &length), MQ_OK);
    CHECK_STATUS(mq_check(wide.model, NULL, text, 1, NULL), MQ_OK);
    CHECK(text[0] == '\0');
    wide_free(&wide);
}

static void a_sound_model_has_no_errors_and_stays_as_it_is(void) {
    static const char *const configs[] = {INT8,
                                          FP8,
                                          "INT8_SMOOTHQUANT_CFG",
                                          INT8_BOTH("'histogram'"),
                                          INT8_BOTH("'mse'"),
                                          INT4_WEIGHTS("'awq_full'")};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct wide wide;
        struct wide_snapshot snapshot;
        wide_init(&wide, NULL);
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
        wide_snapshot_take(&snapshot, &wide);
        mq_check_report report = report_of(wide.model);
        CHECK(report.errors == 0 && report.warnings == 0 && report.unseen == 0);
        CHECK(report.quantizers == 12);
        int weights_only = strstr(configs[i], "awq") != NULL;
        CHECK(report.enabled == (weights_only ? 4u : 8u));
        CHECK(report.fewest_tokens == (weights_only ? UINT64_MAX : (uint64_t)TOKENS));
        says(wide.model, "'problems':[]");
        CHECK(wide_snapshot_holds(&snapshot, &wide));
        wide_free(&wide);
    }
}

static void the_text_has_the_numbers_and_the_errors(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, "INT8_SMOOTHQUANT_CFG"), MQ_OK);
    char *text = text_of(wide.model);
    CHECK(number_of(text, "errors") == 0 && number_of(text, "warnings") == 0);
    CHECK(number_of(text, "unseen") == 0 && number_of(text, "fewest_tokens") == TOKENS);
    CHECK(number_of(text, "before") > 0 && number_of(text, "before") < 0.1);
    CHECK(number_of(text, "after") > 0 && number_of(text, "after") < 0.1);
    CHECK(strstr(text, "\"algorithm\":\"smoothquant\"") != NULL);
    free(text);
    wide_free(&wide);
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_full'")), MQ_OK);
    text = text_of(wide.model);
    CHECK(strstr(text, "\"of\":\"output\"") != NULL);
    CHECK(number_of(text, "after") < number_of(text, "before")); /* that is what it is for */
    free(text);
    wide_free(&wide);
}

static void what_no_token_reached_is_a_warning(void) {
    struct fixture fixture;
    float weight[OUT * IN] = {1.0f};
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "unseen";
    desc.weight = F32(weight, OUT, IN);
    desc.expert_group = "lonely";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    mq_check_report report = report_of(fixture.model);
    CHECK(report.errors == 0 && report.warnings >= 2 && report.unseen == 1);
    CHECK(report.fewest_tokens == 0);
    says(fixture.model, "'kind':'coverage'");
    says(fixture.model, "unseen.input_quantizer");
    says(fixture.model, "expert_group `lonely`");
    fixture_free(&fixture);
}

static void without_a_forward_nothing_was_seen(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    CHECK_STATUS(mq_quantize(wide.model, INT8, NULL), MQ_OK);
    mq_check_report report = report_of(wide.model);
    CHECK(report.errors == 0 && report.warnings == 4 && report.fewest_tokens == UINT64_MAX);
    says(wide.model, "'fewest_tokens':null");
    wide_free(&wide);
}

static void scales_of_one_product_must_be_one(void) {
    struct fixture fixture;
    float weight[OUT * IN] = {1.0f}, amax = 7.0f;
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.fused_group = "qkv";
    mq_layer *first = fixture.layer;
    for (int i = 0; i < 2; i++) {
        desc.name = i ? "b" : "a";
        desc.weight = F32(weight, OUT, IN);
        CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, i ? NULL : &fixture.layer), MQ_OK);
    }
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    fixture.layer = first;
    CHECK(report_of(fixture.model).errors == 0);
    CHECK_STATUS(mq_quantizer_set_amax(find_quantizer(fixture.model, "b.input_quantizer"),
                                       F32_SCALAR(&amax)),
                 MQ_OK);
    CHECK(report_of(fixture.model).errors == 1);
    says(fixture.model, "'severity':'error'");
    says(fixture.model, "'kind':'group'");
    fixture_free(&fixture);
}

static void a_name_that_leads_nowhere_is_an_error(void) {
    struct fixture fixture;
    float weight[OUT * IN] = {1.0f};
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "down";
    desc.weight = F32(weight, OUT, IN);
    desc.producer = "upp";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, NULL), MQ_OK);
    CHECK(report_of(fixture.model).errors == 1);
    says(fixture.model, "'kind':'name'");
    says(fixture.model, "upp");
    fixture_free(&fixture);
}

static void a_weight_with_nan_is_an_error_of_the_call(void) {
    struct wide wide;
    mq_check_report report;
    memset(&report, 0xAB, sizeof report);
    report.struct_size = sizeof report;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    wide.k_weight[3] = NAN;
    CHECK_STATUS(mq_check(wide.model, &report, NULL, 0, NULL), MQ_ERR_NUMERIC);
    CHECK_SAYS("k");
    CHECK(report.errors == 0xABABABAB);
    wide_free(&wide);
}

static void checks_inside(struct wide *wide) {
    size_t length = 99;
    CHECK_STATUS(mq_check(wide->model, NULL, NULL, 0, &length), MQ_ERR_BUSY);
    CHECK(length == 99);
}

static void a_model_is_busy_in_a_verb(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    wide.inside = checks_inside;
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    wide_free(&wide);
}

void test_check(void) {
    bad_arguments_are_refused();
    a_sound_model_has_no_errors_and_stays_as_it_is();
    the_text_has_the_numbers_and_the_errors();
    what_no_token_reached_is_a_warning();
    without_a_forward_nothing_was_seen();
    scales_of_one_product_must_be_one();
    a_name_that_leads_nowhere_is_an_error();
    a_weight_with_nan_is_an_error_of_the_call();
    a_model_is_busy_in_a_verb();
}
