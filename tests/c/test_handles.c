/* Handles: destroyed in any order, asked for twice, mixed up. */
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static void handles_die_in_any_order(void) {
    struct fixture fixture;
    mq_model *second = NULL;
    fixture_init(&fixture);
    CHECK_STATUS(mq_model_create(fixture.context, &second), MQ_OK);
    mq_context_destroy(fixture.context); /* before its models, which go on working */
    fixture.context = NULL;
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(fixture.x, ROWS, IN), NULL), MQ_OK);
    CHECK_STATUS(mq_model_destroy(fixture.model), MQ_OK);
    fixture.model = NULL;
    CHECK_STATUS(mq_model_destroy(second), MQ_OK);
    CHECK_STATUS(mq_model_destroy(NULL), MQ_OK);
    mq_context_destroy(NULL);
}

static void many_contexts_live_side_by_side(void) {
    struct fixture fixtures[3];
    for (int i = 0; i < 3; i++) {
        fixture_init(&fixtures[i]);
    }
    CHECK_STATUS(fixture_quantize(&fixtures[0], INT8), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixtures[2], FP8), MQ_OK);
    fixture_free(&fixtures[1]);
    CHECK_STATUS(mq_fold_weight(fixtures[0].model, 0), MQ_OK);
    fixture_free(&fixtures[0]);
    CHECK_STATUS(mq_fold_weight(fixtures[2].model, 0), MQ_OK);
    fixture_free(&fixtures[2]);
}

static void a_name_has_one_handle(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    mq_layer *layer = NULL;
    CHECK_STATUS(mq_model_find_layer(fixture.model, "fc", &layer), MQ_OK);
    CHECK(layer == fixture.layer);
    CHECK(find_quantizer(fixture.model, "kv.k_bmm_quantizer") == fixture.own);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK(find_quantizer(fixture.model, "fc.input_quantizer") == fixture.input);
    fixture_free(&fixture);
}

static void a_handle_of_the_wrong_type_is_refused(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    mq_layer *not_a_layer = (mq_layer *)fixture.own;
    mq_quantizer *not_a_quantizer = (mq_quantizer *)fixture.layer;
    mq_tensor x = *F32(fixture.x, ROWS, IN);
    float amax = 1.0f, values[8];
    char text[8];
    size_t count = 0;
    int32_t enabled = 0;
    CHECK_STATUS(mq_layer_input(not_a_layer, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_output(not_a_layer, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(not_a_layer, F32(values, OUT, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_forward(not_a_quantizer, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_name(not_a_quantizer, text, sizeof text, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_is_enabled(not_a_quantizer, &enabled), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_attributes(not_a_quantizer, text, sizeof text, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_amax(not_a_quantizer, values, 8, &count, NULL, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(not_a_quantizer, F32_SCALAR(&amax)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(not_a_quantizer, values, 8, &count),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(not_a_quantizer, NULL), MQ_ERR_INVALID_ARGUMENT);
    fixture_free(&fixture);
}

static void a_member_dies_with_its_sequence(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]")));
    mq_quantizer *member = find_quantizer(fixture.model, "fc.weight_quantizer.1");
    mq_tensor weight = *F32(fixture.weight, OUT, IN);
    float amax = 1.0f, values[8];
    size_t count = 0;
    int32_t enabled = 0;
    char text[8];
    CHECK_STATUS(mq_quantizer_is_enabled(member, &enabled), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK); /* a plain quantizer takes its place */
    CHECK_STATUS(mq_quantizer_is_enabled(member, &enabled), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_attributes(member, text, sizeof text, NULL), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_amax(member, values, 8, &count, NULL, NULL), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_set_amax(member, F32_SCALAR(&amax)), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(member, values, 8, &count), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(member, NULL), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_forward(member, &weight, NULL), MQ_ERR_STATE);
    mq_quantizer *gone = NULL;
    CHECK_STATUS(mq_model_find_quantizer(fixture.model, "fc.weight_quantizer.1", &gone),
                 MQ_ERR_NOT_FOUND);
    CHECK(gone == NULL);
    fixture_free(&fixture);
}

void test_handles(void) {
    handles_die_in_any_order();
    many_contexts_live_side_by_side();
    a_name_has_one_handle();
    a_handle_of_the_wrong_type_is_refused();
    a_member_dies_with_its_sequence();
}
