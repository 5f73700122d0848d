/* Tensors that no function may accept, offered to every function that takes one. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

/* Every tensor argument of the library, by one signature. */
static float good[OUT * IN], sink[OUT * IN];

static mq_status to_input_x(struct fixture *f, const mq_tensor *t) {
    return mq_layer_input(f->layer, t, NULL);
}
static mq_status to_input_out(struct fixture *f, const mq_tensor *t) {
    return mq_layer_input(f->layer, F32(good, OUT, IN), t);
}
static mq_status to_output_y(struct fixture *f, const mq_tensor *t) {
    return mq_layer_output(f->layer, t, NULL);
}
static mq_status to_output_out(struct fixture *f, const mq_tensor *t) {
    return mq_layer_output(f->layer, F32(good, OUT, IN), t);
}
static mq_status to_weight_out(struct fixture *f, const mq_tensor *t) {
    return mq_layer_weight(f->layer, t);
}
static mq_status to_forward_x(struct fixture *f, const mq_tensor *t) {
    return mq_quantizer_forward(f->own, t, NULL);
}
static mq_status to_forward_out(struct fixture *f, const mq_tensor *t) {
    return mq_quantizer_forward(f->own, F32(good, OUT, IN), t);
}
static mq_status to_fake_quant_x(struct fixture *f, const mq_tensor *t) {
    return mq_fake_quant(f->context, t, "{\"num_bits\": 8}", NULL, F32(sink, OUT, IN));
}
static mq_status to_fake_quant_amax(struct fixture *f, const mq_tensor *t) {
    static const char rows[] = "{\"num_bits\": 8, \"axis\": 0}";
    return mq_fake_quant(f->context, F32(good, OUT, IN), rows, t, F32(sink, OUT, IN));
}
static mq_status to_fake_quant_out(struct fixture *f, const mq_tensor *t) {
    return mq_fake_quant(f->context, F32(good, OUT, IN), "{\"num_bits\": 8}", NULL, t);
}
static mq_status to_set_amax(struct fixture *f, const mq_tensor *t) {
    return mq_quantizer_set_amax(f->weight_quantizer, t);
}
static mq_status to_set_pre_quant_scale(struct fixture *f, const mq_tensor *t) {
    return mq_quantizer_set_pre_quant_scale(f->input, t);
}
static mq_status to_desc_weight(struct fixture *f, const mq_tensor *t) {
    mq_layer_desc desc;
    mq_status status = mq_layer_desc_init(&desc, sizeof desc);
    desc.name = "bad";
    desc.weight = t;
    return status == MQ_OK ? mq_model_add_layer(f->model, &desc, NULL) : status;
}
static mq_status to_desc_bias(struct fixture *f, const mq_tensor *t) {
    mq_layer_desc desc;
    mq_status status = mq_layer_desc_init(&desc, sizeof desc);
    desc.name = "bad";
    desc.weight = F32(good, OUT, IN);
    desc.bias = t;
    return status == MQ_OK ? mq_model_add_layer(f->model, &desc, NULL) : status;
}

typedef mq_status (*use)(struct fixture *, const mq_tensor *);
static const use uses[] = {
    to_input_x,         to_input_out,      to_output_y,    to_output_out,
    to_weight_out,      to_forward_x,      to_forward_out, to_fake_quant_x,
    to_fake_quant_amax, to_fake_quant_out, to_set_amax,    to_set_pre_quant_scale,
};
static const use registrations[] = {to_desc_weight, to_desc_bias};

/* One thing wrong with a good tensor. */
static int64_t negative[] = {OUT, -IN}, huge[] = {INT64_MAX, INT64_MAX},
               wide[] = {INT64_MAX / 4, 2}, minimum[] = {INT64_MIN, 0};
static int64_t column_major[] = {1, OUT}, padded[] = {IN + 1, 1}, zero_stride[] = {0, 1},
               negative_stride[] = {-IN, 1};
static int64_t ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};

static void is_int(mq_tensor *t) { t->dtype.code = 0; }
static void has_unknown_code(mq_tensor *t) { t->dtype.code = 255; }
static void is_double(mq_tensor *t) { t->dtype.bits = 64; }
static void is_wide_bfloat(mq_tensor *t) { t->dtype.code = MQ_DTYPE_BFLOAT; }
static void has_no_bits(mq_tensor *t) { t->dtype.bits = 0; }
static void has_two_lanes(mq_tensor *t) { t->dtype.lanes = 2; }
static void has_no_lanes(mq_tensor *t) { t->dtype.lanes = 0; }
static void has_rank_minus_one(mq_tensor *t) { t->ndim = -1; }
static void has_rank_minimum(mq_tensor *t) { t->ndim = INT32_MIN; }
static void has_rank_nine(mq_tensor *t) { t->ndim = 9, t->shape = ones; }
static void has_rank_maximum(mq_tensor *t) { t->ndim = INT32_MAX, t->shape = ones; }
static void has_no_shape(mq_tensor *t) { t->shape = NULL; }
static void has_negative_extent(mq_tensor *t) { t->shape = negative; }
static void has_minimum_extent(mq_tensor *t) { t->shape = minimum; }
static void has_huge_extents(mq_tensor *t) { t->shape = huge; }
static void has_too_many_bytes(mq_tensor *t) { t->shape = wide; }
static void has_no_data(mq_tensor *t) { t->data = NULL; }
static void is_column_major(mq_tensor *t) { t->strides = column_major; }
static void has_padded_rows(mq_tensor *t) { t->strides = padded; }
static void has_zero_stride(mq_tensor *t) { t->strides = zero_stride; }
static void has_negative_stride(mq_tensor *t) { t->strides = negative_stride; }
static void is_misaligned(mq_tensor *t) { t->byte_offset = 1; }
static void is_on_a_gpu(mq_tensor *t) { t->device.device_type = MQ_DEVICE_CUDA; }
static void is_nowhere(mq_tensor *t) { t->device.device_type = 99; }

