/* Quantizes a linear layer to INT8 and prints what calibration found. */
#include <mq.h>
#include <stdio.h>

static float weight[2][4] = {{1, -2, 3, -4}, {0.5, 0.25, -0.125, 0}},
             batch[3][4] = {{-2, 1.5, 1}, {0.5, 0.1}, {-1}};
static const mq_tensor w = {
    weight, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, (int64_t[]){2, 4}, NULL, 0};
static const mq_tensor x = {
    batch, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, (int64_t[]){3, 4}, NULL, 0};

/* Your forward pass over the calibration set: each layer's input goes through its tap. */
static int32_t forward(void *layer) { return mq_layer_input(layer, &x, NULL); }

int main(void) {
    mq_context *context = NULL;
    mq_model *model = NULL;
    mq_layer *layer = NULL;
    mq_quantizer *quantizer = NULL;
    mq_layer_desc desc;
    float amax = 0;
    size_t count = 0;

    if (mq_layer_desc_init(&desc, sizeof desc) || mq_context_create(NULL, &context) ||
        mq_model_create(context, &model))
        return fprintf(stderr, "%s\n", mq_last_error_message()), 1;
    desc.name = "fc";
    desc.weight = &w;
    if (mq_model_add_layer(model, &desc, &layer) ||
        mq_quantize(model, "INT8_DEFAULT_CFG", &(mq_forward_fn){layer, forward, NULL}) ||
        mq_layer_input(layer, &x, &x) || /* quantized now: in place */
        mq_model_find_quantizer(model, "fc.input_quantizer", &quantizer) ||
        mq_quantizer_amax(quantizer, &amax, 1, &count, NULL, NULL))
        return fprintf(stderr, "%s\n", mq_last_error_message()), 1;
    printf("amax %g, 1.5 became %g\n", amax, batch[0][1]);
    mq_context_destroy(context);
    return mq_model_destroy(model);
}
