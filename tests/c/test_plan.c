/* mq_plan(): it says what will happen, and then that happens. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

static char *plan_of(mq_model *model, const char *config) {
    size_t length = 0, again = 0;
    CHECK_STATUS(mq_plan(model, config, NULL, 0, &length), MQ_OK);
    char *text = calloc(length + 1, 1);
    CHECK_STATUS(mq_plan(model, config, text, length + 1, &again), MQ_OK);
    CHECK(again == length && strlen(text) == length);
    return text;
}

static void says(const char *plan, const char *single_quoted) {
    check_true(strstr(plan, json(single_quoted)) != NULL, single_quoted, __FILE__, __LINE__);
}

static void null_arguments_are_refused(void) {
    struct wide wide;
    char text[8] = "#######";
    size_t length = 99;
    wide_init(&wide, NULL);
    CHECK_STATUS(mq_plan(NULL, INT8, text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_plan(wide.model, NULL, text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_plan(wide.model, "\xff", text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_plan(wide.model, INT8, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_plan(wide.model, INT8, NULL, 8, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK(length == 99 && text[0] == '#');
    CHECK_STATUS(mq_plan(wide.model, INT8, text, sizeof text, &length), MQ_OK);
    CHECK(length > sizeof text && strlen(text) == sizeof text - 1 && text[0] == '{');
    mq_model *empty = NULL;
    CHECK_STATUS(mq_model_create(wide.context, &empty), MQ_OK);
    CHECK_STATUS(mq_plan(empty, INT8, text, sizeof text, &length), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_destroy(empty), MQ_OK);
    wide_free(&wide);
}

static void what_the_verbs_refuse_is_refused(void) {
    static const struct {
        const char *config;
        mq_status status;
        const char *says;
    } cases[] = {
        {"INT8_DEFALT_CFG", MQ_ERR_CONFIG, "INT8_DEFAULT_CFG"},
        {"maxx", MQ_ERR_CONFIG, "maxx"},
        {"{", MQ_ERR_CONFIG, ""},
        {"8", MQ_ERR_CONFIG, ""},
        {"{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bitz': 8}}]}", MQ_ERR_CONFIG,
         "num_bits"},
        {"{'quant_cfg': [{'quantizer_name': '*conv*', 'cfg': {'num_bits': 8}}]}", MQ_ERR_CONFIG,
         "*conv*"},
        {"NVFP4_SVDQUANT_DEFAULT_CFG", MQ_ERR_UNSUPPORTED, "SVDQUANT"},
        {INT8_BOTH("'svdquant'"), MQ_ERR_UNSUPPORTED, "svdquant"},
        {"max", MQ_ERR_STATE, ""},
        {"'awq_lite'", MQ_ERR_STATE, ""},
        {"['max', 'mse']", MQ_ERR_STATE, ""},
        {"{'method': 'smoothquant'}", MQ_ERR_STATE, ""},
    };
    struct wide wide;
    struct wide_snapshot snapshot;
    wide_init(&wide, NULL);
    wide_snapshot_take(&snapshot, &wide);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = 99;
        check_status(mq_plan(wide.model, json(cases[i].config), NULL, 0, &length), cases[i].status,
                     cases[i].config, __FILE__, __LINE__);
        check_says(cases[i].says, cases[i].config, __LINE__);
        CHECK(length == 99);
    }
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    CHECK_STATUS(mq_fold_weight(wide.model, 0), MQ_ERR_STATE); /* still not quantized */
    wide_free(&wide);
}

