/* Real quantization: packed weights, their parts, and memory that the host gives. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

/* Buffers of the host's: hands out `memory`, or what a test asks for. */
struct buffers {
    int32_t result; /* what the callback returns */
    int calls, released;
    size_t limit; /* gives NULL beyond so many bytes */
    size_t used, skew;
    float memory[64];
    char last[64]; /* "layer part size" of the last call */
};

static int32_t allocate(void *user_data, const char *layer, const char *part, size_t size,
                        void **memory) {
    struct buffers *buffers = user_data;
    buffers->calls++;
    strncpy(buffers->last, layer, 20);
    strncat(buffers->last, part, 20);
    CHECK(*memory == NULL);
    CHECK(size > 0);
    if (buffers->used + size <= buffers->limit) {
        *memory = (char *)buffers->memory + buffers->used + buffers->skew;
        buffers->used += (size + 3) / 4 * 4;
    }
    return buffers->result;
}

static void release(void *user_data) { ((struct buffers *)user_data)->released++; }

static mq_buffer_fn buffers_of(struct buffers *buffers) {
    mq_buffer_fn callback = {buffers, allocate, release};
    return callback;
}

static void int4_is_packed_and_comes_back(void) {
    struct fixture fixture;
    float before[OUT * IN], after[OUT * IN], quarter = 0;
    size_t matched = 99;
    mq_tensor part;
    const uint8_t *codes;
    fixture_init_quantized(&fixture, json(WEIGHT_ONLY(INT4_BLOCK4)));
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(before, OUT, IN)), MQ_OK);
    CHECK_STATUS(mq_layer_packed(fixture.layer, "weight", &part), MQ_ERR_STATE);
    CHECK_SAYS("fc");
    CHECK_STATUS(mq_compress(fixture.model, NULL, NULL, 0, &matched), MQ_OK);
    CHECK(matched == 1);
    /* The host may do with its memory what it wants. */
    memset(fixture.weight, 0xff, sizeof fixture.weight);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(after, OUT, IN)), MQ_OK);
    CHECK_FLOATS(after, before, OUT * IN);
    CHECK_STATUS(mq_layer_packed(fixture.layer, "weight", &part), MQ_OK);
    CHECK(part.ndim == 2 && part.shape[0] == OUT && part.shape[1] == IN / 2);
    CHECK(part.dtype.code == MQ_DTYPE_UINT && part.dtype.bits == 8 && part.dtype.lanes == 1);
    CHECK(part.device.device_type == MQ_DEVICE_CPU && part.strides == NULL);
    codes = part.data;
    CHECK_STATUS(mq_layer_packed(fixture.layer, "scale", &part), MQ_OK);
    CHECK(part.ndim == 2 && part.shape[0] == OUT && part.shape[1] == 1);
    CHECK(part.dtype.code == MQ_DTYPE_FLOAT && part.dtype.bits == 32);
    quarter = (float)(codes[0] >> 4) - 8.0f;
    quarter /= ((const float *)part.data)[0];
    CHECK_FLOATS(&quarter, before, 1);
    CHECK_STATUS(mq_layer_packed(fixture.layer, "double_scale", &part), MQ_ERR_NOT_FOUND);
    CHECK_SAYS("weight, scale");
    CHECK_STATUS(mq_layer_packed(fixture.layer, NULL, &part), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_packed(fixture.layer, "weight", NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_packed(NULL, "weight", &part), MQ_ERR_INVALID_ARGUMENT);
    /* It stays as it is. */
    CHECK_STATUS(mq_compress(fixture.model, NULL, NULL, 0, NULL), MQ_ERR_STATE);
    CHECK_SAYS("fc.weight_quantizer");
    CHECK_STATUS(mq_disable_quantizer(fixture.model, "fc.weight_quantizer", 0, NULL), MQ_ERR_STATE);
    CHECK_STATUS(mq_fold_weight(fixture.model, 0), MQ_OK);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(after, OUT, IN)), MQ_OK);
    CHECK_FLOATS(after, before, OUT * IN);
    fixture_free(&fixture);
}

