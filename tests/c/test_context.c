/* Contexts: options, their sizes, the log, the order of destruction; names and versions. */
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

/* sizeof(mq_context_options) when it ended with the log. */
enum { FIRST_SIZE = 32 };

struct log {
    int lines, released, bad;
};

static void log_line(void *user_data, int32_t level, const char *text) {
    struct log *log = user_data;
    log->lines++;
    if ((level != MQ_LOG_WARNING && level != MQ_LOG_INFO) || text[0] == '\0' ||
        strchr(text, '\n') != NULL) {
        log->bad++;
    }
}

static void log_release(void *user_data) { ((struct log *)user_data)->released++; }

static mq_context_options options_with(struct log *log) {
    mq_context_options options;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.log.user_data = log;
    options.log.log = log_line;
    options.log.release = log_release;
    return options;
}

static void every_status_has_its_name(void) {
    static const char *const names[] = {
        "MQ_OK",
        "MQ_ERR_INVALID_ARGUMENT",
        "MQ_ERR_CONFIG",
        "MQ_ERR_UNSUPPORTED",
        "MQ_ERR_NOT_FOUND",
        "MQ_ERR_ALREADY_EXISTS",
        "MQ_ERR_STATE",
        "MQ_ERR_NUMERIC",
        "MQ_ERR_BUSY",
        "MQ_ERR_CALLBACK",
        "MQ_ERR_OUT_OF_MEMORY",
        "MQ_ERR_INTERNAL",
        "MQ_ERR_POISONED",
        "MQ_ERR_CANCELLED",
        "MQ_ERR_CUDA",
    };
    for (int32_t i = 0; i < (int32_t)(sizeof names / sizeof *names); i++) {
        CHECK(strcmp(mq_status_name(i), names[i]) == 0);
    }
    CHECK(strcmp(mq_status_name(15), "unknown status") == 0);
    CHECK(strcmp(mq_status_name(-1), "unknown status") == 0);
    CHECK(strcmp(mq_status_name(INT32_MIN), "unknown status") == 0);
}

static void last_error_is_empty_first_and_kept_by_success(void) {
    CHECK(mq_last_error_message() != NULL);
    CHECK_STATUS(mq_context_create(NULL, NULL), MQ_ERR_INVALID_ARGUMENT);
    char before[256] = "";
    strncat(before, mq_last_error_message(), sizeof before - 1);
    mq_context *context = NULL;
    CHECK_STATUS(mq_context_create(NULL, &context), MQ_OK);
    CHECK(strcmp(mq_last_error_message(), before) == 0);
    mq_context_destroy(context);
}

static void options_init_stays_within_the_size(void) {
    struct {
        mq_context_options options;
        unsigned char canary[16];
    } room;
    memset(&room, 0xAB, sizeof room);
    CHECK_STATUS(mq_context_options_init(&room.options, sizeof room.options), MQ_OK);
    CHECK(room.options.struct_size == sizeof room.options && room.options.num_threads == 0);
    CHECK(room.options.log.log == NULL && room.options.log.user_data == NULL &&
          room.options.log.release == NULL);
    CHECK(room.options.memory_limit_bytes == 0 && room.options.progress.progress == NULL &&
          room.options.progress.user_data == NULL && room.options.progress.release == NULL);
    CHECK(room.options.device.device_type == MQ_DEVICE_CPU && room.options.cuda_context == NULL &&
          room.options.cuda_stream == NULL && room.options.device_memory.allocate == NULL);
    CHECK(room.options.cublas == MQ_CUBLAS_DEFAULT && room.options.reserved == 0);
    for (size_t i = 0; i < sizeof room.canary; i++) {
        CHECK(room.canary[i] == 0xAB);
    }
    CHECK_STATUS(mq_context_options_init(NULL, sizeof room.options), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_context_options_init(&room.options, 0), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_context_options_init(&room.options, 4), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_context_options_init(&room.options, FIRST_SIZE - 1), MQ_ERR_INVALID_ARGUMENT);
    memset(&room, 0xAB, sizeof room);
    CHECK_STATUS(mq_context_options_init(&room.options, FIRST_SIZE), MQ_OK);
    CHECK(room.options.struct_size == FIRST_SIZE && room.options.log.release == NULL);
    CHECK(((unsigned char *)&room.options)[FIRST_SIZE] == 0xAB);
}

static void options_of_an_older_or_newer_header(void) {
    struct {
        mq_context_options known;
        uint64_t future;
    } newer;
    mq_context *context = NULL;
    CHECK(sizeof(mq_context_options) == 128);
    CHECK_STATUS(mq_context_options_init(&newer.known, FIRST_SIZE), MQ_OK);
    memset((unsigned char *)&newer + FIRST_SIZE, 0xAB, sizeof newer - FIRST_SIZE); /* not read */
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_OK);
    mq_context_destroy(context);
    context = NULL;
    CHECK_STATUS(mq_context_options_init(&newer.known, sizeof newer), MQ_OK);
    CHECK(newer.known.struct_size == sizeof newer && newer.future == 0);
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_OK);
    mq_context_destroy(context);

    context = NULL;
    newer.future = 1;
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("mq_context_options");
    newer.future = 0;
    newer.known.struct_size = 4;
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("struct_size");
    newer.known.struct_size = 0;
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK(context == NULL); /* untouched */
}