static void a_plan_names_passes_layers_and_bytes(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    char *plan = plan_of(wide.model, INT8);
    CHECK(number_of(plan, "forwards") == 1 && number_of(plan, "peak_bytes") > 0);
    says(plan, "'memory_limit_bytes':null");
    says(plan, "'statistics':['max']");
    says(plan, "'quantizers':['k.input_quantizer','up.input_quantizer']"); /* one activation */
    says(plan, "'weights':['q.weight_quantizer','k.weight_quantizer'");
    free(plan);
    plan = plan_of(wide.model, json(INT4_WEIGHTS("'awq_full'")));
    says(plan, "'algorithm':'awq_full'");
    says(plan, "'layers':['k','up']");
    says(plan, "'channels':16");
    says(plan, "gram");
    free(plan);
    plan = plan_of(wide.model, json(INT8_BOTH("['histogram', 'smoothquant']")));
    CHECK(number_of(plan, "forwards") == 2);
    says(plan, "'statistics':['histogram']");
    says(plan, "'algorithm':'smoothquant'");
    free(plan);
    plan = plan_of(wide.model, "INT4_BLOCKWISE_WEIGHT_ONLY_CFG");
    CHECK(number_of(plan, "forwards") == 0);
    says(plan, "'passes':[]");
    free(plan);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    plan = plan_of(wide.model, "{\"method\": \"mse\"}");
    says(plan, "'algorithm':'mse'");
    free(plan);
    plan = plan_of(wide.model, "");
    CHECK(number_of(plan, "forwards") == 0);
    free(plan);
    wide_free(&wide);
}

static void a_plan_changes_nothing(void) {
    struct wide wide;
    struct wide_snapshot snapshot;
    struct outputs before, after;
    mq_quantizer *member = NULL;
    int32_t enabled = -1;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide, "W4A8_AWQ_BETA_CFG"), MQ_OK);
    member = find_quantizer(wide.model, "q.weight_quantizer.1");
    wide_outputs(&wide, &before);
    wide_snapshot_take(&snapshot, &wide);
    free(plan_of(wide.model, INT8)); /* would end the sequences */
    free(plan_of(wide.model, "awq_full"));
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    CHECK_STATUS(mq_quantizer_is_enabled(member, &enabled), MQ_OK); /* it is not gone */
    CHECK(enabled == 1);
    wide_outputs(&wide, &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    wide_free(&wide);
}

static void limited_init(struct wide *wide, uint64_t memory_limit_bytes) {
    mq_context_options options;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = 2; /* work memory grows with them */
    options.memory_limit_bytes = memory_limit_bytes;
    wide_init(wide, &options);
}

static void a_plan_keeps_to_the_limit_and_is_followed(void) {
    static const char *const configs[] = {INT8, "INT8_SMOOTHQUANT_CFG", INT8_BOTH("'histogram'"),
                                          INT4_WEIGHTS("'awq_full'")};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct wide wide;
        size_t length = 99;
        limited_init(&wide, 0);
        char *plan = plan_of(wide.model, json(configs[i]));
        uint64_t peak = (uint64_t)number_of(plan, "peak_bytes");
        CHECK(number_of(plan, "forwards") == 1);
        free(plan);
        wide_free(&wide);

        limited_init(&wide, peak - 1);
        plan = plan_of(wide.model, json(configs[i]));
        double forwards = number_of(plan, "forwards");
        CHECK(forwards > 1 && number_of(plan, "peak_bytes") <= (double)(peak - 1));
        CHECK(number_of(plan, "memory_limit_bytes") == (double)(peak - 1));
        free(plan);
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
        CHECK(wide.passes == (int)forwards);
        wide_free(&wide);

        limited_init(&wide, 1);
        CHECK_STATUS(mq_plan(wide.model, json(configs[i]), NULL, 0, &length), MQ_ERR_OUT_OF_MEMORY);
        CHECK_SAYS("bytes");
        CHECK(length == 99);
        wide_free(&wide);
    }
}

static void plans_inside(struct wide *wide) {
    size_t length = 99;
    CHECK_STATUS(mq_plan(wide->model, "max", NULL, 0, &length), MQ_ERR_BUSY);
    CHECK(length == 99);
}

static void a_model_is_busy_in_a_verb(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    wide.inside = plans_inside;
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    wide_free(&wide);
}

void test_plan(void) {
    null_arguments_are_refused();
    what_the_verbs_refuse_is_refused();
    a_plan_names_passes_layers_and_bytes();
    a_plan_changes_nothing();
    a_plan_keeps_to_the_limit_and_is_followed();
    a_model_is_busy_in_a_verb();
}
