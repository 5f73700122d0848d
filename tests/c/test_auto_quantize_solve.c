/* What can be done with a finished search: other budgets, its state, its configuration. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

static const char bits4[] = "{\"effective_bits\": 4}", bits8[] = "{\"effective_bits\": 8}",
                  bits16[] = "{\"effective_bits\": 16}";

static void another_budget_is_as_another_search(void) {
    struct net net, wanted;
    char told[2048] = "", *before;
    size_t length = 0;
    net_init_searched(&net, "{'effective_bits': 4}", FP8_INT4);
    before = net_state(&net);
    net_init_searched(&wanted, "{'effective_bits': 8}", FP8_INT4);
    memset(net.calls, 0, sizeof net.calls);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits8, 0, told, sizeof told, &length), MQ_OK);
    CHECK(length == strlen(told) && net_number(told, NULL, "effective_bits") <= 8.0);
    CHECK(strstr(told, "\"recipe\":{") != NULL && strstr(told, "\"is_satisfied\":true") != NULL);
    char *got = net_state(&net), *want = net_state(&wanted);
    CHECK(strcmp(got, before) != 0);
    CHECK(net_number(got, "best", "score") == net_number(want, "best", "score"));
    CHECK(net_number(told, NULL, "score") == net_number(want, "best", "score"));
    CHECK(strstr(got, told) != NULL); /* it is the state's "best" */
    for (int i = 0; i < STAGES; i++) {
        CHECK(net.calls[i] == 0 || i == AT_PROGRESS); /* without data */
    }
    CHECK_STATUS(net_forward(&net, 3), MQ_OK);
    CHECK_STATUS(net_forward(&wanted, 3), MQ_OK);
    CHECK(memcmp(net.y, wanted.y, sizeof net.y) == 0);
    free(got);

    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits4, 0, NULL, 0, NULL), MQ_OK); /* and back */
    got = net_state(&net);
    CHECK(strcmp(got, before) == 0);
    free(got);
    free(want);
    free(before);
    net_free(&net);
    net_free(&wanted);
}

static void a_dry_run_only_tells(void) {
    struct net net;
    struct net_snapshot snapshot;
    char one[1024] = "", list[4096] = "";
    size_t length = 0;
    net_init_searched(&net, "{'effective_bits': 4}", FP8_INT4);
    char *before = net_state(&net);
    net_snapshot_take(&snapshot, &net);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits8, MQ_SOLVE_DRY_RUN, one, sizeof one, NULL),
                 MQ_OK);
    CHECK(net_number(one, NULL, "effective_bits") <= 8.0);
    CHECK_STATUS(mq_auto_quantize_solve(net.model,
                                        json("[{'effective_bits': 4}, {'max_cost': 328}, "
                                             "{'effective_bits': 8}]"),
                                        MQ_SOLVE_DRY_RUN, list, sizeof list, &length),
                 MQ_OK);
    CHECK(length == strlen(list) && list[0] == '[' && list[length - 1] == ']');
    CHECK(net_number(list, NULL, "effective_bits") == 4.0);
    CHECK(strstr(list, "\"cost\":328.0") != NULL && strstr(list, one) != NULL);
    CHECK_STATUS(
        mq_auto_quantize_solve(net.model, "[]", MQ_SOLVE_DRY_RUN, list, sizeof list, &length),
        MQ_OK);
    CHECK(strcmp(list, "[]") == 0 && length == 2);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits16, MQ_SOLVE_DRY_RUN, NULL, 0, &length),
                 MQ_OK);
    CHECK(length > 10);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits16, MQ_SOLVE_DRY_RUN, NULL, 0, NULL), MQ_OK);
    CHECK(net_snapshot_holds(&snapshot, &net));
    char *after = net_state(&net);
    CHECK(strcmp(before, after) == 0);
    free(before);
    free(after);
    net_free(&net);
}

