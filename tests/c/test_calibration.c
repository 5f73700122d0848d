/* Calibration algorithms on a small network, and the options of calibrations. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

static void options_init_stays_within_the_size(void) {
    struct {
        mq_calibration_options options;
        unsigned char canary[16];
    } room;
    CHECK(sizeof(mq_calibration_options) == 24);
    memset(&room, 0xAB, sizeof room);
    CHECK_STATUS(mq_calibration_options_init(&room.options, sizeof room.options), MQ_OK);
    CHECK(room.options.struct_size == sizeof room.options && room.options.reserved == 0);
    CHECK(room.options.min_tokens == 0 && room.options.resume_file == NULL);
    for (size_t i = 0; i < sizeof room.canary; i++) {
        CHECK(room.canary[i] == 0xAB);
    }
    CHECK_STATUS(mq_calibration_options_init(NULL, sizeof room.options), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_calibration_options_init(&room.options, 0), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_calibration_options_init(&room.options, sizeof room.options - 1),
                 MQ_ERR_INVALID_ARGUMENT);
}

static void bad_options_are_refused(void) {
    struct wide wide;
    struct {
        mq_calibration_options known;
        uint64_t future;
    } newer;
    wide_init(&wide, NULL);
    CHECK_STATUS(mq_calibration_options_init(&newer.known, sizeof newer), MQ_OK);
    CHECK_STATUS(mq_model_set_calibration_options(NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_set_calibration_options(NULL, &newer.known), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known), MQ_OK);
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, NULL), MQ_OK); /* the defaults */
    newer.future = 1;
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("mq_calibration_options");
    newer.future = 0;
    newer.known.struct_size = 23;
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("struct_size");
    newer.known.struct_size = sizeof newer.known;
    newer.known.reserved = 7;
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("reserved is 7");
    newer.known.reserved = 0;
    newer.known.resume_file = "";
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known),
                 MQ_ERR_INVALID_ARGUMENT);
    newer.known.resume_file = "\xff";
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &newer.known),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("resume_file");
    wide_free(&wide);
}

static size_t amax_of(struct wide *wide, const char *quantizer, float *values, size_t capacity) {
    size_t count = 0;
    CHECK_STATUS(mq_quantizer_amax(find_quantizer(wide->model, quantizer), values, capacity, &count,
                                   NULL, NULL),
                 MQ_OK);
    for (size_t i = 0; i < count && i < capacity; i++) {
        CHECK(isfinite(values[i]) && values[i] >= 0.0f);
    }
    return count;
}

/* Quantizes; the outputs stay near what they were. */
static void stays_near(struct wide *wide, const char *config, double tolerance) {
    struct outputs before, after;
    wide_init(wide, NULL);
    wide_outputs(wide, &before);
    CHECK_STATUS(wide_quantize(wide, config), MQ_OK);
    CHECK(wide->passes == 1); /* one pass is enough */
    wide_outputs(wide, &after);
    CHECK(distance(after.q, before.q, TOKENS * HEADS) < tolerance);
    CHECK(distance(after.k, before.k, TOKENS * HEADS) < tolerance);
    CHECK(distance(after.down, before.down, TOKENS * HEADS) < tolerance);
}

static void factors_are_positive(struct wide *wide, const char *quantizer, size_t expected) {
    float values[WIDTH];
    size_t count = factors_of(wide, quantizer, values);
    CHECK(count == expected);
    for (size_t i = 0; i < count && i < WIDTH; i++) {
        CHECK(isfinite(values[i]) && values[i] > 0.0f);
    }
}

static void smoothquant_moves_outliers_into_weights(void) {
    struct wide wide;
    float factors[WIDTH], amax[HEADS];
    stays_near(&wide, "INT8_SMOOTHQUANT_CFG", 0.05);
    factors_are_positive(&wide, "q.input_quantizer", WIDTH);
    factors_are_positive(&wide, "k.input_quantizer", WIDTH);
    factors_are_positive(&wide, "down.input_quantizer", HIDDEN);
    factors_of(&wide, "q.input_quantizer", factors);
    for (int i = 0; i < WIDTH; i++) {
        CHECK(i == 5 || factors[i] > factors[5]); /* the outliers become smaller than the rest */
    }
    CHECK(amax_of(&wide, "q.input_quantizer", amax, HEADS) == 1);
    CHECK(amax_of(&wide, "q.weight_quantizer", amax, HEADS) == HEADS);
    wide_free(&wide);
}

