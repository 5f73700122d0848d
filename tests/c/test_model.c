/* Registration of layers and quantizers, and looking them up. */
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "tests.h"

/* sizeof(mq_layer_desc) when it ended with shared_input_group. */
enum { FIRST_SIZE = 56 };

static float values[64];

static mq_layer_desc desc_of(const char *name, int32_t kind, const mq_tensor *weight) {
    mq_layer_desc desc;
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.name = name;
    desc.kind = kind;
    desc.weight = weight;
    return desc;
}

static mq_status add(struct fixture *fixture, const char *name, int32_t kind,
                     const mq_tensor *weight) {
    mq_layer_desc desc = desc_of(name, kind, weight);
    mq_layer *layer = NULL;
    mq_status status = mq_model_add_layer(fixture->model, &desc, &layer);
    CHECK((layer != NULL) == (status == MQ_OK)); /* untouched on failure */
    return status;
}

static void desc_init_stays_within_the_size(void) {
    struct {
        mq_layer_desc desc;
        unsigned char canary[16];
    } room;
    memset(&room, 0xAB, sizeof room);
    CHECK_STATUS(mq_layer_desc_init(&room.desc, sizeof room.desc), MQ_OK);
    CHECK(room.desc.struct_size == sizeof room.desc && room.desc.kind == MQ_LAYER_LINEAR);
    CHECK(room.desc.name == NULL && room.desc.class_name == NULL && room.desc.weight == NULL);
    CHECK(room.desc.bias == NULL && room.desc.fused_group == NULL &&
          room.desc.shared_input_group == NULL);
    CHECK(room.desc.expert_group == NULL && room.desc.norm_gain == NULL &&
          room.desc.norm_bias == NULL && room.desc.producer == NULL && room.desc.norm_flags == 0 &&
          room.desc.reserved == 0);
    for (size_t i = 0; i < sizeof room.canary; i++) {
        CHECK(room.canary[i] == 0xAB);
    }
    CHECK_STATUS(mq_layer_desc_init(NULL, sizeof room.desc), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_desc_init(&room.desc, 0), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_layer_desc_init(&room.desc, FIRST_SIZE - 1), MQ_ERR_INVALID_ARGUMENT);
    memset(&room, 0xAB, sizeof room);
    CHECK_STATUS(mq_layer_desc_init(&room.desc, FIRST_SIZE), MQ_OK);
    CHECK(room.desc.struct_size == FIRST_SIZE && room.desc.shared_input_group == NULL);
    CHECK(((unsigned char *)&room.desc)[FIRST_SIZE] == 0xAB);
}

