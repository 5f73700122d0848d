/* User data is released exactly once, before the call returns, whichever way the call goes. */
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static int released;

static void count_release(void *user_data) {
    (void)user_data;
    released++;
}

static int32_t forward_ok(void *user_data) {
    (void)user_data;
    return 0;
}
static int32_t forward_taps(void *user_data) {
    struct fixture *fixture = user_data;
    return mq_layer_input(fixture->layer, F32(fixture->x, ROWS, IN), NULL);
}
static int32_t forward_stops(void *user_data) {
    (void)user_data;
    return 5;
}
static int32_t filter_all(void *user_data, const char *name, int32_t *selected) {
    (void)user_data, (void)name;
    *selected = 1;
    return 0;
}
static int32_t filter_none(void *user_data, const char *name, int32_t *selected) {
    (void)user_data, (void)name, (void)selected;
    return 0;
}
static int32_t filter_stops(void *user_data, const char *name, int32_t *selected) {
    (void)user_data, (void)name, (void)selected;
    return 5;
}
static int32_t process_ok(void *user_data, const char *name, float *amax, size_t count) {
    (void)user_data, (void)name, (void)amax, (void)count;
    return 0;
}
static int32_t process_stops(void *user_data, const char *name, float *amax, size_t count) {
    (void)user_data, (void)name, (void)amax, (void)count;
    return 5;
}
static int32_t process_negates(void *user_data, const char *name, float *amax, size_t count) {
    (void)user_data, (void)name;
    for (size_t i = 0; i < count; i++) {
        amax[i] = -amax[i];
    }
    return 0;
}

/* The call releases what it was given once, and answers a status. */
#define RELEASES(call, status)                                                                     \
    do {                                                                                           \
        released = 0;                                                                              \
        CHECK_STATUS(call, status);                                                                \
        CHECK(released == 1);                                                                      \
    } while (0)

static const mq_forward_fn good_pass = {NULL, forward_ok, count_release},
                           bad_pass = {NULL, forward_stops, count_release},
                           no_pass = {NULL, NULL, count_release};
static const mq_filter_fn all = {NULL, filter_all, count_release},
                          none = {NULL, filter_none, count_release},
                          bad_filter = {NULL, filter_stops, count_release},
                          no_filter = {NULL, NULL, count_release};
static const mq_amax_fn good_process = {NULL, process_ok, count_release},
                        bad_process = {NULL, process_stops, count_release},
                        negation = {NULL, process_negates, count_release},
                        no_process = {NULL, NULL, count_release};
static const char int4[] = "{\"num_bits\": 4}";

