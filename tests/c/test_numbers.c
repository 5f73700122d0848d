/* Worked examples: every format and granularity with numbers worked out apart from the library.
 *
 * y = clamp(rne(x * s)) / s with s = (2^(bits - 1) - 1) / amax for integers, and
 * y = e4m3(clamp(x * s)) * (1 / s) with s = (1 / amax) * 448 for FP8, each step in float32. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static mq_context *context;

static const float line[9] = {-3.0f, -2.99f, -1.0f, 0.0f, 0.004f, 0.011811f, 1.5f, 2.0f, 5.0f};
static const float line_int8[9] = {
    -2.01574802f, -2.01574802f, -1.00787401f, 0.0f, 0.0f, 0.0157480314f, 1.49606299f, 2.0f, 2.0f,
};
static const float line_fp8[9] = {-2.0f,         -2.0f,       -1.0f, 0.0f, 0.00390625f,
                                  0.0122767864f, 1.42857146f, 2.0f,  2.0f};

static void expect_line(const char *attributes, const float *want) {
    float x[9], out[9], two = 2.0f;
    memcpy(x, line, sizeof x);
    CHECK_STATUS(mq_fake_quant(context, F32(x, 9), json(attributes), F32_SCALAR(&two), F32(out, 9)),
                 MQ_OK);
    CHECK_FLOATS(out, want, 9);
}

static void one_amax_for_the_tensor(void) {
    static const float narrow[9] = {-2.0f,         -2.0f,       -1.00787401f, 0.0f, 0.0f,
                                    0.0157480314f, 1.49606299f, 2.0f,         2.0f};
    static const float int4[9] = {-2.28571439f, -2.28571439f, -1.14285719f, 0.0f, 0.0f,
                                  0.0f,         1.42857146f,  2.0f,         2.0f};
    expect_line("{'num_bits': 8}", line_int8);
    expect_line("{'num_bits': 8, 'narrow_range': true}", narrow);
    expect_line("{'num_bits': 4}", int4);
    expect_line("{'num_bits': [4, 3]}", line_fp8);

    static const float unsigned_int8[9] = {
        2.0f, 2.0f, 1.00392163f, 0.0f, 0.00784313772f, 0.0156862754f, 1.49803925f, 2.0f, 2.0f};
    float x[9], two = 2.0f;
    for (int i = 0; i < 9; i++) {
        x[i] = fabsf(line[i]);
    }
    CHECK_STATUS(mq_fake_quant(context, F32(x, 9), "{\"num_bits\": 8, \"unsigned\": true}",
                               F32_SCALAR(&two), F32(x, 9)),
                 MQ_OK);
    CHECK_FLOATS(x, unsigned_int8, 9);
}

static void an_amax_of_zero(void) {
    float x[3] = {-3.0f, 0.25f, 0.0f}, out[3], zero = 0.0f;
    const float int8[3] = {0.0f, 0.0f, 0.0f},
                fp8[3] = {-1.0f, 0.25f, 0.0f}; /* FP8: acts as an amax of 1 */
    CHECK_STATUS(
        mq_fake_quant(context, F32(x, 3), "{\"num_bits\": 8}", F32_SCALAR(&zero), F32(out, 3)),
        MQ_OK);
    CHECK_FLOATS(out, int8, 3);
    CHECK_STATUS(
        mq_fake_quant(context, F32(x, 3), "{\"num_bits\": [4, 3]}", F32_SCALAR(&zero), F32(out, 3)),
        MQ_OK);
    CHECK_FLOATS(out, fp8, 3);
}