static void smoothquant_is_better_than_max(void) {
    struct wide max, smooth;
    struct outputs before, with_max, with_smooth;
    wide_init(&max, NULL);
    wide_outputs(&max, &before);
    CHECK_STATUS(wide_quantize(&max, INT8), MQ_OK);
    wide_outputs(&max, &with_max);
    wide_init(&smooth, NULL);
    CHECK_STATUS(wide_quantize(&smooth, INT8_BOTH("{'method': 'smoothquant', 'alpha': 0.5}")),
                 MQ_OK);
    wide_outputs(&smooth, &with_smooth);
    CHECK(distance(with_smooth.q, before.q, TOKENS * HEADS) <
          distance(with_max.q, before.q, TOKENS * HEADS));
    wide_free(&smooth);
    wide_free(&max);
}

static void awq_scales_and_clips(void) {
    static const struct {
        const char *config;
        size_t factors;
    } cases[] = {
        {INT4_WEIGHTS("'awq_lite'"), WIDTH},
        {INT4_WEIGHTS("{'method': 'awq_lite', 'alpha_step': 0.25}"), WIDTH},
        {INT4_WEIGHTS("{'method': 'awq_clip', 'shrink_step': 0.1}"), 0},
        {INT4_WEIGHTS("'awq_full'"), WIDTH},
        {INT4_WEIGHTS("'awq'"), WIDTH},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wide wide;
        float amax[HEADS * WIDTH / 8];
        int32_t enabled = -1;
        stays_near(&wide, cases[i].config, 0.2);
        factors_are_positive(&wide, "q.input_quantizer", cases[i].factors);
        factors_are_positive(&wide, "down.input_quantizer", cases[i].factors ? HIDDEN : 0);
        CHECK(amax_of(&wide, "q.weight_quantizer", amax, HEADS * WIDTH / 8) == HEADS * WIDTH / 8);
        CHECK_STATUS(
            mq_quantizer_is_enabled(find_quantizer(wide.model, "q.input_quantizer"), &enabled),
            MQ_OK);
        CHECK(enabled == 0); /* it scales all the same */
        CHECK_STATUS(mq_fold_weight(wide.model, 0), MQ_OK);
        wide_free(&wide);
    }
}

static void histograms_and_mse_clip_outliers(void) {
    static const char *const configs[] = {
        INT8_BOTH("'histogram'"),
        INT8_BOTH("{'method': 'histogram', 'amax_method': 'mse'}"),
        INT8_BOTH("{'method': 'histogram', 'amax_method': 'percentile', 'percentile': 99.0}"),
        INT8_BOTH("'mse'"),
        INT8_BOTH("['max', {'method': 'mse', 'step_size': 0.5}]"),
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct wide max, other;
        float largest, amax, rows[HEADS];
        wide_init(&max, NULL);
        CHECK_STATUS(wide_quantize(&max, INT8), MQ_OK);
        CHECK(amax_of(&max, "q.input_quantizer", &largest, 1) == 1);
        wide_init(&other, NULL);
        CHECK_STATUS(wide_quantize(&other, configs[i]), MQ_OK);
        CHECK(amax_of(&other, "q.input_quantizer", &amax, 1) == 1);
        CHECK(amax > 0.0f && amax <= largest * 1.001f);
        CHECK(amax_of(&other, "q.weight_quantizer", rows, HEADS) == HEADS);
        CHECK(factors_of(&other, "q.input_quantizer", rows) == 0);
        wide_free(&other);
        wide_free(&max);
    }
}

static void a_histogram_calibrator_works_with_its_algorithm(void) {
    struct wide wide;
    float amax;
    wide_init(&wide, NULL);
    CHECK_STATUS(wide_quantize(&wide,
                               "{'quant_cfg': [{'quantizer_name': '*', 'enable': false}, "
                               "{'quantizer_name': '*input_quantizer', 'cfg': {'num_bits': 8, "
                               "'calibrator': 'histogram'}}], 'algorithm': 'histogram'}"),
                 MQ_OK);
    CHECK(amax_of(&wide, "q.input_quantizer", &amax, 1) == 1 && amax > 0.0f);
    CHECK_STATUS(wide_calibrate(&wide, "max"), MQ_ERR_CONFIG);
    CHECK_SAYS("histogram");
    wide_free(&wide);
}

