/* One quantizer: its name, attributes, amax and pre_quant_scale, read and set. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static void null_arguments_are_refused(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    mq_quantizer *quantizer = fixture.weight_quantizer;
    float values[2];
    size_t count = 99;
    int32_t enabled = 99;
    char text[8] = "#######";
    CHECK_STATUS(mq_quantizer_name(NULL, text, sizeof text, &count), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_attributes(NULL, text, sizeof text, &count), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_is_enabled(NULL, &enabled), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_is_enabled(quantizer, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_amax(NULL, values, 2, &count, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_amax(quantizer, NULL, 2, &count, NULL, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_amax(quantizer, values, 2, NULL, NULL, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(NULL, F32_SCALAR(values)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(quantizer, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(NULL, values, 2, &count), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(quantizer, NULL, 2, &count), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(quantizer, values, 2, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(count == 99 && enabled == 99 && text[0] == '#');
    fixture_free(&fixture);
}

static void attributes_list_every_key(void) {
    static const char *const keys[] = {
        "num_bits",     "enable", "axis",        "fake_quant", "unsigned",
        "narrow_range", "type",   "block_sizes", "calibrator",
    };
    struct fixture fixture;
    char text[2048], quoted[32];
    fixture_init_quantized(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]")));
    CHECK_STATUS(mq_quantizer_attributes(fixture.input, text, sizeof text, NULL), MQ_OK);
    CHECK(text[0] == '{');
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        quoted[0] = '\0';
        strcat(strcat(strcat(quoted, "\""), keys[i]), "\"");
        check_true(strstr(text, quoted) != NULL, keys[i], __FILE__, __LINE__);
    }
    CHECK_STATUS(mq_quantizer_attributes(fixture.weight_quantizer, text, sizeof text, NULL), MQ_OK);
    CHECK(text[0] == '['); /* a sequence */

    /* what is read can be set */
    CHECK_STATUS(mq_quantizer_attributes(fixture.input, text, sizeof text, NULL), MQ_OK);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    CHECK_STATUS(mq_set_quantizer_attributes(fixture.model, "fc.input_quantizer", text,
                                             MQ_REPLACE_ATTRIBUTES, NULL),
                 MQ_OK);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void amax_is_cut_to_the_capacity(void) {
    struct fixture fixture;
    float values[3] = {-1.0f, -1.0f, -1.0f};
    int64_t shape[MQ_MAX_RANK] = {0};
    size_t count = 0;
    uint32_t rank = 99;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, NULL, 0, &count, shape, &rank), MQ_OK);
    CHECK(count == 2 && rank == 2 && shape[0] == 2 && shape[1] == 1);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, values, 1, &count, NULL, NULL), MQ_OK);
    CHECK(count == 2 && values[0] == 4.0f && values[1] == -1.0f);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, values, 3, &count, NULL, NULL), MQ_OK);
    CHECK(count == 2 && values[1] == 0.5f && values[2] == -1.0f);
    CHECK_STATUS(mq_quantizer_amax(fixture.input, values, 3, &count, shape, &rank), MQ_OK);
    CHECK(count == 1 && rank == 0 && values[0] == 2.0f);
    CHECK_STATUS(mq_quantizer_amax(fixture.own, values, 3, &count, shape, &rank), MQ_OK);
    CHECK(count == 0 && rank == 0);
    fixture_free(&fixture);
}

static void amax_is_set_as_a_calibration_would(void) {
    struct fixture fixture;
    float four = 4.0f, rows[2] = {8.0f, 1.0f}, got[2], x[IN] = {4.0f, 1.0f, 0.0f, -9.0f};
    const float want[IN] = {4.0f, 1.00787401f, 0.0f, -4.03149605f};
    size_t count = 0;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32_SCALAR(&four)), MQ_OK);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(rows, 2, 1)), MQ_OK);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, got, 2, &count, NULL, NULL), MQ_OK);
    CHECK(count == 2);
    CHECK_FLOATS(got, rows, 2);

    uint16_t half = 0x4000; /* 2 */
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F16(&half, 1)), MQ_OK);
    CHECK_STATUS(mq_quantizer_amax(fixture.input, got, 1, &count, NULL, NULL), MQ_OK);
    CHECK(count == 1 && got[0] == 2.0f);
    fixture_free(&fixture);
}

