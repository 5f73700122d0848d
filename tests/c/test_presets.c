/* The list of presets, and strings that are copied out in general. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static int has_preset(const char *wanted) {
    char name[128];
    for (size_t i = 0; i < mq_preset_count(); i++) {
        if (mq_preset_name(i, name, sizeof name, NULL) == MQ_OK && strcmp(name, wanted) == 0) {
            return 1;
        }
    }
    return 0;
}

static char *preset_json(const char *name) {
    size_t length = 0;
    CHECK_STATUS(mq_preset_json(name, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    size_t again = 0;
    CHECK_STATUS(mq_preset_json(name, text, length + 1, &again), MQ_OK);
    CHECK(again == length && strlen(text) == length);
    return text;
}

static void presets_of_both_versions_are_listed(void) {
    CHECK(mq_preset_count() >= 39);
    CHECK(has_preset("INT8_DEFAULT_CFG"));
    CHECK(has_preset("NVFP4_DEFAULT_CFG"));
    CHECK(has_preset("FP8_WA_FP8_KV_CFG")); /* of 0.21 alone */
    CHECK(!has_preset("INT9_DEFAULT_CFG"));
}

static void every_preset_has_a_configuration(void) {
    char name[128];
    for (size_t i = 0; i < mq_preset_count(); i++) {
        CHECK_STATUS(mq_preset_name(i, name, sizeof name, NULL), MQ_OK);
        char *text = preset_json(name);
        CHECK(text[0] == '{' && strstr(text, "\"quant_cfg\"") != NULL);
        free(text);
    }
}

static void a_preset_and_its_json_are_one_configuration(void) {
    static const char *const presets[] = {"INT8_DEFAULT_CFG", "FP8_DEFAULT_CFG",
                                          "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        struct fixture by_name, by_json;
        char *text = preset_json(presets[i]);
        fixture_init_quantized(&by_name, presets[i]);
        fixture_init_quantized(&by_json, text);
        char *one = summary_of(by_name.model), *other = summary_of(by_json.model);
        CHECK(strcmp(one, other) == 0);
        free(one);
        free(other);
        free(text);
        fixture_free(&by_name);
        fixture_free(&by_json);
    }
}

static void bad_presets_are_refused(void) {
    char buffer[8];
    size_t length = 99;
    CHECK_STATUS(mq_preset_name(mq_preset_count(), buffer, sizeof buffer, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_preset_name(SIZE_MAX, buffer, sizeof buffer, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_preset_json(NULL, buffer, sizeof buffer, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_preset_json("INT8_DEFALT_CFG", buffer, sizeof buffer, &length), MQ_ERR_CONFIG);
    CHECK_SAYS("INT8_DEFALT_CFG");
    CHECK_SAYS("INT8_DEFAULT_CFG");
    CHECK_STATUS(mq_preset_json("", buffer, sizeof buffer, &length), MQ_ERR_CONFIG);
    CHECK_STATUS(mq_preset_json("\xff", buffer, sizeof buffer, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK(length == 99); /* untouched */
}

/* Every function that copies a string out, by one signature. */
static mq_status copy_preset_name(struct fixture *fixture, char *buffer, size_t capacity,
                                  size_t *length) {
    (void)fixture;
    return mq_preset_name(0, buffer, capacity, length);
}
static mq_status copy_preset_json(struct fixture *fixture, char *buffer, size_t capacity,
                                  size_t *length) {
    (void)fixture;
    return mq_preset_json(INT8, buffer, capacity, length);
}
static mq_status copy_quantizer_name(struct fixture *fixture, char *buffer, size_t capacity,
                                     size_t *length) {
    return mq_quantizer_name(fixture->own, buffer, capacity, length);
}
static mq_status copy_attributes(struct fixture *fixture, char *buffer, size_t capacity,
                                 size_t *length) {
    return mq_quantizer_attributes(fixture->own, buffer, capacity, length);
}
static mq_status copy_text_summary(struct fixture *fixture, char *buffer, size_t capacity,
                                   size_t *length) {
    return mq_print_quant_summary(fixture->model, MQ_SUMMARY_TEXT, buffer, capacity, length);
}
static mq_status copy_json_summary(struct fixture *fixture, char *buffer, size_t capacity,
                                   size_t *length) {
    return mq_print_quant_summary(fixture->model, MQ_SUMMARY_JSON, buffer, capacity, length);
}

static void strings_are_cut_to_the_buffer(void) {
    mq_status (*const copies[])(struct fixture *, char *, size_t, size_t *) = {
        copy_preset_name, copy_preset_json,  copy_quantizer_name,
        copy_attributes,  copy_text_summary, copy_json_summary,
    };
    struct fixture fixture;
    fixture_init(&fixture);
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        size_t length = 0, again = 0;
        char cut[6] = "#####";
        CHECK_STATUS(copies[i](&fixture, NULL, 0, &length), MQ_OK);
        CHECK(length > 4);
        char *whole = calloc(length + 1, 1);
        CHECK_STATUS(copies[i](&fixture, whole, length + 1, NULL), MQ_OK);
        CHECK(strlen(whole) == length);

        CHECK_STATUS(copies[i](&fixture, cut, 4, &again), MQ_OK);
        CHECK(again == length && memcmp(cut, whole, 3) == 0 && cut[3] == '\0' && cut[4] == '#');
        CHECK_STATUS(copies[i](&fixture, cut, 1, &again), MQ_OK);
        CHECK(cut[0] == '\0' && cut[1] == whole[1]);
        cut[0] = '#';
        CHECK_STATUS(copies[i](&fixture, cut, 0, &again), MQ_OK);
        CHECK(cut[0] == '#');
        CHECK_STATUS(copies[i](&fixture, whole, length, NULL), MQ_OK); /* one byte short */
        CHECK(strlen(whole) == length - 1);

        again = 99;
        CHECK_STATUS(copies[i](&fixture, NULL, 4, &again), MQ_ERR_INVALID_ARGUMENT);
        CHECK_STATUS(copies[i](&fixture, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
        CHECK(again == 99);
        free(whole);
    }
    fixture_free(&fixture);
}

void test_presets(void) {
    presets_of_both_versions_are_listed();
    every_preset_has_a_configuration();
    a_preset_and_its_json_are_one_configuration();
    bad_presets_are_refused();
    strings_are_cut_to_the_buffer();
}
