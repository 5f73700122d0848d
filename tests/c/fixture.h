/* What most tests begin with: tensors, a model with one linear layer, and a forward pass. */
#ifndef MQ_TESTS_FIXTURE_H
#define MQ_TESTS_FIXTURE_H

#include <stdint.h>

#include "mq.h"

/* Tensors as arguments: F32(data, 2, 4) points to an mq_tensor that lives as long as its block. */
#define SHAPE(...) ((int64_t[]){__VA_ARGS__})
#define RANK(...) ((int32_t)(sizeof SHAPE(__VA_ARGS__) / sizeof(int64_t)))
#define TENSOR(data, code, bits, ...)                                                              \
    (&(mq_tensor){(data),                                                                          \
                  {MQ_DEVICE_CPU, 0},                                                              \
                  RANK(__VA_ARGS__),                                                               \
                  {(code), (bits), 1},                                                             \
                  SHAPE(__VA_ARGS__),                                                              \
                  NULL,                                                                            \
                  0})
#define F32(data, ...) TENSOR(data, MQ_DTYPE_FLOAT, 32, __VA_ARGS__)
#define F16(data, ...) TENSOR(data, MQ_DTYPE_FLOAT, 16, __VA_ARGS__)
#define BF16(data, ...) TENSOR(data, MQ_DTYPE_BFLOAT, 16, __VA_ARGS__)
#define F32_SCALAR(data)                                                                           \
    (&(mq_tensor){(data), {MQ_DEVICE_CPU, 0}, 0, {MQ_DTYPE_FLOAT, 32, 1}, NULL, NULL, 0})

enum { OUT = 2, IN = 4, ROWS = 3 };

/* A model with the linear layer "fc" (weight [OUT, IN]) and the quantizer "kv.k_bmm_quantizer". */
struct fixture {
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    mq_quantizer *own, *input, *output, *weight_quantizer;
    float weight[OUT * IN];
    float x[ROWS * IN]; /* one calibration batch of the layer */
};

void fixture_init(struct fixture *fixture);
void fixture_free(struct fixture *fixture);

/* fixture_init() and mq_quantize() over `x` with a configuration. */
void fixture_init_quantized(struct fixture *fixture, const char *config);

/* The host's forward pass: feeds `x` to the taps, then does what a test asks for. */
struct pass {
    struct fixture *fixture;
    int32_t result; /* what the callback returns */
    void (*inside)(struct pass *pass);
    int calls, released;
};
mq_forward_fn forward_of(struct pass *pass);
int32_t pass_forward(void *pass);

/* mq_quantize() over `x`. */
mq_status fixture_quantize(struct fixture *fixture, const char *config);

mq_quantizer *find_quantizer(mq_model *model, const char *name);

/* The JSON summary, to be freed. */
char *summary_of(const mq_model *model);

/* JSON written with single quotes, in a buffer that a later call reuses. Not for threads. */
const char *json(const char *single_quoted);

/* Everything that a failed call must leave alone. */
struct snapshot {
    char *summary;
    float weight[OUT * IN];
};
void snapshot_take(struct snapshot *snapshot, const struct fixture *fixture);
/* Whether nothing changed; frees the snapshot. */
int snapshot_holds(struct snapshot *snapshot, const struct fixture *fixture);

#define INT8 "INT8_DEFAULT_CFG"
#define FP8 "FP8_DEFAULT_CFG"
/* Disables everything, then gives weights a format; single quotes, for json(). */
#define WEIGHT_ONLY(attributes)                                                                    \
    "{'quant_cfg': [{'quantizer_name': '*', 'enable': false}, "                                    \
    "{'quantizer_name': '*weight_quantizer', 'cfg': " attributes "}], 'algorithm': 'max'}"
#define INT4_BLOCK4 "{'num_bits': 4, 'block_sizes': {'-1': 4, 'type': 'static'}}"

#endif
