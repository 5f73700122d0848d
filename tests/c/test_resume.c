/* The file that a calibration which was stopped goes on from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "tests.h"
#include "wide.h"

static char path[64];

static int exists(void) { return access(path, F_OK) == 0; }

/* Cancels, or answers -1, at a call of the progress; notes the highest counts. */
struct stopper {
    mq_model *model;
    int calls, cancel_at, stop_at;
    uint64_t steps;
};

static int32_t stop(void *user_data, const mq_progress *progress) {
    struct stopper *stopper = user_data;
    stopper->calls++;
    if (strcmp(progress->phase, "solve") == 0) {
        stopper->steps = progress->total;
    }
    if (stopper->calls == stopper->cancel_at) {
        mq_cancel(stopper->model);
    }
    return stopper->calls == stopper->stop_at ? -1 : 0;
}

static void resumable_init(struct wide *wide, struct stopper *stopper) {
    mq_context_options options;
    mq_calibration_options calibration;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.progress.user_data = stopper;
    options.progress.progress = stop;
    memset(stopper, 0, sizeof *stopper);
    wide_init(wide, &options);
    stopper->model = wide->model;
    CHECK_STATUS(mq_calibration_options_init(&calibration, sizeof calibration), MQ_OK);
    char copied[64];
    strcpy(copied, path);
    calibration.resume_file = copied;
    CHECK_STATUS(mq_model_set_calibration_options(wide->model, &calibration), MQ_OK);
    memset(copied, '?', sizeof copied - 1); /* mq has its own */
}

static const char *const configs[] = {
    INT8,
    "INT8_SMOOTHQUANT_CFG",
    INT8_BOTH("'histogram'"),
    INT8_BOTH("'mse'"),
    INT4_WEIGHTS("'awq_lite'"),
    INT4_WEIGHTS("'awq_clip'"),
    INT4_WEIGHTS("'awq_full'"),
    INT8_BOTH("['max', {'method': 'smoothquant', 'alpha': 0.5}]"),
};
enum { CONFIGS = sizeof configs / sizeof *configs };

static char *undisturbed(const char *config) {
    struct wide wide;
    struct stopper stopper;
    resumable_init(&wide, &stopper);
    CHECK_STATUS(wide_quantize(&wide, config), MQ_OK);
    CHECK(!exists()); /* used up */
    char *summary = summary_of(wide.model);
    wide_free(&wide);
    return summary;
}

static void a_stopped_calibration_goes_on(void) {
    for (int i = 0; i < CONFIGS; i++) {
        char *want = undisturbed(configs[i]);
        for (int at = 1;; at++) {
            struct wide wide;
            struct stopper stopper;
            struct wide_snapshot snapshot;
            resumable_init(&wide, &stopper);
            *(at % 2 ? &stopper.cancel_at : &stopper.stop_at) = at;
            wide_snapshot_take(&snapshot, &wide);
            mq_status status = wide_quantize(&wide, configs[i]);
            if (stopper.calls < at || (status == MQ_OK && at % 2)) { /* cancelled at the end */
                CHECK_STATUS(status, MQ_OK);
                CHECK(!wide_snapshot_holds(&snapshot, &wide) && !exists());
                wide_free(&wide);
                break;
            }
            CHECK_STATUS(status, at % 2 ? MQ_ERR_CANCELLED : MQ_ERR_CALLBACK);
            CHECK(wide_snapshot_holds(&snapshot, &wide));
            CHECK(exists());
            wide_free(&wide);

            resumable_init(&wide, &stopper); /* a new process would begin like this */
            CHECK_STATUS(wide_quantize(&wide, configs[i]), MQ_OK);
            CHECK(!exists());
            char *got = summary_of(wide.model);
            CHECK(strcmp(got, want) == 0);
            free(got);
            wide_free(&wide);
        }
        free(want);
    }
}

static void what_is_finished_is_not_done_again(void) {
    struct wide wide;
    struct stopper stopper;
    resumable_init(&wide, &stopper);
    stopper.cancel_at = 4; /* a pass begins, ends, and two activations are solved */
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_lite'")), MQ_ERR_CANCELLED);
    uint64_t steps = stopper.steps;
    CHECK(exists() && steps == 3); /* q; k and up; down */
    stopper.cancel_at = 0;
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_lite'")), MQ_OK);
    CHECK(stopper.steps == 1 && !exists());
    wide_free(&wide);
}

static void a_file_of_something_else_is_refused(void) {
    struct wide wide;
    struct stopper stopper;
    struct wide_snapshot snapshot;
    resumable_init(&wide, &stopper);
    stopper.cancel_at = 4;
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_lite'")), MQ_ERR_CANCELLED);
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_full'")), MQ_ERR_STATE);
    CHECK_SAYS(path);
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    wide.q_weight[0] += 1.0f;
    CHECK_STATUS(wide_quantize(&wide, INT4_WEIGHTS("'awq_lite'")), MQ_ERR_STATE);
    CHECK_SAYS("`q.weight_quantizer`");
    CHECK(exists());

    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fputs("a letter to my aunt", file) >= 0 && fclose(file) == 0);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_ERR_STATE);
    CHECK_SAYS(path);
    CHECK(exists()); /* not ours to remove */
    CHECK(remove(path) == 0);
    wide_free(&wide);
}

static void a_half_written_file_is_read_as_far_as_it_goes(void) {
    char *want = undisturbed(INT8);
    struct wide wide;
    struct stopper stopper;
    resumable_init(&wide, &stopper);
    stopper.stop_at = 9; /* before the last */
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_ERR_CALLBACK);
    wide_free(&wide);
    char bytes[4096];
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    size_t length = fread(bytes, 1, sizeof bytes, file);
    CHECK(fclose(file) == 0 && length > 16 && length < sizeof bytes);
    for (size_t keep = 0; keep < length; keep += 7) {
        file = fopen(path, "wb");
        CHECK(file != NULL && fwrite(bytes, 1, keep, file) == keep && fclose(file) == 0);
        resumable_init(&wide, &stopper);
        CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
        char *got = summary_of(wide.model);
        CHECK(strcmp(got, want) == 0 && !exists());
        free(got);
        wide_free(&wide);
    }
    free(want);
}

static void a_path_that_cannot_be_written_is_refused(void) {
    struct wide wide;
    struct stopper stopper;
    struct wide_snapshot snapshot;
    resumable_init(&wide, &stopper);
    mq_calibration_options options;
    CHECK_STATUS(mq_calibration_options_init(&options, sizeof options), MQ_OK);
    options.resume_file = "/nowhere/at/all";
    CHECK_STATUS(mq_model_set_calibration_options(wide.model, &options), MQ_OK);
    wide_snapshot_take(&snapshot, &wide);
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_ERR_STATE);
    CHECK_SAYS("/nowhere/at/all");
    CHECK(wide.passes == 0);
    CHECK(wide_snapshot_holds(&snapshot, &wide));
    wide_free(&wide);
}

void test_resume(void) {
    snprintf(path, sizeof path, "/tmp/mq-harness-%ld.resume", (long)getpid());
    a_stopped_calibration_goes_on();
    what_is_finished_is_not_done_again();
    a_file_of_something_else_is_refused();
    a_half_written_file_is_read_as_far_as_it_goes();
    a_path_that_cannot_be_written_is_refused();
    CHECK(!exists());
}
