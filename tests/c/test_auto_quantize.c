/* A search from C: what it measures, counts and chooses, and how it tells. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

static int is_near(double got, double want, double relative) {
    return fabs(got - want) <= relative * fabs(want);
}

/* What a search has to find for a format, computed here: by layer, the sum over two batches and the
 * outputs of (dL/dy * change of y)^2. */
static void expected_scores(const char *format, double *scores) {
    struct net net, quantized;
    net_init(&net, 1, 0);
    net_init(&quantized, 1, 0);
    CHECK_STATUS(net_quantize(&quantized, format), MQ_OK);
    const float *const weights[3] = {net.q_weight, net.k_weight, net.out_weight};
    memset(scores, 0, sizeof *scores * NET_LAYERS);
    for (uint64_t batch = 0; batch < 2; batch++) {
        CHECK_STATUS(net_forward(&net, batch), MQ_OK);
        for (int layer = 0; layer < NET_LAYERS; layer++) {
            int inputs = layer < 2 ? NET_IN : NET_HIDDEN;
            const float *x = layer < 2 ? net.x[batch] : layer == 2 ? net.h : net.s;
            float seen[NET_BATCH * NET_IN], changed[NET_HIDDEN * NET_IN];
            mq_layer *of = quantized.layers[layer];
            CHECK_STATUS(mq_layer_input(of, F32((void *)(uintptr_t)x, NET_BATCH, inputs),
                                        F32(seen, NET_BATCH, inputs)),
                         MQ_OK);
            mq_tensor weight = *F32(changed, NET_HIDDEN, inputs);
            weight.ndim = layer == 2 ? 1 : 2;
            CHECK_STATUS(mq_layer_weight(of, &weight), MQ_OK);
            for (int i = 0; i < NET_BATCH * NET_HIDDEN; i++) {
                int t = i / NET_HIDDEN, o = i % NET_HIDDEN;
                double change = 0.0, gradient = 0.0;
                for (int j = 0; j < inputs && layer != 2; j++) {
                    const float *original = weights[layer == 3 ? 2 : layer];
                    change += (double)seen[t * inputs + j] * (double)changed[o * inputs + j] -
                              (double)x[t * inputs + j] * (double)original[o * inputs + j];
                }
                if (layer == 2) {
                    change = (double)seen[i] * (double)changed[o] -
                             (double)x[i] * (double)net.scale_weight[o];
                }
                if (layer == 3) {
                    gradient = (double)net.y[i] - (double)net.target[i];
                }
                for (int j = 0; j < NET_OUT && layer != 3; j++) {
                    gradient +=
                        ((double)net.y[t * NET_OUT + j] - (double)net.target[t * NET_OUT + j]) *
                        (double)net.out_weight[j * NET_HIDDEN + o];
                }
                gradient *= layer < 2 ? (double)net.scale_weight[o] : 1.0;
                scores[layer] += gradient * change * gradient * change;
            }
        }
    }
    net_free(&net);
    net_free(&quantized);
}

static const char *const groups[] = {"block.q_proj", "scale", "out"};
enum { GROUPS = 3, CANDIDATES = 3 };

static void scores_and_costs_are_right(void) {
    for (int way = 0; way < 2; way++) {
        struct net net;
        double int4[NET_LAYERS], fp8[NET_LAYERS];
        expected_scores(INT4_WEIGHT_ONLY, int4);
        expected_scores(FP8, fp8);
        net_init(&net, 0, 0);
        if (way == 1) {
            net_use_both(&net);
        }
        CHECK_STATUS(net_search(&net), MQ_OK);
        CHECK(net.calls[AT_DATA] == 4 && net.calls[AT_FORWARD] == (way == 0 ? 4 : 2));
        CHECK(net.calls[AT_LOSS] + net.calls[AT_BOTH] == 2);
        CHECK(net.calls[AT_BACKWARD] + net.calls[AT_BOTH] == 2);
        CHECK(net.scored == 2 && net.steps == 2 && net.calls[AT_LAYER] == 6);
        char *state = net_state(&net);
        const double elements[] = {Q_COST + K_COST, SCALE_COST, OUT_COST};
        const double scores[][2] = {
            {int4[0] + int4[1], fp8[0] + fp8[1]}, {int4[2], fp8[2]}, {int4[3], fp8[3]}};
        for (int i = 0; i < GROUPS; i++) {
            CHECK(is_near(net_stat(state, groups[i], "scores", 0), scores[i][0], 1e-4));
            double more = fmin(scores[i][0], scores[i][1]); /* more bits never look worse */
            CHECK(is_near(net_stat(state, groups[i], "scores", 1), more, 1e-4));
            CHECK(net_stat(state, groups[i], "scores", 2) == 0.0);
            CHECK(net_stat(state, groups[i], "costs", 0) == elements[i] / 4);
            CHECK(net_stat(state, groups[i], "costs", 1) == elements[i] / 2);
            CHECK(net_stat(state, groups[i], "costs", 2) == elements[i]);
            CHECK(isnan(net_stat(state, groups[i], "costs", 3)));
        }
        CHECK(net_number(state, NULL, "cost_denominator") == NET_COST);
        CHECK(strstr(state, "\"module_names\":[\"block.q_proj\",\"block.k_proj\"]") != NULL);
        CHECK(strstr(state, "block.k_proj.quant_recipe") == NULL); /* one format for both */
        CHECK(strstr(state, "\"method\":\"gradient\"") != NULL);
        CHECK(strstr(state, "\"cost_model\":\"weight\"") != NULL);
        free(state);
        net_free(&net);
    }
}

