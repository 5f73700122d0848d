/* mq_fold_pre_quant_scale(): the product of tap and weight stays, the multiplication goes. */
#include <float.h>
#include <string.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

static void norms_and_producers_are_checked(void) {
    struct fixture fixture;
    float weight[OUT * IN] = {1.0f}, gain[IN + 1] = {1.0f};
    const mq_tensor *right = F32(gain, IN),
                    *wrong[] = {F32(gain, IN + 1), F32(gain, 1, IN), F32_SCALAR(gain)};
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "late";
    desc.weight = F32(weight, OUT, IN);
    const mq_layer_desc plain = desc;
    for (int i = 0; i < 3; i++) {
        desc = plain;
        desc.norm_gain = wrong[i];
        CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
        desc.norm_gain = right;
        desc.norm_bias = wrong[i];
        CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS("late");
    }
    desc.norm_gain = NULL;
    desc.norm_bias = right;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("norm_gain");
    desc = plain;
    desc.norm_flags = 2;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc = plain;
    desc.reserved = 7;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("reserved is 7");
    desc = plain;
    desc.producer = "fc";
    desc.norm_gain = right;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.norm_gain = NULL;
    desc.kind = MQ_LAYER_EMBEDDING;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.kind = MQ_LAYER_LINEAR;
    desc.producer = "\xff";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.producer = "";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.producer = NULL;
    desc.expert_group = "";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc = plain;
    desc.norm_gain = desc.norm_bias = right;
    desc.norm_flags = MQ_NORM_ADDS_ONE;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    fixture_free(&fixture);
}

static void bad_arguments_are_refused(void) {
    struct wide wide;
    size_t folded = 99;
    wide_init(&wide, NULL);
    CHECK_STATUS(mq_fold_pre_quant_scale(NULL, 0, &folded), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_ERR_STATE);
    CHECK_STATUS(wide_quantize(&wide, "INT8_SMOOTHQUANT_CFG"), MQ_OK);
    for (uint32_t flag = 1; flag != 0; flag <<= 1) {
        CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, flag, &folded), MQ_ERR_INVALID_ARGUMENT);
    }
    CHECK(folded == 99);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, NULL), MQ_OK);
    wide_free(&wide);
}

static void nothing_to_fold_is_no_error(void) {
    struct wide wide;
    struct wide_snapshot snapshot;
    size_t folded = 99;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_OK);
    CHECK(folded == 0);
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    wide_free(&wide);
}

static void has_no_factors(struct wide *wide) {
    static const char *const inputs[] = {"q.input_quantizer", "k.input_quantizer",
                                         "up.input_quantizer", "down.input_quantizer"};
    float values[WIDTH];
    for (int i = 0; i < 4; i++) {
        CHECK(factors_of(wide, inputs[i], values) == 0);
    }
}

static void the_product_stays(void) {
    /* Whether activations are quantized, too: then one that lies between two codes may fall to the
     * other, for the norm rounds once more. */
    static const struct {
        const char *config;
        double rounding, others;
    } cases[] = {
        {INT4_WEIGHTS("'awq_lite'"), 1e-6, 0.1},
        {INT4_WEIGHTS("'awq_full'"), 1e-6, 0.1},
        {"INT8_SMOOTHQUANT_CFG", 2e-3, 0.02},
        {INT8_BOTH("{'method': 'smoothquant', 'alpha': 0.5}"), 2e-3, 0.02},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wide wide, unquantized;
        struct outputs plain, before, after;
        size_t folded = 0;
        wide_init(&unquantized, NULL);
        wide_outputs(&unquantized, &plain);
        wide_free(&unquantized);
        wide_init(&wide, NULL);
        CHECK_STATUS(wide_quantize(&wide, cases[i].config), MQ_OK);
        wide_outputs(&wide, &before);
        CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_OK);
        CHECK(folded == 4);
        has_no_factors(&wide);
        wide_outputs(&wide, &after);
        /* one reader: the very product */
        CHECK(distance(after.q, before.q, TOKENS * HEADS) < cases[i].rounding);
        /* two readers got the mean of their factors, and weights quantized accordingly */
        double k = distance(before.k, plain.k, TOKENS * HEADS),
               down = distance(before.down, plain.down, TOKENS * HEADS);
        CHECK(distance(after.k, plain.k, TOKENS * HEADS) < k + cases[i].others);
        CHECK(distance(after.down, plain.down, TOKENS * HEADS) < down + cases[i].others);

        /* folding the weights afterwards leaves the product alone, too */
        struct outputs written;
        CHECK_STATUS(mq_fold_weight(wide.model, 0), MQ_OK);
        wide_outputs(&wide, &written);
        CHECK(memcmp(&written, &after, sizeof after) == 0);
        CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_OK); /* no more to do */
        CHECK(folded == 0);
        mq_check_report report = {sizeof report, 9, 9, 9, 9, 9, 9};
        CHECK_STATUS(mq_check(wide.model, &report, NULL, 0, NULL), MQ_OK);
        CHECK(report.errors == 0);
        wide_free(&wide);
    }
}

