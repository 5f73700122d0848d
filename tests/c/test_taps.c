/* The taps: what passes before, during and after calibration, in place and apart, and what is
 * refused. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

/* int8 with amax 2 of fixture.x */
static const float quantized_x[ROWS * IN] = {
    -2.0f,        1.49606299f,  1.00787401f,   0.0f,         0.0f,          0.0157480314f,
    -1.00787401f, 0.503937006f, 0.0944881886f, 0.204724416f, -0.299212605f, 0.393700778f,
};

static void before_quantize_everything_is_copied(void) {
    struct fixture fixture;
    float out[ROWS * IN], weight[OUT * IN];
    fixture_init(&fixture);
    mq_tensor x = *F32(fixture.x, ROWS, IN);
    CHECK_STATUS(mq_layer_input(fixture.layer, &x, F32(out, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(out, fixture.x, ROWS * IN);
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_layer_output(fixture.layer, &x, F32(out, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(out, fixture.x, ROWS * IN);
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, &x, F32(out, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(out, fixture.x, ROWS * IN);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(weight, OUT, IN)), MQ_OK);
    CHECK_FLOATS(weight, fixture.weight, OUT * IN);
    fixture_free(&fixture);
}

static void copies_while_calibrating(struct pass *pass) {
    float *x = pass->fixture->x, out[ROWS * IN];
    CHECK_STATUS(mq_layer_input(pass->fixture->layer, F32(x, ROWS, IN), F32(out, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(out, x, ROWS * IN);
    CHECK_STATUS(mq_layer_input(pass->fixture->layer, F32(out, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, x, ROWS * IN);
    CHECK_STATUS(mq_layer_output(pass->fixture->layer, F32(x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, x, ROWS * IN);
}

static void calibration_passes_values_unchanged(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    struct pass pass = {&fixture, 0, copies_while_calibrating, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_OK);
    CHECK(pass.calls == 1 && pass.released == 1);
    fixture_free(&fixture);
}

static void quantized_taps_work_in_place_apart_and_not_at_all(void) {
    struct fixture fixture;
    float x[ROWS * IN], out[ROWS * IN];
    fixture_init_quantized(&fixture, INT8);
    memcpy(x, fixture.x, sizeof x);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, ROWS, IN), F32(out, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN);
    CHECK_FLOATS(x, fixture.x, ROWS * IN);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, ROWS, IN), NULL), MQ_OK); /* observe only */
    CHECK_FLOATS(x, fixture.x, ROWS * IN);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, ROWS, IN), F32(x, ROWS, IN)), MQ_OK);
    CHECK_FLOATS(x, quantized_x, ROWS * IN);

    /* through the quantizer itself, and at other ranks */
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_quantizer_forward(fixture.input, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN);
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(fixture.x, IN), F32(out, IN)), MQ_OK);
    CHECK_FLOATS(out, quantized_x, IN);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(fixture.x, 1, ROWS, IN), F32(out, 1, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN);
    fixture_free(&fixture);
}

static void a_disabled_quantizer_copies(void) {
    struct fixture fixture;
    float out[ROWS * IN];
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_layer_output(fixture.layer, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, fixture.x, ROWS * IN);
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "*input_quantizer", 0, NULL), MQ_OK);
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, fixture.x, ROWS * IN);
    CHECK_STATUS(mq_enable_quantizer(fixture.model, "*input_quantizer", 0, NULL), MQ_OK);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN); /* with the amax it had */
    fixture_free(&fixture);
}

static void feeds_the_output(struct pass *pass) {
    CHECK_STATUS(mq_layer_output(pass->fixture->layer, F32(pass->fixture->x, ROWS, IN), NULL),
                 MQ_OK);
    CHECK_STATUS(mq_quantizer_forward(pass->fixture->own, F32(pass->fixture->x, ROWS, IN), NULL),
                 MQ_OK);
}

static void outputs_and_own_quantizers_are_calibrated_too(void) {
    struct fixture fixture;
    float out[ROWS * IN];
    fixture_init(&fixture);
    struct pass pass = {&fixture, 0, feeds_the_output, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model,
                             json("{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bits': "
                                  "8}}], 'algorithm': 'max'}"),
                             &forward),
                 MQ_OK);
    CHECK_STATUS(mq_layer_output(fixture.layer, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN);
    memset(out, 0, sizeof out);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, F32(fixture.x, ROWS, IN), F32(out, ROWS, IN)),
                 MQ_OK);
    CHECK_FLOATS(out, quantized_x, ROWS * IN);
    fixture_free(&fixture);
}

