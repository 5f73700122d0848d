/* A small network with a backward pass, for searches: three linear layers and one that the host
 * computes.
 *
 *   h = q(x) + k(x)      block.q_proj, block.k_proj [NET_HIDDEN, NET_IN]; they share x and a format
 *   s = h * w            "scale", MQ_LAYER_GENERIC, w [NET_HIDDEN]
 *   y = out(s)           "out" [NET_OUT, NET_HIDDEN]
 *   loss = |y - target|^2 / 2
 */
#ifndef MQ_TESTS_NET_H
#define MQ_TESTS_NET_H

#include "fixture.h"

enum { NET_IN = 16, NET_HIDDEN = 8, NET_OUT = 8, NET_BATCH = 4, NET_BATCHES = 6, NET_LAYERS = 4 };
/* What a layer's weight counts, and all of them together. */
enum { Q_COST = 128, K_COST = 128, SCALE_COST = 8, OUT_COST = 64, NET_COST = 328 };

/* Where a callback of the network is. */
enum stage {
    AT_DATA,
    AT_FORWARD,
    AT_LOSS,
    AT_BACKWARD,
    AT_BOTH,
    AT_LOGITS,
    AT_COST,
    AT_LAYER,
    AT_PROGRESS,
    STAGES
};

struct net {
    mq_context *context;
    mq_model *model;
    mq_layer *layers[NET_LAYERS]; /* q, k, scale, out */
    float q_weight[NET_HIDDEN * NET_IN], k_weight[NET_HIDDEN * NET_IN], scale_weight[NET_HIDDEN],
        out_weight[NET_OUT * NET_HIDDEN];
    float x[NET_BATCHES][NET_BATCH * NET_IN], target[NET_BATCH * NET_OUT];

    /* of the last forward, with quantized weights where there are such */
    float h[NET_BATCH * NET_HIDDEN], s[NET_BATCH * NET_HIDDEN], y[NET_BATCH * NET_OUT];
    float used_scale[NET_HIDDEN], used_out[NET_OUT * NET_HIDDEN];
    int64_t logits_shape[2];

    /* what a search gets; single quotes go through net_ask() */
    mq_auto_quantize_options options;
    mq_auto_quantize_fn host;
    mq_layer_cost_fn cost;
    int has_cost;
    char texts[2][2048];

    /* what a test asks for */
    uint64_t batches;    /* data() has so many */
    enum stage fails_at; /* returns `result` at its call `fails_on` */
    int fails_on;        /* 0: never */
    int32_t result;
    enum stage inside_at;
    void (*inside)(struct net *net, enum stage stage);
    double loss; /* added to the loss */
    int skips_taps, skips_gradients, extra_gradients;
    const mq_tensor *gradient_of_out; /* in place of the right one */

    /* what happened */
    int calls[STAGES], released, cost_released, layer_released;
    uint64_t batch, scored, steps, last_forward;
    char log[8192];
};

/* A context with so many threads and so much memory; 0: as many as there are. Batches: 2 and 2. */
void net_init(struct net *net, uint32_t num_threads, uint64_t memory_limit_bytes);
void net_free(struct net *net);

/* Constraints and formats, with single quotes; NULL: the defaults. */
void net_ask(struct net *net, const char *constraints, const char *formats);

/* The callback that does everything takes the place of loss() and backward(). */
void net_use_both(struct net *net);

/* mq_auto_quantize(); checks that user data was released once. */
mq_status net_search(struct net *net);
/* A network that went through a search, which must succeed. */
void net_init_searched(struct net *net, const char *constraints, const char *formats);
/* mq_quantize() over the batches that a search would calibrate on. */
mq_status net_quantize(struct net *net, const char *config);

/* Runs the network over a batch; the tap's status. */
mq_status net_forward(struct net *net, uint64_t batch);

/* Texts, to be freed. */
char *net_state(struct net *net);
char *net_config(struct net *net, const char *constraints);

/* The number at a position of a list in the "candidate_stats" of a group; NaN when there is none.
 */
double net_stat(const char *state, const char *group, const char *key, int at);
/* The number after "key":, behind "before": unless that is NULL; NaN when there is none. */
double net_number(const char *text, const char *before, const char *key);

/* Everything that a failed call must leave alone. */
struct net_snapshot {
    char *summary;
    struct net net;
};
void net_snapshot_take(struct net_snapshot *snapshot, const struct net *net);
/* Whether nothing changed, taps included; frees the snapshot. */
int net_snapshot_holds(struct net_snapshot *snapshot, struct net *net);

/* A search that must fail, leave the model as it was, and say a piece of text. */
#define NET_REFUSES(net, status, piece) net_refuses((net), (status), (piece), __FILE__, __LINE__)
void net_refuses(struct net *net, mq_status status, const char *piece, const char *file, int line);
/* That model can still be quantized; then frees it. */
void net_free_unharmed(struct net *net);

#define INT4_WEIGHT_ONLY "INT4_BLOCKWISE_WEIGHT_ONLY_CFG"
#define FP8_INT4 "['" INT4_WEIGHT_ONLY "', 'FP8_DEFAULT_CFG']"

#endif
