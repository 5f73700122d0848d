/* A search over a convolution with stride, padding and dilation, computed here the long way. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net.h"
#include "tests.h"

enum { IMAGES = 2, CHANNELS = 4, SIDE = 7, KERNELS = 6, K = 3, GROUPS = 2, PLACES = 4 };

struct conv {
    mq_context *context;
    mq_model *model;
    mq_layer *layer;
    float x[IMAGES * CHANNELS * SIDE * SIDE], weight[KERNELS * CHANNELS / GROUPS * K * K];
    float g[IMAGES * KERNELS * PLACES * PLACES];
    const mq_tensor *gradient;
};
#define CONV_X(data) F32(data, IMAGES, CHANNELS, SIDE, SIDE)
#define CONV_WEIGHT(data) F32(data, KERNELS, CHANNELS / GROUPS, K, K)
#define CONV_Y(data) F32(data, IMAGES, KERNELS, PLACES, PLACES)

/* Stride 2 and 1; padding 2 and 0; dilation 2 and 1: from 7 places, 4 and 5. */
enum { STRIDE = 2, PADDING = 2, DILATION = 2 };

static double output_at(const float *x, const float *weight, int image, int kernel, int row,
                        int column) {
    double sum = 0.0;
    for (int c = 0; c < CHANNELS / GROUPS; c++) {
        for (int i = 0; i < K * K; i++) {
            int channel = kernel / (KERNELS / GROUPS) * (CHANNELS / GROUPS) + c;
            int y = row * STRIDE + i / K * DILATION - PADDING;
            int z = column * STRIDE + i % K * DILATION - PADDING;
            if (y >= 0 && y < SIDE && z >= 0 && z < SIDE) {
                sum += (double)x[((image * CHANNELS + channel) * SIDE + y) * SIDE + z] *
                       (double)weight[(kernel * CHANNELS / GROUPS + c) * K * K + i];
            }
        }
    }
    return sum;
}

static int32_t conv_forward(void *user_data, uint64_t step) {
    struct conv *conv = user_data;
    (void)step;
    return mq_layer_input(conv->layer, CONV_X(conv->x), NULL) != MQ_OK;
}

static int32_t conv_both(void *user_data, uint64_t step, double *loss) {
    struct conv *conv = user_data;
    *loss = 0.0;
    return conv_forward(user_data, step) || mq_layer_grad(conv->layer, conv->gradient) != MQ_OK;
}

static int32_t conv_calibrate(void *user_data) { return conv_forward(user_data, 0); }

static void conv_init(struct conv *conv) {
    mq_layer_desc desc;
    for (size_t i = 0; i < sizeof conv->x / sizeof *conv->x; i++) {
        conv->x[i] = (float)sin((double)i * 1.7);
    }
    for (size_t i = 0; i < sizeof conv->weight / sizeof *conv->weight; i++) {
        conv->weight[i] = (float)cos((double)i * 2.3);
    }
    for (size_t i = 0; i < sizeof conv->g / sizeof *conv->g; i++) {
        conv->g[i] = (float)sin((double)i * 0.37);
    }
    conv->gradient = NULL;
    CHECK_STATUS(mq_context_create(NULL, &conv->context), MQ_OK);
    CHECK_STATUS(mq_model_create(conv->context, &conv->model), MQ_OK);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_CONV2D;
    desc.name = "conv";
    desc.weight = CONV_WEIGHT(conv->weight);
    for (int i = 0; i < 3; i++) {
        desc.conv_stride[i] = STRIDE;
        desc.conv_padding[i] = PADDING;
        desc.conv_dilation[i] = DILATION;
    }
    CHECK_STATUS(mq_model_add_layer(conv->model, &desc, &conv->layer), MQ_OK);
}

static void conv_free(struct conv *conv) {
    CHECK_STATUS(mq_model_destroy(conv->model), MQ_OK);
    mq_context_destroy(conv->context);
}

static mq_status conv_search(struct conv *conv) {
    mq_auto_quantize_options options;
    mq_auto_quantize_fn host = {0};
    CHECK_STATUS(mq_auto_quantize_options_init(&options, sizeof options), MQ_OK);
    options.constraints = "{\"effective_bits\": 8}";
    options.quantization_formats = "[\"INT8_DEFAULT_CFG\"]";
    options.num_calib_steps = 1;
    options.num_score_steps = 1;
    host.user_data = conv;
    host.forward_step = conv_forward;
    host.forward_backward_step = conv_both;
    return mq_auto_quantize(conv->model, &options, &host, NULL);
}

static double expected_score(const struct conv *original) {
    struct conv conv;
    float x[IMAGES * CHANNELS * SIDE * SIDE], weight[KERNELS * CHANNELS / GROUPS * K * K];
    double score = 0.0;
    conv_init(&conv);
    mq_forward_fn forward = {&conv, conv_calibrate, NULL};
    CHECK_STATUS(mq_quantize(conv.model, INT8, &forward), MQ_OK);
    CHECK_STATUS(mq_layer_input(conv.layer, CONV_X(conv.x), CONV_X(x)), MQ_OK);
    CHECK_STATUS(mq_layer_weight(conv.layer, CONV_WEIGHT(weight)), MQ_OK);
    for (int i = 0; i < IMAGES * KERNELS * PLACES * PLACES; i++) {
        int column = i % PLACES, row = i / PLACES % PLACES;
        int kernel = i / PLACES / PLACES % KERNELS, image = i / PLACES / PLACES / KERNELS;
        double change = output_at(x, weight, image, kernel, row, column) -
                        output_at(original->x, original->weight, image, kernel, row, column);
        score += (double)original->g[i] * change * (double)original->g[i] * change;
    }
    conv_free(&conv);
    return score;
}