static void a_solve_that_fails_changes_nothing(void) {
    static const struct {
        const char *constraints, *piece;
        mq_status status;
        uint32_t flags;
    } cases[] = {
        {"[{'effective_bits': 8}]", "object", MQ_ERR_CONFIG, 0}, /* a list is for dry runs */
        {"[{'effective_bits': 8}, {'effective_bits': 2}]", "effective_bits", MQ_ERR_CONFIG, 1},
        {"[{'effective_bits': 8}, 8]", "8", MQ_ERR_CONFIG, 1},
        {"[[{'effective_bits': 8}]]", "object", MQ_ERR_CONFIG, 1},
        {"{'effective_bits': 3}", "3", MQ_ERR_CONFIG, 0},
        {"{'max_cost': 81}", "82", MQ_ERR_CONFIG, 0},
        {"{'effective_bits': 8, 'bits': 8}", "bits", MQ_ERR_CONFIG, 0},
        {"{'effective_bits': 8", "JSON", MQ_ERR_CONFIG, 0},
        {"", "JSON", MQ_ERR_CONFIG, 0},
        {"8", "object", MQ_ERR_CONFIG, 0},
        {"{'effective_bits': 8}", "flag", MQ_ERR_INVALID_ARGUMENT, 2},
        {"{'effective_bits': 8}", "flag", MQ_ERR_INVALID_ARGUMENT, 0x80000001u},
    };
    struct net net;
    net_init_searched(&net, "{'effective_bits': 6}", FP8_INT4);
    char *before = net_state(&net);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net_snapshot snapshot;
        char told[8] = "#######";
        size_t length = 99;
        net_snapshot_take(&snapshot, &net);
        CHECK_STATUS(mq_auto_quantize_solve(net.model, json(cases[i].constraints), cases[i].flags,
                                            told, sizeof told, &length),
                     cases[i].status);
        CHECK_SAYS(cases[i].piece);
        CHECK(length == 99 && told[0] == '#');
        if (cases[i].flags < 2) { /* a configuration is refused likewise */
            CHECK_STATUS(mq_auto_quantize_config(net.model, json(cases[i].constraints), told,
                                                 sizeof told, &length),
                         MQ_ERR_CONFIG);
            CHECK(length == 99 && told[0] == '#');
        }
        CHECK(net_snapshot_holds(&snapshot, &net));
    }
    size_t length = 99;
    char text[4];
    CHECK_STATUS(mq_auto_quantize_solve(NULL, bits8, 0, NULL, 0, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, NULL, 0, NULL, 0, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, bits8, 0, NULL, 5, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_solve(net.model, "\xff{}", 0, NULL, 0, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_state(NULL, text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_state(net.model, NULL, 5, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_state(net.model, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_config(NULL, NULL, text, sizeof text, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_config(net.model, NULL, NULL, 5, &length),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_config(net.model, NULL, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(length == 99);
    char *after = net_state(&net);
    CHECK(strcmp(before, after) == 0);
    free(before);
    free(after);
    net_free(&net);
}

static mq_status text_of(struct net *net, int which, char *buffer, size_t capacity,
                         size_t *length) {
    switch (which) {
    case 0:
        return mq_auto_quantize_state(net->model, buffer, capacity, length);
    case 1:
        return mq_auto_quantize_config(net->model, NULL, buffer, capacity, length);
    case 2:
        return mq_auto_quantize_config(net->model, bits8, buffer, capacity, length);
    case 3:
        return mq_auto_quantize_solve(net->model, bits8, MQ_SOLVE_DRY_RUN, buffer, capacity,
                                      length);
    default: /* in effect, also when the text does not fit */
        return mq_auto_quantize_solve(net->model, bits8, 0, buffer, capacity, length);
    }
}

static void texts_are_cut_as_by_snprintf(void) {
    struct net net;
    net_init_searched(&net, "{'effective_bits': 4}", FP8_INT4);
    for (int which = 0; which < 5; which++) {
        size_t length = 0, again = 0;
        CHECK_STATUS(text_of(&net, which, NULL, 0, &length), MQ_OK);
        char *whole = calloc(length + 1, 1);
        CHECK_STATUS(text_of(&net, which, whole, length + 1, &again), MQ_OK);
        CHECK(again == length && strlen(whole) == length);
        const size_t capacities[] = {0, 1, 2, length / 2, length, length + 1, length + 9};
        for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
            size_t capacity = capacities[i];
            char *part = malloc(length + 16);
            memset(part, '#', length + 16);
            CHECK_STATUS(text_of(&net, which, part, capacity, &again), MQ_OK);
            CHECK(again == length);
            size_t fits = capacity == 0 ? 0 : capacity > length ? length : capacity - 1;
            CHECK(strncmp(part, whole, fits) == 0);
            CHECK(capacity == 0 || part[fits] == '\0');
            CHECK(part[capacity > length ? length + 1 : capacity] == '#');
            free(part);
        }
        free(whole);
    }
    net_free(&net);
}

static void the_configuration_gives_the_choice(void) {
    static const char *const budgets[] = {"4", "5", "7", "8", "11", "16"};
    struct net net;
    net_init_searched(&net, "{'effective_bits': 6}", FP8_INT4);
    for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
        struct net second;
        char constraints[64];
        snprintf(constraints, sizeof constraints, "{\"effective_bits\": %s}", budgets[i]);
        char *before = net_config(&net, constraints); /* of a choice that is not in effect */
        CHECK_STATUS(mq_auto_quantize_solve(net.model, constraints, 0, NULL, 0, NULL), MQ_OK);
        char *config = net_config(&net, NULL);
        CHECK(strcmp(before, config) == 0);
        net_init(&second, 1, 0);
        if (i + 1 < sizeof budgets / sizeof *budgets) {
            CHECK_STATUS(net_quantize(&second, config), MQ_OK);
            for (uint64_t batch = 0; batch < NET_BATCHES; batch++) {
                CHECK_STATUS(net_forward(&net, batch), MQ_OK);
                CHECK_STATUS(net_forward(&second, batch), MQ_OK);
                CHECK(memcmp(net.y, second.y, sizeof net.y) == 0);
            }
        } else { /* nothing to quantize */
            CHECK(strstr(config, "true") == NULL);
        }
        free(before);
        free(config);
        net_free(&second);
    }
    net_free(&net);
}

static void several_algorithms_are_told_with_their_layers(void) {
    struct net net, second;
    net_init(&net, 1, 0);
    net.options.num_calib_steps = 4;
    net_ask(&net, "{'effective_bits': 6.5}",
            "[{'quant_cfg': {'*weight_quantizer': {'num_bits': 4, 'block_sizes': {'-1': 8}}, "
            "'*input_quantizer': {'enable': false}}, 'algorithm': 'mse'}, 'FP8_DEFAULT_CFG']");
    CHECK_STATUS(net_search(&net), MQ_OK);
    char *config = net_config(&net, NULL);
    CHECK(strstr(config, "\"layers\"") != NULL && strstr(config, "\"mse\"") != NULL);
    net_init(&second, 1, 0);
    second.options.num_calib_steps = 4;
    CHECK_STATUS(net_quantize(&second, config), MQ_OK);
    CHECK_STATUS(net_forward(&net, 5), MQ_OK);
    CHECK_STATUS(net_forward(&second, 5), MQ_OK);
    CHECK(memcmp(net.y, second.y, sizeof net.y) == 0);
    free(config);
    net_free(&net);
    net_free(&second);
}

static void only_the_budget_changes_costs_of_the_hosts(void) {
    struct net net;
    char told[1024];
    net_init(&net, 1, 0);
    net.has_cost = 1;
    net_ask(&net, "{'max_cost': 200}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    CHECK_STATUS(
        mq_auto_quantize_solve(net.model, "{\"max_cost\": 100}", 0, told, sizeof told, NULL),
        MQ_OK);
    CHECK(net_number(told, NULL, "cost") <= 100.0);
    CHECK_STATUS(mq_auto_quantize_solve(net.model,
                                        json("{'cost': {'excluded_module_name_patterns': 'out'}}"),
                                        0, NULL, 0, NULL),
                 MQ_ERR_CONFIG);
    CHECK_SAYS("callback");
    net_free(&net);
}

static void changed_weights_allow_no_other_choice(void) {
    for (int way = 0; way < 3; way++) {
        struct net net;
        struct net_snapshot snapshot;
        net_init_searched(&net, "{'effective_bits': 8}", "['FP8_DEFAULT_CFG']");
        if (way == 0) {
            CHECK_STATUS(mq_fold_weight(net.model, 0), MQ_OK);
        } else if (way == 1) {
            CHECK_STATUS(mq_fold_weight(net.model, MQ_FOLD_KEEP_ATTRIBUTES), MQ_OK);
        } else {
            CHECK_STATUS(mq_compress(net.model, "{\"out*\": true}", NULL, 0, NULL), MQ_OK);
        }
        net_snapshot_take(&snapshot, &net);
        char *before = net_state(&net), told[8] = "#######";
        size_t length = 99;
        CHECK_STATUS(mq_auto_quantize_solve(net.model, bits16, 0, told, sizeof told, &length),
                     MQ_ERR_STATE);
        CHECK_SAYS(way == 2 ? "compressed" : "folded");
        CHECK(length == 99 && told[0] == '#');
        CHECK_STATUS(mq_auto_quantize_solve(net.model, bits16, MQ_SOLVE_DRY_RUN, NULL, 0, &length),
                     MQ_OK); /* only tells */
        char *after = net_state(&net);
        CHECK(strcmp(before, after) == 0);
        CHECK(net_snapshot_holds(&snapshot, &net));
        free(before);
        free(after);
        net_free(&net);
    }
}

static void without_a_search_there_is_nothing(void) {
    struct net net;
    for (int is_quantized = 0; is_quantized < 2; is_quantized++) {
        size_t length = 99;
        net_init(&net, 1, 0);
        if (is_quantized) {
            CHECK_STATUS(net_quantize(&net, FP8), MQ_OK);
        }
        for (int which = 0; which < 5; which++) {
            CHECK_STATUS(text_of(&net, which, NULL, 0, &length), MQ_ERR_STATE);
            CHECK_SAYS("mq_auto_quantize()");
        }
        CHECK(length == 99);
        net_free(&net);
    }
}

void test_auto_quantize_solve(void) {
    another_budget_is_as_another_search();
    a_dry_run_only_tells();
    a_solve_that_fails_changes_nothing();
    texts_are_cut_as_by_snprintf();
    the_configuration_gives_the_choice();
    several_algorithms_are_told_with_their_layers();
    only_the_budget_changes_costs_of_the_hosts();
    changed_weights_allow_no_other_choice();
    without_a_search_there_is_nothing();
}
