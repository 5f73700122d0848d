/* The parts of fixture.h. */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

void fixture_init(struct fixture *fixture) {
    static const float weight[OUT * IN] = {1.0f, -2.0f, 3.0f, -4.0f, 0.5f, 0.25f, -0.125f, 0.0f};
    static const float x[ROWS * IN] = {-2.0f, 1.5f, 1.0f, 0.0f, 0.004f, 0.011811f,
                                       -1.0f, 0.5f, 0.1f, 0.2f, -0.3f,  0.4f};
    memset(fixture, 0, sizeof *fixture);
    memcpy(fixture->weight, weight, sizeof weight);
    memcpy(fixture->x, x, sizeof x);
    CHECK_STATUS(mq_context_create(NULL, &fixture->context), MQ_OK);
    CHECK_STATUS(mq_model_create(fixture->context, &fixture->model), MQ_OK);

    mq_layer_desc desc;
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "fc";
    desc.weight = F32(fixture->weight, OUT, IN);
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, &fixture->layer), MQ_OK);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "kv.k_bmm_quantizer", NULL, &fixture->own),
                 MQ_OK);
    fixture->input = find_quantizer(fixture->model, "fc.input_quantizer");
    fixture->output = find_quantizer(fixture->model, "fc.output_quantizer");
    fixture->weight_quantizer = find_quantizer(fixture->model, "fc.weight_quantizer");
}

void fixture_free(struct fixture *fixture) {
    CHECK_STATUS(mq_model_destroy(fixture->model), MQ_OK);
    mq_context_destroy(fixture->context);
}

void fixture_init_quantized(struct fixture *fixture, const char *config) {
    fixture_init(fixture);
    CHECK_STATUS(fixture_quantize(fixture, config), MQ_OK);
}

int32_t pass_forward(void *data) {
    struct pass *pass = data;
    struct fixture *fixture = pass->fixture;
    pass->calls++;
    if (mq_layer_input(fixture->layer, F32(fixture->x, ROWS, IN), NULL) != MQ_OK) {
        return 77; /* the verb must answer the tap's error, not this */
    }
    if (pass->inside != NULL) {
        pass->inside(pass);
    }
    return pass->result;
}

static void pass_release(void *pass) { ((struct pass *)pass)->released++; }

mq_forward_fn forward_of(struct pass *pass) {
    mq_forward_fn forward = {pass, pass_forward, pass_release};
    return forward;
}

mq_status fixture_quantize(struct fixture *fixture, const char *config) {
    struct pass pass = {fixture, 0, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    mq_status status = mq_quantize(fixture->model, config, &forward);
    CHECK(pass.released == 1);
    return status;
}

mq_quantizer *find_quantizer(mq_model *model, const char *name) {
    mq_quantizer *quantizer = NULL;
    CHECK_STATUS(mq_model_find_quantizer(model, name, &quantizer), MQ_OK);
    return quantizer;
}

char *summary_of(const mq_model *model) {
    size_t length = 0;
    CHECK_STATUS(mq_print_quant_summary(model, MQ_SUMMARY_JSON, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_print_quant_summary(model, MQ_SUMMARY_JSON, text, length + 1, NULL), MQ_OK);
    return text;
}

const char *json(const char *single_quoted) {
    static char text[1024];
    size_t length = strlen(single_quoted);
    if (length >= sizeof text) {
        return "json() is too small";
    }
    for (size_t i = 0; i <= length; i++) {
        text[i] = single_quoted[i] == '\'' ? '"' : single_quoted[i];
    }
    return text;
}

void snapshot_take(struct snapshot *snapshot, const struct fixture *fixture) {
    snapshot->summary = summary_of(fixture->model);
    memcpy(snapshot->weight, fixture->weight, sizeof snapshot->weight);
}

int snapshot_holds(struct snapshot *snapshot, const struct fixture *fixture) {
    char *now = summary_of(fixture->model);
    int same = strcmp(now, snapshot->summary) == 0 &&
               memcmp(snapshot->weight, fixture->weight, sizeof snapshot->weight) == 0;
    free(now);
    free(snapshot->summary);
    return same;
}
