/* Quantizes one linear layer of an engine to INT8: calibrates, folds the weight, compares the
 * outputs.
 *
 *   cc one_layer.c $(pkg-config --cflags --libs mq) -lm -o one_layer && ./one_layer
 */
#include <math.h>
#include <mq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 64, IN = 128, OUT = 32 };

/* What the engine has anyway: a layer, and activations that reach it. */
static float weight[OUT][IN], batch[TOKENS][IN];

static float noise(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }

/* y = x weight^T */
static void multiply(float x[TOKENS][IN], float y[TOKENS][OUT]) {
    for (int t = 0; t < TOKENS; t++)
        for (int o = 0; o < OUT; o++) {
            y[t][o] = 0;
            for (int i = 0; i < IN; i++)
                y[t][o] += x[t][i] * weight[o][i];
        }
}

/* Memory of the engine's as mq sees it. It is borrowed, never copied. */
static mq_tensor matrix(void *data, const int64_t shape[2]) {
    mq_tensor tensor = {data, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
    return tensor;
}
static const int64_t weight_shape[2] = {OUT, IN}, batch_shape[2] = {TOKENS, IN};

/* The forward pass over the calibration set: what goes into the layer goes through its tap. */
static int32_t forward(void *layer) {
    const mq_tensor x = matrix(batch, batch_shape);
    return mq_layer_input(layer, &x, NULL);
}

/* Every function answers a status; the text says which layer, what was expected and what to do. */
static void check(mq_status status) {
    if (status == MQ_OK)
        return;
    fprintf(stderr, "%s: %s\n", mq_status_name(status), mq_last_error_message());
    exit(1);
}

int main(void) {
    static float exact[TOKENS][OUT], quantized[TOKENS][OUT];
    for (int i = 0; i < OUT * IN; i++)
        weight[0][i] = noise() / 8;
    for (int i = 0; i < TOKENS * IN; i++)
        batch[0][i] = noise();
    multiply(batch, exact);

    /* Register the layer. */
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    mq_layer_desc desc;
    const mq_tensor w = matrix(weight, weight_shape);
    check(mq_context_create(NULL, &context));
    check(mq_model_create(context, &model));
    check(mq_layer_desc_init(&desc, sizeof desc));
    desc.name = "fc";
    desc.weight = &w;
    check(mq_model_add_layer(model, &desc, &layer));

    /* Calibrate: one pass of the engine's own forward. Then the quantized values go into `weight`.
     */
    const mq_forward_fn run = {layer, forward, NULL};
    check(mq_quantize(model, "INT8_DEFAULT_CFG", &run));
    check(mq_fold_weight(model, 0));

    /* Inference: the tap quantizes, here in place. */
    const mq_tensor x = matrix(batch, batch_shape);
    check(mq_layer_input(layer, &x, &x));
    multiply(batch, quantized);

    double error = 0, energy = 0;
    for (int i = 0; i < TOKENS * OUT; i++) {
        error += pow(quantized[0][i] - exact[0][i], 2);
        energy += pow(exact[0][i], 2);
    }
    printf("INT8: relative error of the output %.4f\n", sqrt(error / energy));

    check(mq_model_destroy(model));
    mq_context_destroy(context);
    return sqrt(error / energy) < 0.02 ? 0 : 1;
}