static void desc_of_an_older_or_newer_header(struct fixture *fixture) {
    struct {
        mq_layer_desc known;
        uint64_t future;
    } newer = {desc_of("sized", MQ_LAYER_LINEAR, F32(values, 2, 2)), 0};
    newer.known.struct_size = 8;
    CHECK_STATUS(mq_model_add_layer(fixture->model, &newer.known, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("struct_size");
    CHECK(sizeof(mq_layer_desc) == 144);
    newer.known.name = "older";
    newer.known.struct_size = FIRST_SIZE;
    newer.known.norm_flags = 0xABABABAB; /* not read */
    CHECK_STATUS(mq_model_add_layer(fixture->model, &newer.known, NULL), MQ_OK);
    newer.known.name = "sized";
    newer.known.norm_flags = 0;
    newer.known.struct_size = sizeof newer;
    newer.future = 1;
    CHECK_STATUS(mq_model_add_layer(fixture->model, &newer.known, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("mq_layer_desc");
    newer.future = 0;
    CHECK_STATUS(mq_model_add_layer(fixture->model, &newer.known, NULL), MQ_OK);
}

static int has_quantizer(struct fixture *fixture, const char *layer, const char *quantizer) {
    char name[64];
    mq_quantizer *found = NULL;
    strcpy(name, layer);
    strcat(name, quantizer);
    return mq_model_find_quantizer(fixture->model, name, &found) == MQ_OK && found != NULL;
}

static int is_enabled(struct fixture *fixture, const char *name) {
    int32_t enabled = -1;
    CHECK_STATUS(mq_quantizer_is_enabled(find_quantizer(fixture->model, name), &enabled), MQ_OK);
    return enabled;
}

static void every_kind_has_its_rank_and_its_quantizers(struct fixture *fixture) {
    static const struct {
        int32_t kind, rank;
        const char *name;
    } kinds[] = {
        {MQ_LAYER_LINEAR, 2, "linear"},
        {MQ_LAYER_CONV1D, 3, "conv1d"},
        {MQ_LAYER_CONV2D, 4, "conv2d"},
        {MQ_LAYER_CONV3D, 5, "conv3d"},
        {MQ_LAYER_CONV_TRANSPOSE1D, 3, "conv_transpose1d"},
        {MQ_LAYER_CONV_TRANSPOSE2D, 4, "conv_transpose2d"},
        {MQ_LAYER_CONV_TRANSPOSE3D, 5, "conv_transpose3d"},
        {MQ_LAYER_EMBEDDING, 2, "embedding"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mq_tensor weight = *F32(values, 2, 2, 2, 2, 2, 2);
        for (weight.ndim = 0; weight.ndim <= 6; weight.ndim++) {
            if (weight.ndim != kinds[i].rank) {
                CHECK_STATUS(add(fixture, kinds[i].name, kinds[i].kind, &weight),
                             MQ_ERR_INVALID_ARGUMENT);
            }
        }
        CHECK_STATUS(add(fixture, kinds[i].name, kinds[i].kind, NULL), MQ_ERR_INVALID_ARGUMENT);
        weight.ndim = kinds[i].rank;
        CHECK_STATUS(add(fixture, kinds[i].name, kinds[i].kind, &weight), MQ_OK);
        CHECK(has_quantizer(fixture, kinds[i].name, ".input_quantizer"));
        CHECK(has_quantizer(fixture, kinds[i].name, ".output_quantizer"));
        CHECK(has_quantizer(fixture, kinds[i].name, ".weight_quantizer"));
    }
    CHECK(is_enabled(fixture, "linear.input_quantizer") == 1);
    CHECK(is_enabled(fixture, "linear.output_quantizer") == 0);
    CHECK(is_enabled(fixture, "linear.weight_quantizer") == 1);
    CHECK(is_enabled(fixture, "embedding.input_quantizer") == 0); /* indices are never quantized */

    CHECK_STATUS(add(fixture, "norm", MQ_LAYER_GENERIC, NULL), MQ_OK);
    CHECK(has_quantizer(fixture, "norm", ".input_quantizer"));
    CHECK(!has_quantizer(fixture, "norm", ".weight_quantizer"));
    CHECK_STATUS(add(fixture, "gain", MQ_LAYER_GENERIC, F32(values, 8)), MQ_OK);
    CHECK(has_quantizer(fixture, "gain", ".weight_quantizer"));
    CHECK_STATUS(add(fixture, "other", 0, F32(values, 2, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(add(fixture, "other", 10, F32(values, 2, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(add(fixture, "other", -1, F32(values, 2, 2)), MQ_ERR_INVALID_ARGUMENT);
}

static void names_are_checked(struct fixture *fixture) {
    mq_quantizer *quantizer = NULL;
    CHECK_STATUS(add(fixture, NULL, MQ_LAYER_LINEAR, F32(values, 2, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(add(fixture, "", MQ_LAYER_LINEAR, F32(values, 2, 2)), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(add(fixture, "\xff\xfe", MQ_LAYER_LINEAR, F32(values, 2, 2)),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(add(fixture, "fc", MQ_LAYER_LINEAR, F32(values, 2, 2)), MQ_ERR_ALREADY_EXISTS);
    CHECK_SAYS("fc");
    CHECK_STATUS(add(fixture, "fc", MQ_LAYER_GENERIC, NULL), MQ_ERR_ALREADY_EXISTS);

    CHECK_STATUS(mq_model_add_quantizer(fixture->model, NULL, NULL, &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "", NULL, &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "\xff", NULL, &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "q", "\xff", &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "kv.k_bmm_quantizer", NULL, &quantizer),
                 MQ_ERR_ALREADY_EXISTS);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "fc.input_quantizer", NULL, &quantizer),
                 MQ_ERR_ALREADY_EXISTS);
    CHECK(quantizer == NULL);

    /* the other way round: a layer whose quantizer's name is taken */
    CHECK_STATUS(
        mq_model_add_quantizer(fixture->model, "late.weight_quantizer", "nn.Linear", &quantizer),
        MQ_OK);
    CHECK(quantizer != NULL);
    CHECK_STATUS(add(fixture, "late", MQ_LAYER_LINEAR, F32(values, 2, 2)), MQ_ERR_ALREADY_EXISTS);
    CHECK(!has_quantizer(fixture, "late", ".input_quantizer")); /* not half registered */
}

static void strings_and_groups_are_copied(struct fixture *fixture) {
    char name[] = "copied", group[] = "qkv", class_name[] = "my.Linear";
    int64_t shape[] = {2, 2};
    mq_tensor weight = *F32(values, 2, 2), bias = *BF16(values, 2);
    weight.shape = shape;
    mq_layer_desc desc = desc_of(name, MQ_LAYER_LINEAR, &weight);
    desc.class_name = class_name;
    desc.fused_group = group;
    desc.shared_input_group = group;
    desc.bias = &bias;
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, NULL), MQ_OK);
    memset(name, 'x', sizeof name - 1);
    memset(class_name, 'x', sizeof class_name - 1);
    memset(&weight, 0, sizeof weight);
    memset(shape, 0, sizeof shape);
    mq_layer *layer = NULL;
    float out[4];
    CHECK_STATUS(mq_model_find_layer(fixture->model, "copied", &layer), MQ_OK);
    CHECK_STATUS(mq_layer_weight(layer, F32(out, 2, 2)), MQ_OK);
    CHECK_FLOATS(out, values, 4);
}

static void optional_fields_are_checked(struct fixture *fixture) {
    mq_layer_desc desc = desc_of("optional", MQ_LAYER_LINEAR, F32(values, 2, 2));
    desc.class_name = "\xff";
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.class_name = NULL;
    desc.fused_group = "\xff";
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.fused_group = NULL;
    desc.shared_input_group = "\xff";
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    desc.shared_input_group = NULL;
    desc.bias = F32(values, 2, 1);
    CHECK_STATUS(mq_model_add_layer(fixture->model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(!has_quantizer(fixture, "optional", ".input_quantizer"));
}

static void nothing_is_found_where_nothing_is(struct fixture *fixture) {
    mq_layer *layer = NULL;
    mq_quantizer *quantizer = NULL;
    CHECK_STATUS(mq_model_find_layer(fixture->model, "nobody", &layer), MQ_ERR_NOT_FOUND);
    CHECK_SAYS("nobody");
    CHECK_STATUS(mq_model_find_layer(fixture->model, "", &layer), MQ_ERR_NOT_FOUND);
    CHECK_STATUS(mq_model_find_layer(fixture->model, "f*", &layer),
                 MQ_ERR_NOT_FOUND); /* a name, no wildcard */
    CHECK_STATUS(mq_model_find_quantizer(fixture->model, "fc", &quantizer), MQ_ERR_NOT_FOUND);
    CHECK_STATUS(mq_model_find_quantizer(fixture->model, "fc.weight_quantizer.0", &quantizer),
                 MQ_ERR_NOT_FOUND);
    CHECK(layer == NULL && quantizer == NULL);
}

static void null_arguments_are_refused(struct fixture *fixture) {
    mq_layer_desc desc = desc_of("null", MQ_LAYER_LINEAR, F32(values, 2, 2));
    mq_model *model = NULL;
    mq_layer *layer = NULL;
    mq_quantizer *quantizer = NULL;
    size_t count = 99;
    CHECK_STATUS(mq_model_create(NULL, &model), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_create(fixture->context, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(model == NULL);
    CHECK_STATUS(mq_model_add_layer(NULL, &desc, &layer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_layer(fixture->model, NULL, &layer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_add_quantizer(NULL, "q", NULL, &quantizer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_layer(NULL, "fc", &layer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_layer(fixture->model, NULL, &layer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_layer(fixture->model, "fc", NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_quantizer(NULL, "fc.input_quantizer", &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_quantizer(fixture->model, NULL, &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_find_quantizer(fixture->model, "fc.input_quantizer", NULL),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_quantizer_count(NULL, &count), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_quantizer_count(fixture->model, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_quantizer_at(NULL, 0, &quantizer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_quantizer_at(fixture->model, 0, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(layer == NULL && quantizer == NULL && count == 99);
    CHECK_STATUS(mq_model_add_quantizer(fixture->model, "without.handle_quantizer", NULL, NULL),
                 MQ_OK);
}

static void quantizers_are_counted_in_order(void) {
    static const char *const names[] = {"fc.input_quantizer", "fc.output_quantizer",
                                        "fc.weight_quantizer"};
    struct fixture fixture;
    fixture_init(&fixture);
    size_t count = 0, seen = 0;
    mq_quantizer *quantizer = NULL;
    char name[64];
    CHECK_STATUS(mq_model_quantizer_count(fixture.model, &count), MQ_OK);
    CHECK(count == 4);
    for (size_t i = 0; i < count; i++) {
        CHECK_STATUS(mq_model_quantizer_at(fixture.model, i, &quantizer), MQ_OK);
        CHECK_STATUS(mq_quantizer_name(quantizer, name, sizeof name, NULL), MQ_OK);
        CHECK(find_quantizer(fixture.model, name) == quantizer);
        for (size_t k = 0; i < 3 && k < 3; k++) {
            seen += strcmp(name, names[k]) == 0;
        }
    }
    CHECK(seen == 3);
    CHECK(quantizer == fixture.own &&
          strcmp(name, "kv.k_bmm_quantizer") == 0); /* registered last */
    quantizer = NULL;
    CHECK_STATUS(mq_model_quantizer_at(fixture.model, count, &quantizer), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_model_quantizer_at(fixture.model, SIZE_MAX, &quantizer),
                 MQ_ERR_INVALID_ARGUMENT);
    CHECK(quantizer == NULL);

    /* members of a sequential quantizer count one each */
    CHECK_STATUS(
        fixture_quantize(&fixture, json(WEIGHT_ONLY("[" INT4_BLOCK4 ", {'num_bits': [4, 3]}]"))),
        MQ_OK);
    CHECK_STATUS(mq_model_quantizer_count(fixture.model, &count), MQ_OK);
    seen = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK_STATUS(mq_model_quantizer_at(fixture.model, i, &quantizer), MQ_OK);
        CHECK_STATUS(mq_quantizer_name(quantizer, name, sizeof name, NULL), MQ_OK);
        seen += strcmp(name, "fc.weight_quantizer.0") == 0 ||
                strcmp(name, "fc.weight_quantizer.1") == 0;
    }
    CHECK(seen == 2);
    fixture_free(&fixture);
}

static void an_empty_model_is_one(void) {
    struct fixture fixture;
    fixture_init(&fixture);
    mq_model *empty = NULL;
    size_t count = 99, length = 0;
    CHECK_STATUS(mq_model_create(fixture.context, &empty), MQ_OK);
    CHECK_STATUS(mq_model_quantizer_count(empty, &count), MQ_OK);
    CHECK(count == 0);
    CHECK_STATUS(mq_quantize(empty, INT8, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(mq_print_quant_summary(empty, MQ_SUMMARY_TEXT, NULL, 0, &length), MQ_OK);
    CHECK_STATUS(mq_print_quant_summary(empty, MQ_SUMMARY_JSON, NULL, 0, &length), MQ_OK);
    CHECK_STATUS(mq_model_destroy(empty), MQ_OK);
    fixture_free(&fixture);
}

static void registration_ends_with_quantize(void) {
    struct fixture fixture;
    fixture_init_quantized(&fixture, INT8);
    mq_quantizer *quantizer = NULL;
    CHECK_STATUS(add(&fixture, "late", MQ_LAYER_LINEAR, F32(values, 2, 2)), MQ_ERR_STATE);
    CHECK_STATUS(mq_model_add_quantizer(fixture.model, "late_quantizer", NULL, &quantizer),
                 MQ_ERR_STATE);
    CHECK(quantizer == NULL);
    fixture_free(&fixture);
}

void test_model(void) {
    struct fixture fixture;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        values[i] = (float)i - 31.5f;
    }
    desc_init_stays_within_the_size();
    fixture_init(&fixture);
    desc_of_an_older_or_newer_header(&fixture);
    every_kind_has_its_rank_and_its_quantizers(&fixture);
    names_are_checked(&fixture);
    strings_and_groups_are_copied(&fixture);
    optional_fields_are_checked(&fixture);
    nothing_is_found_where_nothing_is(&fixture);
    null_arguments_are_refused(&fixture);
    fixture_free(&fixture);
    quantizers_are_counted_in_order();
    an_empty_model_is_one();
    registration_ends_with_quantize();
}
