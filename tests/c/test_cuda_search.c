/* A search whose layer the host computes on the device, and whose logits lie there: the scores of
 * the same in host memory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cuda_driver.h"
#include "fixture.h"
#include "tests.h"

enum { COLUMNS = 24, BATCH = 6, COUNT = BATCH * COLUMNS };

static struct cuda_driver cuda;

/* One layer, y = tanh(x * weight) by column, and what its host lends: memory here or there. */
struct search {
    int is_there, calls;
    void *stream;
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    uint64_t memory[4];
    float here[4][COUNT];
    int64_t weight_shape[1], shape[2];
    mq_tensor weight, x, g, out;
};

static float number(int i) { return (float)sin((double)i * 1.37 + 0.2); }

static void to_host(struct search *search, float *to, const mq_tensor *from, int count) {
    size_t bytes = (size_t)count * sizeof *to;
    CHECK(from->device.device_type == (search->is_there ? MQ_DEVICE_CUDA : MQ_DEVICE_CPU));
    if (!search->is_there) {
        memcpy(to, from->data, bytes);
        return;
    }
    CHECK(cuda.stream_synchronize(search->stream) == 0);
    CHECK(cuda.to_host(to, (uint64_t)(uintptr_t)from->data, bytes) == 0);
}

static void from_host(struct search *search, const mq_tensor *to, const float *from, int count) {
    size_t bytes = (size_t)count * sizeof *from;
    if (search->is_there)
        CHECK(cuda.to_device((uint64_t)(uintptr_t)to->data, from, bytes) == 0);
    else
        memcpy(to->data, from, bytes);
}

static int32_t compute(void *user_data, const mq_tensor *x, const mq_tensor *weight,
                       const mq_tensor *y) {
    struct search *search = user_data;
    float input[COUNT], factors[COLUMNS], output[COUNT];
    search->calls++;
    CHECK(x->ndim == 2 && x->shape[0] == BATCH && y->ndim == 2 && y->shape[1] == COLUMNS);
    CHECK(y->device.device_type == x->device.device_type && weight->shape[0] == COLUMNS);
    to_host(search, input, x, COUNT);
    to_host(search, factors, weight, COLUMNS);
    for (int i = 0; i < COUNT; i++)
        output[i] = tanhf(input[i] * factors[i % COLUMNS]);
    from_host(search, y, output, COUNT);
    return 0;
}

