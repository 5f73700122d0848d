/* A calibration that is watched, stopped, cancelled, or has little memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

/* What the progress callback saw, and what it is to do. */
struct watcher {
    struct wide *wide;
    mq_status busy;                 /* of a verb inside */
    int calls, observe, solve, bad; /* bad: a step that is none */
    int stop_at;                    /* the call that answers `answer` */
    int cancel_at;                  /* the call that cancels */
    int32_t answer;
    uint64_t observed, solved, passes, steps;
};

static int32_t watch(void *user_data, const mq_progress *progress) {
    struct watcher *watcher = user_data;
    int is_solve = strcmp(progress->phase, "solve") == 0;
    watcher->calls++;
    if (progress->done > progress->total ||
        (!is_solve && strcmp(progress->phase, "observe") != 0) ||
        is_solve != (progress->layer[0] != '\0')) {
        watcher->bad++;
    }
    if (is_solve) {
        watcher->bad += progress->done != watcher->solved + 1; /* one after the other */
        watcher->solve++;
        watcher->solved = progress->done;
        watcher->steps = progress->total;
    } else {
        watcher->observe++;
        watcher->observed = progress->done;
        watcher->passes = progress->total;
    }
    if (watcher->wide != NULL && watcher->wide->model != NULL) {
        watcher->busy = mq_fold_weight(watcher->wide->model, 0);
        if (watcher->calls == watcher->cancel_at) {
            watcher->bad += mq_cancel(watcher->wide->model) != MQ_OK;
        }
    }
    return watcher->calls == watcher->stop_at ? watcher->answer : 0;
}

static mq_context_options watched_by(struct watcher *watcher, uint64_t memory_limit_bytes) {
    mq_context_options options;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.memory_limit_bytes = memory_limit_bytes;
    options.progress.user_data = watcher;
    options.progress.progress = watch;
    return options;
}

static void watched_init(struct wide *wide, struct watcher *watcher, uint64_t memory_limit_bytes) {
    mq_context_options options = watched_by(watcher, memory_limit_bytes);
    memset(watcher, 0, sizeof *watcher);
    wide_init(wide, &options);
    watcher->wide = wide;
}

/* Whether every count has reached its total. */
static int is_complete(const struct watcher *watcher) {
    return watcher->bad == 0 && watcher->solve > 0 && watcher->solved == watcher->steps &&
           watcher->observed == watcher->passes && watcher->busy == MQ_ERR_BUSY;
}

static const char *const configs[] = {
    INT8,
    "INT8_SMOOTHQUANT_CFG",
    INT8_BOTH("'histogram'"),
    INT8_BOTH("'mse'"),
    INT4_WEIGHTS("'awq_lite'"),
    INT4_WEIGHTS("'awq_clip'"),
    INT4_WEIGHTS("'awq_full'"),
};
enum { CONFIGS = sizeof configs / sizeof *configs };

static void counts_reach_their_totals(void) {
    for (int i = 0; i < CONFIGS; i++) {
        struct wide wide;
        struct watcher watcher;
        watched_init(&wide, &watcher, 0);
        CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
        CHECK(is_complete(&watcher));
        CHECK(watcher.passes == 1 && watcher.observe == 2); /* it begins, it ends */
        wide_free(&wide);
    }
}

static void without_a_forward_counts_reach_their_totals_too(void) {
    struct wide wide;
    struct watcher watcher;
    watched_init(&wide, &watcher, 0);
    CHECK_STATUS(mq_quantize(wide.model, INT8, NULL), MQ_OK);
    CHECK(is_complete(&watcher));
    CHECK(watcher.observe == 0 && watcher.solve == 4); /* the weights */
    wide_free(&wide);
}

static void a_number_stops_the_verb_at_every_step(void) {
    for (int i = 0; i < CONFIGS; i++) {
        for (int stop_at = 1;; stop_at++) {
            struct wide wide;
            struct watcher watcher;
            struct wide_snapshot snapshot;
            watched_init(&wide, &watcher, 0);
            watcher.stop_at = stop_at;
            watcher.answer = stop_at % 2 ? 42 : -42;
            wide_snapshot_take(&snapshot, &wide);
            mq_status status = wide_quantize(&wide, configs[i]);
            if (watcher.calls < stop_at) { /* there is no such step */
                CHECK_STATUS(status, MQ_OK);
                CHECK(stop_at > 4);
                CHECK(!wide_snapshot_holds(&snapshot, &wide));
                wide_free(&wide);
                break;
            }
            CHECK_STATUS(status, MQ_ERR_CALLBACK);
            CHECK_SAYS("progress");
            CHECK_SAYS("42");
            CHECK(watcher.calls == stop_at);
            CHECK(wide_snapshot_holds(&snapshot, &wide));
            CHECK_STATUS(mq_fold_weight(wide.model, 0), MQ_ERR_STATE); /* still not quantized */
            wide_free(&wide);
        }
    }
}

static void cancels(struct wide *wide) {
    float x[WIDTH] = {0.0f};
    CHECK_STATUS(mq_cancel(wide->model), MQ_OK);
    CHECK_STATUS(mq_layer_input(wide->q, F32(x, WIDTH), NULL), MQ_ERR_CANCELLED);
}

static void cancels_quietly(struct wide *wide) { CHECK_STATUS(mq_cancel(wide->model), MQ_OK); }