static void overlaps_and_mismatches_are_refused(void) {
    struct fixture fixture;
    float room[2 * ROWS * IN] = {0};
    uint16_t half[ROWS * IN] = {0};
    fixture_init_quantized(&fixture, INT8);
    mq_layer *layer = fixture.layer;
    mq_tensor x = *F32(room, ROWS, IN);
    CHECK_STATUS(mq_layer_input(layer, &x, F32(room + 1, ROWS, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("overlap");
    CHECK_STATUS(mq_layer_input(layer, F32(room + 5, ROWS, IN), &x), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(layer, &x, F32(room + ROWS * IN - 1, ROWS, IN)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_output(layer, &x, F32(room + 1, ROWS, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, &x, F32(room + 1, ROWS, IN)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(layer, &x, F32(room + ROWS * IN, ROWS, IN)),
                 MQ_OK); /* side by side */

    CHECK_STATUS(mq_layer_input(layer, &x, F32(room, IN, ROWS)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(layer, &x, F32(room, ROWS * IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(layer, &x, F16(half, ROWS, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(layer, F32(room, IN, ROWS), NULL),
                 MQ_ERR_INVALID_ARGUMENT); /* not [..., in] */
    CHECK_STATUS(mq_layer_input(layer, F32_SCALAR(room), NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_output(layer, &x, F32(room, IN, ROWS)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, &x, F32(room, IN, ROWS)),
                 MQ_ERR_INVALID_ARGUMENT);
    fixture_free(&fixture);
}

static void null_arguments_are_refused(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    mq_tensor x = *F32(fixture.x, ROWS, IN);
    CHECK_STATUS(mq_layer_input(NULL, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(fixture.layer, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_output(NULL, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_output(fixture.layer, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(NULL, F32(fixture.weight, OUT, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(fixture.layer, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_forward(NULL, &x, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    fixture_free(&fixture);
}

static void empty_tensors_pass(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    for (int quantized = 0; quantized < 2; quantized++) {
        mq_tensor empty = *F32(NULL, 0, IN);
        CHECK_STATUS(mq_layer_input(fixture.layer, &empty, &empty), MQ_OK);
        CHECK_STATUS(mq_layer_input(fixture.layer, &empty, NULL), MQ_OK);
        CHECK_STATUS(mq_layer_output(fixture.layer, F32(NULL, 3, 0, 2), NULL), MQ_OK);
        CHECK_STATUS(mq_quantizer_forward(fixture.own, &empty, &empty), MQ_OK);
        if (!quantized) {
            CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
        }
    }
    fixture_free(&fixture);
}

static void amax_that_does_not_fit_is_an_error_of_state(void) {
    struct fixture fixture;
    float x[8] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f},
          amax[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    fixture_init(&fixture);
    CHECK_STATUS(
        fixture_quantize(
            &fixture,
            json("{'quant_cfg': [{'quantizer_name': '*', 'enable': false}, {'quantizer_name': "
                 "'*k_bmm*', 'cfg': {'num_bits': 8, 'axis': -1}}], 'algorithm': null}")),
        MQ_OK);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.own, F32(amax, 1, 4)), MQ_OK);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, F32(x, 2, 4), F32(x, 2, 4)), MQ_OK);
    CHECK_STATUS(mq_quantizer_forward(fixture.own, F32(x, 1, 8), F32(x, 1, 8)), MQ_ERR_STATE);
    CHECK_SAYS("k_bmm_quantizer");
    fixture_free(&fixture);
}

static void unsigned_refuses_negative_values(void) {
    struct fixture fixture;
    const char *config = "{'quant_cfg': [{'quantizer_name': '*input_quantizer', 'cfg': "
                         "{'num_bits': 8, 'unsigned': true}}], 'algorithm': null}";
    float x[IN] = {0.0f, 1.0f, 1.5f, 2.0f}, two = 2.0f;
    const float want[IN] = {0.0f, 1.00392163f, 1.49803925f, 2.0f};
    fixture_init(&fixture);
    CHECK_STATUS(mq_quantize(fixture.model, json(config), NULL), MQ_OK);
    CHECK_STATUS(mq_quantizer_set_amax(fixture.input, F32_SCALAR(&two)), MQ_OK);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    x[0] = -1.0f;
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_ERR_NUMERIC);
    CHECK_SAYS("fc");
    fixture_free(&fixture);
}

static void nan_and_infinity_pass_a_quantized_tap_as_the_grid_has_them(void) {
    struct fixture fixture;
    float x[IN] = {NAN, INFINITY, -INFINITY, 1.0f};
    const float want[IN] = {NAN, 2.0f, -2.01574802f, 1.00787401f};
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_layer_input(fixture.layer, F32(x, IN), F32(x, IN)), MQ_OK);
    CHECK_FLOATS(x, want, IN);
    fixture_free(&fixture);
}

static void weights_are_given_out_as_the_layer_uses_them(void) {
    struct fixture fixture;
    float out[OUT * IN + 4], before[OUT * IN];
    uint16_t half[OUT * IN];
    mq_layer_desc desc;
    mq_layer *norm = NULL;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_GENERIC;
    desc.name = "norm";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, &norm), MQ_OK);
    memcpy(before, fixture.weight, sizeof before);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_weight(norm, F32(out, OUT, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("norm");
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(out, IN, OUT)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F16(half, OUT, IN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(fixture.weight + 1, OUT, IN)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(out, OUT, IN)), MQ_OK);
    CHECK_FLOATS(fixture.weight, before, OUT * IN);
    CHECK(memcmp(out, before, sizeof before) != 0);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(fixture.weight, OUT, IN)),
                 MQ_OK); /* in place */
    CHECK(memcmp(out, fixture.weight, sizeof before) == 0);
    fixture_free(&fixture);
}

void test_taps(void) {
    before_quantize_everything_is_copied();
    calibration_passes_values_unchanged();
    quantized_taps_work_in_place_apart_and_not_at_all();
    a_disabled_quantizer_copies();
    outputs_and_own_quantizers_are_calibrated_too();
    overlaps_and_mismatches_are_refused();
    null_arguments_are_refused();
    empty_tensors_pass();
    amax_that_does_not_fit_is_an_error_of_state();
    unsigned_refuses_negative_values();
    nan_and_infinity_pass_a_quantized_tap_as_the_grid_has_them();
    weights_are_given_out_as_the_layer_uses_them();
}
