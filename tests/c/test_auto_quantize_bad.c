/* Searches that are asked for badly: every argument, text and number. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

static void null_is_refused_and_user_data_released(void) {
    struct net net;
    mq_auto_quantize_options options;
    net_init(&net, 1, 0);
    CHECK_STATUS(mq_auto_quantize(NULL, NULL, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize(NULL, &net.options, &net.host, &net.cost),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK(net.released == 1 && net.cost_released == 1);
    CHECK_STATUS(mq_auto_quantize(net.model, &net.options, NULL, &net.cost),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("host is NULL");
    CHECK(net.cost_released == 2);
    CHECK_STATUS(mq_auto_quantize(net.model, NULL, NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_options_init(NULL, sizeof options), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_options_init(&options, sizeof options - 8),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_auto_quantize_options_init(&options, 0), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_grad(NULL, F32(net.h, NET_BATCH, NET_HIDDEN)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_grad(net.layers[0], NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_grad((mq_layer *)find_quantizer(net.model, "out.input_quantizer"),
                               F32(net.h, NET_BATCH, NET_HIDDEN)),
                 MQ_ERR_INVALID_ARGUMENT);
    net_free_unharmed(&net);
}

static void a_missing_callback_is_named(void) {
    struct net net;
    net_init(&net, 1, 0);
    const mq_auto_quantize_fn all = net.host;
    net.host.forward_step = NULL;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "forward_step");
    net_use_both(&net); /* needs a forward, too, to calibrate */
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "forward_step");
    net.host = all;
    net.host.loss = NULL;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "loss");
    CHECK(net.calls[AT_FORWARD] == 0); /* before any work */
    net.host = all;
    net.host.backward = NULL;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "backward");
    CHECK(net.calls[AT_FORWARD] == 0);
    net.host = all;
    net.options.method = "kl_div";
    net.host.logits = NULL;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "logits");
    CHECK(net.calls[AT_FORWARD] == 0);
    net.options.method = NULL;
    net.host = all;
    net.has_cost = 1;
    net.cost.cost = NULL;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "cost");
    net.has_cost = 0;
    net.host.data = NULL; /* every batch is there */
    net.host.release = NULL;
    CHECK_STATUS(mq_auto_quantize(net.model, &net.options, &net.host, NULL), MQ_OK);
    net_free(&net);
}

static void sizes_and_flags_are_checked(void) {
    struct {
        mq_auto_quantize_options options;
        unsigned char tail[24];
    } newer;
    struct net net;
    net_init(&net, 1, 0);
    static const uint32_t sizes[] = {0, 1, 4, 64, 71, 73, 76};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        net.options.struct_size = sizes[i];
        NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "struct_size");
    }
    net.options.struct_size = sizeof net.options;
    static const uint32_t flags[] = {4, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        net.options.flags = flags[i];
        NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "flag");
    }
    net.options.flags = 0;

    CHECK_STATUS(mq_auto_quantize_options_init(&newer.options, sizeof newer), MQ_OK);
    CHECK(newer.options.struct_size == sizeof newer);
    for (size_t i = 0; i < sizeof newer.tail; i++) {
        CHECK(newer.tail[i] == 0);
    }
    newer.options = net.options;
    newer.options.struct_size = sizeof newer;
    newer.tail[sizeof newer.tail - 1] = 1; /* something we cannot do */
    CHECK_STATUS(mq_auto_quantize(net.model, &newer.options, &net.host, NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("byte 95");
    CHECK(net.released > 0 && net.calls[AT_DATA] == 0);
    newer.tail[sizeof newer.tail - 1] = 0;
    CHECK_STATUS(mq_auto_quantize(net.model, &newer.options, &net.host, NULL), MQ_OK);
    net_free(&net);
}

static void zero_steps_are_refused(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.options.num_calib_steps = 0;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "num_calib_steps");
    net.options.num_calib_steps = 1;
    net.options.num_score_steps = 0;
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "num_score_steps");
    net.batches = 2; /* there are not so many */
    net.options.num_score_steps = UINT64_MAX;
    NET_REFUSES(&net, MQ_ERR_STATE, "batch 2");
    net.options.num_score_steps = 1;
    net.options.num_calib_steps = UINT64_MAX;
    NET_REFUSES(&net, MQ_ERR_STATE, "batch 2");
    net_free_unharmed(&net);
}

