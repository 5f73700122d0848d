/* How a search runs: threads, progress, the divergence of logits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

/* The state after a search; the network stays as `net`. */
static char *searched(struct net *net, uint32_t num_threads, uint64_t memory_limit_bytes) {
    net_init(net, num_threads, memory_limit_bytes);
    CHECK_STATUS(net_search(net), MQ_OK);
    return net_state(net);
}

static void threads_change_nothing(void) {
    struct net net;
    char *one = searched(&net, 1, 0);
    net_free(&net);
    for (uint32_t threads = 2; threads <= 4; threads++) {
        char *several = searched(&net, threads, 0);
        CHECK(strcmp(one, several) == 0);
        free(several);
        net_free(&net);
    }
    free(one);
}

static void progress_is_told_and_stops(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.options.num_score_steps = 5;
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(net.scored == 5 && net.steps == 5);
    int calls = net.calls[AT_PROGRESS];
    net_free(&net);
    CHECK(calls > 5);
    for (int stop = 1; stop <= calls; stop++) {
        net_init(&net, 1, 0);
        net.options.num_score_steps = 5;
        net.fails_at = AT_PROGRESS;
        net.fails_on = stop;
        net.result = -42;
        NET_REFUSES(&net, MQ_ERR_CALLBACK, "-42");
        CHECK(net.calls[AT_PROGRESS] == stop);
        net_free_unharmed(&net);
    }
}

/* sum p (log p - log q) of the rows. */
static double divergence(const float *p, const float *q) {
    double sum = 0.0;
    for (int t = 0; t < NET_BATCH; t++) {
        double total_p = 0.0, total_q = 0.0;
        for (int o = 0; o < NET_OUT; o++) {
            total_p += exp((double)p[t * NET_OUT + o]);
            total_q += exp((double)q[t * NET_OUT + o]);
        }
        for (int o = 0; o < NET_OUT; o++) {
            double log_p = (double)p[t * NET_OUT + o] - log(total_p);
            double log_q = (double)q[t * NET_OUT + o] - log(total_q);
            sum += exp(log_p) * (log_p - log_q);
        }
    }
    return sum;
}

static void logits_can_diverge(void) {
    struct net net, original, out;
    net_init(&net, 1, 0);
    net.options.method = "kl_div";
    net.host.loss = NULL; /* not needed */
    net.host.backward = NULL;
    net_ask(&net, "{'effective_bits': 6}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    /* 2 steps of calibration; 2 of (the original, 2 formats of 3 groups) */
    CHECK(net.calls[AT_FORWARD] == 2 + 2 * 7 && net.calls[AT_LOGITS] == 2 * 7);
    CHECK(net.scored == 2);
    char *state = net_state(&net);
    CHECK(strstr(state, "\"method\":\"kl_div\"") != NULL);
    CHECK(net_number(state, "best", "effective_bits") <= 6.0);

    double want = 0.0;
    net_init(&original, 1, 0);
    net_init(&out, 1, 0);
    CHECK_STATUS(net_quantize(&out, FP8), MQ_OK);
    CHECK_STATUS(mq_disable_quantizer(out.model, "block*", 0, NULL), MQ_OK);
    CHECK_STATUS(mq_disable_quantizer(out.model, "scale*", 0, NULL), MQ_OK);
    for (uint64_t batch = 0; batch < 2; batch++) {
        CHECK_STATUS(net_forward(&original, batch), MQ_OK);
        CHECK_STATUS(net_forward(&out, batch), MQ_OK);
        want += divergence(original.y, out.y);
    }
    double got = net_stat(state, "out", "scores", 1);
    CHECK(want > 0.0 && fabs(got - want) < 1e-2 * want + 1e-6);
    free(state);
    net_free(&net);
    net_free(&original);
    net_free(&out);
}

void test_auto_quantize_runs(void) {
    threads_change_nothing();
    progress_is_told_and_stops();
    logits_can_diverge();
}
