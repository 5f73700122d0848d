// New weights through the quantizers there are, and what a host without a GPU is told of streams.
#include <vector>

#include "check.hpp"

namespace {

void a_new_weight_is_quantized_with_scales_kept_or_found_anew() {
    std::vector<float> weight{1, 2, 3, 4}, fresh{2, 4, 6, 8}, out(4);
    mq::Context context;
    mq::Model model(context);
    mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {2, 2}));
    model.quantize("INT8_WEIGHT_ONLY_CFG");
    fc.requantize_into(mq::tensor(fresh.data(), {2, 2}), mq::tensor(out.data(), {2, 2}));
    CHECK(out[1] == 2 && out[3] == 4); // the old scales saturate
    fc.requantize_into(mq::tensor(fresh.data(), {2, 2}), mq::tensor(out.data(), {2, 2}),
                       MQ_SCALES_REFRESH);
    CHECK(out[1] == 4 && out[3] == 8);
    CHECK_THROWS(fc.requantize_into(mq::tensor(fresh.data(), {4}), mq::tensor(out.data(), {2, 2})),
                 MQ_ERR_INVALID_ARGUMENT);
    model.synchronize(); // nothing to wait for in host memory
}

void a_stream_needs_a_gpu() {
    mq::Context context;
    CHECK_THROWS(context.set_cuda_stream(nullptr), MQ_ERR_INVALID_ARGUMENT);
}

void cublas_is_one_of_three() {
    mq::ContextOptions options;
    for (uint32_t choice : {MQ_CUBLAS_DEFAULT, MQ_CUBLAS_NEVER, MQ_CUBLAS_IF_FOUND}) {
        options.cublas = choice;
        const mq::Context context(options); // nothing to use it for in host memory
    }
    options.cublas = 3;
    CHECK_THROWS(mq::Context{options}, MQ_ERR_INVALID_ARGUMENT);
}

} // namespace

void test_requantize() {
    a_new_weight_is_quantized_with_scales_kept_or_found_anew();
    a_stream_needs_a_gpu();
    cublas_is_one_of_three();
}
