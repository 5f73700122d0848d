/* A small network for calibrations that need more than one layer: two norms, four linear layers.
 *
 *   x0 = raw * (1 + gain0)       -> q [HEADS, WIDTH]
 *   x1 = raw * gain1 + bias1     -> k [HEADS, WIDTH], up [HIDDEN, WIDTH] (they share it)
 *   up(x1)                       -> down [HEADS, HIDDEN] (up is its producer)
 */
#ifndef MQ_TESTS_WIDE_H
#define MQ_TESTS_WIDE_H

#include "fixture.h"

enum { WIDTH = 32, HIDDEN = 16, HEADS = 8, TOKENS = 24 };

struct wide {
    mq_context *context;
    mq_model *model;
    mq_layer *q, *k, *up, *down;
    float gain0[WIDTH], gain1[WIDTH], bias1[WIDTH], up_bias[HIDDEN];
    float q_weight[HEADS * WIDTH], k_weight[HEADS * WIDTH], up_weight[HIDDEN * WIDTH],
        down_weight[HEADS * HIDDEN];
    float raw[TOKENS * WIDTH];
    int passes;                        /* how often the forward ran */
    int32_t result;                    /* what it returns */
    void (*inside)(struct wide *wide); /* what a test asks for, at its end */
    int tokens;                        /* how many of the TOKENS it brings */
};

/* Options may be NULL. */
void wide_init(struct wide *wide, const mq_context_options *options);
void wide_free(struct wide *wide);

/* The host's forward; takes a struct wide. */
int32_t wide_forward(void *wide);

/* mq_quantize() and mq_calibrate() with that forward; JSON with single quotes. */
mq_status wide_quantize(struct wide *wide, const char *config);
mq_status wide_calibrate(struct wide *wide, const char *algorithm);

/* The outputs of q [TOKENS, HEADS], k [TOKENS, HEADS] and down [TOKENS, HEADS], through taps. */
struct outputs {
    float q[TOKENS * HEADS], k[TOKENS * HEADS], down[TOKENS * HEADS];
};
void wide_outputs(const struct wide *wide, struct outputs *outputs);

/* |a - b| / |b|, Euclidean. */
double distance(const float *a, const float *b, size_t count);

/* Everything that a failed call must leave alone, the host's arrays included. */
struct wide_snapshot {
    char *summary;
    struct wide wide;
};
void wide_snapshot_take(struct wide_snapshot *snapshot, const struct wide *wide);
int wide_snapshot_holds(struct wide_snapshot *snapshot, const struct wide *wide);

/* The number after "key": in JSON that mq has written; -1 when there is none. */
double number_of(const char *text, const char *key);

/* The quantizer's pre_quant_scale; returns how many values there are, at most WIDTH. */
size_t factors_of(struct wide *wide, const char *quantizer, float *values);

/* Weights of 4 bits in blocks of 8, activations as they are. */
#define INT4_WEIGHTS(algorithm)                                                                    \
    "{'quant_cfg': [{'quantizer_name': '*', 'enable': false}, {'quantizer_name': "                 \
    "'*weight_quantizer', 'cfg': {'num_bits': 4, 'block_sizes': {'-1': 8, 'type': 'static'}}}], "  \
    "'algorithm': " algorithm "}"
/* Weights of 8 bits by rows, activations of 8 bits per tensor. */
#define INT8_BOTH(algorithm)                                                                       \
    "{'quant_cfg': [{'quantizer_name': '*', 'enable': false}, {'quantizer_name': "                 \
    "'*weight_quantizer', 'cfg': {'num_bits': 8, 'axis': 0}}, {'quantizer_name': "                 \
    "'*input_quantizer', 'cfg': {'num_bits': 8}}], 'algorithm': " algorithm "}"

#endif
