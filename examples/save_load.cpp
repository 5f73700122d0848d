// Saves what a calibration has found, and loads it in another run: no data and no calibration
// there.
//
// The weights are folded, so the engine saves them as it saves any weight. What is left are the
// input quantizers: an amax each, and what SmoothQuant multiplies the input with.
//
//   c++ -std=c++17 save_load.cpp $(pkg-config --cflags --libs mq) -o save_load && ./save_load
#include <cstdio>
#include <exception>
#include <fstream>
#include <ios>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <mq.hpp>

namespace {

constexpr int64_t TOKENS = 32, WIDTH = 64;

// The formats, without an algorithm: quantize() then calibrates nothing.
constexpr const char *FORMATS = R"({"quant_cfg": [
    {"quantizer_name": "*", "enable": false},
    {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
    {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8}}]})";

// An engine with two layers, and mq's model of it.
struct Engine {
    std::vector<float> up, down;
    mq::Context context;
    mq::Model model{context};
    mq::Layer up_layer, down_layer;

    Engine(std::vector<float> up_weight, std::vector<float> down_weight)
        : up(std::move(up_weight)), down(std::move(down_weight)) {
        up_layer = model.add_layer("up", mq::tensor(up.data(), {WIDTH, WIDTH}));
        down_layer = model.add_layer("down", mq::tensor(down.data(), {WIDTH, WIDTH}));
    }

    std::vector<float> run(std::vector<float> x) const {
        return linear(linear(x, up_layer, up), down_layer, down);
    }

  private:
    static std::vector<float> linear(std::vector<float> x, const mq::Layer &layer,
                                     const std::vector<float> &weight) {
        layer.input(mq::tensor(x.data(), {TOKENS, WIDTH}), mq::tensor(x.data(), {TOKENS, WIDTH}));
        std::vector<float> y(x.size());
        for (int64_t t = 0; t < TOKENS; ++t)
            for (int64_t o = 0; o < WIDTH; ++o)
                for (int64_t i = 0; i < WIDTH; ++i)
                    y[t * WIDTH + o] += x[t * WIDTH + i] * weight[o * WIDTH + i];
        return y;
    }
};

void write(std::ostream &file, const std::vector<float> &values) {
    file << ' ' << values.size();
    for (float value : values)
        file << ' ' << static_cast<double>(value);
}

std::vector<float> read(std::istream &file) {
    size_t count = 0;
    file >> count;
    std::vector<float> values(count);
    for (float &value : values)
        file >> value;
    return values;
}

// One line for each input quantizer: its name, its amax, its pre_quant_scale.
void save(const mq::Model &model, const std::string &path) {
    std::ofstream file(path);
    file.precision(9); // enough for every float32
    for (const mq::Quantizer &quantizer : model.quantizers()) {
        if (!quantizer.is_enabled())
            continue;
        file << quantizer.name();
        write(file, quantizer.amax().values);
        write(file, quantizer.pre_quant_scale());
        file << '\n';
    }
    if (!file.flush())
        throw std::runtime_error("cannot write " + path);
}

void load(mq::Model &model, const std::string &path) {
    std::ifstream file(path);
    std::string name;
    size_t loaded = 0;
    for (; file >> name; ++loaded) {
        const std::vector<float> amax = read(file), factors = read(file);
        if (!file || amax.size() != 1)
            throw std::runtime_error(path + ": expected one amax for " + name);
        const mq::Quantizer quantizer = model.find_quantizer(name);
        if (!factors.empty()) // before the amax, which is that of what it gives
            quantizer.set_pre_quant_scale(mq::tensor(factors.data(), {factors.size()}));
        quantizer.set_amax(amax[0]);
    }
    if (loaded == 0)
        throw std::runtime_error("nothing to load in " + path);
}

} // namespace

int main(int argc, char **argv) try {
    const std::string path = argc > 1 ? argv[1] : "scales.txt";
    std::mt19937 random(1);
    const auto noise = [&](size_t count) {
        std::vector<float> values(count);
        for (float &value : values)
            value = std::normal_distribution<float>(0, 0.1f)(random);
        return values;
    };
    const std::vector<float> x = noise(TOKENS * WIDTH);

    Engine calibrated(noise(WIDTH * WIDTH), noise(WIDTH * WIDTH));
    calibrated.model.quantize(FORMATS);
    calibrated.model.calibrate("smoothquant", [&] { calibrated.run(x); });
    calibrated.model.fold_weight();
    save(calibrated.model, path);
    const std::vector<float> wanted = calibrated.run(x);

    Engine loaded(calibrated.up, calibrated.down); // the folded weights, from the engine's own file
    loaded.model.quantize(FORMATS);
    loaded.model.disable_quantizer("*weight_quantizer");
    load(loaded.model, path);
    const bool is_equal = loaded.run(x) == wanted;
    std::printf("loaded: the output is %s\n", is_equal ? "the same, bit for bit" : "another one");
    return is_equal ? 0 : 1;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
