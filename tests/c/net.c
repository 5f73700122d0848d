/* The parts of net.h. */
#include "net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* Numbers in -1..1 that every run draws alike. */
static void draw(float *values, size_t count, uint32_t seed) {
    uint32_t state = seed * 2654435761u + 777u;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)state / 2147483648.0f;
    }
}

/* A callback begins: counts, does what a test asks for, and says what it returns. */
static int32_t at(struct net *net, enum stage stage) {
    net->calls[stage]++;
    if (net->inside != NULL && net->inside_at == stage) {
        net->inside(net, stage);
    }
    return net->fails_at == stage && net->calls[stage] == net->fails_on ? net->result : 0;
}

/* y = x W^T, in double; adds to y. */
static void product(const float *x, const float *weight, int inputs, int outputs, float *y) {
    for (int t = 0; t < NET_BATCH; t++) {
        for (int o = 0; o < outputs; o++) {
            double sum = 0.0;
            for (int i = 0; i < inputs; i++) {
                sum += (double)x[t * inputs + i] * (double)weight[o * inputs + i];
            }
            y[t * outputs + o] += (float)sum;
        }
    }
}

static mq_status linear(const struct net *net, mq_layer *layer, const float *x, int inputs,
                        int outputs, float *weight, float *y) {
    float seen[NET_BATCH * NET_IN];
    memcpy(seen, x, sizeof *x * (size_t)(NET_BATCH * inputs));
    mq_status status = MQ_OK;
    if (!net->skips_taps) {
        const mq_tensor *tensor = F32(seen, NET_BATCH, inputs);
        status = mq_layer_input(layer, tensor, tensor);
    }
    if (status == MQ_OK) {
        status = mq_layer_weight(layer, F32(weight, outputs, inputs));
    }
    if (status == MQ_OK) {
        product(seen, weight, inputs, outputs, y);
    }
    return status;
}

mq_status net_forward(struct net *net, uint64_t batch) {
    const float *x = net->x[batch % NET_BATCHES];
    float weight[NET_HIDDEN * NET_IN], seen[NET_BATCH * NET_HIDDEN];
    memset(net->h, 0, sizeof net->h);
    memset(net->y, 0, sizeof net->y);
    mq_status status = linear(net, net->layers[0], x, NET_IN, NET_HIDDEN, weight, net->h);
    if (status == MQ_OK) {
        status = linear(net, net->layers[1], x, NET_IN, NET_HIDDEN, weight, net->h);
    }
    memcpy(seen, net->h, sizeof seen);
    if (status == MQ_OK && !net->skips_taps) {
        const mq_tensor *tensor = F32(seen, NET_BATCH, NET_HIDDEN);
        status = mq_layer_input(net->layers[2], tensor, tensor);
    }
    if (status == MQ_OK) {
        status = mq_layer_weight(net->layers[2], F32(net->used_scale, NET_HIDDEN));
    }
    for (int i = 0; i < NET_BATCH * NET_HIDDEN; i++) {
        net->s[i] = seen[i] * net->used_scale[i % NET_HIDDEN];
    }
    if (status == MQ_OK) {
        status = linear(net, net->layers[3], net->s, NET_HIDDEN, NET_OUT, net->used_out, net->y);
    }
    return status;
}

