// The quick path: weights to INT4 in five lines, without data, packed to about an eighth of their
// size.
//
//   c++ -std=c++17 weight_only.cpp $(pkg-config --cflags --libs mq) -o weight_only && ./weight_only
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include <mq.hpp>

int main() try {
    const int64_t rows = 64, columns = 256;
    std::vector<float> weight(rows * columns); // the engine's
    std::mt19937 random(1);
    for (float &value : weight)
        value = std::normal_distribution<float>(0, 0.05f)(random);
    const std::vector<float> original = weight;

    mq::Context context;
    mq::Model model(context);
    mq::Layer fc = model.add_layer("fc", mq::tensor(weight.data(), {rows, columns}));
    model.quantize("INT4_BLOCKWISE_WEIGHT_ONLY_CFG");
    model.compress(); // or fold_weight(), which writes the quantized values over `weight`

    // For a kernel of the engine's: two codes to a byte, one scale for each block. Or unpacked:
    const mq_tensor codes = fc.packed("weight"), scales = fc.packed("scale");
    fc.weight(mq::tensor(weight.data(), {rows, columns}));

    double error = 0, energy = 0;
    for (size_t i = 0; i < weight.size(); ++i) {
        error += std::pow(weight[i] - original[i], 2);
        energy += std::pow(original[i], 2);
    }
    const long bytes = static_cast<long>(codes.shape[0] * codes.shape[1] + 4 * scales.shape[0]);
    std::printf("INT4: %ld bytes instead of %zu, relative error of the weight %.4f\n", bytes,
                sizeof(float) * weight.size(), std::sqrt(error / energy));
    return std::sqrt(error / energy) < 0.15 ? 0 : 1;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