static void threads_have_a_range(void) {
    mq_context_options options;
    mq_context *context = NULL;
    CHECK_STATUS(mq_context_options_init(&options, sizeof options), MQ_OK);
    options.num_threads = 1;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    mq_context_destroy(context);
    context = NULL;
    options.num_threads = 1025;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("1025");
    CHECK(context == NULL);
}

static void log_is_released_with_its_context(void) {
    struct log log = {0, 0, 0};
    mq_context_options options = options_with(&log);
    mq_context *context = NULL;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    CHECK(log.released == 0);
    mq_context_destroy(context);
    CHECK(log.released == 1 && log.bad == 0);
}

static void log_outlives_the_context_while_a_model_lives(void) {
    struct log log = {0, 0, 0};
    mq_context_options options = options_with(&log);
    mq_context *context = NULL;
    mq_model *first = NULL, *second = NULL;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    CHECK_STATUS(mq_model_create(context, &first), MQ_OK);
    CHECK_STATUS(mq_model_create(context, &second), MQ_OK);
    mq_context_destroy(context);
    CHECK(log.released == 0);
    CHECK_STATUS(mq_model_destroy(first), MQ_OK);
    CHECK(log.released == 0);

    /* the model still works, and may still log */
    float weight[4] = {1.0f, -2.0f, 3.0f, -4.0f};
    mq_layer_desc desc;
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = "fc";
    desc.weight = F32(weight, 2, 2);
    CHECK_STATUS(mq_model_add_layer(second, &desc, NULL), MQ_OK);
    CHECK_STATUS(mq_quantize(second, INT8, NULL), MQ_OK);
    CHECK_STATUS(mq_fold_weight(second, 0), MQ_OK);
    CHECK_STATUS(mq_model_destroy(second), MQ_OK);
    CHECK(log.released == 1 && log.bad == 0);
}

static void log_is_released_when_creation_fails(void) {
    struct log log = {0, 0, 0};
    mq_context_options options = options_with(&log);
    mq_context *context = NULL;
    CHECK_STATUS(mq_context_create(&options, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(log.released == 1);

    options.num_threads = 1025;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK(log.released == 2);

    struct {
        mq_context_options known;
        uint64_t future;
    } newer = {options_with(&log), 1};
    newer.known.struct_size = sizeof newer;
    CHECK_STATUS(mq_context_create(&newer.known, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK(log.released == 3);
    CHECK(context == NULL && log.lines == 0);
}

static void a_log_may_lack_its_parts(void) {
    struct log log = {0, 0, 0};
    mq_context_options options = options_with(&log);
    mq_context *context = NULL;
    options.log.log = NULL;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    mq_context_destroy(context);
    CHECK(log.released == 1);
    options = options_with(&log);
    options.log.release = NULL;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    mq_context_destroy(context);
    CHECK(log.released == 1);
}

static int32_t no_progress(void *user_data, const mq_progress *progress) {
    (void)user_data, (void)progress;
    return 0;
}

static void progress_is_released_as_the_log_is(void) {
    struct log log = {0, 0, 0}, told = {0, 0, 0};
    mq_context_options options = options_with(&log);
    mq_context *context = NULL;
    mq_model *model = NULL;
    options.progress.user_data = &told;
    options.progress.release = log_release; /* and no function: no progress */
    CHECK_STATUS(mq_context_create(&options, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(log.released == 1 && told.released == 1);
    options.progress.progress = no_progress;
    options.num_threads = 1025;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_ERR_INVALID_ARGUMENT);
    CHECK(log.released == 2 && told.released == 2);

    options.num_threads = 1;
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    CHECK_STATUS(mq_model_create(context, &model), MQ_OK);
    mq_context_destroy(context);
    CHECK(log.released == 2 && told.released == 2);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
    CHECK(log.released == 3 && told.released == 3);

    options.struct_size = FIRST_SIZE; /* of an older header: there is none */
    CHECK_STATUS(mq_context_create(&options, &context), MQ_OK);
    mq_context_destroy(context);
    CHECK(log.released == 4 && told.released == 3);
}

void test_context(void) {
    every_status_has_its_name();
    last_error_is_empty_first_and_kept_by_success();
    options_init_stays_within_the_size();
    options_of_an_older_or_newer_header();
    threads_have_a_range();
    log_is_released_with_its_context();
    log_outlives_the_context_while_a_model_lives();
    log_is_released_when_creation_fails();
    a_log_may_lack_its_parts();
    progress_is_released_as_the_log_is();
    mq_context_destroy(NULL);
}