/* The gradients at the outputs of out, scale, and both k and q; the tap's status. */
static mq_status net_backward(struct net *net) {
    float g_y[NET_BATCH * NET_OUT], g_s[NET_BATCH * NET_HIDDEN], g_h[NET_BATCH * NET_HIDDEN];
    for (int i = 0; i < NET_BATCH * NET_OUT; i++) {
        g_y[i] = net->y[i] - net->target[i];
    }
    for (int i = 0; i < NET_BATCH * NET_HIDDEN; i++) {
        double sum = 0.0;
        for (int o = 0; o < NET_OUT; o++) {
            sum += (double)g_y[i / NET_HIDDEN * NET_OUT + o] *
                   (double)net->used_out[o * NET_HIDDEN + i % NET_HIDDEN];
        }
        g_s[i] = (float)sum;
        g_h[i] = g_s[i] * net->used_scale[i % NET_HIDDEN];
    }
    const mq_tensor *of_y = F32(g_y, NET_BATCH, NET_OUT);
    const mq_tensor *of_s = F32(g_s, NET_BATCH, NET_HIDDEN),
                    *of_h = F32(g_h, NET_BATCH, NET_HIDDEN);
    if (net->gradient_of_out != NULL) {
        of_y = net->gradient_of_out;
    }
    mq_status status = mq_layer_grad(net->layers[3], of_y);
    if (status == MQ_OK) {
        status = mq_layer_grad(net->layers[2], of_s);
    }
    for (int i = 1; i >= 0 && status == MQ_OK; i--) {
        status = mq_layer_grad(net->layers[i], of_h);
    }
    return status != MQ_OK || !net->extra_gradients ? status : mq_layer_grad(net->layers[0], of_h);
}

static int32_t data(void *user_data, uint64_t step, int32_t *available) {
    struct net *net = user_data;
    CHECK(*available == 1);
    *available = step < net->batches;
    net->batch = step;
    return at(net, AT_DATA);
}

/* Taps that fail make it return 77: the verb must answer the tap's error, not this. */
static int32_t forward_step(void *user_data, uint64_t step) {
    struct net *net = user_data;
    CHECK(net->host.data == NULL || net->batch == step);
    net->last_forward = step;
    if (net_forward(net, step) != MQ_OK) {
        return 77;
    }
    return at(net, AT_FORWARD);
}

static double loss_of(const struct net *net) {
    double loss = net->loss;
    for (int i = 0; i < NET_BATCH * NET_OUT; i++) {
        double distance = (double)net->y[i] - (double)net->target[i];
        loss += distance * distance / 2.0;
    }
    return loss;
}

static int32_t loss(void *user_data, uint64_t step, double *loss) {
    struct net *net = user_data;
    CHECK(net->last_forward == step);
    *loss = loss_of(net);
    return at(net, AT_LOSS);
}

static int32_t backward(void *user_data, uint64_t step) {
    struct net *net = user_data;
    CHECK(net->last_forward == step);
    if (!net->skips_gradients && net_backward(net) != MQ_OK) {
        return 77;
    }
    return at(net, AT_BACKWARD);
}

static int32_t both(void *user_data, uint64_t step, double *loss) {
    struct net *net = user_data;
    net->last_forward = step;
    if (net_forward(net, step) != MQ_OK || net_backward(net) != MQ_OK) {
        return 77;
    }
    *loss = loss_of(net);
    return at(net, AT_BOTH);
}

static int32_t logits(void *user_data, uint64_t step, mq_tensor *logits) {
    struct net *net = user_data;
    CHECK(net->last_forward == step);
    net->logits_shape[0] = NET_BATCH;
    net->logits_shape[1] = NET_OUT;
    *logits = *F32(net->y, 1);
    logits->ndim = 2;
    logits->shape = net->logits_shape;
    return at(net, AT_LOGITS);
}

static void release(void *user_data) { ((struct net *)user_data)->released++; }

/* Four bits or eight, and a toll for each layer. */
static int32_t cost(void *user_data, const char *layer, const char *format, uint64_t elements,
                    double *cost) {
    struct net *net = user_data;
    CHECK(*cost == 0.0 && layer[0] != '\0' && elements > 0);
    *cost = strcmp(format, "NONE") == 0 ? 100.0 : strcmp(format, FP8) == 0 ? 30.0 : 20.0;
    return at(net, AT_COST);
}

static void cost_release(void *user_data) { ((struct net *)user_data)->cost_released++; }

