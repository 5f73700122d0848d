/* mq_fake_quant(): arguments, attributes, granularities. The numbers are in test_numbers.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static mq_context *context;
static float x[6] = {1.0f, -2.0f, 3.0f, 10.0f, -20.0f, 0.5f}, out[6],
             amax[6] = {3.0f, 20.0f, 3.0f, 3.0f, 3.0f, 3.0f};

static mq_status quant(const char *attributes, const mq_tensor *given) {
    return mq_fake_quant(context, F32(x, 2, 3), json(attributes), given, F32(out, 2, 3));
}

static void null_arguments_are_refused(void) {
    mq_tensor good = *F32(x, 2, 3);
    const char *int8 = "{\"num_bits\": 8}";
    CHECK_STATUS(mq_fake_quant(NULL, &good, int8, NULL, &good), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, NULL, int8, NULL, &good), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, NULL, NULL, &good), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, "\xff", NULL, &good), MQ_ERR_INVALID_ARGUMENT);
}

static void out_has_the_shape_and_dtype_of_x(void) {
    uint16_t half[6];
    float room[9] = {0};
    const char *int8 = "{\"num_bits\": 8}";
    mq_tensor good = *F32(room, 2, 3);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, F32(out, 3, 2)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, F32(out, 6)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, F16(half, 2, 3)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, F32(room + 1, 2, 3)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, F32(room + 3, 2, 3), int8, NULL, &good),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_fake_quant(context, &good, int8, NULL, &good), MQ_OK);
}

static void attributes_are_checked(void) {
    CHECK_STATUS(quant("", NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(quant("{", NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(quant("8", NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(quant("[]", NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(quant("{'num_bitz': 8}", NULL), MQ_ERR_CONFIG);
    CHECK_SAYS("num_bitz");
    CHECK_SAYS("num_bits");
    CHECK_STATUS(quant("{'num_bits': 0}", NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(quant("{'num_bits': 8, 'type': 'dynamik'}", NULL), MQ_ERR_CONFIG);
    CHECK_SAYS("dynamik");
    CHECK_SAYS("dynamic");
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0, 'block_sizes': {'-1': 2}}", NULL),
                 MQ_ERR_CONFIG);
    CHECK_STATUS(quant("{'num_bits': 8, 'backend': 'mine'}", NULL), MQ_ERR_UNSUPPORTED);
    CHECK_SAYS("backend");
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 2}", NULL),
                 MQ_ERR_INVALID_ARGUMENT); /* x has rank 2 */
}