static void the_host_may_give_the_memory(void) {
    struct fixture fixture;
    struct buffers buffers;
    mq_buffer_fn callback = buffers_of(&buffers);
    float before[OUT * IN], after[OUT * IN];
    mq_tensor part;
    memset(&buffers, 0, sizeof buffers);
    buffers.limit = sizeof buffers.memory;
    fixture_init_quantized(&fixture, INT8);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(before, OUT, IN)), MQ_OK);
    CHECK_STATUS(mq_compress(fixture.model, NULL, &callback, 0, NULL), MQ_OK);
    CHECK(buffers.calls == 2 && buffers.released == 1);
    CHECK(strcmp(buffers.last, "fcscale") == 0);
    CHECK_STATUS(mq_layer_packed(fixture.layer, "weight", &part), MQ_OK);
    CHECK(part.data == (void *)buffers.memory && part.dtype.code == MQ_DTYPE_INT);
    CHECK_STATUS(mq_layer_weight(fixture.layer, F32(after, OUT, IN)), MQ_OK);
    CHECK_FLOATS(after, before, OUT * IN);
    fixture_free(&fixture);
}

static void failures_leave_the_model_as_it_was(void) {
    static const struct {
        size_t limit, skew;
        int32_t result;
        mq_status status;
    } cases[] = {
        {256, 0, 7, MQ_ERR_CALLBACK},
        {0, 0, 0, MQ_ERR_OUT_OF_MEMORY},
        {8, 0, 0, MQ_ERR_OUT_OF_MEMORY},
        {200, 1, 0, MQ_ERR_INVALID_ARGUMENT},
    };
    struct fixture fixture;
    struct snapshot snapshot;
    struct buffers buffers;
    mq_buffer_fn callback = buffers_of(&buffers), empty = {NULL, NULL, NULL};
    size_t matched = 99;
    memset(&buffers, 0, sizeof buffers);
    fixture_init(&fixture);
    CHECK_STATUS(mq_compress(fixture.model, NULL, &callback, 0, &matched), MQ_ERR_STATE);
    CHECK_STATUS(mq_compress(NULL, NULL, &callback, 0, &matched), MQ_ERR_INVALID_ARGUMENT);
    CHECK(buffers.released == 2 && buffers.calls == 0);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    snapshot_take(&snapshot, &fixture);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(&buffers, 0, sizeof buffers);
        buffers.limit = cases[i].limit;
        buffers.skew = cases[i].skew;
        buffers.result = cases[i].result;
        CHECK_STATUS(mq_compress(fixture.model, NULL, &callback, 0, &matched), cases[i].status);
        CHECK(buffers.released == 1);
    }
    CHECK_STATUS(mq_compress(fixture.model, NULL, &empty, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_compress(fixture.model, NULL, NULL, 8, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_compress(fixture.model, "{\"*\": 1}", NULL, 0, NULL), MQ_ERR_CONFIG);
    CHECK_SAYS("config[\"*\"]");
    CHECK_STATUS(mq_compress(fixture.model, "[]", NULL, 0, NULL), MQ_ERR_CONFIG);
    CHECK_STATUS(mq_compress(fixture.model, "{\"\xff\": true}", NULL, 0, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_compress(fixture.model, "{\"default\": false}", NULL, 0, &matched),
                 MQ_ERR_NOT_FOUND);
    CHECK(matched == 99);
    CHECK_STATUS(
        mq_compress(fixture.model, "{\"default\": false}", NULL, MQ_ALLOW_NO_MATCH, &matched),
        MQ_OK);
    CHECK(matched == 0);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

void test_compress(void) {
    int4_is_packed_and_comes_back();
    the_host_may_give_the_memory();
    failures_leave_the_model_as_it_was();
}
