/* A library without CUDA: it quantizes in host memory, and says what it lacks where a GPU is named.
 */
#include <mq.h>
#include <stdio.h>
#include <string.h>

static int failed;

static void expect(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "cpu_only.c: %s; last error: %s\n", what, mq_last_error_message());
        failed = 1;
    }
}

static void refused(mq_status status, const char *what) {
    expect(status == MQ_ERR_UNSUPPORTED, what);
    expect(strstr(mq_last_error_message(), "was built without CUDA") != NULL, what);
}

int main(void) {
    float weight[4] = {1, -2, 3, -4}, out[4];
    const int64_t shape[] = {2, 2};
    mq_tensor host = {weight, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
    mq_tensor result = host, device = host;
    result.data = out;
    device.device.device_type = MQ_DEVICE_CUDA;

    mq_context_options options;
    mq_context *context = NULL;
    expect(mq_context_options_init(&options, sizeof options) == MQ_OK, "the options");
    options.device.device_type = MQ_DEVICE_CUDA;
    refused(mq_context_create(&options, &context), "a context on a GPU");
    expect(context == NULL, "a refused context is untouched");

    expect(mq_context_create(NULL, &context) == MQ_OK, "a context");
    refused(mq_context_set_cuda_stream(context, NULL), "a stream");
    refused(mq_fake_quant(context, &device, "{\"num_bits\": 8}", NULL, &device),
            "a tensor in device memory");
    mq_model *model = NULL;
    mq_layer_desc desc;
    expect(mq_model_create(context, &model) == MQ_OK, "a model");
    expect(mq_layer_desc_init(&desc, sizeof desc) == MQ_OK, "the description of a layer");
    desc.name = "fc";
    desc.weight = &device;
    refused(mq_model_add_layer(model, &desc, NULL), "a weight in device memory");
    expect(mq_model_synchronize(model) == MQ_OK, "there is nothing to wait for");

    expect(mq_fake_quant(context, &host, "{\"num_bits\": 8}", NULL, &result) == MQ_OK,
           "host memory works");
    expect(out[3] == -4, "and has the right values");
    expect(mq_model_destroy(model) == MQ_OK, "the end");
    mq_context_destroy(context);
    return failed;
}