static void algorithms_that_need_data_refuse_to_do_without(void) {
    static const char *const algorithms[] = {"smoothquant", "awq_lite", "awq_clip", "awq_full"};
    for (size_t i = 0; i < sizeof algorithms / sizeof *algorithms; i++) {
        struct wide wide;
        struct wide_snapshot snapshot;
        wide_init(&wide, NULL);
        CHECK_STATUS(mq_quantize(wide.model, INT8, NULL), MQ_OK);
        wide_snapshot_take(&snapshot, &wide);
        CHECK_STATUS(mq_calibrate(wide.model, algorithms[i], NULL), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS(algorithms[i]);
        CHECK(wide_snapshot_holds(&snapshot, &wide));
        wide_free(&wide);
    }
}

static void a_pass_without_tokens_is_refused(void) {
    static const char *const configs[] = {INT8, "INT8_SMOOTHQUANT_CFG", INT8_BOTH("'mse'"),
                                          INT8_BOTH("'histogram'"), INT4_WEIGHTS("'awq_full'")};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct wide wide;
        struct wide_snapshot snapshot;
        wide_init(&wide, NULL);
        wide_snapshot_take(&snapshot, &wide);
        wide.tokens = 0;
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_ERR_STATE);
        CHECK_SAYS("no tokens");
        CHECK(wide_snapshot_holds(&snapshot, &wide));
        wide_free(&wide);
    }
}

static void too_few_tokens_are_refused(void) {
    static const char *const configs[] = {INT8, "INT8_SMOOTHQUANT_CFG"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct wide wide;
        struct wide_snapshot snapshot;
        mq_calibration_options options;
        wide_init(&wide, NULL);
        CHECK_STATUS(mq_calibration_options_init(&options, sizeof options), MQ_OK);
        options.min_tokens = TOKENS + 1;
        CHECK_STATUS(mq_model_set_calibration_options(wide.model, &options), MQ_OK);
        wide_snapshot_take(&snapshot, &wide);
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_ERR_STATE);
        CHECK_SAYS("min_tokens");
        CHECK_SAYS("q.input_quantizer");
        CHECK_SAYS("25");
        CHECK(wide_snapshot_holds(&snapshot, &wide));
        options.min_tokens = TOKENS;
        CHECK_STATUS(mq_model_set_calibration_options(wide.model, &options), MQ_OK);
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
        options.min_tokens = UINT64_MAX;
        CHECK_STATUS(mq_model_set_calibration_options(wide.model, &options), MQ_OK);
        CHECK_STATUS(wide_calibrate(&wide, "max"), MQ_ERR_STATE);
        CHECK_STATUS(mq_model_set_calibration_options(wide.model, NULL), MQ_OK);
        CHECK_STATUS(wide_calibrate(&wide, "max"), MQ_OK);
        wide_free(&wide);
    }
}

static void an_expert_without_tokens_takes_what_its_peers_have(void) {
    struct fixture fixture;
    float first[OUT * IN] = {1.0f}, second[OUT * IN] = {2.0f}, amax[2] = {0.0f, 0.0f};
    mq_layer_desc desc;
    size_t count = 0;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.expert_group = "mlp.up";
    desc.name = "expert.0";
    desc.weight = F32(first, OUT, IN);
    mq_layer *reached = fixture.layer;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, &fixture.layer), MQ_OK);
    desc.name = "expert.1";
    desc.weight = F32(second, OUT, IN);
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK); /* the taps of expert.0 alone */
    fixture.layer = reached;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "expert.1.input_quantizer" : "expert.0.input_quantizer";
        CHECK_STATUS(
            mq_quantizer_amax(find_quantizer(fixture.model, name), &amax[i], 1, &count, NULL, NULL),
            MQ_OK);
        CHECK(count == 1 && amax[i] == 2.0f);
    }
    CHECK_STATUS(mq_quantizer_amax(fixture.input, amax, 1, &count, NULL, NULL), MQ_OK);
    CHECK(count == 0); /* no peers: it stays dynamic */
    fixture_free(&fixture);
}

void test_calibration(void) {
    options_init_stays_within_the_size();
    bad_options_are_refused();
    smoothquant_moves_outliers_into_weights();
    smoothquant_is_better_than_max();
    awq_scales_and_clips();
    histograms_and_mse_clip_outliers();
    a_histogram_calibrator_works_with_its_algorithm();
    algorithms_that_need_data_refuse_to_do_without();
    a_pass_without_tokens_is_refused();
    too_few_tokens_are_refused();
    an_expert_without_tokens_takes_what_its_peers_have();
}