static int32_t scale_forward(void *user_data, const mq_tensor *x, const mq_tensor *weight,
                             const mq_tensor *y) {
    struct net *net = user_data;
    const float *input = x->data, *factors = weight->data;
    float *output = y->data;
    CHECK(x->ndim == 2 && y->ndim == 2 && weight->ndim == 1 && weight->shape[0] == NET_HIDDEN &&
          x->dtype.bits == 32 && y->dtype.bits == 32);
    for (int64_t i = 0; i < x->shape[0] * x->shape[1]; i++) {
        output[i] = input[i] * factors[i % NET_HIDDEN];
    }
    return at(net, AT_LAYER);
}

static void layer_release(void *user_data) { ((struct net *)user_data)->layer_released++; }

static int32_t progress(void *user_data, const mq_progress *progress) {
    struct net *net = user_data;
    if (strcmp(progress->phase, "score") == 0) {
        CHECK(net->scored == 0 || progress->done == net->scored + 1); /* 0: it may go on */
        CHECK(progress->done <= progress->total && progress->layer[0] == '\0');
        net->scored = progress->done;
        net->steps = progress->total;
    }
    return at(net, AT_PROGRESS);
}

static void log_line(void *user_data, int32_t level, const char *text) {
    struct net *net = user_data;
    CHECK(level == MQ_LOG_WARNING || level == MQ_LOG_INFO);
    if (strlen(net->log) + strlen(text) + 2 < sizeof net->log) {
        strcat(strcat(net->log, text), "\n");
    }
}

static void add_layers(struct net *net) {
    mq_layer_desc desc;
    mq_layer_forward_fn forward = {net, scale_forward, layer_release};
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "block.q_proj";
    desc.weight = F32(net->q_weight, NET_HIDDEN, NET_IN);
    desc.shared_input_group = "x";
    CHECK_STATUS(mq_model_add_layer(net->model, &desc, &net->layers[0]), MQ_OK);
    desc.name = "block.k_proj";
    desc.weight = F32(net->k_weight, NET_HIDDEN, NET_IN);
    CHECK_STATUS(mq_model_add_layer(net->model, &desc, &net->layers[1]), MQ_OK);
    desc.shared_input_group = NULL;
    desc.name = "scale";
    desc.class_name = "my.Scale";
    desc.kind = MQ_LAYER_GENERIC;
    desc.weight = F32(net->scale_weight, NET_HIDDEN);
    desc.forward = &forward;
    CHECK_STATUS(mq_model_add_layer(net->model, &desc, &net->layers[2]), MQ_OK);
    memset(&forward, 0, sizeof forward); /* mq has its own */
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "out";
    desc.weight = F32(net->out_weight, NET_OUT, NET_HIDDEN);
    CHECK_STATUS(mq_model_add_layer(net->model, &desc, &net->layers[3]), MQ_OK);
    CHECK_STATUS(mq_model_add_quantizer(net->model, "kv.k_bmm_quantizer", NULL, NULL), MQ_OK);
}

void net_init(struct net *net, uint32_t num_threads, uint64_t memory_limit_bytes) {
    mq_context_options options;
    memset(net, 0, sizeof *net);
    draw(net->q_weight, NET_HIDDEN * NET_IN, 1);
    draw(net->k_weight, NET_HIDDEN * NET_IN, 2);
    draw(net->scale_weight, NET_HIDDEN, 3);
    draw(net->out_weight, NET_OUT * NET_HIDDEN, 4);
    draw(net->target, NET_BATCH * NET_OUT, 5);
    for (int i = 0; i < NET_BATCHES; i++) {
        draw(net->x[i], NET_BATCH * NET_IN, 10 + (uint32_t)i);
    }
    net->batches = UINT64_MAX;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = num_threads;
    options.memory_limit_bytes = memory_limit_bytes;
    options.log.user_data = net;
    options.log.log = log_line;
    options.progress.user_data = net;
    options.progress.progress = progress;
    CHECK_STATUS(mq_context_create(&options, &net->context), MQ_OK);
    CHECK_STATUS(mq_model_create(net->context, &net->model), MQ_OK);
    add_layers(net);
    CHECK_STATUS(mq_auto_quantize_options_init(&net->options, sizeof net->options), MQ_OK);
    net->options.num_calib_steps = 2;
    net->options.num_score_steps = 2;
    net->host =
        (mq_auto_quantize_fn){net, data, forward_step, loss, backward, NULL, logits, release};
    net->cost = (mq_layer_cost_fn){net, cost, cost_release};
    net_ask(net, "{'effective_bits': 8}", FP8_INT4);
}