/* The least score that a cost allows, by trying every choice. */
static double least_score(const char *state, double cost) {
    double least = INFINITY;
    for (int choice = 0; choice < CANDIDATES * CANDIDATES * CANDIDATES; choice++) {
        double costs = 0.0, score = 0.0;
        for (int i = 0, rest = choice; i < GROUPS; i++, rest /= CANDIDATES) {
            costs += net_stat(state, groups[i], "costs", rest % CANDIDATES);
            score += net_stat(state, groups[i], "scores", rest % CANDIDATES);
        }
        least = costs <= cost && score < least ? score : least;
    }
    return least;
}

static void the_choice_is_the_best_of_the_budget(void) {
    static const char *const budgets[] = {"4", "4.1", "5",  "6.5",  "7.77",
                                          "8", "9",   "12", "15.9", "16"};
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        struct net net;
        char constraints[64];
        double bits = strtod(budgets[i], NULL);
        snprintf(constraints, sizeof constraints, "{'effective_bits': %s}", budgets[i]);
        net_init_searched(&net, constraints, FP8_INT4);
        char *state = net_state(&net);
        double found = net_number(state, "best", "effective_bits");
        double cost = net_number(state, "best", "cost"), score = net_number(state, "best", "score");
        CHECK(found <= bits && is_near(found, cost / NET_COST * 16.0, 1e-12));
        CHECK(is_near(score, least_score(state, NET_COST * bits / 16.0), 1e-9) || score == 0.0);
        CHECK((score == 0.0) == (bits == 16.0));
        free(state);
        net_free(&net);
    }
}

static void the_model_is_left_with_the_choice(void) {
    struct net net, wanted;
    net_init_searched(&net, "{'effective_bits': 4}", FP8_INT4); /* everything at 4 bits */
    net_init(&wanted, 1, 0);
    CHECK_STATUS(net_quantize(&wanted, INT4_WEIGHT_ONLY), MQ_OK);
    for (uint64_t batch = 0; batch < NET_BATCHES; batch++) {
        CHECK_STATUS(net_forward(&net, batch), MQ_OK);
        CHECK_STATUS(net_forward(&wanted, batch), MQ_OK);
        CHECK(memcmp(net.y, wanted.y, sizeof net.y) == 0);
    }
    CHECK_STATUS(net_forward(&wanted, 0), MQ_OK);
    int32_t enabled = 1;
    CHECK_STATUS(mq_quantizer_is_enabled(find_quantizer(net.model, "kv.k_bmm_quantizer"), &enabled),
                 MQ_OK);
    CHECK(enabled == 0); /* whatever is not searched is off */
    CHECK_STATUS(mq_check(net.model, NULL, NULL, 0, &(size_t){0}), MQ_OK);
    CHECK_STATUS(mq_fold_weight(net.model, 0), MQ_OK); /* it is a quantized model as any other */
    net_free(&net);
    net_free(&wanted);
}

static void every_default_is_a_search(void) {
    struct net net;
    net_init(&net, 1, 0);
    CHECK_STATUS(mq_auto_quantize(net.model, NULL, &net.host, NULL), MQ_OK);
    CHECK(net.calls[AT_BACKWARD] == 128 && net.released == 1);
    CHECK(net.calls[AT_FORWARD] == 512 + 128);
    char *state = net_state(&net);
    CHECK(strstr(state, "NVFP4_AWQ_LITE_CFG(effective-bits: 4.5)") != NULL);
    CHECK(strstr(state, "FP8_DEFAULT_CFG(effective-bits: 8.0)") != NULL);
    CHECK(net_number(state, "best", "effective_bits") <= 4.8);
    free(state);
    net_free(&net);
}

