/* Quantizes a linear layer to INT8 and prints what calibration found. */
#include <mq.h>
#include <stdio.h>

static float weight[2][4] = {{1, -2, 3, -4}, {0.5, 0.25}}, batch[2][4] = {{-2, 1.5}, {0.5, 1}};
static const int64_t shape[] = {2, 4};
static const mq_tensor w = {weight, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
static const mq_tensor x = {batch, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};

/* Your forward pass over the calibration set: what goes into a layer goes through its tap. */
static int32_t forward(void *layer) { return mq_layer_input(layer, &x, NULL); }

int main(void) {
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    mq_quantizer *input;
    mq_layer_desc desc;
    float amax;

    mq_status status = mq_layer_desc_init(&desc, sizeof desc);
    desc.name = "fc", desc.weight = &w;
    if (status || mq_context_create(NULL, &context) || mq_model_create(context, &model) ||
        mq_model_add_layer(model, &desc, &layer) ||
        mq_quantize(model, "INT8_DEFAULT_CFG", &(mq_forward_fn){layer, forward, NULL}) ||
        mq_layer_input(layer, &x, &x) /* from now on it quantizes; here in place */ ||
        mq_model_find_quantizer(model, "fc.input_quantizer", &input) ||
        mq_quantizer_amax(input, &amax, 1, &(size_t){0}, NULL, NULL) || mq_model_destroy(model))
        return fprintf(stderr, "%s\n", mq_last_error_message()), 1;
    mq_context_destroy(context);
    printf("amax %g, 1.5 became %g\n", amax, batch[0][1]);
}
