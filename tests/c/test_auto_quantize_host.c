/* Hosts that fail, lie, stop or call back during a search: the model is as before. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

/* A search in which every callback is used, in one of two ways or with logits. */
static void net_init_way(struct net *net, int way) {
    net_init(net, 1, 0);
    net->has_cost = 1;
    net_ask(net, "{'max_cost': 200}", FP8_INT4);
    if (way == 1) {
        net_use_both(net);
    } else if (way == 2) {
        net->options.method = "kl_div";
    }
}

/* The first and last calls of so many, and some between. */
static int next(int on, int calls) { return on < 3 || on + 5 > calls ? on + 1 : on + 3; }

static void a_number_from_every_callback_stops_it(void) {
    for (int way = 0; way < 3; way++) {
        struct net net;
        int calls[STAGES];
        net_init_way(&net, way);
        CHECK_STATUS(net_search(&net), MQ_OK);
        memcpy(calls, net.calls, sizeof calls);
        net_free(&net);
        for (int stage = 0; stage < STAGES; stage++) {
            for (int on = 1; on <= calls[stage]; on = next(on, calls[stage])) {
                net_init_way(&net, way);
                net.fails_at = (enum stage)stage;
                net.fails_on = on;
                net.result = on % 2 ? 4242 : -4242;
                NET_REFUSES(&net, MQ_ERR_CALLBACK, "4242");
                CHECK(net.calls[stage] == on);
                net_free_unharmed(&net);
            }
        }
    }
}

/* Every verb answers that the model is busy, and taps go on. */
static void everything_is_busy(struct net *net, enum stage stage) {
    char text[8] = "#######";
    size_t length = 99;
    mq_layer *layer = NULL;
    int released = net->released;
    (void)stage;
    CHECK_STATUS(mq_auto_quantize(net->model, &net->options, &net->host, NULL), MQ_ERR_BUSY);
    CHECK(net->released == released + 1);
    net->released--; /* not the running search's */
    CHECK_STATUS(mq_auto_quantize_solve(net->model, "{}", 0, text, 8, &length), MQ_ERR_BUSY);
    CHECK_STATUS(mq_auto_quantize_state(net->model, text, 8, &length), MQ_ERR_BUSY);
    CHECK_STATUS(mq_auto_quantize_config(net->model, NULL, text, 8, &length), MQ_ERR_BUSY);
    CHECK_STATUS(mq_quantize(net->model, FP8, NULL), MQ_ERR_BUSY);
    CHECK_STATUS(mq_fold_weight(net->model, 0), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_find_layer(net->model, "out", &layer), MQ_ERR_BUSY);
    CHECK_STATUS(mq_model_destroy(net->model), MQ_ERR_BUSY);
    CHECK_STATUS(mq_layer_weight(net->layers[2], F32(net->used_scale, NET_HIDDEN)), MQ_OK);
    CHECK(length == 99 && text[0] == '#' && layer == NULL);
}

static void callbacks_find_the_model_busy(void) {
    for (int way = 0; way < 3; way++) {
        for (int stage = 0; stage < STAGES; stage++) {
            struct net net, undisturbed;
            net_init_way(&net, way);
            net_init_way(&undisturbed, way);
            net.inside_at = (enum stage)stage;
            net.inside = everything_is_busy;
            CHECK_STATUS(net_search(&net), MQ_OK);
            CHECK_STATUS(net_search(&undisturbed), MQ_OK);
            char *got = net_state(&net), *want = net_state(&undisturbed);
            CHECK(strcmp(got, want) == 0);
            free(got);
            free(want);
            net_free(&net);
            net_free(&undisturbed);
        }
    }
}

static int cancel_on;

static void cancels(struct net *net, enum stage stage) {
    if (net->calls[stage] == cancel_on) {
        CHECK_STATUS(mq_cancel(net->model), MQ_OK);
    }
}

static void cancelling_in_every_callback(void) {
    for (int way = 0; way < 3; way++) {
        struct net net;
        int calls[STAGES];
        net_init_way(&net, way);
        CHECK_STATUS(net_search(&net), MQ_OK);
        memcpy(calls, net.calls, sizeof calls);
        net_free(&net);
        for (int stage = 0; stage < STAGES; stage++) {
            for (cancel_on = 1; cancel_on <= calls[stage];
                 cancel_on = next(cancel_on, calls[stage])) {
                net_init_way(&net, way);
                net.inside_at = (enum stage)stage;
                net.inside = cancels;
                NET_REFUSES(&net, MQ_ERR_CANCELLED, "cancel");
                net.inside = NULL;
                CHECK_STATUS(net_search(&net), MQ_OK); /* not affected */
                net_free(&net);
            }
        }
    }
}