static void amax_that_cannot_be_is_refused(void) {
    const float bad[] = {-1.0f, NAN, INFINITY, -INFINITY, -0.5f};
    struct fixture fixture;
    float values[8] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};
    fixture_init_quantized(&fixture, INT8);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float rows[2] = {1.0f, bad[i]};
        CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(rows, 2, 1)),
                     MQ_ERR_NUMERIC);
        CHECK_SAYS("fc.weight_quantizer");
        CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32_SCALAR(&rows[1])), MQ_ERR_NUMERIC);
        CHECK_SAYS("fc.input_quantizer");
    }
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(values, 3, 1)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(values, 1, 2)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32_SCALAR(values)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(values, OUT, IN)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32(NULL, 0, 1)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32(values, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

static void dynamic_and_sequential_quantizers_have_no_amax_to_set(void) {
    struct fixture fixture;
    float one = 1.0f, blocks[2] = {1.0f, 1.0f}, got[2];
    size_t count = 99;
    fixture_init_quantized(&fixture, "FP8_PER_CHANNEL_PER_TOKEN_CFG");
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32_SCALAR(&one)), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_amax(fixture.input, got, 2, &count, NULL, NULL), MQ_OK);
    CHECK(count == 0);
    CHECK_STATUS(
        fixture_quantize(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]"))),
        MQ_OK);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.weight_quantizer, F32_SCALAR(&one)), MQ_ERR_STATE);
    CHECK_STATUS(mq_quantizer_amax(fixture.weight_quantizer, got, 2, &count, NULL, NULL),
                 MQ_ERR_STATE);
    CHECK(count == 0); /* untouched */
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.weight_quantizer, got, 2, &count), MQ_OK);
    CHECK(count == 0); /* the first member has none */
    CHECK_STATUS(mq_quantizer_set_amax(find_quantizer(fixture.model, "fc.weight_quantizer.0"),
                                       F32(blocks, 2, 1)),
                 MQ_OK);
    CHECK_STATUS(mq_quantizer_set_amax(find_quantizer(fixture.model, "fc.weight_quantizer.1"),
                                       F32_SCALAR(&one)),
                 MQ_OK);
    fixture_free(&fixture);
}

static void a_pre_quant_scale_multiplies_the_input(void) {
    struct fixture fixture;
    float scale[IN] = {2.0f, 1.0f, 0.5f, 4.0f}, got[IN] = {0}, x[IN] = {1.0f, 1.5f, 2.0f, -0.25f},
          out[IN];
    const float scaled[IN] = {2.0f, 1.5f, 1.0f, -1.0f},
                quantized[IN] = {2.0f, 1.49606299f, 1.00787401f, -1.00787401f};
    size_t count = 99;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.input, got, IN, &count), MQ_OK);
    CHECK(count == 0);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(scale, IN)), MQ_OK);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.input, NULL, 0, &count), MQ_OK);
    CHECK(count == IN);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.input, got, 2, &count), MQ_OK);
    CHECK(count == IN && got[1] == 1.0f && got[2] == 0.0f); /* cut */
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.input, got, IN, &count), MQ_OK);
    CHECK_FLOATS(got, scale, IN);

    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(out, IN)), MQ_OK);
    CHECK_FLOATS(out, quantized, IN);
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "fc.input_quantizer", 0, NULL), MQ_OK);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(out, IN)), MQ_OK);
    CHECK_FLOATS(out, scaled, IN); /* also when disabled */
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, NULL), MQ_OK);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(fixture.input, got, IN, &count), MQ_OK);
    CHECK(count == 0);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(out, IN)), MQ_OK);
    CHECK_FLOATS(out, x, IN);
    fixture_free(&fixture);
}

static void pre_quant_scales_that_cannot_be_are_refused(void) {
    const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    struct fixture fixture;
    float scale[IN] = {1.0f, 1.0f, 1.0f, 1.0f};
    fixture_init_quantized(&fixture, INT8);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scale[2] = bad[i];
        CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(scale, IN)),
                     MQ_ERR_NUMERIC);
        CHECK_SAYS("fc.input_quantizer");
    }
    scale[2] = 1.0f;
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(scale, IN - 1)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(scale, 2, 2)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(fixture.input, F32(NULL, 0)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

void test_quantizer(void) {
    null_arguments_are_refused();
    attributes_list_every_key();
    amax_is_cut_to_the_capacity();
    amax_is_set_as_a_calibration_would();
    amax_that_cannot_be_is_refused();
    dynamic_and_sequential_quantizers_have_no_amax_to_set();
    a_pre_quant_scale_multiplies_the_input();
    pre_quant_scales_that_cannot_be_are_refused();
}
