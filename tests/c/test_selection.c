/* Verbs that choose quantizers by wildcard or filter: enable, disable, set attributes. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static int is_enabled(mq_quantizer *quantizer) {
    int32_t enabled = -1;
    CHECK_STATUS(mq_quantizer_is_enabled(quantizer, &enabled), MQ_OK);
    return enabled;
}

static int has_attribute(mq_quantizer *quantizer, const char *key_and_value) {
    size_t length = 0;
    CHECK_STATUS(mq_quantizer_attributes(quantizer, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_quantizer_attributes(quantizer, text, length + 1, NULL), MQ_OK);
    int found = strstr(text, json(key_and_value)) != NULL;
    free(text);
    return found;
}

static void wildcards_are_pythons(void) {
    static const struct {
        const char *wildcard;
        size_t matched;
    } cases[] = {
        {"*", 4},
        {"fc.*", 3},
        {"*_quantizer", 4},
        {"*[io]nput_quantizer", 1},
        {"fc.[!w]*", 2},
        {"fc.?nput_quantizer", 1},
        {"fc.input_quantizer", 1},
        {"*.k_bmm*", 1},
    };
    static const char *const none[] = {"",
                                       "fc",
                                       "FC.*",
                                       "input_quantizer",
                                       "fc.input_quantizer?",
                                       "fc.{input,output}_quantizer",
                                       "[",
                                       "**nothing**"};
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t matched = 99;
        check_status(mq_disable_quantizer(fixture.model, cases[i].wildcard, 0, &matched), MQ_OK,
                     cases[i].wildcard, __FILE__, __LINE__);
        check_true(matched == cases[i].matched, cases[i].wildcard, __FILE__, __LINE__);
        CHECK_STATUS(
            mq_disable_quantizer(fixture.model, cases[i].wildcard, MQ_ALLOW_NO_MATCH, NULL), MQ_OK);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        size_t matched = 99;
        check_status(mq_enable_quantizer(fixture.model, none[i], 0, &matched), MQ_ERR_NOT_FOUND,
                     none[i], __FILE__, __LINE__);
        CHECK(matched == 99); /* untouched */
        CHECK_STATUS(mq_enable_quantizer(fixture.model, none[i], MQ_ALLOW_NO_MATCH, &matched),
                     MQ_OK);
        CHECK(matched == 0);
    }
    CHECK_STATUS(mq_enable_quantizer(fixture.model, "fc.imput*", 0, NULL), MQ_ERR_NOT_FOUND);
    CHECK_SAYS("fc.imput*");
    fixture_free(&fixture);
}

static void enabling_and_disabling_by_wildcard(void) {
    struct fixture fixture;
    size_t matched = 0;
    fixture_init_quantized(&fixture, INT8);
    CHECK(is_enabled(fixture.input) && is_enabled(fixture.weight_quantizer) &&
          !is_enabled(fixture.output));
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "*input_quantizer", 0, &matched), MQ_OK);
    CHECK(matched == 1 && !is_enabled(fixture.input) && is_enabled(fixture.weight_quantizer));
    CHECK_STATUS(mq_enable_quantizer(fixture.model, "fc.*put_quantizer", 0, &matched), MQ_OK);
    CHECK(matched == 2 && is_enabled(fixture.input) && is_enabled(fixture.output));
    fixture_free(&fixture);
}

struct choice {
    const char *wanted;
    int calls, released;
    int32_t result;
};

static int32_t choose(void *user_data, const char *name, int32_t *selected) {
    struct choice *choice = user_data;
    choice->calls++;
    if (*selected != 0) {
        return 13; /* the library must begin with 0 */
    }
    *selected = strstr(name, choice->wanted) != NULL ? -5 : 0; /* any non-zero chooses */
    return choice->result;
}

static void choice_release(void *user_data) { ((struct choice *)user_data)->released++; }