struct text {
    const char *text, *piece;
};

static void constraints_that_are_none_are_refused(void) {
    static const struct text cases[] = {
        {"{'effective_bits': 0}", "Got 0"},
        {"{'effective_bits': -1}", "-1"},
        {"{'effective_bits': -0.0}", "Got"},
        {"{'effective_bits': 16.0001}", "16.0001"},
        {"{'effective_bits': 1e308}", "Got 1"},
        {"{'effective_bits': 1e999}", "constraints"},
        {"{'effective_bits': NaN}", "JSON"},
        {"{'effective_bits': 'NaN'}", "NaN"},
        {"{'effective_bits': '8'}", "effective_bits"},
        {"{'effective_bits': true}", "true"},
        {"{'effective_bits': [8]}", "effective_bits"},
        {"{'effective_bits': 5e-324}", "num_bits"},
        {"{'effective_bits': 3.9}", "num_bits = 4"},
        {"{'effective_bits': 8, 'max_cost': 8}", "both"},
        {"{'max_cost': -1}", "max_cost"},
        {"{'max_cost': null}", "max_cost"},
        {"{'max_cost': 'all'}", "max_cost"},
        {"{'max_cost': 0}", "cost 82 together"},
        {"{'max_cost': 81.999}", "cost 82 together"},
        {"[]", "object"},
        {"8", "object"},
        {"'effective_bits'", "object"},
        {"", "JSON"},
        {"{", "JSON"},
        {"{'effective_bits': 8}}", "JSON"},
        {"{'effective_bit': 8}", "effective_bits"},
        {"{'effective_bits': 8, '': 1}", "Unsupported"},
        {"{'cost_model': 'bytes'}", "bytes"},
        {"{'cost_model': 3}", "cost_model"},
        {"{'cost_model': 'active_moe'}", "active_moe_expert_ratio"},
        {"{'cost_model': 'active_moe', 'cost': {'active_moe_expert_ratio': 0}}", "above 0"},
        {"{'cost_model': 'active_moe', 'cost': {'active_moe_expert_ratio': 1.5}}", "1.5"},
        {"{'cost': []}", "cost is"},
        {"{'cost': {'ratio': 1}}", "ratio"},
        {"{'cost': {'excluded_module_name_patterns': 3}}", "patterns"},
        {"{'cost': {'excluded_module_name_patterns': [null]}}", "patterns"},
        {"{'cost': {'excluded_module_name_patterns': '*'}, 'effective_bits': 8}", "no layer"},
    };
    struct net net;
    net_init(&net, 1, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net_ask(&net, cases[i].text, FP8_INT4);
        NET_REFUSES(&net, MQ_ERR_CONFIG, cases[i].piece);
        CHECK(net.calls[AT_DATA] == 0); /* before any work */
    }
    net.options.constraints = "{\"effective_bits\": 8\xff}";
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "constraints");
    /* what no choice reaches says what one does: 16 bits for q and k, 4 for the rest */
    net_ask(&net, "{'effective_bits': 13.3}", FP8_INT4);
    net.options.disabled_layers = "\"block*\"";
    NET_REFUSES(&net, MQ_ERR_CONFIG, "13.3659");
    net.options.disabled_layers = NULL;
    net.has_cost = 1;
    net_ask(&net, "{'max_cost': 79}", FP8_INT4);
    NET_REFUSES(&net, MQ_ERR_CONFIG, "cost 80 together");
    net_free_unharmed(&net);
}

