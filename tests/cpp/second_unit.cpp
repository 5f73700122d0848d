// The header in a second translation unit of the same program, and twice in it.
#include "mq.hpp"

#include "check.hpp"

void test_second_unit(const mq::Context &from_first_unit) {
    float weight[4] = {1.0f, 2.0f, 3.0f, 4.0f}, x[2] = {0.5f, -6.0f};
    mq::Model model(from_first_unit);
    const mq::Layer layer = model.add_layer("fc", mq::tensor(weight, {2, 2}));
    model.quantize("INT8_DEFAULT_CFG", [&] { layer.input(mq::tensor(x, {1, 2})); });
    CHECK(model.find_quantizer("fc.input_quantizer").amax().values.at(0) == 6.0f);
}