void net_free(struct net *net) {
    CHECK(net->layer_released == 0);
    CHECK_STATUS(mq_model_destroy(net->model), MQ_OK);
    mq_context_destroy(net->context);
    CHECK(net->layer_released == 1);
}

void net_ask(struct net *net, const char *constraints, const char *formats) {
    const char *const given[2] = {constraints, formats};
    for (int i = 0; i < 2; i++) {
        if (given[i] != NULL) {
            strcpy(net->texts[i], json(given[i]));
        }
    }
    net->options.constraints = constraints == NULL ? NULL : net->texts[0];
    net->options.quantization_formats = formats == NULL ? NULL : net->texts[1];
}

void net_use_both(struct net *net) {
    net->host.loss = NULL;
    net->host.backward = NULL;
    net->host.forward_backward_step = both;
}

mq_status net_search(struct net *net) {
    int released = net->released, cost_released = net->cost_released;
    memset(net->calls, 0, sizeof net->calls);
    net->scored = 0;
    mq_status status =
        mq_auto_quantize(net->model, &net->options, &net->host, net->has_cost ? &net->cost : NULL);
    CHECK(net->released == released + 1);
    CHECK(net->cost_released == cost_released + (net->has_cost != 0));
    return status;
}

void net_init_searched(struct net *net, const char *constraints, const char *formats) {
    net_init(net, 1, 0);
    net_ask(net, constraints, formats);
    CHECK_STATUS(net_search(net), MQ_OK);
}

static int32_t calibrate(void *user_data) {
    struct net *net = user_data;
    for (uint64_t batch = 0; batch < net->options.num_calib_steps; batch++) {
        if (net_forward(net, batch) != MQ_OK) {
            return 77;
        }
    }
    return 0;
}

mq_status net_quantize(struct net *net, const char *config) {
    mq_forward_fn forward = {net, calibrate, NULL};
    return mq_quantize(net->model, config, &forward);
}