static mq_tensor place(struct search *search, int which, int count, int32_t ndim, int64_t *shape,
                       int seed) {
    float *here = search->here[which];
    mq_tensor tensor = {here, {MQ_DEVICE_CPU, 0}, ndim, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
    for (int i = 0; i < count; i++)
        here[i] = number(i * 3 + seed);
    if (search->is_there) {
        size_t bytes = (size_t)count * sizeof *here;
        CHECK(cuda.allocate(&search->memory[which], bytes) == 0);
        CHECK(cuda.to_device(search->memory[which], here, bytes) == 0);
        tensor.data = (void *)(uintptr_t)search->memory[which];
        tensor.device.device_type = MQ_DEVICE_CUDA;
    }
    return tensor;
}

static void search_init(struct search *search, int is_there, void *stream) {
    mq_context_options options;
    mq_layer_desc desc;
    mq_layer_forward_fn forward = {search, compute, NULL};
    memset(search, 0, sizeof *search);
    search->is_there = is_there;
    search->stream = stream;
    search->weight_shape[0] = search->shape[1] = COLUMNS;
    search->shape[0] = BATCH;
    search->weight = place(search, 0, COLUMNS, 1, search->weight_shape, 1);
    search->x = place(search, 1, COUNT, 2, search->shape, 2);
    search->g = place(search, 2, COUNT, 2, search->shape, 3);
    search->out = place(search, 3, COUNT, 2, search->shape, 4);
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = 1;
    if (is_there) {
        options.device.device_type = MQ_DEVICE_CUDA;
        options.cuda_stream = stream;
    }
    CHECK_STATUS(mq_context_create(&options, &search->context), MQ_OK);
    CHECK_STATUS(mq_model_create(search->context, &search->model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_GENERIC;
    desc.name = "scale";
    desc.weight = &search->weight;
    desc.forward = &forward;
    CHECK_STATUS(mq_model_add_layer(search->model, &desc, &search->layer), MQ_OK);
}

static void search_free(struct search *search) {
    CHECK_STATUS(mq_model_destroy(search->model), MQ_OK);
    mq_context_destroy(search->context);
    for (int i = 0; search->is_there && i < 4; i++)
        CHECK(cuda.free(search->memory[i]) == 0);
}

/* The output, into `out`: the logits. */
static int32_t run(void *user_data, uint64_t step) {
    struct search *search = user_data;
    float weight[COLUMNS], output[COUNT];
    mq_tensor used = search->g;
    (void)step;
    if (mq_layer_input(search->layer, &search->x, &search->out) != MQ_OK)
        return 1;
    to_host(search, output, &search->out, COUNT);
    used.ndim = 1;
    used.shape = search->weight_shape;
    used.data = search->is_there ? (void *)(uintptr_t)search->memory[2] : search->here[2];
    if (mq_layer_weight(search->layer, &used) != MQ_OK)
        return 1;
    to_host(search, weight, &used, COLUMNS);
    for (int i = 0; i < COUNT; i++)
        output[i] *= 3.0f * weight[i % COLUMNS];
    from_host(search, &search->out, output, COUNT);
    return 0;
}

static int32_t both(void *user_data, uint64_t step, double *loss) {
    struct search *search = user_data;
    float gradient[COUNT];
    *loss = 1.0;
    if (run(search, step) != 0)
        return 1;
    for (int i = 0; i < COUNT; i++)
        gradient[i] = number(i * 3 + 3);
    from_host(search, &search->g, gradient, COUNT);
    return mq_layer_grad(search->layer, &search->g) != MQ_OK;
}

static int32_t logits(void *user_data, uint64_t step, mq_tensor *tensor) {
    (void)step;
    *tensor = ((struct search *)user_data)->out;
    return 0;
}

/* The scores of both formats. */
static void scores_of(struct search *search, const char *method, double scores[2]) {
    mq_auto_quantize_options options;
    mq_auto_quantize_fn host = {
        .user_data = search, .forward_step = run, .forward_backward_step = both, .logits = logits};
    static char state[1 << 16];
    CHECK_STATUS(mq_auto_quantize_options_init(&options, sizeof options), MQ_OK);
    options.constraints = "{\"effective_bits\": 12.0}";
    options.quantization_formats = "[\"INT8_DEFAULT_CFG\", \"FP8_DEFAULT_CFG\"]";
    options.method = method;
    options.num_calib_steps = options.num_score_steps = 2;
    CHECK_STATUS(mq_auto_quantize(search->model, &options, &host, NULL), MQ_OK);
    CHECK_STATUS(mq_auto_quantize_state(search->model, state, sizeof state, NULL), MQ_OK);
    const char *at = strstr(state, "\"scores\":[");
    CHECK(at != NULL);
    scores[0] = scores[1] = -1.0;
    if (at != NULL && sscanf(at, "\"scores\":[%lf,%lf", &scores[0], &scores[1]) != 2)
        CHECK(!"two scores");
}

static void the_scores_are_those_of_host_memory(const char *method, void *stream) {
    struct search here, there;
    double want[2], got[2];
    search_init(&here, 0, NULL);
    search_init(&there, 1, stream);
    scores_of(&here, method, want);
    scores_of(&there, method, got);
    CHECK(there.calls == here.calls);
    /* Of two steps, the layer itself and both formats. */
    CHECK(there.calls == (strcmp(method, "gradient") == 0 ? 6 : 0));
    for (int i = 0; i < 2; i++)
        CHECK(want[i] > 0.0 && fabs(got[i] - want[i]) <= 1e-5 * want[i]);
    search_free(&here);
    search_free(&there);
}

void test_cuda_search(void) {
    void *primary = NULL, *stream = NULL;
    if (!cuda_driver_load(&cuda)) {
        CHECK(getenv("MQ_REQUIRE_CUDA") == NULL);
        printf("SKIPPED: searches on CUDA, for there is no driver or no device\n");
        return;
    }
    CHECK(cuda.retain(&primary, 0) == 0 && cuda.push(primary) == 0);
    CHECK(cuda.stream_create(&stream, 1) == 0);
    the_scores_are_those_of_host_memory("gradient", stream);
    the_scores_are_those_of_host_memory("kl_div", stream);
    CHECK(cuda.stream_destroy(stream) == 0);
    CHECK(cuda.pop(&primary) == 0 && cuda.release(0) == 0);
}
