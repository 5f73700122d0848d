// Quantizes a linear layer to INT8, prints what calibration found, and folds the weight.
//
//   c++ -std=c++17 one_layer.cpp $(pkg-config --cflags --libs mq) -o one_layer && ./one_layer
#include <cstdio>
#include <vector>

#include <mq.hpp>

int main() try {
    std::vector<float> weight = {1, -2, 3, -4, 0.5, 0.25, 0, 0}; // [2, 4]: two outputs, four inputs
    std::vector<float> batch = {-2, 1.5, 0, 0, 0.5, 1, 0, 0};    // [2, 4]: two tokens
    const mq::TensorRef x = mq::tensor(batch.data(), {2, 4});    // a view: nothing is copied

    mq::Context context;
    mq::Model model(context);
    mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {2, 4}));

    // The forward pass over the calibration set: what goes into a layer goes through its tap.
    model.quantize("INT8_DEFAULT_CFG", [&] { fc.input(x); });

    fc.input(x, x); // from now on it quantizes; here in place
    const mq::Amax amax = model.find_quantizer("fc.input_quantizer").amax();
    std::printf("amax %g, 1.5 became %g\n", amax.values[0], batch[1]);

    model.fold_weight(); // the weight holds its quantized values
    std::printf("0.25 became %g\n", weight[5]);
} catch (const mq::Error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
