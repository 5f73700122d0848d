/* Wrong configurations: the text quotes what and where, and names the nearest right one. */
#include "check.h"
#include "fixture.h"
#include "tests.h"

struct bad {
    const char *config; /* single quotes */
    mq_status status;
    const char *says[3];
};

#define LIST(entries) "{'quant_cfg': [" entries "], 'algorithm': 'max'}"
#define WEIGHTS(cfg)                                                                               \
    LIST("{'quantizer_name': '*', 'enable': false}, {'quantizer_name': '*weight_quantizer', "      \
         "'cfg': " cfg "}")

static const struct bad configs[] = {
    {"", MQ_ERR_CONFIG, {"empty", NULL, NULL}},
    {"   ", MQ_ERR_CONFIG, {"empty", NULL, NULL}},
    {"INT8_DEFALT_CFG", MQ_ERR_CONFIG, {"INT8_DEFALT_CFG", "INT8_DEFAULT_CFG", NULL}},
    {"fp8_default_cfg", MQ_ERR_CONFIG, {"fp8_default_cfg", "FP8_DEFAULT_CFG", NULL}},
    {"{", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"{'quant_cfg': []", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"[]", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"8", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"{'quant_cfg': 'INT8'}", MQ_ERR_CONFIG, {"quant_cfg", "INT8", NULL}},
    {"{'quant_cgf': [], 'algorithm': 'max'}", MQ_ERR_CONFIG, {"quant_cgf", "quant_cfg", NULL}},
    {LIST("{'quantiser_name': '*', 'enable': false}"),
     MQ_ERR_CONFIG,
     {"quantiser_name", "quantizer_name", "quant_cfg[0]"}},
    {LIST("{'quantizer_name': '*'}"), MQ_ERR_CONFIG, {"quant_cfg[0]", NULL, NULL}},
    {LIST("{'quantizer_name': '*', 'cfg': {}}"), MQ_ERR_CONFIG, {"quant_cfg[0]", NULL, NULL}},
    {LIST("{'quantizer_name': 7, 'enable': false}"), MQ_ERR_CONFIG, {"quant_cfg[0]", "7", NULL}},
    {LIST("{'quantizer_name': '*', 'enable': 'no'}"), MQ_ERR_CONFIG, {"quant_cfg[0]", "no", NULL}},
    {WEIGHTS("{'num_bitz': 8}"), MQ_ERR_CONFIG, {"num_bitz", "num_bits", "quant_cfg[1]"}},
    {WEIGHTS("{'num_bits': 0}"), MQ_ERR_CONFIG, {"num_bits", "0", "quant_cfg[1]"}},
    {WEIGHTS("{'num_bits': [4, 4]}"), MQ_ERR_CONFIG, {"num_bits", "quant_cfg[1]", NULL}},
    {WEIGHTS("{'num_bits': 8, 'type': 'statik'}"),
     MQ_ERR_CONFIG,
     {"statik", "static", "quant_cfg[1]"}},
    {WEIGHTS("{'num_bits': 8, 'calibrator': 'maxx'}"), MQ_ERR_CONFIG, {"maxx", "max", NULL}},
    {WEIGHTS("{'num_bits': 8, 'axis': 0, 'block_sizes': {'-1': 4}}"),
     MQ_ERR_CONFIG,
     {"axis", "block_sizes", NULL}},
    {WEIGHTS("{'num_bits': 8, 'block_sizes': {'-1': 0}}"),
     MQ_ERR_CONFIG,
     {"block_sizes", "0", NULL}},
    {WEIGHTS("{'num_bits': 8, 'block_sizes': {'-1': 4, 'scale_bitz': 8}}"),
     MQ_ERR_CONFIG,
     {"scale_bitz", "scale_bits", NULL}},
    {WEIGHTS("{'enable': true}"), MQ_ERR_CONFIG, {"enable", NULL, NULL}},
    {WEIGHTS("[{'num_bits': 4}, {'num_bitz': 8}]"), MQ_ERR_CONFIG, {"num_bitz", "num_bits", "[1]"}},
    {"{'quant_cfg': {'*weight_quantizer': {'num_bitz': 8}}, 'algorithm': 'max'}",
     MQ_ERR_CONFIG,
     {"num_bitz", "num_bits", "*weight_quantizer"}},
    {"{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bits': 8}}], 'algorithm': 'maxx'}",
     MQ_ERR_CONFIG,
     {"maxx", "max", "algorithm"}},
    {"{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bits': 8}}], 'algorithm': {'methot': "
     "'max'}}",
     MQ_ERR_CONFIG,
     {"method", "algorithm", NULL}},
    {"{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bits': 8}}], 'algorithm': {'method': "
     "'max', 'distributed_sink': true}}",
     MQ_ERR_CONFIG,
     {"distributed_sink", "distributed_sync", NULL}},
    {LIST("{'quantizer_name': '*', 'parent_class': 'nn.Liner', 'cfg': {'num_bits': 8}}"),
     MQ_ERR_CONFIG,
     {"nn.Liner", "nn.Linear", NULL}},
    /* no enabling entry matches anything */
    {LIST("{'quantizer_name': '*', 'enable': false}, {'quantizer_name': '*wieght_quantizer', "
          "'cfg': {'num_bits': 8}}"),
     MQ_ERR_CONFIG,
     {"*wieght_quantizer", NULL, NULL}},
    {"{'quant_cfg': {'*conv*': {'num_bits': 8}, 'default': {'enable': false}}, 'algorithm': 'max'}",
     MQ_ERR_CONFIG,
     {"*conv*", NULL, NULL}},
    /* valid, but not in this version */
    {"NVFP4_SVDQUANT_DEFAULT_CFG", MQ_ERR_UNSUPPORTED, {"NVFP4_SVDQUANT_DEFAULT_CFG", NULL, NULL}},
    {WEIGHTS("{'num_bits': 8, 'backend': 'mine'}"),
     MQ_ERR_UNSUPPORTED,
     {"backend", "quant_cfg[1]", NULL}},
    {"{'quant_cfg': [{'quantizer_name': '*', 'cfg': {'num_bits': 8}}], 'algorithm': 'svdquant'}",
     MQ_ERR_UNSUPPORTED,
     {"svdquant", NULL, NULL}},
    /* a histogram, but no algorithm that reads an amax from it */
    {WEIGHTS("{'num_bits': 8, 'calibrator': 'histogram'}"),
     MQ_ERR_CONFIG,
     {"fc.weight_quantizer", "histogram", "amax_method"}},
};