static void formats_that_are_none_are_refused(void) {
    static const struct text cases[] = {
        {"{}", "list"},
        {"'FP8_DEFAULT_CFG'", "list"},
        {"null", "list"},
        {"[]", "no format"},
        {"[null]", "no format"},
        {"[null, null]", "no format"},
        {"", "JSON"},
        {"['FP8_DEFAULT_CFG'", "JSON"},
        {"['FP8_DEFAULT']", "FP8_DEFAULT_CFG"},
        {"['']", "quantization_formats[0]"},
        {"['FP8_DEFAULT_CFG', 8]", "quantization_formats[1]"},
        {"['FP8_DEFAULT_CFG', ['FP8_DEFAULT_CFG']]", "quantization_formats[1]"},
        {"[{'quant_cfg': 3}]", "quantization_formats[0]"},
        {"[{'quant_cfg': {}, 'algorithm': 'max'}]", "CUSTOM_0"},
        {"[{'quant_cfg': {'*weight_quantizer': {'num_bits': 8, 'fake_quant': false}}}]",
         "fake_quant"},
        {"[{'quant_cfg': {'*weight_quantizer': {'num_bits': 8}}, 'algorithm': 'real_quantize'}]",
         "real_quantize"},
        {"[{'quant_cfg': {'*weight_quantizer': {'num_bits': 8, 'colour': 1}}}]", "colour"},
        {"[{'quant_cfg': {'*weight_quantizer': {'num_bits': 8, 'axis': 7}}}]", "7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net net;
        net_init(&net, 1, 0);
        net_ask(&net, "{'effective_bits': 8}",
                "[{'quant_cfg': {'*weight_quantizer': {'num_bits': 8}}, 'algorithm': 'gptq'}]");
        NET_REFUSES(&net, MQ_ERR_UNSUPPORTED, "gptq");
        net_ask(&net, "{'effective_bits': 8}", cases[i].text);
        NET_REFUSES(&net, MQ_ERR_CONFIG, cases[i].piece);
        CHECK(net.calls[AT_DATA] == 0);
        net_free(&net);
    }
}

/* A format that says nothing about weights would leave them at the default of 8 bits, under the
 * name and the bits of something else. */
static void formats_that_say_nothing_of_weights_are_refused(void) {
    static const struct text cases[] = {
        {"['FP8_KV_CFG']", "FP8_KV_CFG"},
        {"[{'quant_cfg': {'*lm_head*': {'num_bits': 8}}}]", "CUSTOM_0"},
        {"[{'quant_cfg': {}}]", "CUSTOM_0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net net;
        net_init(&net, 1, 0);
        net_ask(&net, "{'effective_bits': 16}", cases[i].text);
        CHECK_STATUS(net_search(&net), MQ_ERR_CONFIG);
        CHECK_SAYS(cases[i].piece);
        net_free(&net);
    }
}

static void a_format_that_is_named_twice_counts_once(void) {
    struct net net;
    net_init_searched(&net, "{'effective_bits': 8}",
                      "[null, 'FP8_DEFAULT_CFG', null, 'FP8_DEFAULT_CFG']");
    char *state = net_state(&net);
    CHECK(net_stat(state, "out", "costs", 1) == OUT_COST);
    CHECK(net_stat(state, "out", "costs", 0) == OUT_COST / 2);
    CHECK(net_stat(state, "out", "costs", 2) != OUT_COST);
    free(state);
    net_free(&net);
}

static void rules_and_names_that_are_none_are_refused(void) {
    static const struct text rules[] = {
        {"[\"(\"]", "regular expression"},
        {"[\"(a\\\\\"]", "regular expression"},
        {"[\"block\"]", "parentheses"},
        {"[\"(?:block)\"]", "parentheses"},
        {"\"(block)\"", "list"},
        {"[3]", "list"},
        {"3", "list"},
        {"{\"before\": []}", "prepend"},
        {"{\"append\": []", "JSON"},
        {"{\"append\": [], \"prepend\": []}", "prepend"},
        {"{\"append\": \"(a)\"}", "list"},
        {"", "JSON"},
        {"[\"(a){1000}{1000}{1000}\"]", "regular expression"},
    };
    static const struct text disabled[] = {
        {"", "JSON"},        {"block*", "JSON"}, {"3", "patterns"},
        {"[3]", "patterns"}, {"{}", "patterns"}, {"[[\"block\"]]", "patterns"},
    };
    static const struct text methods[] = {
        {"", "gradient"}, {"GRADIENT", "gradient"}, {"x", "kl_div"}};
    struct net net;
    net_init(&net, 1, 0);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        net.options.grouping_rules = rules[i].text;
        NET_REFUSES(&net, MQ_ERR_CONFIG, rules[i].piece);
    }
    net.options.grouping_rules = NULL;
    for (size_t i = 0; i < sizeof disabled / sizeof *disabled; i++) {
        net.options.disabled_layers = disabled[i].text;
        NET_REFUSES(&net, MQ_ERR_CONFIG, disabled[i].piece);
    }
    net.options.disabled_layers = NULL;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        net.options.method = methods[i].text;
        NET_REFUSES(&net, MQ_ERR_CONFIG, methods[i].piece);
    }
    net.options.method = "\xff";
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "method");
    net.options.method = NULL;
    net.options.checkpoint = "";
    NET_REFUSES(&net, MQ_ERR_INVALID_ARGUMENT, "checkpoint");
    net_free_unharmed(&net);
}