static void one_amax_for_each_row(void) {
    static const char *const per_row[] = {
        "{'num_bits': %, 'axis': 0}",
        "{'num_bits': %, 'axis': 0, 'type': 'dynamic'}",
        "{'num_bits': %, 'block_sizes': {'-1': null}, 'type': 'dynamic'}",
        "{'num_bits': %, 'block_sizes': {'-1': null, 'type': 'dynamic'}}",
    };
    static const float int8[6] = {0.992125988f, -2.00787401f, 3.0f,
                                  10.0787401f,  -20.0f,       0.472440958f};
    static const float fp8[6] = {0.964285672f, -1.92857134f, 2.99999976f,
                                 10.0f,        -20.0f,       0.491071433f};
    static const float whole[6] = {0.944881916f, -2.04724407f, 2.99212599f,
                                   10.0787401f,  -20.0f,       0.472440958f};
    float x[6] = {1.0f, -2.0f, 3.0f, 10.0f, -20.0f, 0.5f}, out[6];
    for (size_t i = 0; i < sizeof per_row / sizeof *per_row; i++) {
        for (int is_fp8 = 0; is_fp8 < 2; is_fp8++) {
            char attributes[128] = {0};
            const char *rest = strchr(per_row[i], '%');
            memcpy(attributes, per_row[i], (size_t)(rest - per_row[i]));
            strcat(strcat(attributes, is_fp8 ? "[4, 3]" : "8"), rest + 1);
            CHECK_STATUS(
                mq_fake_quant(context, F32(x, 2, 3), json(attributes), NULL, F32(out, 2, 3)),
                MQ_OK);
            CHECK_FLOATS(out, is_fp8 ? fp8 : int8, 6);
        }
    }
    CHECK_STATUS(mq_fake_quant(context, F32(x, 2, 3), "{\"num_bits\": 8, \"type\": \"dynamic\"}",
                               NULL, F32(out, 2, 3)),
                 MQ_OK);
    CHECK_FLOATS(out, whole, 6);
}

/* A model of one linear layer, quantized without a forward pass. */
struct weights {
    mq_model *model;
    mq_layer *layer;
};

static struct weights quantized_weights(float *weight, int64_t rows, int64_t columns,
                                        const char *config) {
    struct weights made = {NULL, NULL};
    mq_layer_desc desc;
    CHECK_STATUS(mq_model_create(context, &made.model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "fc";
    desc.weight = F32(weight, rows, columns);
    CHECK_STATUS(mq_model_add_layer(made.model, &desc, &made.layer), MQ_OK);
    CHECK_STATUS(mq_quantize(made.model, json(config), NULL), MQ_OK);
    return made;
}

static void expect_amax(mq_model *model, const char *name, const float *values, size_t count,
                        const int64_t *shape, uint32_t rank) {
    float got[16];
    int64_t extents[MQ_MAX_RANK] = {0};
    size_t got_count = 0;
    uint32_t got_rank = 99;
    CHECK_STATUS(
        mq_quantizer_amax(find_quantizer(model, name), got, 16, &got_count, extents, &got_rank),
        MQ_OK);
    CHECK(got_count == count && got_rank == rank);
    CHECK(rank == 0 || memcmp(extents, shape, rank * sizeof *shape) == 0);
    CHECK_FLOATS(got, values, count);
}

static void blocks_of_the_last_axis_are_padded(void) {
    static const float amax[4] = {4.0f, 5.0f, 0.0f, 0.7f};
    static const float want[10] = {1.14285719f, -2.28571439f, 2.85714293f, -4.0f, 5.0f,
                                   0.0f,        0.0f,         0.0f,        0.0f,  -0.699999988f};
    float weight[10] = {1.0f, -2.0f, 3.0f, -4.0f, 5.0f, 0.0f, 0.0f, 0.0f, 0.0f, -0.7f}, out[10];
    struct weights w = quantized_weights(weight, 2, 5, WEIGHT_ONLY(INT4_BLOCK4));
    expect_amax(w.model, "fc.weight_quantizer", amax, 4, SHAPE(4, 1), 2);
    CHECK_STATUS(mq_layer_weight(w.layer, F32(out, 2, 5)), MQ_OK);
    CHECK_FLOATS(out, want, 10);
    CHECK_STATUS(mq_fold_weight(w.model, 0), MQ_OK);
    CHECK_FLOATS(weight, want, 10);
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);
}

static void blocks_of_two_axes_are_padded(void) {
    static const float amax[4] = {5.0f, 3.0f, 9.0f, 7.0f};
    float weight[9] = {1.0f, 2.0f, 3.0f, -4.0f, 5.0f, -0.5f, 8.0f, -9.0f, 7.0f}, out[9];
    struct weights w = quantized_weights(
        weight, 3, 3, WEIGHT_ONLY("{'num_bits': 8, 'block_sizes': {'-1': 2, '-2': 2}}"));
    expect_amax(w.model, "fc.weight_quantizer", amax, 4, SHAPE(2, 1, 2, 1), 4);
    CHECK_STATUS(mq_layer_weight(w.layer, F32(out, 3, 3)), MQ_OK);
    for (int i = 0; i < 9; i++) {
        float s = 127.0f / amax[i / 3 / 2 * 2 + i % 3 / 2], want = rintf(weight[i] * s) / s;
        CHECK_FLOATS(out + i, &want, 1);
    }
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);
}

