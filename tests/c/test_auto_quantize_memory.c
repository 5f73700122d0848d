/* A search with little memory: layers are put off to another run of a step, and nothing changes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

enum { TOKENS = 512, WIDEST = 64, MOST = 3 };

/* Linear layers side by side, [outputs, inputs]; 0 outputs end them. */
struct shape {
    int inputs[MOST], outputs[MOST];
};
static const struct shape alike = {{64, 64, 64}, {64, 64, 64}};
/* One has the weight, another the activation. */
static const struct shape unlike = {{16, 64}, {64, 4}};

struct stack {
    struct shape shape;
    mq_context *context;
    mq_model *model;
    mq_layer *layers[MOST];
    float weights[MOST][WIDEST * WIDEST], x[TOKENS * WIDEST + 8], g[TOKENS * WIDEST];
    int backwards;
};

static int32_t forward_step(void *user_data, uint64_t step) {
    struct stack *stack = user_data;
    for (int i = 0; i < MOST && stack->layers[i] != NULL; i++) {
        if (mq_layer_input(stack->layers[i], F32(stack->x + step, TOKENS, stack->shape.inputs[i]),
                           NULL) != MQ_OK) {
            return 77;
        }
    }
    return 0;
}

static int32_t forward_backward_step(void *user_data, uint64_t step, double *loss) {
    struct stack *stack = user_data;
    *loss = 1.0;
    stack->backwards++;
    if (forward_step(stack, step) != 0) {
        return 77;
    }
    for (int i = MOST - 1; i >= 0; i--) {
        if (stack->layers[i] != NULL &&
            mq_layer_grad(stack->layers[i], F32(stack->g, TOKENS, stack->shape.outputs[i])) !=
                MQ_OK) {
            return 77;
        }
    }
    return 0;
}

static struct stack *stack_new(const struct shape *shape, uint32_t threads, uint64_t limit) {
    static const char *const names[MOST] = {"first", "second", "third"};
    struct stack *stack = calloc(1, sizeof *stack);
    mq_context_options options;
    mq_layer_desc desc;
    stack->shape = *shape;
    for (int i = 0; i < TOKENS * WIDEST; i++) {
        stack->x[i] = (float)sin((double)i * 1.3);
        stack->g[i] = (float)cos((double)i * 0.7);
        stack->weights[i % MOST][i / MOST % (WIDEST * WIDEST)] = stack->x[i];
    }
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = threads;
    options.memory_limit_bytes = limit;
    CHECK_STATUS(mq_context_create(&options, &stack->context), MQ_OK);
    CHECK_STATUS(mq_model_create(stack->context, &stack->model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    for (int i = 0; i < MOST && shape->outputs[i] > 0; i++) {
        desc.name = names[i];
        desc.weight = F32(stack->weights[i], shape->outputs[i], shape->inputs[i]);
        CHECK_STATUS(mq_model_add_layer(stack->model, &desc, &stack->layers[i]), MQ_OK);
    }
    return stack;
}

static void stack_free(struct stack *stack) {
    CHECK_STATUS(mq_model_destroy(stack->model), MQ_OK);
    mq_context_destroy(stack->context);
    free(stack);
}

enum { STEPS = 2 };

static mq_status stack_search(struct stack *stack) {
    mq_auto_quantize_options options;
    mq_auto_quantize_fn host = {0};
    CHECK_STATUS(mq_auto_quantize_options_init(&options, sizeof options), MQ_OK);
    options.num_calib_steps = 1;
    options.num_score_steps = STEPS;
    options.quantization_formats = "[\"NVFP4_DEFAULT_CFG\", \"FP8_DEFAULT_CFG\"]";
    options.constraints = "{\"effective_bits\": 7}";
    host.user_data = stack;
    host.forward_step = forward_step;
    host.forward_backward_step = forward_backward_step;
    return mq_auto_quantize(stack->model, &options, &host, NULL);
}

static char *state_of(const struct shape *shape, uint32_t threads, uint64_t limit, int *runs) {
    struct stack *stack = stack_new(shape, threads, limit);
    size_t length = 0;
    char *text = NULL;
    mq_status status = stack_search(stack);
    CHECK_STATUS(status, MQ_OK);
    if (status == MQ_OK) {
        CHECK_STATUS(mq_auto_quantize_state(stack->model, NULL, 0, &length), MQ_OK);
        text = calloc(length + 1, 1);
        CHECK_STATUS(mq_auto_quantize_state(stack->model, text, length + 1, NULL), MQ_OK);
    }
    *runs = stack->backwards;
    stack_free(stack);
    return text;
}

/* What the last error says is needed: "needs N bytes". */
static uint64_t bytes_needed(void) {
    const char *found = strstr(mq_last_error_message(), "needs ");
    return found == NULL ? 0 : strtoull(found + 6, NULL, 10);
}

/* The least memory of a search: what each failure says it needs, until one succeeds; 0 when that
 * does not come to an end. */
static uint64_t least_memory(const struct shape *shape, uint32_t threads) {
    uint64_t limit = 1;
    for (int tries = 0; tries < 12; tries++) {
        struct stack *stack = stack_new(shape, threads, limit);
        char *before = summary_of(stack->model);
        mq_status status = stack_search(stack);
        char *after = summary_of(stack->model);
        CHECK((strcmp(before, after) == 0) == (status != MQ_OK));
        free(before);
        free(after);
        stack_free(stack);
        if (status == MQ_OK) {
            return limit;
        }
        CHECK_STATUS(status, MQ_ERR_OUT_OF_MEMORY);
        CHECK_SAYS("memory_limit_bytes");
        CHECK(bytes_needed() > limit);
        if (bytes_needed() <= limit) {
            return 0;
        }
        limit = bytes_needed();
    }
    return 0;
}

static void layers_are_put_off_and_nothing_changes(const struct shape *shape, int layers) {
    int runs, several_runs;
    char *want = state_of(shape, 1, 0, &runs);
    CHECK(runs == STEPS);
    for (uint32_t threads = 1; threads <= 4; threads += 3) {
        uint64_t least = least_memory(shape, threads);
        CHECK(least > 0);
        for (int more = 0; more < 4 && least > 0; more++) {
            char *got = state_of(shape, threads, least + least * (uint64_t)more / 8, &several_runs);
            CHECK(got != NULL && strcmp(got, want) == 0);
            CHECK(several_runs >= STEPS && several_runs <= STEPS * layers);
            CHECK(more > 0 || several_runs == STEPS * layers);
            free(got);
        }
    }
    free(want);
}

void test_auto_quantize_memory(void) {
    layers_are_put_off_and_nothing_changes(&alike, 3);
    layers_are_put_off_and_nothing_changes(&unlike, 2);
}