/* Only 16 bits are left; a list of nothing is no list of everything. */
static void everything_can_be_left_out(void) {
    struct net net;
    net_init(&net, 1, 0);
    net.options.disabled_layers = "\"*\"";
    NET_REFUSES(&net, MQ_ERR_CONFIG, "16.0000");
    net_ask(&net, "{'effective_bits': 16}", FP8_INT4);
    CHECK_STATUS(net_search(&net), MQ_OK);
    char *state = net_state(&net), *config = net_config(&net, NULL);
    CHECK(net_number(state, "best", "effective_bits") == 16.0);
    CHECK(net_number(state, "best", "score") == 0.0);
    CHECK(strstr(config, "\"enable\":true") == NULL);
    CHECK_STATUS(net_forward(&net, 0), MQ_OK);
    free(state);
    free(config);
    net_free(&net);
}

static void a_quantized_model_is_refused(void) {
    struct net net;
    struct net_snapshot snapshot;
    net_init(&net, 1, 0);
    CHECK_STATUS(net_quantize(&net, FP8), MQ_OK);
    net_snapshot_take(&snapshot, &net);
    CHECK_STATUS(net_search(&net), MQ_ERR_STATE);
    CHECK_SAYS("quantized already");
    CHECK(net.calls[AT_DATA] == 0);
    CHECK(net_snapshot_holds(&snapshot, &net));
    net_free(&net);

    net_init_searched(&net, "{'effective_bits': 8}", FP8_INT4); /* and one that was searched */
    char *before = net_state(&net);
    CHECK_STATUS(net_search(&net), MQ_ERR_STATE);
    CHECK_SAYS("mq_auto_quantize_solve()");
    char *after = net_state(&net);
    CHECK(strcmp(before, after) == 0);
    free(before);
    free(after);
    net_free(&net);
}

static void a_model_without_layers_is_refused(void) {
    struct net net;
    float table[16] = {1.0f};
    mq_layer_desc desc;
    mq_model *model = NULL;
    net_init(&net, 1, 0);
    CHECK_STATUS(mq_model_create(net.context, &model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    CHECK_STATUS(mq_auto_quantize(model, &net.options, &net.host, &net.cost),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("no layers");
    desc.kind = MQ_LAYER_EMBEDDING;
    desc.name = "embedding";
    desc.weight = F32(table, 4, 4);
    CHECK_STATUS(mq_model_add_layer(model, &desc, NULL), MQ_OK);
    CHECK_STATUS(mq_auto_quantize(model, &net.options, &net.host, &net.cost),
                 MQ_ERR_INVALID_ARGUMENT);
    desc.kind = MQ_LAYER_CONV_TRANSPOSE1D; /* and what nobody can compute */
    desc.name = "transposed";
    desc.weight = F32(table, 4, 2, 2);
    CHECK_STATUS(mq_model_add_layer(model, &desc, NULL), MQ_OK);
    CHECK_STATUS(mq_auto_quantize(model, &net.options, &net.host, &net.cost),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("forward");
    CHECK(net.released == 3 && net.cost_released == 3 && net.calls[AT_DATA] == 0);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
    net_free(&net);
}

void test_auto_quantize_bad(void) {
    null_is_refused_and_user_data_released();
    a_missing_callback_is_named();
    sizes_and_flags_are_checked();
    zero_steps_are_refused();
    constraints_that_are_none_are_refused();
    formats_that_are_none_are_refused();
    formats_that_say_nothing_of_weights_are_refused();
    a_format_that_is_named_twice_counts_once();
    rules_and_names_that_are_none_are_refused();
    everything_can_be_left_out();
    a_quantized_model_is_refused();
    a_model_without_layers_is_refused();
}
