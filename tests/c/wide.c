/* The parts of wide.h. */
#include "wide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Numbers in -1..1 that every run draws alike. */
static void draw(float *values, size_t count, uint32_t seed) {
    uint32_t state = seed * 2654435761u + 12345u;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)state / 2147483648.0f;
    }
}

static mq_layer_desc desc_of(const char *name, const mq_tensor *weight) {
    mq_layer_desc desc;
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = name;
    desc.weight = weight;
    return desc;
}

static void fill(struct wide *wide) {
    draw(wide->gain0, WIDTH, 1);
    draw(wide->gain1, WIDTH, 2);
    draw(wide->bias1, WIDTH, 3);
    draw(wide->up_bias, HIDDEN, 4);
    draw(wide->q_weight, HEADS * WIDTH, 5);
    draw(wide->k_weight, HEADS * WIDTH, 6);
    draw(wide->up_weight, HIDDEN * WIDTH, 7);
    draw(wide->down_weight, HEADS * HIDDEN, 8);
    draw(wide->raw, TOKENS * WIDTH, 9);
    for (int i = 0; i < WIDTH; i++) {
        wide->gain0[i] *= 0.5f;
        wide->gain1[i] += 1.5f;
    }
    for (int t = 0; t < TOKENS; t++) {
        wide->raw[t * WIDTH + 5] *= 30.0f; /* the channel that smoothing is for */
    }
}

void wide_init(struct wide *wide, const mq_context_options *options) {
    memset(wide, 0, sizeof *wide);
    fill(wide);
    wide->tokens = TOKENS;
    CHECK_STATUS(mq_context_create(options, &wide->context), MQ_OK);
    CHECK_STATUS(mq_model_create(wide->context, &wide->model), MQ_OK);

    mq_layer_desc desc = desc_of("q", F32(wide->q_weight, HEADS, WIDTH));
    desc.norm_gain = F32(wide->gain0, WIDTH);
    desc.norm_flags = MQ_NORM_ADDS_ONE;
    CHECK_STATUS(mq_model_add_layer(wide->model, &desc, &wide->q), MQ_OK);

    desc = desc_of("k", F32(wide->k_weight, HEADS, WIDTH));
    desc.shared_input_group = "x1";
    desc.norm_gain = F32(wide->gain1, WIDTH);
    desc.norm_bias = F32(wide->bias1, WIDTH);
    CHECK_STATUS(mq_model_add_layer(wide->model, &desc, &wide->k), MQ_OK);
    desc.name = "up";
    desc.weight = F32(wide->up_weight, HIDDEN, WIDTH);
    desc.bias = F32(wide->up_bias, HIDDEN);
    CHECK_STATUS(mq_model_add_layer(wide->model, &desc, &wide->up), MQ_OK);

    desc = desc_of("down", F32(wide->down_weight, HEADS, HIDDEN));
    desc.producer = "up";
    CHECK_STATUS(mq_model_add_layer(wide->model, &desc, &wide->down), MQ_OK);
}

void wide_free(struct wide *wide) {
    CHECK_STATUS(mq_model_destroy(wide->model), MQ_OK);
    mq_context_destroy(wide->context);
}

static void normed(const struct wide *wide, float *x0, float *x1) {
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        int channel = i % WIDTH;
        x0[i] = wide->raw[i] * (1.0f + wide->gain0[channel]);
        x1[i] = wide->raw[i] * wide->gain1[channel] + wide->bias1[channel];
    }
}

/* A linear layer: its input tap, its weight, the product. Returns the tap's status. */
static mq_status linear(mq_layer *layer, const float *x, int tokens, int inputs, int outputs,
                        float *y) {
    float seen[TOKENS * WIDTH], weight[HIDDEN * WIDTH];
    memcpy(seen, x, sizeof *x * (size_t)(tokens * inputs));
    mq_status status = mq_layer_input(layer, F32(seen, tokens, inputs), F32(seen, tokens, inputs));
    if (status == MQ_OK) {
        status = mq_layer_weight(layer, F32(weight, outputs, inputs));
    }
    for (int t = 0; status == MQ_OK && t < tokens; t++) {
        for (int o = 0; o < outputs; o++) {
            double sum = 0.0;
            for (int i = 0; i < inputs; i++) {
                sum += (double)seen[t * inputs + i] * (double)weight[o * inputs + i];
            }
            y[t * outputs + o] = (float)sum;
        }
    }
    return status;
}

