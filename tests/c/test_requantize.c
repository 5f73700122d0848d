/* A new weight in place of the registered one: scales kept and found anew, in place and apart, and
 * what is refused. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static const float new_weight[OUT * IN] = {2.0f, -2.5f, 6.0f, -1.0f, 0.75f, 0.5f, -0.25f, 1.0f};

static void kept_and_refreshed_scales_are_those_of_the_old_and_the_new_weight(void) {
    struct fixture fixture, other;
    float weight[OUT * IN], kept[OUT * IN], out[OUT * IN], expected[OUT * IN], before[OUT * IN];
    fixture_init(&fixture);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(before, OUT, IN)), MQ_OK);
    memcpy(weight, new_weight, sizeof weight);
    CHECK_STATUS(
        mq_requantize_into(fixture.layer, F32(weight, OUT, IN), F32(kept, OUT, IN), MQ_SCALES_KEEP),
        MQ_OK);
    CHECK_FLOATS(weight, new_weight, OUT * IN);
    /* The registered weight and its scales are as they were. */
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(out, OUT, IN)), MQ_OK);
    CHECK_FLOATS(out, before, OUT * IN);
    /* What the layer would give with that weight. */
    memcpy(fixture.weight, new_weight, sizeof new_weight);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(out, OUT, IN)), MQ_OK);
    CHECK_FLOATS(out, kept, OUT * IN);
    /* One that is calibrated to it. */
    fixture_init(&other);
    memcpy(other.weight, new_weight, sizeof new_weight);
    CHECK_STATUS(fixture_quantize(&other, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_weight(other.layer, F32(expected, OUT, IN)), MQ_OK);
    CHECK(memcmp(expected, kept, sizeof kept) != 0);
    CHECK_STATUS(mq_requantize_into(fixture.layer, F32(weight, OUT, IN), F32(weight, OUT, IN),
                                    MQ_SCALES_REFRESH),
                 MQ_OK); /* in place */
    CHECK_FLOATS(weight, expected, OUT * IN);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(out, OUT, IN)), MQ_OK);
    CHECK_FLOATS(out, expected, OUT * IN); /* they stay */
    fixture_free(&other);
    fixture_free(&fixture);
}

static void what_does_not_fit_is_refused(void) {
    struct fixture fixture;
    float weight[OUT * IN + 1], out[OUT * IN];
    uint16_t half[OUT * IN] = {0};
    mq_layer_desc desc;
    mq_layer *norm = NULL;
    memcpy(weight, new_weight, sizeof new_weight);
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_GENERIC;
    desc.name = "norm";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, &norm), MQ_OK);
    mq_layer *fc = fixture.layer;
    mq_tensor w = *F32(weight, OUT, IN), o = *F32(out, OUT, IN);
    CHECK_STATUS(mq_requantize_into(fc, &w, &o, MQ_SCALES_KEEP), MQ_ERR_STATE);
    CHECK_SAYS("mq_quantize()");
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_requantize_into(NULL, &w, &o, MQ_SCALES_KEEP), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_requantize_into(fc, NULL, &o, MQ_SCALES_KEEP), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_requantize_into(fc, &w, NULL, MQ_SCALES_KEEP), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_requantize_into(fc, &w, &o, 2), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("MQ_SCALES_REFRESH");
    CHECK_STATUS(mq_requantize_into(norm, &w, &o, MQ_SCALES_KEEP), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("norm");
    CHECK_STATUS(mq_requantize_into(fc, F32(weight, IN, OUT), &o, MQ_SCALES_KEEP),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("as registered");
    CHECK_STATUS(mq_requantize_into(fc, F16(half, OUT, IN), F16(half, OUT, IN), MQ_SCALES_KEEP),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_requantize_into(fc, &w, F32(weight + 1, OUT, IN), MQ_SCALES_KEEP),
                 MQ_ERR_INVALID_ARGUMENT);
    weight[3] = NAN;
    CHECK_STATUS(mq_requantize_into(fc, &w, &o, MQ_SCALES_REFRESH), MQ_ERR_NUMERIC);
    CHECK_SAYS("fc");
    weight[3] = 1.0f;
    CHECK_STATUS(mq_requantize_into(fc, &w, &o, MQ_SCALES_REFRESH), MQ_OK);
    CHECK_STATUS(mq_compress(fixture.model, NULL, NULL, 0, NULL), MQ_OK);
    CHECK_STATUS(mq_requantize_into(fc, &w, &o, MQ_SCALES_KEEP), MQ_ERR_STATE);
    CHECK_SAYS("compressed");
    fixture_free(&fixture);
}

static void a_folded_weight_is_refused(void) {
    struct fixture fixture;
    float weight[OUT * IN], out[OUT * IN];
    memcpy(weight, new_weight, sizeof new_weight);
    fixture_init(&fixture);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
    CHECK_STATUS(
        mq_requantize_into(fixture.layer, F32(weight, OUT, IN), F32(out, OUT, IN), MQ_SCALES_KEEP),
        MQ_ERR_STATE);
    CHECK_SAYS("folded");
    fixture_free(&fixture);
}

void test_requantize(void) {
    kept_and_refreshed_scales_are_those_of_the_old_and_the_new_weight();
    what_does_not_fit_is_refused();
    a_folded_weight_is_refused();
}
