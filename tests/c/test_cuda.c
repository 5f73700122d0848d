/* The CUDA side through the C ABI: what a host without a GPU is told, and a model in device memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cuda_driver.h"
#include "fixture.h"
#include "tests.h"

static struct cuda_driver cuda;

static mq_context_options options_for(int32_t device_type, int32_t device_id) {
    mq_context_options options;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = 1;
    options.device.device_type = device_type;
    options.device.device_id = device_id;
    return options;
}

static void contexts_without_a_gpu(void) {
    mq_context *context = NULL;
    mq_context_options options = options_for(77, 0);
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_UNSUPPORTED);
    options = options_for(MQ_DEVICE_CPU, 0);
    options.cuda_stream = &options;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("cuda_stream");
    CHECK(context == NULL);
    options = options_for(MQ_DEVICE_CPU, 0);
    options.cublas = 3;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("cublas is 3");
    options.cublas = MQ_CUBLAS_NEVER;
    options.reserved = 1;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("reserved is 1");
    CHECK(context == NULL);
    options = options_for(MQ_DEVICE_CPU, 0);
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    CHECK_STATUS(mq_context_set_cuda_stream(context, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_context_set_cuda_stream(NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    mq_model *model = NULL;
    CHECK_STATUS(mq_model_create(context, &model), MQ_OK);
    CHECK_STATUS(mq_model_synchronize(model), MQ_OK);
    CHECK_STATUS(mq_model_synchronize(NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
    mq_context_destroy(context);
}

static void a_missing_driver_is_said(void) {
    mq_context *context = NULL;
    mq_context_options options = options_for(MQ_DEVICE_CUDA, 0);
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_CUDA);
    CHECK_SAYS("CUDA: there is ");
    CHECK(context == NULL);
}

/* Device memory of the host's, counted. */
struct memory {
    int live, calls, allowed, released;
};

static void *memory_allocate(void *user_data, size_t bytes, void *stream) {
    struct memory *memory = user_data;
    uint64_t address = 0;
    (void)stream;
    if (memory->calls++ >= memory->allowed || cuda.allocate(&address, bytes) != 0)
        return NULL;
    memory->live++;
    return (void *)(uintptr_t)address;
}

static void memory_free(void *user_data, void *address, size_t bytes, void *stream) {
    struct memory *memory = user_data;
    (void)bytes;
    (void)stream;
    CHECK(cuda.free((uint64_t)(uintptr_t)address) == 0);
    memory->live--;
}

static void memory_release(void *user_data) { ((struct memory *)user_data)->released++; }

static mq_device_memory_fn memory_of(struct memory *memory) {
    mq_device_memory_fn functions = {memory, memory_allocate, memory_free, memory_release};
    return functions;
}

enum { INPUTS = 32, OUTPUTS = 8, TOKENS = 5 };

/* A model with one layer whose tensors live on the device, on a stream of its own. */
struct there {
    void *primary, *stream;
    struct memory memory;
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    uint64_t weight, x, out;
    int64_t weight_shape[2], x_shape[2];
    mq_tensor weight_tensor, x_tensor, out_tensor;
};