static const struct bad algorithms[] = {
    {"maxx", MQ_ERR_CONFIG, {"maxx", "max", NULL}},
    {"'maxx'", MQ_ERR_CONFIG, {"maxx", "max", NULL}},
    {"{", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"{}", MQ_ERR_CONFIG, {"method", NULL, NULL}},
    {"8", MQ_ERR_CONFIG, {NULL, NULL, NULL}},
    {"['max', 'maxx']", MQ_ERR_CONFIG, {"maxx", "[1]", NULL}},
    {"{'method': 'max', 'alpha': 1}", MQ_ERR_CONFIG, {"alpha", NULL, NULL}},
    {"svdquant", MQ_ERR_UNSUPPORTED, {"svdquant", NULL, NULL}},
};

static void is_refused(struct fixture *fixture, const struct bad *bad, int is_algorithm) {
    struct snapshot snapshot;
    struct pass pass = {fixture, 0, NULL, 0, 0};
    mq_forward_fn forward = forward_of(&pass);
    snapshot_take(&snapshot, fixture);
    mq_status status = is_algorithm ? mq_calibrate(fixture->model, json(bad->config), &forward)
                                    : mq_quantize(fixture->model, json(bad->config), &forward);
    check_status(status, bad->status, bad->config, __FILE__, __LINE__);
    for (int i = 0; i < 3 && bad->says[i] != NULL; i++) {
        check_says(bad->says[i], bad->config, __LINE__);
    }
    CHECK(pass.calls == 0 && pass.released == 1);
    CHECK(snapshot_holds(&snapshot, fixture));
}

void test_config(void) {
    for (int was_quantized = 0; was_quantized < 2; was_quantized++) {
        struct fixture fixture;
        fixture_init(&fixture);
        if (was_quantized) {
            CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
        }
        for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
            is_refused(&fixture, &configs[i], 0);
        }
        for (size_t i = 0; was_quantized && i < sizeof algorithms / sizeof *algorithms; i++) {
            is_refused(&fixture, &algorithms[i], 1);
        }
        CHECK_STATUS(mq_fold_weight(fixture.model, 0), was_quantized ? MQ_OK : MQ_ERR_STATE);
        CHECK_STATUS(fixture_quantize(&fixture, FP8), MQ_OK); /* nothing stuck */
        fixture_free(&fixture);
    }
}