/* A producer's rows scale exactly when its reader's factors are powers of two. */
static void a_producer_takes_over_its_readers_factors(void) {
    struct wide wide;
    struct outputs before, after;
    float factors[HIDDEN], up_weight[HIDDEN * WIDTH], bias[HIDDEN], now[HIDDEN * WIDTH];
    size_t folded = 0;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    for (int i = 0; i < HIDDEN; i++) {
        factors[i] = i % 2 ? 4.0f : 0.5f;
    }
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(
                     find_quantizer(wide.model, "down.input_quantizer"), F32(factors, HIDDEN)),
                 MQ_OK);
    wide_outputs(&wide, &before);
    CHECK_STATUS(mq_layer_weight(wide.up, F32(up_weight, HIDDEN, WIDTH)), MQ_OK);
    memcpy(bias, wide.up_bias, sizeof bias);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_OK);
    CHECK(folded == 1);
    CHECK_STATUS(mq_layer_weight(wide.up, F32(now, HIDDEN, WIDTH)), MQ_OK);
    for (int i = 0; i < HIDDEN; i++) {
        bias[i] *= factors[i];
        for (int k = 0; k < WIDTH; k++) {
            up_weight[i * WIDTH + k] *= factors[i];
        }
    }
    CHECK_FLOATS(now, up_weight, HIDDEN * WIDTH);
    CHECK_FLOATS(wide.up_bias, bias, HIDDEN);
    wide_outputs(&wide, &after);
    CHECK(memcmp(&after, &before, sizeof before) == 0);
    wide_free(&wide);
}

static void on_failure_nothing_is_changed(void) {
    struct wide wide;
    struct wide_snapshot snapshot;
    size_t folded = 99;
    /* a norm whose values would leave float32 */
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    float factors[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        factors[i] = 8.0f;
    }
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(find_quantizer(wide.model, "q.input_quantizer"),
                                                  F32(factors, WIDTH)),
                 MQ_OK);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(find_quantizer(wide.model, "k.input_quantizer"),
                                                  F32(factors, WIDTH)),
                 MQ_OK);
    wide.gain1[7] = FLT_MAX;
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_ERR_NUMERIC);
    CHECK(wide_snapshot_holds(&snapshot, &wide) && folded == 99);
    wide.gain1[7] = 1.0f;

    /* a reader whose weight is folded with other factors */
    CHECK_STATUS(mq_fold_weight(wide.model, 0), MQ_OK);
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_ERR_STATE);
    CHECK_SAYS("up");
    CHECK(wide_snapshot_holds(&snapshot, &wide) && folded == 99);
    wide_free(&wide);

    /* a compressed producer */
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(
                     find_quantizer(wide.model, "down.input_quantizer"), F32(factors, HIDDEN)),
                 MQ_OK);
    CHECK_STATUS(mq_compress(wide.model, NULL, NULL, 0, NULL), MQ_OK);
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, &folded), MQ_ERR_STATE);
    CHECK_SAYS("up");
    CHECK(wide_snapshot_holds(&snapshot, &wide) && folded == 99);
    wide_free(&wide);
}

static void a_producer_must_be_there_and_of_the_right_size(void) {
    for (int i = 0; i < 2; i++) {
        struct fixture fixture;
        struct snapshot snapshot;
        float weight[OUT * IN] = {1.0f}, factors[IN] = {2.0f, 2.0f, 2.0f, 2.0f};
        mq_layer_desc desc;
        size_t folded = 99;
        fixture_init(&fixture);
        CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
        desc.name = "down";
        desc.weight = F32(weight, OUT, IN);
        desc.producer = i ? "fc" : "nobody";
        CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
        CHECK_STATUS(mq_quantize(fixture.model, INT8, NULL), MQ_OK);
        CHECK_STATUS(mq_quantizer_set_pre_quant_scale(
                         find_quantizer(fixture.model, "down.input_quantizer"), F32(factors, IN)),
                     MQ_OK);
        snapshot_take(&snapshot, &fixture);
        CHECK_STATUS(mq_fold_pre_quant_scale(fixture.model, 0, &folded),
                     i ? MQ_ERR_STATE : MQ_ERR_NOT_FOUND);
        CHECK_SAYS(i ? "fc" : "nobody");
        CHECK(snapshot_holds(&snapshot, &fixture) && folded == 99);
        fixture_free(&fixture);
    }
}

static void folds_inside(struct wide *wide) {
    size_t folded = 99;
    CHECK_STATUS(mq_fold_pre_quant_scale(wide->model, 0, &folded), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_set_calibration_options(wide->model, NULL), MQ_ERR_BUSY);
    CHECK(folded == 99);
}

static void a_model_is_busy_in_a_verb(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    wide.inside = folds_inside;
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    wide_free(&wide);
}

void test_fold_pqs(void) {
    norms_and_producers_are_checked();
    bad_arguments_are_refused();
    nothing_to_fold_is_no_error();
    the_product_stays();
    a_producer_takes_over_its_readers_factors();
    on_failure_nothing_is_changed();
    a_producer_must_be_there_and_of_the_right_size();
    a_model_is_busy_in_a_verb();
}