static void filters_choose_by_name(void) {
    struct fixture fixture;
    size_t matched = 0;
    fixture_init_quantized(&fixture, INT8);
    struct choice choice = {".input", 0, 0, 0};
    mq_filter_fn filter = {&choice, choose, choice_release};
    CHECK_STATUS(mq_disable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_OK);
    CHECK(matched == 1 && !is_enabled(fixture.input) && is_enabled(fixture.weight_quantizer));
    CHECK(choice.calls == 4 && choice.released == 1); /* once for each quantizer */
    choice.wanted = "put_quantizer";
    CHECK_STATUS(mq_enable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_OK);
    CHECK(matched == 2 && is_enabled(fixture.input) && is_enabled(fixture.output));
    choice.wanted = "weight";
    CHECK_STATUS(
        mq_set_quantizer_attributes_if(fixture.model, &filter, "{\"num_bits\": 4}", 0, &matched),
        MQ_OK);
    CHECK(matched == 1 && has_attribute(fixture.weight_quantizer, "'num_bits':4"));
    CHECK(has_attribute(fixture.input, "'num_bits':8"));

    choice.wanted = "nothing like it";
    matched = 99;
    CHECK_STATUS(mq_enable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_ERR_NOT_FOUND);
    CHECK_STATUS(mq_disable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_ERR_NOT_FOUND);
    CHECK_STATUS(
        mq_set_quantizer_attributes_if(fixture.model, &filter, "{\"num_bits\": 4}", 0, &matched),
        MQ_ERR_NOT_FOUND);
    CHECK(matched == 99);
    CHECK_STATUS(mq_enable_quantizer_if(fixture.model, &filter, MQ_ALLOW_NO_MATCH, &matched),
                 MQ_OK);
    CHECK(matched == 0);
    CHECK_STATUS(mq_disable_quantizer_if(fixture.model, &filter, MQ_ALLOW_NO_MATCH, NULL), MQ_OK);
    fixture_free(&fixture);
}