static const struct {
    const char *name;
    void (*spoil)(mq_tensor *t);
    mq_status status;
} faults[] = {
    {"int32 elements", is_int, MQ_ERR_INVALID_ARGUMENT},
    {"unknown dtype code", has_unknown_code, MQ_ERR_INVALID_ARGUMENT},
    {"float64 elements", is_double, MQ_ERR_INVALID_ARGUMENT},
    {"bfloat of 32 bits", is_wide_bfloat, MQ_ERR_INVALID_ARGUMENT},
    {"0 bits", has_no_bits, MQ_ERR_INVALID_ARGUMENT},
    {"2 lanes", has_two_lanes, MQ_ERR_INVALID_ARGUMENT},
    {"0 lanes", has_no_lanes, MQ_ERR_INVALID_ARGUMENT},
    {"rank -1", has_rank_minus_one, MQ_ERR_INVALID_ARGUMENT},
    {"smallest rank", has_rank_minimum, MQ_ERR_INVALID_ARGUMENT},
    {"rank 9", has_rank_nine, MQ_ERR_INVALID_ARGUMENT},
    {"largest rank", has_rank_maximum, MQ_ERR_INVALID_ARGUMENT},
    {"no shape", has_no_shape, MQ_ERR_INVALID_ARGUMENT},
    {"negative extent", has_negative_extent, MQ_ERR_INVALID_ARGUMENT},
    {"smallest extent", has_minimum_extent, MQ_ERR_INVALID_ARGUMENT},
    {"product of extents overflows", has_huge_extents, MQ_ERR_INVALID_ARGUMENT},
    {"bytes overflow", has_too_many_bytes, MQ_ERR_INVALID_ARGUMENT},
    {"no data", has_no_data, MQ_ERR_INVALID_ARGUMENT},
    {"column-major strides", is_column_major, MQ_ERR_INVALID_ARGUMENT},
    {"padded rows", has_padded_rows, MQ_ERR_INVALID_ARGUMENT},
    {"stride 0", has_zero_stride, MQ_ERR_INVALID_ARGUMENT},
    {"negative stride", has_negative_stride, MQ_ERR_INVALID_ARGUMENT},
    {"misaligned", is_misaligned, MQ_ERR_INVALID_ARGUMENT},
    {"CUDA device", is_on_a_gpu, MQ_ERR_INVALID_ARGUMENT},
    {"unknown device", is_nowhere, MQ_ERR_UNSUPPORTED},
};

static void every_fault_is_refused(struct fixture *fixture, const use *list, size_t count) {
    float data[OUT * IN + 1] = {0}; /* room for the offset of the misaligned one */
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        for (size_t k = 0; k < count; k++) {
            mq_tensor tensor = *F32(data, OUT, IN);
            faults[i].spoil(&tensor);
            check_status(list[k](fixture, &tensor), faults[i].status, faults[i].name, __FILE__,
                         (int)k);
        }
    }
}

static void good_strides_and_offsets_are_accepted(struct fixture *fixture) {
    float data[OUT * IN + 2] = {9.0f, 9.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f},
                          out[OUT * IN];
    int64_t row_major[] = {IN, 1};
    mq_tensor x = *F32(data, OUT, IN);
    x.strides = row_major;
    x.byte_offset = 2 * sizeof(float);
    CHECK_STATUS(mq_quantizer_forward(fixture->own, &x, F32(out, OUT, IN)), MQ_OK);
    CHECK_FLOATS(out, data + 2, OUT * IN);

    /* strides of extents 0 and 1 do not matter */
    int64_t any[] = {-7, 1};
    mq_tensor row = *F32(data, 1, IN);
    row.strides = any;
    CHECK_STATUS(mq_quantizer_forward(fixture->own, &row, NULL), MQ_OK);
    mq_tensor scalar = *F32_SCALAR(data);
    CHECK_STATUS(mq_quantizer_forward(fixture->own, &scalar, NULL), MQ_OK);
    mq_tensor deep = *F32(data, 1, 1, 1, 1, 1, 1, OUT, IN); /* MQ_MAX_RANK */
    CHECK_STATUS(mq_quantizer_forward(fixture->own, &deep, NULL), MQ_OK);
}

void test_tensors(void) {
    struct fixture fixture;
    for (size_t i = 0; i < OUT * IN; i++) {
        good[i] = (float)i;
    }
    fixture_init(&fixture);
    every_fault_is_refused(&fixture, registrations, sizeof registrations / sizeof *registrations);
    good_strides_and_offsets_are_accepted(&fixture);
    CHECK_STATUS(fixture_quantize(&fixture, json(WEIGHT_ONLY("{'num_bits': 8, 'axis': 0}"))),
                 MQ_OK);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    every_fault_is_refused(&fixture, uses, sizeof uses / sizeof *uses);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}