static void cancelling_in_the_forward_leaves_the_model_as_it_was(void) {
    void (*const ways[])(struct wide *) = {cancels, cancels_quietly};
    for (int i = 0; i < CONFIGS; i++) {
        for (int way = 0; way < 2; way++) {
            for (int was_quantized = 0; was_quantized < 2; was_quantized++) {
                struct wide wide;
                struct wide_snapshot snapshot;
                struct outputs before, after;
                wide_init(&wide, NULL);
                if (was_quantized) {
                    CHECK_STATUS(wide_quantize(&wide, FP8), MQ_OK);
                }
                wide_outputs(&wide, &before);
                wide_snapshot_take(&snapshot, &wide);
                wide.inside = ways[way];
                CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_ERR_CANCELLED);
                CHECK(wide_snapshot_holds(&snapshot, &wide));
                wide_outputs(&wide, &after); /* taps are not cancelled any more */
                CHECK(memcmp(&before, &after, sizeof before) == 0);
                wide.inside = NULL;
                CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
                wide_free(&wide);
            }
        }
    }
}

static void cancelling_between_two_layers(void) {
    struct wide wide;
    struct watcher watcher;
    struct wide_snapshot snapshot;
    watched_init(&wide, &watcher, 0);
    watcher.cancel_at = 3; /* the first layer is solved */
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_full'")), MQ_ERR_CANCELLED);
    CHECK(watcher.calls == 3 && watcher.bad == 0);
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    wide_free(&wide);
}

static void cancelling_nothing_is_no_error(void) {
    struct wide wide;
    wide_init(&wide, NULL);
    CHECK_STATUS(mq_cancel(NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_cancel(wide.model), MQ_OK);
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_lite'")), MQ_OK); /* not affected */
    CHECK_STATUS(mq_cancel(wide.model), MQ_OK);
    CHECK_STATUS(mq_fold_pre_quant_scale(wide.model, 0, NULL), MQ_OK);
    CHECK_STATUS(wide_calibrate(&wide, "max"), MQ_OK);
    wide_free(&wide);
}

/* What the last error says is needed: "needs N bytes". */
static uint64_t bytes_needed(void) {
    const char *found = strstr(mq_last_error_message(), "needs ");
    return found == NULL ? 0 : strtoull(found + 6, NULL, 10);
}

static char *quantized_with(uint64_t memory_limit_bytes, const char *config, int *passes) {
    struct wide wide;
    struct watcher watcher;
    watched_init(&wide, &watcher, memory_limit_bytes);
    CHECK_STATUS(wide_quantize(&wide, config), MQ_OK);
    CHECK(is_complete(&watcher));
    CHECK((int)watcher.passes == wide.passes);
    *passes = wide.passes;
    char *summary = summary_of(wide.model);
    wide_free(&wide);
    return summary;
}

static void too_little_memory_says_how_much_it_takes(void) {
    int spread = 0;
    for (int i = 0; i < CONFIGS; i++) {
        uint64_t limit = 1;
        int tries = 0;
        for (;; tries++) {
            struct wide wide;
            struct watcher watcher;
            struct wide_snapshot snapshot;
            char text[24];
            watched_init(&wide, &watcher, limit);
            wide_snapshot_take(&snapshot, &wide);
            mq_status status = wide_quantize(&wide, configs[i]);
            if (status == MQ_OK || tries > 8) {
                CHECK_STATUS(status, MQ_OK);
                CHECK(!wide_snapshot_holds(&snapshot, &wide));
                wide_free(&wide);
                break;
            }
            CHECK_STATUS(status, MQ_ERR_OUT_OF_MEMORY);
            CHECK_SAYS("bytes");
            CHECK_SAYS("memory_limit_bytes");
            snprintf(text, sizeof text, "is %lu", (unsigned long)limit);
            CHECK_SAYS(text);
            CHECK(wide.passes == 0 && watcher.observe == 0);
            CHECK(wide_snapshot_holds(&snapshot, &wide));
            CHECK(bytes_needed() > limit);
            limit = bytes_needed();
            wide_free(&wide);
        }
        CHECK(tries >= 1);
        /* with just enough there are more passes, unless the weights take the most, and the same
         * results */
        int one, several;
        char *unlimited = quantized_with(0, configs[i], &one),
             *limited = quantized_with(limit, configs[i], &several);
        CHECK(one == 1 && several >= 1);
        spread += several > 1;
        CHECK(strcmp(unlimited, limited) == 0);
        free(unlimited);
        free(limited);
    }
    CHECK(spread >= CONFIGS - 2);
}

static void brings_less(struct wide *wide) { wide->tokens--; }

static void every_pass_must_bring_the_same_data(void) {
    uint64_t limit = 1;
    for (;;) {
        struct wide wide;
        struct watcher watcher;
        struct wide_snapshot snapshot;
        watched_init(&wide, &watcher, limit);
        wide.inside = brings_less;
        wide_snapshot_take(&snapshot, &wide);
        mq_status status = wide_quantize(&wide, INT8);
        CHECK(wide_snapshot_holds(&snapshot, &wide));
        int passes = wide.passes;
        wide_free(&wide);
        if (status == MQ_ERR_OUT_OF_MEMORY && bytes_needed() > limit) {
            limit = bytes_needed();
            continue;
        }
        CHECK_STATUS(status, MQ_ERR_STATE);
        CHECK_SAYS("24");
        CHECK_SAYS("23");
        CHECK(passes == 2);
        break;
    }
}

void test_progress(void) {
    counts_reach_their_totals();
    without_a_forward_counts_reach_their_totals_too();
    a_number_stops_the_verb_at_every_step();
    cancelling_in_the_forward_leaves_the_model_as_it_was();
    cancelling_between_two_layers();
    cancelling_nothing_is_no_error();
    too_little_memory_says_how_much_it_takes();
    every_pass_must_bring_the_same_data();
}