static void layers_can_be_left_out(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.options.disabled_layers = "\"block.k*\"";
    net_ask(&net, "{'effective_bits': 14.5}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    char *state = net_state(&net);
    CHECK(net_stat(state, "block.q_proj", "costs", 0) == Q_COST + K_COST); /* its group, too */
    CHECK(isnan(net_stat(state, "block.q_proj", "costs", 1)));
    CHECK(net_number(state, "best", "effective_bits") > 13.0);
    free(state);
    net_free(&net);

    net_init(&net, 1, 0);
    net.options.disabled_layers = "[\"scale\", \"nothing*\"]";
    net.options.grouping_rules = "{\"prepend\": [\"(block.q)\", \"^(block.k)\"]}";
    net.options.flags = MQ_AUTO_QUANTIZE_ALL_LAYERS;
    net_ask(&net, "{'effective_bits': 9}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(strstr(net.log, "nothing*") != NULL);
    state = net_state(&net);
    CHECK(net_stat(state, "block.q_proj", "costs", 1) == Q_COST / 2); /* apart */
    CHECK(net_stat(state, "block.k_proj", "costs", 1) == K_COST / 2);
    CHECK(isnan(net_stat(state, "block.k_proj", "costs", 2))); /* no format is none */
    CHECK(net_stat(state, "scale", "costs", 0) == SCALE_COST);
    CHECK(net_number(state, "best", "effective_bits") <= 9.0);
    free(state);
    net_free(&net);
}

static void a_host_may_count_costs_itself(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.has_cost = 1;
    net_ask(&net, "{'max_cost': 110}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(net.calls[AT_COST] >= NET_LAYERS * CANDIDATES);
    char *state = net_state(&net);
    const double layers[] = {2.0, 1.0, 1.0};
    for (int i = 0; i < GROUPS; i++) {
        CHECK(net_stat(state, groups[i], "costs", 0) == 20.0 * layers[i]);
        CHECK(net_stat(state, groups[i], "costs", 1) == 30.0 * layers[i]);
        CHECK(net_stat(state, groups[i], "costs", 2) == 100.0 * layers[i]);
    }
    CHECK(net_number(state, NULL, "cost_denominator") == 400.0);
    CHECK(net_number(state, "best", "cost") <= 110.0);
    CHECK(is_near(net_number(state, "best", "score"), least_score(state, 110.0), 1e-9));
    CHECK(strstr(state, "\"cost_model\":\"callback\"") != NULL);
    free(state);
    net_free(&net);
}

static void it_tells_as_the_reference_does(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.options.flags = MQ_AUTO_QUANTIZE_VERBOSE | MQ_AUTO_QUANTIZE_ALL_LAYERS;
    net_ask(&net, "{'effective_bits': 8}", "['FP8_DEFAULT_CFG', null]");
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(strstr(net.log, "AutoQuantize cost model: weight\n") != NULL);
    for (int i = 0; i < GROUPS; i++) {
        char line[128];
        snprintf(line, sizeof line,
                 "AutoQuantize best recipe for %s.quant_recipe: "
                 "FP8_DEFAULT_CFG(effective-bits: 8.0)\n",
                 groups[i]);
        CHECK(strstr(net.log, line) != NULL);
    }
    CHECK(strstr(net.log, "AutoQuantize effective bits: 8.00\n") != NULL);
    net_free(&net);

    net_init(&net, 1, 0); /* quietly */
    net_ask(&net, "{'max_cost': 97.5}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK(strstr(net.log, "cost model") == NULL && strstr(net.log, "best recipe") == NULL);
    char *state = net_state(&net), line[64];
    snprintf(line, sizeof line, "AutoQuantize effective bits: %.2f\n",
             net_number(state, "best", "effective_bits"));
    CHECK(strstr(net.log, line) != NULL);
    free(state);
    net_free(&net);
}

static void gradients_outside_of_a_search_do_nothing(void) {
    struct net net;
    struct net_snapshot snapshot;
    float g[NET_BATCH * NET_HIDDEN] = {NAN};
    net_init(&net, 1, 0);
    net_snapshot_take(&snapshot, &net);
    for (int i = 0; i < NET_LAYERS; i++) {
        CHECK_STATUS(mq_layer_grad(net.layers[i], F32(g, NET_BATCH, NET_HIDDEN)), MQ_OK);
        CHECK_STATUS(mq_layer_grad(net.layers[i], F32(g, 1, 3)), MQ_OK);
    }
    CHECK(net_snapshot_holds(&snapshot, &net));
    CHECK_STATUS(net_search(&net), MQ_OK);
    net_snapshot_take(&snapshot, &net);
    char *before = net_state(&net);
    for (int i = 0; i < NET_LAYERS; i++) {
        CHECK_STATUS(mq_layer_grad(net.layers[i], F32(g, NET_BATCH, NET_HIDDEN)), MQ_OK);
    }
    char *after = net_state(&net);
    CHECK(net_snapshot_holds(&snapshot, &net));
    CHECK(strcmp(before, after) == 0);
    free(before);
    free(after);
    net_free(&net);
}

void test_auto_quantize(void) {
    scores_and_costs_are_right();
    the_choice_is_the_best_of_the_budget();
    the_model_is_left_with_the_choice();
    every_default_is_a_search();
    layers_can_be_left_out();
    a_host_may_count_costs_itself();
    it_tells_as_the_reference_does();
    gradients_outside_of_a_search_do_nothing();
}