static void amax_has_as_many_values_as_the_granularity(void) {
    CHECK_STATUS(quant("{'num_bits': 8}", F32_SCALAR(amax)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8}", F32(amax, 1)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8}", F32(amax, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(quant("{'num_bits': 8}", F32(amax, 0)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", F32(amax, 2)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", F32(amax, 2, 1)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", F32(amax, 3)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': -1}", F32(amax, 3)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': -1}", F32_SCALAR(amax)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(quant("{'num_bits': 8, 'block_sizes': {'-1': 2}}", F32(amax, 4)), MQ_OK);
    CHECK_STATUS(quant("{'num_bits': 8, 'block_sizes': {'-1': 2}}", F32(amax, 3)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(quant("[{'num_bits': 4}, {'num_bits': 8}]", NULL), MQ_OK);
    CHECK_STATUS(quant("[{'num_bits': 4}, {'num_bits': 8}]", F32_SCALAR(amax)),
                 MQ_ERR_INVALID_ARGUMENT);
}

static void amax_may_be_of_any_float_type(void) {
    uint16_t f16[] = {0x4200, 0x4d00}, bf16[] = {0x4040, 0x41a0}; /* 3, 20 */
    float want[6];
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", NULL), MQ_OK);
    memcpy(want, out, sizeof want);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", F16(f16, 2)), MQ_OK);
    CHECK_FLOATS(out, want, 6);
    CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", BF16(bf16, 2)), MQ_OK);
    CHECK_FLOATS(out, want, 6);
}

static void values_that_cannot_be_are_refused(void) {
    const float bad_amax[] = {-1.0f, NAN, INFINITY, -INFINITY},
                bad_x[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad_amax / sizeof *bad_amax; i++) {
        float rows[2] = {1.0f, bad_amax[i]};
        CHECK_STATUS(quant("{'num_bits': 8}", F32_SCALAR(&rows[1])), MQ_ERR_NUMERIC);
        CHECK_STATUS(quant("{'num_bits': [4, 3]}", F32_SCALAR(&rows[1])), MQ_ERR_NUMERIC);
        CHECK_STATUS(quant("{'num_bits': 8, 'axis': 0}", F32(rows, 2)), MQ_ERR_NUMERIC);
    }
    for (size_t i = 0; i < sizeof bad_x / sizeof *bad_x; i++) { /* no amax can be taken from it */
        float values[2] = {1.0f, bad_x[i]};
        CHECK_STATUS(
            mq_fake_quant(context, F32(values, 2), "{\"num_bits\": 8}", NULL, F32(values, 2)),
            MQ_ERR_NUMERIC);
    }
    CHECK_STATUS(quant("{'num_bits': 8, 'unsigned': true}", NULL), MQ_ERR_NUMERIC);
    CHECK_STATUS(quant("{'num_bits': 8, 'unsigned': true}", F32_SCALAR(amax)), MQ_ERR_NUMERIC);
}

static void nan_stays_and_infinity_saturates(void) {
    float values[4] = {NAN, INFINITY, -INFINITY, 1.0f}, two = 2.0f;
    const float int8[4] = {NAN, 2.0f, -2.01574802f, 1.00787401f}, fp8[4] = {NAN, 2.0f, -2.0f, 1.0f};
    mq_tensor tensor = *F32(values, 4);
    float result[4];
    CHECK_STATUS(
        mq_fake_quant(context, &tensor, "{\"num_bits\": 8}", F32_SCALAR(&two), F32(result, 4)),
        MQ_OK);
    CHECK_FLOATS(result, int8, 4);
    CHECK_STATUS(
        mq_fake_quant(context, &tensor, "{\"num_bits\": [4, 3]}", F32_SCALAR(&two), F32(result, 4)),
        MQ_OK);
    CHECK_FLOATS(result, fp8, 4);

    float zero = 0.0f;
    const float of_zero[4] = {NAN, NAN, NAN, 0.0f};
    CHECK_STATUS(
        mq_fake_quant(context, &tensor, "{\"num_bits\": 8}", F32_SCALAR(&zero), F32(result, 4)),
        MQ_OK);
    CHECK_FLOATS(result, of_zero, 4);
}

static void empty_tensors_pass(void) {
    mq_tensor empty = *F32(NULL, 0, 4);
    CHECK_STATUS(mq_fake_quant(context, &empty, "{\"num_bits\": 8}", NULL, &empty), MQ_OK);
    CHECK_STATUS(mq_fake_quant(context, &empty, "{\"num_bits\": 8, \"axis\": 1}", NULL, &empty),
                 MQ_OK);
    CHECK_STATUS(mq_fake_quant(context, &empty, "{\"num_bits\": 4, \"block_sizes\": {\"-1\": 4}}",
                               NULL, &empty),
                 MQ_OK);
}

static void in_place_is_the_same_as_apart(void) {
    static const char *const attributes[] = {
        "{'num_bits': 8}",
        "{'num_bits': 4, 'block_sizes': {'-1': 2}}",
        "{'num_bits': [4, 3], 'axis': 0}",
        "[{'num_bits': 4, 'block_sizes': {'-1': 2}}, {'num_bits': [4, 3]}]",
    };
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        float copy[6];
        memcpy(copy, x, sizeof copy);
        CHECK_STATUS(quant(attributes[i], NULL), MQ_OK);
        CHECK_STATUS(
            mq_fake_quant(context, F32(copy, 2, 3), json(attributes[i]), NULL, F32(copy, 2, 3)),
            MQ_OK);
        CHECK_FLOATS(copy, out, 6);
    }
}

static void thread_counts_give_the_same_bits(void) {
    enum { ROWS_OF_MANY = 600, COLUMNS = 333, MANY = ROWS_OF_MANY * COLUMNS };
    static const char *const attributes[] = {
        "{\"num_bits\": 8}",
        "{\"num_bits\": 8, \"axis\": 0}",
        "{\"num_bits\": [4, 3], \"axis\": -1}",
        "{\"num_bits\": 4, \"block_sizes\": {\"-1\": 128}}",
    };
    float *many = malloc(MANY * sizeof *many), *one = malloc(MANY * sizeof *one),
          *three = malloc(MANY * sizeof *three);
    uint32_t state = 1;
    for (size_t i = 0; i < MANY; i++) {
        state = state * 1664525u + 1013904223u;
        many[i] = ((float)(state >> 8) - 8388608.0f) / 65536.0f;
    }
    mq_context *contexts[2] = {NULL, NULL};
    mq_context_options options;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = 1;
    CHECK_STATUS(mq_context_create(&options, &contexts[0]), MQ_OK);
    options.num_threads = 3;
    CHECK_STATUS(mq_context_create(&options, &contexts[1]), MQ_OK);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        mq_tensor tensor = *F32(many, ROWS_OF_MANY, COLUMNS);
        CHECK_STATUS(mq_fake_quant(contexts[0], &tensor, attributes[i], NULL,
                                   F32(one, ROWS_OF_MANY, COLUMNS)),
                     MQ_OK);
        CHECK_STATUS(mq_fake_quant(contexts[1], &tensor, attributes[i], NULL,
                                   F32(three, ROWS_OF_MANY, COLUMNS)),
                     MQ_OK);
        CHECK(memcmp(one, three, MANY * sizeof *one) == 0);
        CHECK(memcmp(one, many, MANY * sizeof *one) != 0);
    }
    mq_context_destroy(contexts[0]);
    mq_context_destroy(contexts[1]);
    free(many);
    free(one);
    free(three);
}

void test_fake_quant(void) {
    CHECK_STATUS(mq_context_create(NULL, &context), MQ_OK);
    null_arguments_are_refused();
    out_has_the_shape_and_dtype_of_x();
    attributes_are_checked();
    amax_has_as_many_values_as_the_granularity();
    amax_may_be_of_any_float_type();
    values_that_cannot_be_are_refused();
    nan_stays_and_infinity_saturates();
    empty_tensors_pass();
    in_place_is_the_same_as_apart();
    thread_counts_give_the_same_bits();
    mq_context_destroy(context);
}