static void amax_shapes_are_the_references(void) {
    static const float tensor_amax[1] = {4.0f}, row_amax[2] = {3.0f, 4.0f},
                       column_amax[3] = {1.0f, 4.0f, 3.0f};
    float weight[6] = {1.0f, -2.0f, 3.0f, 0.5f, -4.0f, 0.25f};
    struct weights w = quantized_weights(weight, 2, 3, WEIGHT_ONLY("{'num_bits': 8}"));
    expect_amax(w.model, "fc.weight_quantizer", tensor_amax, 1, NULL, 0);
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);
    w = quantized_weights(weight, 2, 3, WEIGHT_ONLY("{'num_bits': 8, 'axis': 0}"));
    expect_amax(w.model, "fc.weight_quantizer", row_amax, 2, SHAPE(2, 1), 2);
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);
    w = quantized_weights(weight, 2, 3, WEIGHT_ONLY("{'num_bits': 8, 'axis': -1}"));
    expect_amax(w.model, "fc.weight_quantizer", column_amax, 3, SHAPE(1, 3), 2);
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);
}

static void members_of_a_sequence_apply_in_order(void) {
    static const float int4_amax[2] = {3.0f, 2.9f},
                       fp8_amax[1] = {3.0f}; /* FP8 sees the raw weight in calibration */
    static const float want[8] = {
        -2.99999976f, 1.28571415f, 0.0f,          0.428571403f,
        0.0f,         2.99999976f, -0.803571403f, 0.401785702f,
    };
    float weight[8] = {-3.0f, 1.1f, 0.2f, 0.55f, 0.0f, 2.9f, -0.7f, 0.33f}, raw[8], out[8];
    memcpy(raw, weight, sizeof raw);
    struct weights w =
        quantized_weights(weight, 2, 4, WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]"));
    expect_amax(w.model, "fc.weight_quantizer.0", int4_amax, 2, SHAPE(2, 1), 2);
    expect_amax(w.model, "fc.weight_quantizer.1", fp8_amax, 1, NULL, 0);
    CHECK_STATUS(mq_layer_weight(w.layer, F32(out, 2, 4)), MQ_OK);
    CHECK_FLOATS(out, want, 8);
    CHECK_FLOATS(weight, raw, 8);
    CHECK_STATUS(mq_fold_weight(w.model, 0), MQ_OK);
    CHECK_FLOATS(weight, want, 8);
    CHECK_STATUS(mq_model_destroy(w.model), MQ_OK);

    CHECK_STATUS(
        mq_fake_quant(context, F32(raw, 2, 4), json("[" INT4_BLOCK4 "]"), NULL, F32(out, 2, 4)),
        MQ_OK);
    static const float int4[8] = {-3.0f, 1.28571439f, 0.0f,          0.428571433f,
                                  0.0f,  2.9000001f,  -0.828571439f, 0.414285719f};
    CHECK_FLOATS(out, int4, 8);
}