static void null_arguments_and_unknown_flags_are_refused(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    mq_model *model = fixture.model;
    struct snapshot snapshot;
    size_t matched = 99;
    struct choice choice = {"", 0, 0, 0};
    mq_filter_fn filter = {&choice, choose, choice_release}, nothing = {NULL, NULL, NULL};
    const char *int4 = "{\"num_bits\": 4}";
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_enable_quantizer(NULL, "*", 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer(model, NULL, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer(model, "\xff", 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer(model, "*", 2, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer(NULL, "*", 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer(model, NULL, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer(model, "*", 0x80000000u, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer_if(NULL, &filter, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer_if(model, NULL, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer_if(model, &nothing, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_enable_quantizer_if(model, &filter, 2, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer_if(NULL, &filter, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer_if(model, NULL, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer_if(model, &nothing, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_disable_quantizer_if(model, &filter, 4, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes(NULL, "*", int4, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes(model, NULL, int4, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes(model, "*", NULL, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes(model, "*", "\xff", 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes(model, "*", int4, 4, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes_if(NULL, &filter, int4, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes_if(model, NULL, int4, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes_if(model, &nothing, int4, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes_if(model, &filter, NULL, 0, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_set_quantizer_attributes_if(model, &filter, int4, 8, &matched),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK(matched == 99);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static size_t amax_count(mq_quantizer *quantizer) {
    size_t count = 99;
    CHECK_STATUS(mq_quantizer_amax(quantizer, NULL, 0, &count, NULL, NULL), MQ_OK);
    return count;
}

static void attributes_change_one_by_one(void) {
    struct fixture fixture;
    size_t matched = 0;
    fixture_init_quantized(&fixture, INT8);
    CHECK(has_attribute(fixture.weight_quantizer, "'axis':0"));
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "*weight_quantizer",
                                             "{\"num_bits\": 4, \"narrow_range\": true}", 0,
                                             &matched),
                 MQ_OK);
    CHECK(matched == 1 && has_attribute(fixture.weight_quantizer, "'num_bits':4"));
    CHECK(has_attribute(fixture.weight_quantizer, "'axis':0") &&
          has_attribute(fixture.weight_quantizer, "'narrow_range':true"));
    CHECK(amax_count(fixture.weight_quantizer) == 2); /* the granularity stayed */
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "*weight_quantizer", "{\"axis\": null}",
                                             0, NULL),
                 MQ_OK);
    CHECK(amax_count(fixture.weight_quantizer) == 0 &&
          has_attribute(fixture.weight_quantizer, "'num_bits':4"));
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "*input_quantizer",
                                             "{\"enable\": false}", 0, NULL),
                 MQ_OK);
    CHECK(!is_enabled(fixture.input) && amax_count(fixture.input) == 1);
    fixture_free(&fixture);
}

static void attributes_may_be_replaced(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "*weight_quantizer",
                                             "{\"num_bits\": 4}", MQ_REPLACE_ATTRIBUTES, NULL),
                 MQ_OK);
    CHECK(has_attribute(fixture.weight_quantizer, "'num_bits':4") &&
          has_attribute(fixture.weight_quantizer, "'axis':null"));
    CHECK(amax_count(fixture.weight_quantizer) == 0);

    /* a list makes a sequence, an object a plain quantizer again */
    mq_quantizer *member = NULL;
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.weight_quantizer",
                                             json("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]"),
                                             MQ_REPLACE_ATTRIBUTES | MQ_ALLOW_NO_MATCH, NULL),
                 MQ_OK);
    CHECK_STATUS(mq_model_find_quantizer(fixture.model, "fc.weight_quantizer.1", &member), MQ_OK);
    CHECK(member != NULL && has_attribute(member, "'num_bits':[4,3]"));
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.weight_quantizer",
                                             "{\"num_bits\": 8}", MQ_REPLACE_ATTRIBUTES, NULL),
                 MQ_OK);
    member = NULL;
    CHECK_STATUS(mq_model_find_quantizer(fixture.model, "fc.weight_quantizer.1", &member),
                 MQ_ERR_NOT_FOUND);
    CHECK(member == NULL);
    fixture_free(&fixture);
}

static void a_sequence_takes_a_list_of_its_length(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]")));
    mq_quantizer *first = find_quantizer(fixture.model, "fc.weight_quantizer.0");
    mq_quantizer *second = find_quantizer(fixture.model, "fc.weight_quantizer.1");
    CHECK(is_enabled(fixture.weight_quantizer));
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.weight_quantizer",
                                             "[{\"num_bits\": 3}, {\"narrow_range\": true}]", 0,
                                             NULL),
                 MQ_OK);
    CHECK(has_attribute(first, "'num_bits':3") && has_attribute(second, "'num_bits':[4,3]"));
    CHECK(has_attribute(second, "'narrow_range':true") &&
          has_attribute(first, "'narrow_range':false"));
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.weight_quantizer",
                                             "{\"pass_through_bwd\": false}", 0, NULL),
                 MQ_OK);
    CHECK(has_attribute(first, "'pass_through_bwd':false") &&
          has_attribute(second, "'pass_through_bwd':false"));

    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.weight_quantizer",
                                             "[{\"num_bits\": 8}]", 0, NULL),
                 MQ_ERR_CONFIG);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.input_quantizer",
                                             "[{\"num_bits\": 8}, {\"num_bits\": 8}]", 0, NULL),
                 MQ_ERR_CONFIG);
    CHECK(snapshot_holds(&snapshot, &fixture));

    CHECK_STATUS(mq_disable_quantizer(fixture.model, "fc.weight_quantizer.0", 0, NULL), MQ_OK);
    CHECK(!is_enabled(first) && is_enabled(second) &&
          is_enabled(fixture.weight_quantizer)); /* one of them is */
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "fc.weight_quantizer", 0, NULL), MQ_OK);
    CHECK(!is_enabled(second) && !is_enabled(fixture.weight_quantizer));
    fixture_free(&fixture);
}

static void bad_attributes_change_nothing(void) {
    static const struct {
        const char *attributes;
        mq_status status;
        const char *says;
    } cases[] = {
        {"", MQ_ERR_CONFIG, NULL},
        {"{", MQ_ERR_CONFIG, NULL},
        {"8", MQ_ERR_CONFIG, NULL},
        {"{'num_bitz': 4}", MQ_ERR_CONFIG, "num_bits"},
        {"{'num_bits': -4}", MQ_ERR_CONFIG, "-4"},
        {"{'axis': 0, 'block_sizes': {'-1': 2}}", MQ_ERR_CONFIG, "block_sizes"},
        {"{'calibrator': 'histogramm'}", MQ_ERR_CONFIG, "histogramm"},
        {"{'num_bits': 9}", MQ_ERR_UNSUPPORTED, "9"},
    };
    static const uint32_t flags[] = {0, MQ_REPLACE_ATTRIBUTES};
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    struct choice choice = {"", 0, 0, 0};
    mq_filter_fn filter = {&choice, choose, choice_release};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int k = 0; k < 2; k++) {
            struct snapshot snapshot;
            size_t matched = 99;
            snapshot_take(&snapshot, &fixture);
            check_status(mq_set_quantizer_attributes(fixture.model, "*", json(cases[i].attributes),
                                                     flags[k], &matched),
                         cases[i].status, cases[i].attributes, __FILE__, __LINE__);
            check_says(cases[i].says ? cases[i].says : "", cases[i].attributes, __LINE__);
            CHECK_STATUS(mq_set_quantizer_attributes_if(
                             fixture.model, &filter, json(cases[i].attributes), flags[k], &matched),
                         cases[i].status);
            CHECK(matched == 99);
            CHECK(snapshot_holds(&snapshot, &fixture));
        }
    }
    CHECK(choice.released == 2 * (int)(sizeof cases / sizeof *cases));
    CHECK_STATUS(
        mq_set_quantizer_attributes(fixture.model, "nobody*", "{\"num_bits\": 4}", 0, NULL),
        MQ_ERR_NOT_FOUND);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "nobody*", "{\"num_bits\": 4}",
                                             MQ_ALLOW_NO_MATCH, NULL),
                 MQ_OK);
    fixture_free(&fixture);
}

void test_selection(void) {
    wildcards_are_pythons();
    enabling_and_disabling_by_wildcard();
    filters_choose_by_name();
    null_arguments_and_unknown_flags_are_refused();
    attributes_change_one_by_one();
    attributes_may_be_replaced();
    a_sequence_takes_a_list_of_its_length();
    bad_attributes_change_nothing();
}