char *net_state(struct net *net) {
    size_t length = 0;
    CHECK_STATUS(mq_auto_quantize_state(net->model, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_auto_quantize_state(net->model, text, length + 1, NULL), MQ_OK);
    CHECK(strlen(text) == length);
    return text;
}

char *net_config(struct net *net, const char *constraints) {
    size_t length = 0;
    CHECK_STATUS(mq_auto_quantize_config(net->model, constraints, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_auto_quantize_config(net->model, constraints, text, length + 1, NULL), MQ_OK);
    CHECK(strlen(text) == length);
    return text;
}

/* The place behind `"piece":`, at or behind `text`. */
static const char *behind(const char *text, const char *piece) {
    char quoted[128] = "\"";
    if (text == NULL || strlen(piece) + 4 > sizeof quoted) {
        return NULL;
    }
    strcat(strcat(quoted, piece), "\":");
    const char *found = strstr(text, quoted);
    return found == NULL ? NULL : found + strlen(quoted);
}

double net_stat(const char *state, const char *group, const char *key, int at) {
    char name[96] = "";
    strcat(strcat(name, group), ".quant_recipe");
    const char *text = behind(behind(behind(state, "candidate_stats"), name), key);
    if (text == NULL || *text != '[') {
        return NAN;
    }
    const char *end = strchr(text, ']');
    for (text++; at > 0 && text != NULL; at--) {
        text = strchr(text, ',');
        text = text == NULL || text > end ? NULL : text + 1;
    }
    return text == NULL || text == end ? NAN : strtod(text, NULL);
}

double net_number(const char *text, const char *before, const char *key) {
    text = behind(before == NULL ? text : behind(text, before), key);
    return text == NULL ? NAN : strtod(text, NULL);
}

void net_snapshot_take(struct net_snapshot *snapshot, const struct net *net) {
    snapshot->summary = summary_of(net->model);
    snapshot->net = *net;
}

/* Whether a tap gives what it gets. */
static int passes_unchanged(struct net *net) {
    float seen[NET_BATCH * NET_IN], weight[NET_HIDDEN * NET_IN];
    const float *const weights[NET_LAYERS] = {net->q_weight, net->k_weight, net->scale_weight,
                                              net->out_weight};
    const int64_t extents[NET_LAYERS][2] = {
        {NET_HIDDEN, NET_IN}, {NET_HIDDEN, NET_IN}, {NET_HIDDEN, 1}, {NET_OUT, NET_HIDDEN}};
    int same = 1;
    for (int i = 0; i < NET_LAYERS; i++) {
        int64_t inputs = i < 2 ? NET_IN : NET_HIDDEN;
        size_t count = (size_t)(extents[i][0] * extents[i][1]);
        mq_tensor tensor = *F32(weight, extents[i][0], extents[i][1]);
        tensor.ndim = i == 2 ? 1 : 2;
        CHECK_STATUS(mq_layer_input(net->layers[i], F32(net->x[0], NET_BATCH, inputs),
                                    F32(seen, NET_BATCH, inputs)),
                     MQ_OK);
        CHECK_STATUS(mq_layer_weight(net->layers[i], &tensor), MQ_OK);
        same &= memcmp(seen, net->x[0], sizeof *seen * (size_t)(NET_BATCH * inputs)) == 0;
        same &= memcmp(weight, weights[i], sizeof *weight * count) == 0;
    }
    return same;
}

int net_snapshot_holds(struct net_snapshot *snapshot, struct net *net) {
    char *now = summary_of(net->model);
    const struct net *before = &snapshot->net;
    int same = strcmp(now, snapshot->summary) == 0 &&
               memcmp(net->q_weight, before->q_weight, sizeof net->q_weight) == 0 &&
               memcmp(net->k_weight, before->k_weight, sizeof net->k_weight) == 0 &&
               memcmp(net->scale_weight, before->scale_weight, sizeof net->scale_weight) == 0 &&
               memcmp(net->out_weight, before->out_weight, sizeof net->out_weight) == 0;
    free(now);
    free(snapshot->summary);
    return same;
}

void net_refuses(struct net *net, mq_status status, const char *piece, const char *file, int line) {
    struct net_snapshot snapshot;
    size_t length = 99;
    net_snapshot_take(&snapshot, net);
    check_status(net_search(net), status, "a search that is refused", file, line);
    check_says(piece, file, line);
    check_true(net_snapshot_holds(&snapshot, net), "the model is as before", file, line);
    check_true(passes_unchanged(net), "taps give what they get", file, line);
    check_status(mq_layer_grad(net->layers[0], F32(net->h, NET_BATCH, NET_HIDDEN)), MQ_OK,
                 "a gradient outside of a search", file, line);
    check_status(mq_auto_quantize_state(net->model, NULL, 0, &length), MQ_ERR_STATE,
                 "there is no search", file, line);
    check_status(mq_fold_weight(net->model, 0), MQ_ERR_STATE, "not quantized", file, line);
    check_true(length == 99, "untouched on failure", file, line);
}

void net_free_unharmed(struct net *net) {
    struct net other;
    net->fails_on = 0;
    net->inside = NULL;
    net->skips_taps = 0;
    net->options.num_calib_steps = 2;
    net_init(&other, 1, 0);
    CHECK_STATUS(net_quantize(net, FP8), MQ_OK);
    CHECK_STATUS(net_quantize(&other, FP8), MQ_OK);
    char *got = summary_of(net->model), *want = summary_of(other.model);
    CHECK(strcmp(got, want) == 0);
    free(got);
    free(want);
    net_free(&other);
    net_free(net);
}