static void a_convolution_is_scored_where_it_stands(void) {
    struct conv conv;
    conv_init(&conv);
    conv.gradient = CONV_Y(conv.g);
    CHECK_STATUS(conv_search(&conv), MQ_OK);
    char state[8192] = "";
    CHECK_STATUS(mq_auto_quantize_state(conv.model, state, sizeof state, NULL), MQ_OK);
    double want = expected_score(&conv), got = net_stat(state, "conv", "scores", 0);
    CHECK(want > 0.0 && fabs(got - want) < 1e-4 * want);
    CHECK(net_stat(state, "conv", "costs", 0) == KERNELS * CHANNELS / GROUPS * K * K / 2);
    conv_free(&conv);
}

/* A gradient of another shape tells that stride, padding or dilation are not the layer's. */
static void a_gradient_of_another_convolution_is_refused(void) {
    float g[IMAGES * KERNELS * SIDE * SIDE] = {0.0f};
    const mq_tensor *const wrong[] = {F32(g, IMAGES, KERNELS, 5, 5),
                                      F32(g, IMAGES, KERNELS, 4, 5),
                                      F32(g, IMAGES, KERNELS, 16),
                                      F32(g, KERNELS, 4, 4),
                                      F32(g, 1, KERNELS, 4, 4),
                                      F32(g, IMAGES, KERNELS - 1, 4, 4),
                                      F32_SCALAR(g)};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct conv conv;
        conv_init(&conv);
        conv.gradient = wrong[i];
        CHECK_STATUS(conv_search(&conv), MQ_ERR_INVALID_ARGUMENT);
        CHECK_SAYS("conv");
        conv.gradient = CONV_Y(conv.g);
        CHECK_STATUS(conv_search(&conv), MQ_OK);
        conv_free(&conv);
    }
}

/* Strides that leave nothing of the image, or would overflow. */
static void extreme_convolutions_are_refused(void) {
    for (int i = 0; i < 9; i++) {
        struct conv conv;
        mq_layer_desc desc;
        float y[IMAGES * KERNELS * PLACES * PLACES] = {0.0f};
        const uint32_t values[] = {UINT32_MAX, UINT32_MAX / 2, 1000};
        conv_init(&conv);
        CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
        desc.kind = MQ_LAYER_CONV2D;
        desc.name = "extreme";
        desc.weight = CONV_WEIGHT(conv.weight);
        uint32_t *fields = i % 3 == 0   ? desc.conv_stride
                           : i % 3 == 1 ? desc.conv_padding
                                        : desc.conv_dilation;
        fields[0] = fields[1] = values[i / 3];
        /* it takes the place of the layer that the host runs */
        mq_status status = mq_model_add_layer(conv.model, &desc, &conv.layer);
        if (status == MQ_OK) {
            conv.gradient = CONV_Y(y);
            CHECK_STATUS(conv_search(&conv), MQ_ERR_INVALID_ARGUMENT);
        } else {
            CHECK_STATUS(status, MQ_ERR_INVALID_ARGUMENT);
        }
        conv_free(&conv);
    }
}

static void released(void *user_data) { ++*(int *)user_data; }
static int32_t nothing(void *user_data, const mq_tensor *x, const mq_tensor *weight,
                       const mq_tensor *y) {
    (void)user_data, (void)x, (void)weight, (void)y;
    return 0;
}

/* User data of a layer's forward is released once, whatever comes of the layer. */
static void the_forward_of_a_layer_is_released_once(void) {
    struct fixture fixture;
    int count = 0;
    float weight[4] = {0.0f};
    mq_layer_forward_fn forward = {&count, nothing, released};
    mq_layer_desc desc;
    fixture_init(&fixture);
    CHECK_STATUS(mq_layer_desc_init(&desc, sizeof desc), MQ_OK);
    desc.kind = MQ_LAYER_GENERIC;
    desc.forward = &forward;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(count == 1); /* no name */
    desc.name = "fc";
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_ALREADY_EXISTS);
    CHECK(count == 2);
    desc.name = "generic";
    desc.weight = F32(weight, 4);
    desc.reserved2 = 1;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("reserved2");
    CHECK(count == 3);
    desc.reserved2 = 0;
    CHECK_STATUS(mq_model_add_layer(NULL, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK(count == 4);
    forward.forward = NULL;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_INVALID_ARGUMENT);
    CHECK_SAYS("forward");
    CHECK(count == 5);
    forward.forward = nothing;
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    CHECK(count == 5);
    CHECK_STATUS(fixture_quantize(&fixture, INT8), MQ_OK);
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_ERR_STATE);
    CHECK(count == 6);
    fixture_free(&fixture);
    CHECK(count == 7);
}

/* A description of the first version has none of the new fields. */
static void an_older_description_still_works(void) {
    struct fixture fixture;
    mq_layer_desc desc;
    float weight[4] = {0.0f};
    fixture_init(&fixture);
    memset(&desc, 0xff, sizeof desc);
    CHECK_STATUS(mq_layer_desc_init(&desc, 96), MQ_OK);
    CHECK(desc.struct_size == 96 && desc.reserved2 == UINT32_MAX); /* not written past the end */
    desc.name = "old";
    desc.weight = F32(weight, 2, 2);
    CHECK_STATUS(mq_model_add_layer(fixture.model, &desc, NULL), MQ_OK);
    fixture_free(&fixture);
}

void test_auto_quantize_kinds(void) {
    a_convolution_is_scored_where_it_stands();
    a_gradient_of_another_convolution_is_refused();
    extreme_convolutions_are_refused();
    the_forward_of_a_layer_is_released_once();
    an_older_description_still_works();
}