static mq_status run(const struct wide *wide, int tokens, struct outputs *outputs) {
    float x0[TOKENS * WIDTH], x1[TOKENS * WIDTH], hidden[TOKENS * HIDDEN];
    normed(wide, x0, x1);
    mq_status status = linear(wide->q, x0, tokens, WIDTH, HEADS, outputs->q);
    if (status == MQ_OK) {
        status = linear(wide->k, x1, tokens, WIDTH, HEADS, outputs->k);
    }
    if (status == MQ_OK) {
        status = linear(wide->up, x1, tokens, WIDTH, HIDDEN, hidden);
    }
    for (int i = 0; status == MQ_OK && i < tokens * HIDDEN; i++) {
        hidden[i] += wide->up_bias[i % HIDDEN];
    }
    return status == MQ_OK ? linear(wide->down, hidden, tokens, HIDDEN, HEADS, outputs->down)
                           : status;
}

int32_t wide_forward(void *data) {
    struct wide *wide = data;
    struct outputs outputs;
    wide->passes++;
    mq_status status = run(wide, wide->tokens, &outputs);
    if (status != MQ_OK) {
        return 77; /* the verb must answer the tap's error, not this */
    }
    if (wide->inside != NULL) {
        wide->inside(wide);
    }
    return wide->result;
}

mq_status wide_quantize(struct wide *wide, const char *config) {
    mq_forward_fn forward = {wide, wide_forward, NULL};
    return mq_quantize(wide->model, json(config), &forward);
}

mq_status wide_calibrate(struct wide *wide, const char *algorithm) {
    mq_forward_fn forward = {wide, wide_forward, NULL};
    return mq_calibrate(wide->model, json(algorithm), &forward);
}

void wide_outputs(const struct wide *wide, struct outputs *outputs) {
    memset(outputs, 0, sizeof *outputs);
    CHECK_STATUS(run(wide, TOKENS, outputs), MQ_OK);
}

double distance(const float *a, const float *b, size_t count) {
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(difference / size);
}

void wide_snapshot_take(struct wide_snapshot *snapshot, const struct wide *wide) {
    snapshot->summary = summary_of(wide->model);
    snapshot->wide = *wide;
}

int wide_snapshot_holds(struct wide_snapshot *snapshot, const struct wide *wide) {
    char *now = summary_of(wide->model);
    const struct wide *was = &snapshot->wide;
    int same = strcmp(now, snapshot->summary) == 0 &&
               memcmp(was->gain0, wide->gain0, sizeof was->gain0) == 0 &&
               memcmp(was->gain1, wide->gain1, sizeof was->gain1) == 0 &&
               memcmp(was->bias1, wide->bias1, sizeof was->bias1) == 0 &&
               memcmp(was->up_bias, wide->up_bias, sizeof was->up_bias) == 0 &&
               memcmp(was->q_weight, wide->q_weight, sizeof was->q_weight) == 0 &&
               memcmp(was->k_weight, wide->k_weight, sizeof was->k_weight) == 0 &&
               memcmp(was->up_weight, wide->up_weight, sizeof was->up_weight) == 0 &&
               memcmp(was->down_weight, wide->down_weight, sizeof was->down_weight) == 0;
    free(now);
    free(snapshot->summary);
    return same;
}

double number_of(const char *text, const char *key) {
    char quoted[64] = "\"";
    strncat(quoted, key, sizeof quoted - 4);
    strcat(quoted, "\":");
    const char *found = strstr(text, quoted);
    return found == NULL ? -1.0 : strtod(found + strlen(quoted), NULL);
}

size_t factors_of(struct wide *wide, const char *quantizer, float *values) {
    size_t count = 99;
    CHECK_STATUS(
        mq_quantizer_pre_quant_scale(find_quantizer(wide->model, quantizer), values, WIDTH, &count),
        MQ_OK);
    return count;
}