static void sixteen_bit_tensors_are_rounded_once(void) {
    /* -3, 0.5, 1, 2; amax 2 */
    uint16_t f16[4] = {0xc200, 0x3800, 0x3c00, 0x4000}, bf16[4] = {0xc040, 0x3f00, 0x3f80, 0x4000},
             out[4];
    const uint16_t int8_f16[4] = {0xc008, 0x3808, 0x3c08, 0x4000}; /* -2.0157, .50394, 1.0079, 2 */
    const uint16_t int8_bf16[4] = {0xc001, 0x3f01, 0x3f81, 0x4000};
    const uint16_t fp8_f16[4] = {0xc000, 0x3800, 0x3c00, 0x4000},
                   fp8_bf16[4] = {0xc000, 0x3f00, 0x3f80, 0x4000};
    float two = 2.0f;
    CHECK_STATUS(
        mq_fake_quant(context, F16(f16, 4), "{\"num_bits\": 8}", F32_SCALAR(&two), F16(out, 4)),
        MQ_OK);
    CHECK(memcmp(out, int8_f16, sizeof out) == 0);
    CHECK_STATUS(mq_fake_quant(context, F16(f16, 4), "{\"num_bits\": [4, 3]}", F32_SCALAR(&two),
                               F16(out, 4)),
                 MQ_OK);
    CHECK(memcmp(out, fp8_f16, sizeof out) == 0);
    CHECK_STATUS(mq_fake_quant(context, BF16(bf16, 4), "{\"num_bits\": [4, 3]}", F32_SCALAR(&two),
                               BF16(out, 4)),
                 MQ_OK);
    CHECK(memcmp(out, fp8_bf16, sizeof out) == 0);
    CHECK_STATUS(
        mq_fake_quant(context, BF16(bf16, 4), "{\"num_bits\": 8}", F32_SCALAR(&two), BF16(bf16, 4)),
        MQ_OK);
    CHECK(memcmp(bf16, int8_bf16, sizeof bf16) == 0); /* in place */
}

static int32_t feed_bf16(void *data) {
    uint16_t x[4] = {0x3f00, 0xc000, 0x3f80, 0x0000}; /* 0.5, -2, 1, 0 */
    return mq_layer_input(data, BF16(x, 1, 4), NULL);
}

static void layers_of_sixteen_bits_work_end_to_end(void) {
    uint16_t weight[8] = {0x3f80, 0xc000, 0x4040, 0xc080, 0x3f00, 0x3e80, 0xbe00, 0x0000},
             out[8]; /* fixture.weight */
    uint16_t x[4] = {0x3f80, 0xc040, 0x3f00, 0x4000};
    const uint16_t want_x[4] = {0x3f81, 0xc001, 0x3f01, 0x4000};
    static const float row_amax[2] = {4.0f, 0.5f}, x_amax[1] = {2.0f};
    mq_model *model = NULL;
    mq_layer *layer = NULL;
    mq_layer_desc desc;
    CHECK_STATUS(mq_model_create(context, &model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "fc";
    desc.weight = BF16(weight, 2, 4);
    CHECK_STATUS(mq_model_add_layer(model, &desc, &layer), MQ_OK);
    mq_forward_fn forward = {layer, feed_bf16, NULL};
    CHECK_STATUS(mq_quantize(model, INT8, &forward), MQ_OK);
    expect_amax(model, "fc.weight_quantizer", row_amax, 2, SHAPE(2, 1), 2);
    expect_amax(model, "fc.input_quantizer", x_amax, 1, NULL, 0);
    CHECK_STATUS(mq_layer_input(layer, BF16(x, 1, 4), BF16(x, 1, 4)), MQ_OK);
    CHECK(memcmp(x, want_x, sizeof x) == 0);
    CHECK_STATUS(mq_layer_weight(layer, BF16(out, 2, 4)), MQ_OK);
    CHECK_STATUS(mq_fold_weight(model, 0), MQ_OK);
    CHECK(memcmp(out, weight, sizeof weight) == 0);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
}

void test_numbers(void) {
    CHECK_STATUS(mq_context_create(NULL, &context), MQ_OK);
    one_amax_for_the_tensor();
    an_amax_of_zero();
    one_amax_for_each_row();
    blocks_of_the_last_axis_are_padded();
    blocks_of_two_axes_are_padded();
    amax_shapes_are_the_references();
    members_of_a_sequence_apply_in_order();
    sixteen_bit_tensors_are_rounded_once();
    layers_of_sixteen_bits_work_end_to_end();
    mq_context_destroy(context);
}