static void passes_are_released(struct fixture *fixture) {
    mq_model *model = fixture->model, *empty = NULL;
    const mq_forward_fn tapping = {fixture, forward_taps, count_release};
    CHECK_STATUS(mq_model_create(fixture->context, &empty), MQ_OK);
    RELEASES(mq_quantize(NULL, INT8, &good_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_quantize(model, NULL, &good_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_quantize(model, "\xff", &good_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_quantize(model, INT8, &no_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_quantize(empty, INT8, &good_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_quantize(model, "{", &good_pass), MQ_ERR_CONFIG);
    RELEASES(mq_quantize(model, "INT9_CFG", &good_pass), MQ_ERR_CONFIG);
    RELEASES(mq_quantize(model, "NVFP4_SVDQUANT_DEFAULT_CFG", &good_pass), MQ_ERR_UNSUPPORTED);
    RELEASES(mq_calibrate(model, "max", &good_pass), MQ_ERR_STATE);
    RELEASES(mq_quantize(model, INT8, &bad_pass), MQ_ERR_CALLBACK);
    RELEASES(mq_quantize(model, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG", &good_pass), MQ_OK);
    RELEASES(mq_quantize(model, INT8, &good_pass), MQ_ERR_STATE); /* it brings no tokens */
    RELEASES(mq_quantize(model, INT8, &tapping), MQ_OK);
    RELEASES(mq_calibrate(NULL, "max", &good_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_calibrate(model, "maxx", &good_pass), MQ_ERR_CONFIG);
    RELEASES(mq_calibrate(model, "svdquant", &good_pass), MQ_ERR_UNSUPPORTED);
    RELEASES(mq_calibrate(model, "max", &no_pass), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_calibrate(model, "max", &bad_pass), MQ_ERR_CALLBACK);
    RELEASES(mq_calibrate(model, NULL, &good_pass), MQ_OK);
    RELEASES(mq_calibrate(model, "max", &tapping), MQ_OK);
    CHECK_STATUS(mq_model_destroy(empty), MQ_OK);
}

static void filters_are_released(struct fixture *fixture) {
    mq_model *model = fixture->model;
    RELEASES(mq_enable_quantizer_if(NULL, &all, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_enable_quantizer_if(model, &no_filter, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_enable_quantizer_if(model, &all, 64, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_enable_quantizer_if(model, &none, 0, NULL), MQ_ERR_NOT_FOUND);
    RELEASES(mq_enable_quantizer_if(model, &none, MQ_ALLOW_NO_MATCH, NULL), MQ_OK);
    RELEASES(mq_enable_quantizer_if(model, &bad_filter, 0, NULL), MQ_ERR_CALLBACK);
    RELEASES(mq_enable_quantizer_if(model, &all, 0, NULL), MQ_OK);
    RELEASES(mq_disable_quantizer_if(NULL, &all, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_disable_quantizer_if(model, &no_filter, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_disable_quantizer_if(model, &all, 64, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_disable_quantizer_if(model, &none, 0, NULL), MQ_ERR_NOT_FOUND);
    RELEASES(mq_disable_quantizer_if(model, &bad_filter, 0, NULL), MQ_ERR_CALLBACK);
    RELEASES(mq_disable_quantizer_if(model, &all, 0, NULL), MQ_OK);
    RELEASES(mq_set_quantizer_attributes_if(NULL, &all, int4, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_set_quantizer_attributes_if(model, &no_filter, int4, 0, NULL),
             MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, int4, 64, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_set_quantizer_attributes_if(model, &none, int4, 0, NULL), MQ_ERR_NOT_FOUND);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, "{\"num_bitz\": 4}", 0, NULL),
             MQ_ERR_CONFIG);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, "{\"num_bits\": 9}", 0, NULL),
             MQ_ERR_UNSUPPORTED);
    RELEASES(mq_set_quantizer_attributes_if(model, &bad_filter, int4, 0, NULL), MQ_ERR_CALLBACK);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, int4, 0, NULL), MQ_OK);
}

static void processes_are_released(struct fixture *fixture) {
    mq_model *model = fixture->model;
    RELEASES(mq_postprocess_amax(NULL, "*", &good_process, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_postprocess_amax(model, NULL, &good_process, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_postprocess_amax(model, "*", &no_process, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_postprocess_amax(model, "*", &good_process, 64, NULL), MQ_ERR_INVALID_ARGUMENT);
    RELEASES(mq_postprocess_amax(model, "nobody", &good_process, 0, NULL), MQ_ERR_NOT_FOUND);
    RELEASES(mq_postprocess_amax(model, "nobody", &good_process, MQ_ALLOW_NO_MATCH, NULL), MQ_OK);
    RELEASES(mq_postprocess_amax(model, "*", &bad_process, 0, NULL), MQ_ERR_CALLBACK);
    RELEASES(mq_postprocess_amax(model, "*", &negation, 0, NULL), MQ_ERR_NUMERIC);
    RELEASES(mq_postprocess_amax(model, "*", &good_process, 0, NULL), MQ_OK);
}

static void before_quantize_they_are_released_too(struct fixture *fixture) {
    RELEASES(mq_enable_quantizer_if(fixture->model, &all, 0, NULL), MQ_ERR_STATE);
    RELEASES(mq_disable_quantizer_if(fixture->model, &all, 0, NULL), MQ_ERR_STATE);
    RELEASES(mq_set_quantizer_attributes_if(fixture->model, &all, int4, 0, NULL), MQ_ERR_STATE);
    RELEASES(mq_postprocess_amax(fixture->model, "*", &good_process, 0, NULL), MQ_ERR_STATE);
}

/* Inside a callback every one of them is refused, and released. */
static int32_t calls_them_all(void *user_data) {
    mq_model *model = ((struct fixture *)user_data)->model;
    RELEASES(mq_quantize(model, INT8, &good_pass), MQ_ERR_BUSY);
    RELEASES(mq_calibrate(model, "max", &good_pass), MQ_ERR_BUSY);
    RELEASES(mq_enable_quantizer_if(model, &all, 0, NULL), MQ_ERR_BUSY);
    RELEASES(mq_disable_quantizer_if(model, &all, 0, NULL), MQ_ERR_BUSY);
    RELEASES(mq_set_quantizer_attributes_if(model, &all, int4, 0, NULL), MQ_ERR_BUSY);
    RELEASES(mq_postprocess_amax(model, "*", &good_process, 0, NULL), MQ_ERR_BUSY);
    released = 0;
    return forward_taps(user_data);
}

static void inside_a_callback_they_are_released_too(struct fixture *fixture) {
    mq_forward_fn forward = {fixture, calls_them_all, count_release};
    RELEASES(mq_calibrate(fixture->model, "max", &forward), MQ_OK);
}

void test_release(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    before_quantize_they_are_released_too(&fixture);
    passes_are_released(&fixture);
    inside_a_callback_they_are_released_too(&fixture);
    processes_are_released(&fixture);
    filters_are_released(&fixture);
    fixture_free(&fixture);
}
