/* A verb holds the model: everything but taps answers MQ_ERR_BUSY inside its callback, and does
 * nothing. */
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

static void everything_is_busy(struct fixture *fixture) {
    mq_model *model = fixture->model;
    mq_quantizer *quantizer = fixture->input;
    struct pass pass = {fixture, 0, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    mq_layer_desc desc;
    mq_layer *layer = NULL;
    mq_quantizer *found = NULL;
    size_t count = 99;
    int32_t enabled = 99;
    float values[2] = {1.0f, 1.0f}, scale[IN] = {1.0f, 1.0f, 1.0f, 1.0f};
    char text[8] = "#######";
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "late";
    desc.kind = MQ_LAYER_GENERIC;

    CHECK_STATUS(mq_model_destroy(model),
                 MQ_ERR_BUSY); /* and nothing happens: the rest still runs */
    CHECK_STATUS(mq_model_add_layer(model, &desc, &layer), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_add_quantizer(model, "late_quantizer", NULL, &found), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_find_layer(model, "fc", &layer), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_find_quantizer(model, "fc.input_quantizer", &found), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_quantizer_count(model, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_quantizer_at(model, 0, &found), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantize(model, INT8, &forward), MQ_ERR_BUSY);
    CHECK_STATUS(mq_calibrate(model, "max", &forward), MQ_ERR_BUSY);
    CHECK_STATUS(mq_fold_weight(model, 0), MQ_ERR_BUSY);
    CHECK_STATUS(mq_enable_quantizer(model, "*", 0, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_disable_quantizer(model, "*", 0, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_set_quantizer_attributes(model, "*", "{\"num_bits\": 4}", 0, &count),
                 MQ_ERR_BUSY);
    CHECK_STATUS(mq_reset_amax(model, "*", 0, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_print_quant_summary(model, MQ_SUMMARY_TEXT, text, sizeof text, &count),
                 MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_name(quantizer, text, sizeof text, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_is_enabled(quantizer, &enabled), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_attributes(quantizer, text, sizeof text, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_amax(quantizer, values, 2, &count, NULL, NULL), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_set_amax(quantizer, F32_SCALAR(values)), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_pre_quant_scale(quantizer, values, 2, &count), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(quantizer, F32(scale, IN)), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantizer_set_pre_quant_scale(quantizer, NULL), MQ_ERR_BUSY);
    CHECK(layer == NULL && found == NULL && count == 99 && enabled == 99 && text[0] == '#');
    CHECK(pass.calls == 0 && pass.released == 2);
}

/* What holds no model works all the same: taps, contexts, other models. */
static void the_rest_is_not(struct fixture *fixture) {
    mq_context *context = NULL;
    mq_model *model = NULL;
    float weight[OUT * IN];
    mq_tensor x = *F32(fixture->x, ROWS, IN);
    size_t length = 0;
    CHECK_STATUS(mq_layer_input(fixture->layer, &x, NULL), MQ_OK);
    CHECK_STATUS(mq_layer_output(fixture->layer, &x, NULL), MQ_OK);
    CHECK_STATUS(mq_layer_weight(fixture->layer, F32(weight, OUT, IN)), MQ_OK);
    CHECK_STATUS(mq_quantizer_forward(fixture->own, &x, NULL), MQ_OK);
    CHECK_STATUS(
        mq_fake_quant(fixture->context, F32(weight, 8), "{\"num_bits\": 8}", NULL, F32(weight, 8)),
        MQ_OK);
    CHECK_STATUS(mq_model_create(fixture->context, &model), MQ_OK);
    CHECK_STATUS(mq_print_quant_summary(model, MQ_SUMMARY_TEXT, NULL, 0, &length), MQ_OK);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
    CHECK_STATUS(mq_context_create(NULL, &context), MQ_OK);
    mq_context_destroy(context);
}

static void busy_in_the_pass(struct pass *pass) {
    everything_is_busy(pass->fixture);
    the_rest_is_not(pass->fixture);
}

static int32_t busy_in_the_filter(void *user_data, const char *name, int32_t *selected) {
    struct fixture *fixture = user_data;
    *selected = strcmp(name, "fc.input_quantizer") == 0;
    if (*selected) {
        everything_is_busy(fixture);
        the_rest_is_not(fixture);
    }
    return 0;
}

static int32_t busy_in_the_process(void *user_data, const char *name, float *amax, size_t count) {
    (void)name, (void)amax, (void)count;
    everything_is_busy(user_data);
    the_rest_is_not(user_data);
    return 0;
}

static void a_callback_finds_its_model_busy(void) {
    struct fixture fixture;
    size_t matched = 0;
    fixture_init(&fixture);
    struct pass pass = {&fixture, 0, busy_in_the_pass, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_OK);
    CHECK_STATUS(mq_calibrate(fixture.model, "max", &forward), MQ_OK);
    CHECK(pass.calls == 2);
    struct snapshot snapshot;
    snapshot_take(&snapshot, &fixture);
    mq_filter_fn filter = {&fixture, busy_in_the_filter, NULL};
    CHECK_STATUS(mq_enable_quantizer_if(fixture.model, &filter, 0, &matched), MQ_OK);
    CHECK(matched == 1);
    mq_amax_fn process = {&fixture, busy_in_the_process, NULL};
    CHECK_STATUS(mq_postprocess_amax(fixture.model, "fc.input*", &process, 0, &matched), MQ_OK);
    CHECK(matched == 1);
    CHECK(snapshot_holds(&snapshot, &fixture));
    fixture_free(&fixture);
}

/* The same from another thread; its own error text is not the main thread's. */
struct visitor {
    mq_model *model;
    mq_status fold, destroy;
    int has_text;
};

static void *visit(void *data) {
    struct visitor *visitor = data;
    visitor->has_text = mq_last_error_message()[0] != '\0';
    visitor->fold = mq_fold_weight(visitor->model, 0);
    visitor->destroy = mq_model_destroy(visitor->model);
    return NULL;
}

static void busy_on_another_thread(struct pass *pass) {
    struct visitor visitor = {pass->fixture->model, MQ_OK, MQ_OK, 1};
    pthread_t thread;
    mq_layer *layer = NULL;
    char before[256] = "";
    CHECK_STATUS(mq_layer_input(layer, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    strncat(before, mq_last_error_message(), sizeof before - 1);
    CHECK(pthread_create(&thread, NULL, visit, &visitor) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(visitor.fold == MQ_ERR_BUSY && visitor.destroy == MQ_ERR_BUSY);
    CHECK(!visitor.has_text);
    CHECK(strcmp(before, mq_last_error_message()) == 0);
}

static void another_thread_finds_the_model_busy(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    struct pass pass = {&fixture, 0, busy_on_another_thread, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    CHECK_STATUS(mq_quantize(fixture.model, INT8, &forward), MQ_OK);
    CHECK(pass.calls == 1);
    fixture_free(&fixture);
}

void test_busy(void) {
    a_callback_finds_its_model_busy();
    another_thread_finds_the_model_busy();
}
