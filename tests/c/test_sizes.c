/* Programs that were compiled against an older or a newer mq.h: every struct that carries its size,
 * at every size. */
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"
#include "wide.h"

enum { TAIL = 32, ROOM = 256, UNTOUCHED = 0xAB };

/* A struct of mq.h that mq reads. */
struct sized {
    const char *name;
    size_t first, size; /* of its first version, and of this header's */
    mq_status (*init)(void *bytes, uint32_t struct_size);
    void (*fill)(void *bytes); /* what a call needs; within `first` */
    mq_status (*use)(const void *bytes);
};

static struct wide wide;
static struct net net;
static float weight[4] = {1.0f, -2.0f, 3.0f, -4.0f};

static mq_status context_init(void *bytes, uint32_t size) {
    return mq_context_options_init(bytes, size);
}
static void context_fill(void *bytes) { ((mq_context_options *)bytes)->num_threads = 1; }
static mq_status context_use(const void *bytes) {
    mq_context *context = NULL;
    const mq_status status = mq_context_create(bytes, &context);
    CHECK((context != NULL) == (status == MQ_OK));
    mq_context_destroy(context);
    return status;
}

static mq_status desc_init(void *bytes, uint32_t size) { return mq_layer_desc_init(bytes, size); }
static void desc_fill(void *bytes) {
    static const int64_t shape[] = {2, 2};
    static const mq_tensor tensor = {
        weight, {MQ_DEVICE_CPU, 0}, 2, {MQ_DTYPE_FLOAT, 32, 1}, shape, NULL, 0};
    ((mq_layer_desc *)bytes)->name = "fc";
    ((mq_layer_desc *)bytes)->weight = &tensor;
}
static mq_status desc_use(const void *bytes) {
    mq_model *model = NULL;
    CHECK_STATUS(mq_model_create(wide.context, &model), MQ_OK);
    const mq_status status = mq_model_add_layer(model, bytes, NULL);
    CHECK_STATUS(mq_model_destroy(model), MQ_OK);
    return status;
}

static mq_status calibration_init(void *bytes, uint32_t size) {
    return mq_calibration_options_init(bytes, size);
}
static void calibration_fill(void *bytes) { ((mq_calibration_options *)bytes)->min_tokens = 1; }
static mq_status calibration_use(const void *bytes) {
    return mq_model_set_calibration_options(wide.model, bytes);
}

static mq_status search_init(void *bytes, uint32_t size) {
    return mq_auto_quantize_options_init(bytes, size);
}
static void search_fill(void *bytes) {
    mq_auto_quantize_options *options = bytes;
    const uint32_t size = options->struct_size;
    *options = net.options;
    options->struct_size = size;
}
static mq_status search_use(const void *bytes) {
    net_free(&net); /* a model is searched once */
    net_init(&net, 1, 0);
    return mq_auto_quantize(net.model, bytes, &net.host, NULL);
}

static const struct sized all[] = {
    {"mq_context_options", 32, sizeof(mq_context_options), context_init, context_fill, context_use},
    {"mq_layer_desc", 56, sizeof(mq_layer_desc), desc_init, desc_fill, desc_use},
    {"mq_calibration_options", 24, sizeof(mq_calibration_options), calibration_init,
     calibration_fill, calibration_use},
    {"mq_auto_quantize_options", 72, sizeof(mq_auto_quantize_options), search_init, search_fill,
     search_use},
};

/* Whether bytes are what memset() left. */
static int are(const unsigned char *bytes, size_t count, unsigned char value) {
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != value) {
            return 0;
        }
    }
    return 1;
}

static void an_older_caller_is_served(const struct sized *sized) {
    uint64_t words[ROOM / 8];
    unsigned char *bytes = (unsigned char *)words;
    CHECK(sized->size + TAIL <= sizeof words);
    for (size_t size = sized->first; size <= sized->size; size += 8) {
        memset(bytes, UNTOUCHED, sizeof words); /* fields it does not have: not read, not written */
        CHECK_STATUS(sized->init(bytes, (uint32_t)size), MQ_OK);
        CHECK(*(uint32_t *)words == size);
        CHECK(are(bytes + size, sizeof words - size, UNTOUCHED));
        sized->fill(bytes);
        memset(bytes + size, UNTOUCHED, sizeof words - size);
        CHECK_STATUS(sized->use(bytes), MQ_OK);
        CHECK(are(bytes + size, sizeof words - size, UNTOUCHED));
    }
    for (size_t size = 0; size < sized->first; size++) { /* there never was one */
        memset(bytes, UNTOUCHED, sizeof words);
        CHECK_STATUS(sized->init(bytes, (uint32_t)size), MQ_ERR_INVALID_ARGUMENT);
        CHECK(are(bytes, sizeof words, UNTOUCHED));
        *(uint32_t *)words = (uint32_t)size;
        CHECK_STATUS(sized->use(bytes), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS(sized->name);
        CHECK_SAYS("struct_size");
    }
}

static void a_newer_caller_is_served_unless_it_asks_for_more(const struct sized *sized) {
    uint64_t words[ROOM / 8];
    unsigned char *bytes = (unsigned char *)words;
    const size_t newer = sized->size + TAIL;
    memset(bytes, UNTOUCHED, sizeof words);
    CHECK_STATUS(sized->init(bytes, (uint32_t)newer), MQ_OK);
    CHECK(*(uint32_t *)words == newer && are(bytes + sized->size, TAIL, 0));
    CHECK(are(bytes + newer, sizeof words - newer, UNTOUCHED));
    sized->fill(bytes);
    CHECK_STATUS(sized->use(bytes), MQ_OK);
    for (size_t i = sized->size; i < newer; i++) {
        bytes[i] = 1;
        CHECK_STATUS(sized->use(bytes), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS(sized->name);
        CHECK_SAYS("link a newer libmq");
        bytes[i] = 0;
    }
    CHECK_STATUS(sized->use(bytes), MQ_OK);
}

/* mq_check_report is written, not read. */
static void a_report_of_another_size_is_filled_as_far_as_it_is_known(void) {
    uint64_t words[ROOM / 8];
    unsigned char *bytes = (unsigned char *)words;
    mq_check_report *report = (mq_check_report *)words;
    CHECK_STATUS(wide_quantize(&wide, INT8), MQ_OK);
    for (size_t size = 0; size < sizeof *report; size++) { /* there never was one */
        memset(bytes, UNTOUCHED, sizeof words);
        report->struct_size = (uint32_t)size;
        CHECK_STATUS(mq_check(wide.model, report, NULL, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS("mq_check_report");
        CHECK(are(bytes + 4, sizeof words - 4, UNTOUCHED));
    }
    for (size_t size = sizeof *report; size <= sizeof *report + TAIL; size += 8) {
        memset(bytes, UNTOUCHED, sizeof words);
        report->struct_size = (uint32_t)size;
        CHECK_STATUS(mq_check(wide.model, report, NULL, 0, NULL), MQ_OK);
        CHECK(report->struct_size == size && report->errors == 0 && report->quantizers > 0);
        CHECK(are(bytes + sizeof *report, sizeof words - sizeof *report, UNTOUCHED));
    }
}

void test_sizes(void) {
    wide_init(&wide, NULL);
    net_init(&net, 1, 0);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        an_older_caller_is_served(&all[i]);
        a_newer_caller_is_served_unless_it_asks_for_more(&all[i]);
    }
    a_report_of_another_size_is_filled_as_far_as_it_is_known();
    net_free(&net);
    wide_free(&wide);
}