static mq_tensor on_device(uint64_t memory, int64_t *shape) {
    mq_tensor tensor = {
        (void *)(uintptr_t)memory, {MQ_DEVICE_CUDA, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
    return tensor;
}

static float number(int i) { return (float)((i * 37 + 11) % 41 - 20) / 8.0f; }

static void there_init(struct there *there, int allowed) {
    float weight[OUTPUTS * INPUTS], x[TOKENS * INPUTS];
    memset(there, 0, sizeof *there);
    for (int i = 0; i < OUTPUTS * INPUTS; i++)
        weight[i] = number(i);
    for (int i = 0; i < TOKENS * INPUTS; i++)
        x[i] = number(3 * i + 1);
    CHECK(cuda.retain(&there->primary, 0) == 0 && cuda.push(there->primary) == 0);
    CHECK(cuda.stream_create(&there->stream, 1) == 0);
    CHECK(cuda.allocate(&there->weight, sizeof weight) == 0);
    CHECK(cuda.allocate(&there->x, sizeof x) == 0 && cuda.allocate(&there->out, sizeof x) == 0);
    CHECK(cuda.to_device(there->weight, weight, sizeof weight) == 0);
    CHECK(cuda.to_device(there->x, x, sizeof x) == 0);
    there->weight_shape[0] = OUTPUTS;
    there->x_shape[0] = TOKENS;
    there->weight_shape[1] = there->x_shape[1] = INPUTS;
    there->weight_tensor = on_device(there->weight, there->weight_shape);
    there->x_tensor = on_device(there->x, there->x_shape);
    there->out_tensor = on_device(there->out, there->x_shape);
    there->memory.allowed = allowed;
    mq_context_options options = options_for(MQ_DEVICE_CUDA, 0);
    options.cuda_stream = there->stream;
    options.device_memory = memory_of(&there->memory);
    CHECK_STATUS(mq_context_create(&options, &there->context), MQ_OK);
    CHECK_STATUS(mq_model_create(there->context, &there->model), MQ_OK);
    mq_layer_desc desc;
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_LINEAR;
    desc.name = "fc";
    desc.weight = &there->weight_tensor;
    CHECK_STATUS(mq_model_add_layer(there->model, &desc, &there->layer), MQ_OK);
}

static void there_free(struct there *there) {
    CHECK_STATUS(mq_model_destroy(there->model), MQ_OK);
    mq_context_destroy(there->context);
    CHECK(there->memory.live == 0 && there->memory.released == 1);
    CHECK(cuda.free(there->weight) == 0 && cuda.free(there->x) == 0 && cuda.free(there->out) == 0);
    CHECK(cuda.stream_destroy(there->stream) == 0);
    CHECK(cuda.pop(&there->primary) == 0 && cuda.release(0) == 0);
}

static int32_t there_forward(void *user_data) {
    struct there *there = user_data;
    return (int32_t)mq_layer_input(there->layer, &there->x_tensor, NULL);
}

static mq_status there_quantize(struct there *there, const char *config) {
    mq_forward_fn forward = {there, there_forward, NULL};
    return mq_quantize(there->model, config, &forward);
}

static void a_model_in_device_memory_gives_the_same_numbers(void) {
    struct there there;
    float x[TOKENS * INPUTS], want[TOKENS * INPUTS], got[TOKENS * INPUTS], amax = 0.0f;
    there_init(&there, 1000);
    CHECK_STATUS(there_quantize(&there, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_input(there.layer, &there.x_tensor, &there.out_tensor), MQ_OK);
    CHECK_STATUS(mq_model_synchronize(there.model), MQ_OK);
    CHECK(cuda.to_host(got, there.out, sizeof got) == 0);
    for (int i = 0; i < TOKENS * INPUTS; i++) {
        x[i] = number(3 * i + 1);
        if (x[i] > amax || -x[i] > amax)
            amax = x[i] < 0.0f ? -x[i] : x[i];
    }
    CHECK_STATUS(mq_fake_quant(there.context, F32(x, TOKENS, INPUTS), "{\"num_bits\": 8}",
                               F32_SCALAR(&amax), F32(want, TOKENS, INPUTS)),
                 MQ_OK);
    CHECK_FLOATS(got, want, TOKENS * INPUTS);
    /* A tensor without a model, in device memory and in place. */
    CHECK_STATUS(
        mq_fake_quant(there.context, &there.x_tensor, "{\"num_bits\": 8}", NULL, &there.x_tensor),
        MQ_OK);
    CHECK(cuda.to_host(got, there.x, sizeof got) == 0);
    CHECK_FLOATS(got, want, TOKENS * INPUTS);
    CHECK_STATUS(mq_fold_weight(there.model, 0), MQ_OK);
    there_free(&there);
}

static void a_captured_tap_replays(void) {
    struct there there;
    void *graph = NULL, *exec = NULL, *current = NULL;
    float first[TOKENS * INPUTS], again[TOKENS * INPUTS], zeros[TOKENS * INPUTS] = {0};
    there_init(&there, 1000);
    CHECK_STATUS(there_quantize(&there, FP8), MQ_OK);
    int before = there.memory.calls;
    CHECK(cuda.begin_capture(there.stream, 0) == 0);
    CHECK_STATUS(mq_layer_input(there.layer, &there.x_tensor, &there.out_tensor), MQ_OK);
    CHECK_STATUS(mq_model_synchronize(there.model), MQ_ERR_STATE);
    CHECK_SAYS("captured");
    CHECK_STATUS(there_quantize(&there, INT8), MQ_ERR_STATE);
    CHECK(cuda.end_capture(there.stream, &graph) == 0);
    CHECK(there.memory.calls == before); /* a tap allocates nothing */
    CHECK(cuda.instantiate(&exec, graph, 0) == 0);
    CHECK(cuda.launch(exec, there.stream) == 0 && cuda.stream_synchronize(there.stream) == 0);
    CHECK(cuda.to_host(first, there.out, sizeof first) == 0);
    CHECK(cuda.to_device(there.out, zeros, sizeof zeros) == 0);
    CHECK(cuda.launch(exec, there.stream) == 0 && cuda.stream_synchronize(there.stream) == 0);
    CHECK(cuda.to_host(again, there.out, sizeof again) == 0);
    CHECK_FLOATS(again, first, TOKENS * INPUTS);
    CHECK(cuda.current(&current) == 0 && current == there.primary);
    CHECK(cuda.exec_destroy(exec) == 0 && cuda.graph_destroy(graph) == 0);
    there_free(&there);
}

/* Memory of the host's for packed parts: what a test has there. */
static int32_t lend(void *user_data, const char *layer, const char *part, size_t size,
                    void **memory) {
    (void)layer;
    (void)part;
    (void)size;
    *memory = user_data;
    return 0;
}

static void a_packed_weight_stays_there(void) {
    struct there there;
    float before[OUTPUTS * INPUTS], after[OUTPUTS * INPUTS], scale;
    int8_t codes[OUTPUTS * INPUTS];
    void *graph = NULL, *exec = NULL;
    uint64_t memory = 0;
    mq_tensor part;
    there_init(&there, 1000);
    CHECK(cuda.allocate(&memory, sizeof before) == 0);
    mq_tensor out = on_device(memory, there.weight_shape);
    CHECK_STATUS(there_quantize(&there, INT8), MQ_OK);
    CHECK_STATUS(mq_layer_weight(there.layer, &out), MQ_OK);
    CHECK_STATUS(mq_model_synchronize(there.model), MQ_OK);
    CHECK(cuda.to_host(before, memory, sizeof before) == 0);
    /* The parts lie where the weight does, and so must what the host gives for them. */
    mq_buffer_fn in_host_memory = {after, lend, NULL};
    CHECK_STATUS(mq_compress(there.model, NULL, &in_host_memory, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("host memory");
    CHECK_STATUS(mq_layer_packed(there.layer, "weight", &part), MQ_ERR_STATE);
    CHECK_STATUS(mq_compress(there.model, NULL, NULL, 0, NULL), MQ_OK);
    CHECK_STATUS(mq_layer_packed(there.layer, "weight", &part), MQ_OK);
    CHECK(part.device.device_type == MQ_DEVICE_CUDA && part.device.device_id == 0);
    CHECK(part.dtype.code == MQ_DTYPE_INT && part.ndim == 2 && part.shape[0] == OUTPUTS);
    CHECK(cuda.to_host(codes, (uint64_t)(uintptr_t)part.data, sizeof codes) == 0);
    CHECK_STATUS(mq_layer_packed(there.layer, "scale", &part), MQ_OK);
    CHECK(part.device.device_type == MQ_DEVICE_CUDA);
    CHECK(cuda.to_host(&scale, (uint64_t)(uintptr_t)part.data, sizeof scale) == 0);
    for (int i = 0; i < INPUTS; i++) {
        float error = (float)codes[i] * scale - before[i];
        CHECK(error < 1e-5f && error > -1e-5f);
    }
    /* Unpacking is a kernel on the stream, in a graph as well. */
    int calls = there.memory.calls;
    CHECK(cuda.begin_capture(there.stream, 0) == 0);
    CHECK_STATUS(mq_layer_weight(there.layer, &out), MQ_OK);
    CHECK(cuda.end_capture(there.stream, &graph) == 0);
    CHECK(there.memory.calls == calls);
    CHECK(cuda.instantiate(&exec, graph, 0) == 0);
    memset(after, 0, sizeof after);
    CHECK(cuda.to_device(memory, after, sizeof after) == 0);
    CHECK(cuda.launch(exec, there.stream) == 0 && cuda.stream_synchronize(there.stream) == 0);
    CHECK(cuda.to_host(after, memory, sizeof after) == 0);
    CHECK_FLOATS(after, before, OUTPUTS * INPUTS);
    CHECK(cuda.exec_destroy(exec) == 0 && cuda.graph_destroy(graph) == 0);
    CHECK(cuda.free(memory) == 0);
    there_free(&there);
}

static void lies_about_memory_are_found(void) {
    struct there there;
    float host[TOKENS * INPUTS] = {0};
    there_init(&there, 1000);
    mq_tensor lie = there.x_tensor, other = there.x_tensor, large = there.x_tensor;
    int64_t rows[] = {TOKENS + 100, INPUTS};
    lie.data = host;
    other.device.device_id = 7;
    large.shape = rows;
    CHECK_STATUS(mq_layer_input(there.layer, &lie, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("host memory");
    CHECK_STATUS(mq_layer_input(there.layer, &other, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("device 7");
    CHECK_STATUS(mq_layer_input(there.layer, &large, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_input(there.layer, &there.x_tensor, F32(host, TOKENS, INPUTS)),
                 MQ_ERR_INVALID_ARGUMENT);
    mq_tensor device_called_host = there.x_tensor;
    device_called_host.device.device_type = MQ_DEVICE_CPU;
    CHECK_STATUS(mq_layer_input(there.layer, &device_called_host, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("is said to be host memory, but it is memory of CUDA device 0");
    mq_context *context = NULL;
    mq_context_options options = options_for(MQ_DEVICE_CUDA, 4000);
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_CUDA);
    CHECK_SAYS("4000");
    struct memory half = {0};
    options = options_for(MQ_DEVICE_CUDA, 0);
    options.device_memory = memory_of(&half);
    options.device_memory.free = NULL;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("device_memory");
    CHECK(half.released == 1 && context == NULL);
    there_free(&there);
}

static void memory_that_runs_out_leaves_the_model_as_it_was(void) {
    int refused = 0;
    for (int allowed = 0; allowed < 100; allowed++) {
        struct there there;
        there_init(&there, allowed);
        char *before = summary_of(there.model);
        mq_status status = there_quantize(&there, INT8);
        CHECK(status == MQ_OK || status == MQ_ERR_OUT_OF_MEMORY);
        char *after = summary_of(there.model);
        if (status != MQ_OK) {
            refused++;
            CHECK(strcmp(before, after) == 0);
            there.memory.allowed = 1000000;
            CHECK_STATUS(there_quantize(&there, INT8), MQ_OK);
        }
        free(before);
        free(after);
        there_free(&there);
        if (status == MQ_OK)
            break;
    }
    CHECK(refused > 1 && refused < 99);
}

void test_cuda(void) {
    contexts_without_a_gpu();
    if (!cuda_driver_load(&cuda)) {
        CHECK(getenv("MQ_REQUIRE_CUDA") == NULL);
        a_missing_driver_is_said();
        printf("SKIPPED: CUDA tests, for there is no driver or no device\n");
        return;
    }
    a_model_in_device_memory_gives_the_same_numbers();
    a_captured_tap_replays();
    a_packed_weight_stays_there();
    lies_about_memory_are_found();
    memory_that_runs_out_leaves_the_model_as_it_was();
}
