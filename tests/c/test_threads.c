/* Taps from several threads at once, inside a callback and outside, on one layer and on several. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

enum { THREADS = 4, LAYERS = 3, ROUNDS = 50 };

struct host {
    mq_context *context;
    mq_model *model;
    mq_layer *layers[LAYERS];
    mq_quantizer *inputs[LAYERS];
    float weights[LAYERS][OUT * IN];
};

struct worker {
    struct host *host;
    int index, failures;
    const float *want; /* NULL while calibrating */
};

static void host_init(struct host *host) {
    memset(host, 0, sizeof *host);
    CHECK_STATUS(mq_context_create(NULL, &host->context), MQ_OK);
    CHECK_STATUS(mq_model_create(host->context, &host->model), MQ_OK);
    for (int i = 0; i < LAYERS; i++) {
        char name[48];
        mq_layer_desc desc;
        snprintf(name, sizeof name, "layers.%d", i);
        CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
        desc.name = name;
        desc.weight = F32(host->weights[i], OUT, IN);
        CHECK_STATUS(mq_model_add_layer(host->model, &desc, &host->layers[i]), MQ_OK);
        snprintf(name, sizeof name, "layers.%d.input_quantizer", i);
        host->inputs[i] = find_quantizer(host->model, name);
    }
}

/* Worker k shows layer i values up to 100 k + i, in every round a little more of them. */
static void *calibrate_layers(void *data) {
    struct worker *worker = data;
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < LAYERS; i++) {
            float largest = (float)(100 * worker->index + i) * (float)round / ROUNDS;
            float x[IN] = {0.0f, -largest, largest / 2.0f, 0.0f}, out[IN];
            mq_status status =
                mq_layer_input(worker->host->layers[i], F32(x, 1, IN), F32(out, 1, IN));
            worker->failures += status != MQ_OK || memcmp(x, out, sizeof x) != 0;
        }
    }
    return NULL;
}

static void *use_layers(void *data) {
    struct worker *worker = data;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < LAYERS; i++) {
            float x[IN] = {2.0f, 1.0f, -0.5f, -2.0f}, weight[OUT * IN];
            mq_status status = mq_layer_input(worker->host->layers[i], F32(x, IN), F32(x, IN));
            worker->failures += status != MQ_OK || memcmp(x, worker->want, sizeof x) != 0;
            status = mq_layer_weight(worker->host->layers[i], F32(weight, OUT, IN));
            worker->failures +=
                status != MQ_OK || memcmp(weight, worker->host->weights[i], sizeof weight) != 0;
            /* a failing call beside the good ones: each thread has its own error */
            worker->failures +=
                mq_layer_input(worker->host->layers[i], NULL, NULL) != MQ_ERR_INVALID_ARGUMENT;
            worker->failures += strstr(mq_last_error_message(), "NULL") == NULL;
        }
    }
    return NULL;
}

static int run_workers(struct host *host, void *(*body)(void *), const float *want) {
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    int failures = 0;
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){host, i, 0, want};
        failures += pthread_create(&threads[i], NULL, body, &workers[i]) != 0;
    }
    for (int i = 0; i < THREADS; i++) {
        failures += pthread_join(threads[i], NULL) != 0;
        failures += workers[i].failures;
    }
    return failures;
}

static int32_t forward_on_threads(void *data) { return run_workers(data, calibrate_layers, NULL); }

void test_threads(void) {
    struct host host;
    host_init(&host);
    mq_forward_fn forward = {&host, forward_on_threads, NULL};
    CHECK_STATUS(mq_quantize(host.model, INT8, &forward), MQ_OK);
    for (int i = 0; i < LAYERS; i++) {
        float amax = 0.0f, two = 2.0f;
        size_t count = 0;
        CHECK_STATUS(mq_quantizer_amax(host.inputs[i], &amax, 1, &count, NULL, NULL), MQ_OK);
        CHECK(count == 1 && amax == (float)(100 * (THREADS - 1) + i));
        CHECK_STATUS(mq_quantizer_set_amax(host.inputs[i], F32_SCALAR(&two)), MQ_OK);
    }
    const float want[IN] = {2.0f, 1.00787401f, -0.503937006f, -2.0f};
    CHECK(run_workers(&host, use_layers, want) == 0);
    CHECK_STATUS(mq_model_destroy(host.model), MQ_OK);
    mq_context_destroy(host.context);
}