static void data_that_ends_is_told(void) {
    for (uint64_t batches = 0; batches < 4; batches++) {
        static const char *const pieces[] = {"no batch 0 for num_calib_steps",
                                             "no batch 1, but num_calib_steps asks for 2",
                                             "no batch 2, but num_score_steps asks for 4",
                                             "no batch 3, but num_score_steps asks for 4"};
        struct net net;
        net_init(&net, 1, 0);
        net.batches = batches;
        net.options.num_calib_steps = batches < 2 ? 2 : 1;
        net.options.num_score_steps = 4;
        NET_REFUSES(&net, MQ_ERR_STATE, pieces[batches]);
        CHECK(net.calls[AT_FORWARD] == (int)batches + (batches >= 2));
        net_free_unharmed(&net);
    }
}

static void a_loss_must_be_a_number(void) {
    const double losses[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 6; i++) {
        struct net net;
        net_init(&net, 1, 0);
        if (i >= 3) {
            net_use_both(&net);
        }
        net.loss = losses[i % 3];
        NET_REFUSES(&net, MQ_ERR_NUMERIC, "loss");
        net.loss = -1e300; /* any finite one will do */
        CHECK_STATUS(net_search(&net), MQ_OK);
        net_free(&net);
    }
}

static void gradients_must_be_right(void) {
    float g[NET_BATCH * 16] = {0.0f}, nan[NET_BATCH * NET_OUT], large[NET_BATCH * NET_OUT];
    for (int i = 0; i < NET_BATCH * NET_OUT; i++) {
        nan[i] = i == 9 ? NAN : 0.0f;
        large[i] = i == 30 ? -INFINITY : 1.0f;
    }
    int64_t negative[] = {NET_BATCH, -NET_OUT}, strides[] = {1, NET_BATCH};
    mq_tensor of_negative = *F32(g, NET_BATCH, NET_OUT), transposed = of_negative;
    mq_tensor without_data = of_negative, elsewhere = of_negative, lanes = of_negative;
    of_negative.shape = negative;
    transposed.strides = strides;
    without_data.data = NULL;
    elsewhere.device.device_type = MQ_DEVICE_CUDA;
    lanes.dtype.lanes = 2;
    const struct {
        const mq_tensor *gradient;
        mq_status status;
    } cases[] = {
        {F32(g, NET_BATCH, NET_OUT + 1), MQ_ERR_INVALID_ARGUMENT},
        {F32(g, NET_BATCH + 1, NET_OUT), MQ_ERR_INVALID_ARGUMENT},
        {F32(g, 1, NET_OUT), MQ_ERR_INVALID_ARGUMENT},
        {F32(g, 0, NET_OUT), MQ_ERR_STATE},
        {F32(g, NET_OUT, NET_BATCH), MQ_ERR_INVALID_ARGUMENT},
        {F32(g, 32), MQ_ERR_INVALID_ARGUMENT},
        {F32_SCALAR(g), MQ_ERR_INVALID_ARGUMENT},
        {TENSOR(g, MQ_DTYPE_INT, 8, NET_BATCH, NET_OUT), MQ_ERR_INVALID_ARGUMENT},
        {TENSOR(g, MQ_DTYPE_FLOAT, 64, NET_BATCH, NET_OUT), MQ_ERR_INVALID_ARGUMENT},
        {&of_negative, MQ_ERR_INVALID_ARGUMENT},
        {&transposed, MQ_ERR_INVALID_ARGUMENT},
        {&without_data, MQ_ERR_INVALID_ARGUMENT},
        {&elsewhere, MQ_ERR_INVALID_ARGUMENT},
        {&lanes, MQ_ERR_INVALID_ARGUMENT},
        {F32(nan, NET_BATCH, NET_OUT), MQ_ERR_NUMERIC},
        {F32(large, NET_BATCH, NET_OUT), MQ_ERR_NUMERIC},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net net;
        net_init(&net, 1, 0);
        net.gradient_of_out = cases[i].gradient;
        NET_REFUSES(&net, cases[i].status, i < 7 || i > 13 ? "out" : "grad");
        net_free_unharmed(&net);
    }
    /* in another type, or with its axes split: the same elements */
    const mq_tensor *const right[] = {F16(g, NET_BATCH, NET_OUT), BF16(g, NET_BATCH, NET_OUT)};
    for (int i = 0; i < 2; i++) {
        struct net net;
        net_init(&net, 1, 0);
        net.gradient_of_out = right[i];
        CHECK_STATUS(net_search(&net), MQ_OK);
        net_free(&net);
    }
}

static void every_input_needs_its_gradient(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.skips_gradients = 1;
    NET_REFUSES(&net, MQ_ERR_STATE, "mq_layer_grad()");
    net.skips_gradients = 0;
    net.extra_gradients = 1;
    NET_REFUSES(&net, MQ_ERR_STATE, "`block.q_proj`: mq_layer_grad() was called more often");
    net.extra_gradients = 0;
    net.skips_taps = 1;
    NET_REFUSES(&net, MQ_ERR_STATE, "tap");
    net_ask(&net, "{'effective_bits': 8}", "['INT4_BLOCKWISE_WEIGHT_ONLY_CFG']");
    NET_REFUSES(&net, MQ_ERR_STATE, "more often"); /* weights need no tap, but gradients do */
    net.skips_gradients = 1;
    NET_REFUSES(&net, MQ_ERR_STATE, "mq_layer_input()");
    net_free_unharmed(&net);
}

static void numbers_that_are_none_are_refused(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.x[1][7] = NAN;
    NET_REFUSES(&net, MQ_ERR_NUMERIC, "block.q_proj");
    net.x[1][7] = INFINITY;
    NET_REFUSES(&net, MQ_ERR_NUMERIC, "block.q_proj");
    net.options.num_calib_steps = 1; /* seen only in the steps that score */
    NET_REFUSES(&net, MQ_ERR_NUMERIC, "NaN");
    net.x[1][7] = 0.0f;
    float weight = net.out_weight[3];
    net.out_weight[3] = NAN;
    struct net_snapshot snapshot;
    net_snapshot_take(&snapshot, &net);
    CHECK_STATUS(net_search(&net), MQ_ERR_NUMERIC);
    CHECK_SAYS("out");
    CHECK(net_snapshot_holds(&snapshot, &net));
    net.out_weight[3] = weight;
    net_free_unharmed(&net);
}

static double cost_of_out;

static int32_t strange_cost(void *user_data, const char *layer, const char *format,
                            uint64_t elements, double *cost) {
    (void)user_data, (void)format, (void)elements;
    *cost = strcmp(layer, "out") == 0 ? cost_of_out : 1.0;
    return 0;
}

static void costs_must_be_numbers(void) {
    const double costs[] = {NAN, INFINITY, -INFINITY, -1.0, -1e-300};
    struct net net;
    net_init(&net, 1, 0);
    net.has_cost = 1;
    net.cost.cost = strange_cost;
    net_ask(&net, "{'max_cost': 1000}", FP8_INT4);
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) {
        cost_of_out = costs[i];
        NET_REFUSES(&net, MQ_ERR_NUMERIC, "`out`");
        CHECK(net.calls[AT_DATA] == 0);
    }
    cost_of_out = 1e308; /* too much, but a number */
    NET_REFUSES(&net, MQ_ERR_CONFIG, "max_cost");
    cost_of_out = 0.0;
    CHECK_STATUS(net_search(&net), MQ_OK);
    net_free(&net);
}

static int wrong_logits;

static int32_t strange_logits(void *user_data, uint64_t step, mq_tensor *logits) {
    static const int64_t shapes[][2] = {
        {NET_BATCH, NET_OUT}, {NET_BATCH, 2}, {-1, NET_OUT}, {0, 8}};
    struct net *net = user_data;
    (void)step;
    net->calls[AT_LOGITS]++;
    if (wrong_logits == 0) {
        return 0; /* nothing is filled in */
    }
    *logits = *F32(net->y, 1);
    logits->ndim = 2;
    logits->shape = shapes[wrong_logits == 1 && net->calls[AT_LOGITS] == 3 ? 1
                           : wrong_logits == 2                             ? 2
                           : wrong_logits == 3                             ? 3
                                                                           : 0];
    if (wrong_logits == 4) {
        net->y[2] = NAN;
    } else if (wrong_logits == 5) {
        logits->dtype.bits = 64;
    } else if (wrong_logits == 6) {
        logits->data = NULL;
    } else if (wrong_logits == 7 && net->calls[AT_LOGITS] == 4) {
        net->y[2] = NAN; /* of a format */
    } else if (wrong_logits == 8) {
        logits->ndim = 0;
    }
    return 0;
}

static void logits_must_be_right(void) {
    static const mq_status statuses[] = {
        MQ_ERR_INVALID_ARGUMENT, MQ_ERR_INVALID_ARGUMENT, MQ_ERR_INVALID_ARGUMENT,
        MQ_ERR_INVALID_ARGUMENT, MQ_ERR_NUMERIC,          MQ_ERR_INVALID_ARGUMENT,
        MQ_ERR_INVALID_ARGUMENT, MQ_ERR_NUMERIC,          MQ_ERR_INVALID_ARGUMENT};
    for (wrong_logits = 0; wrong_logits < 9; wrong_logits++) {
        struct net net;
        net_init(&net, 1, 0);
        net.options.method = "kl_div";
        net.host.logits = strange_logits;
        NET_REFUSES(&net, statuses[wrong_logits], wrong_logits == 7 ? "NaN" : "logits");
        net_free_unharmed(&net);
    }
}

void test_auto_quantize_host(void) {
    a_number_from_every_callback_stops_it();
    callbacks_find_the_model_busy();
    cancelling_in_every_callback();
    data_that_ends_is_told();
    a_loss_must_be_a_number();
    gradients_must_be_right();
    every_input_needs_its_gradient();
    numbers_that_are_none_are_refused();
    costs_must_be_numbers();
    logits_must_be_right();
}
