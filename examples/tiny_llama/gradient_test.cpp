// tiny_llama_gradient [NAME=]MODEL_DIR...: checks the backward pass against differences of losses,
// on the test text of the first directory.
#include "config.hpp"
#include "error.hpp"
#include "gradients.hpp"
#include "llama.hpp"
#include "options.hpp"
#include "perplexity.hpp"
#include "sequences.hpp"
#include "thread_pool.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace tiny_llama;

constexpr std::size_t kBatch = 2;

// A step moves every element by that much of the root mean square of what a layer returns; or one
// element, but by less where it would move the loss by more than kLossStep, and never by more than
// kLongestStep, which is much for a logit. The longer the step, the less the rounding of the loss
// matters, and the more its higher derivatives do.
constexpr double kDirectionStep = 0.02;
constexpr double kElementStep = 0.1;
constexpr double kLongestStep = 0.5;
constexpr double kLossStep = 0.02;

// Relative to the norm of the gradient, which is what the derivative along a random direction is on
// average. Measured: 8e-4.
constexpr double kDirectionTolerance = 2e-3;
// Relative to the element's gradient; and how far rounding moves the loss. Measured: 2e-5.
constexpr double kElementTolerance = 1e-2;
constexpr double kLossRounding = 3e-5;

void require(bool fact, const std::string &otherwise) {
    if (!fact) {
        throw std::runtime_error(otherwise);
    }
}

double norm(const std::vector<float> &x) {
    double squares = 0;
    for (const float value : x) {
        squares += static_cast<double>(value) * value;
    }
    return std::sqrt(squares);
}

double dot(const std::vector<float> &x, const std::vector<float> &y) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        sum += static_cast<double>(x[i]) * y[i];
    }
    return sum;
}

// Keeps what every layer returned, and its gradient.
class Recorder : public LinearHooks {
  public:
    explicit Recorder(std::size_t layers) : outputs(layers), gradients(layers), next_(layers) {}

    void output(const Linear &layer, float *y, const ActivationShape &shape) override {
        outputs[layer.index].assign(y, y + shape.size());
    }

    void gradient(const Linear &layer, const float *g, const ActivationShape &shape) override {
        in_order_ = in_order_ && layer.index + 1 == next_;
        next_ = layer.index;
        gradients[layer.index].assign(g, g + shape.size());
    }

    // Whether every layer came once, the last one first.
    bool is_complete() const { return in_order_ && next_ == 0; }

    std::vector<std::vector<float>> outputs; // at Linear::index
    std::vector<std::vector<float>> gradients;

  private:
    std::size_t next_;
    bool in_order_ = true;
};

// Moves what one layer returns.
class Nudge : public LinearHooks {
  public:
    Nudge(const Linear &layer, const std::vector<float> &direction, double step)
        : layer_(layer), direction_(direction), step_(static_cast<float>(step)) {}

    void output(const Linear &layer, float *y, const ActivationShape &shape) override {
        for (std::size_t i = 0; &layer == &layer_ && i < shape.size(); ++i) {
            y[i] += step_ * direction_[i];
        }
    }

  private:
    const Linear &layer_;
    const std::vector<float> &direction_;
    float step_;
};

class Test {
  public:
    Test(const std::string &directory, const Sequences &text)
        : directory_(directory), tokens_(text[0]), model_(directory, pool_),
          layers_(model_.linears()), gradients_(model_, Reduction::sum), recorder_(layers_.size()),
          loss_(gradients_.loss_and_gradients(tokens_, kBatch, recorder_)) {}

    void run(const std::string &name) {
        require(recorder_.is_complete(), "gradients came in another order than backwards");
        check_forward();
        check_loss();
        check_reduction();
        check_repetition();
        check_threads();
        const std::size_t per_block = (layers_.size() - 1) / model_.config().layers;
        for (std::size_t i = layers_.size(); i-- > 0;) { // the first to fail is next to the fault
            // What is right in the first and last block is right between them.
            if (i < per_block || i + per_block + 1 >= layers_.size()) {
                in_context(layers_[i]->name, [&] { check_layer(*layers_[i]); });
            }
        }
        check_missing_weight();
        std::printf("gradients: %s, %zu derivatives, max diff %.2g of the tolerance\n",
                    name.c_str(), derivatives_, worst_);
    }

  private:
    // That keeping a record changes no bit of the logits.
    void check_forward() {
        LinearHooks none;
        const std::size_t size = kBatch * model_.config().context * model_.config().vocabulary;
        const float *recorded = gradients_.forward(tokens_, kBatch, none);
        const std::vector<float> logits(recorded, recorded + size);
        require(std::equal(logits.begin(), logits.end(), model_.forward(tokens_, kBatch)),
                "the recorded forward pass has other logits");
    }

    // Against what perplexity is made of, which is checked against recorded values.
    void check_loss() {
        const Config &c = model_.config();
        const float *logits = model_.forward(tokens_, kBatch);
        double nats = 0;
        for (std::size_t i = 0; i < kBatch; ++i) {
            nats += mean_nats(logits + i * c.context * c.vocabulary, tokens_ + i * c.context,
                              c.context, c.vocabulary);
        }
        require(std::abs(nats * static_cast<double>(c.context - 1) - loss_) <= 1e-9 * loss_,
                "the loss is not the sum of all nats");
    }

    void check_reduction() {
        const auto predictions = static_cast<double>(kBatch * (model_.config().context - 1));
        Gradients mean(model_, Reduction::mean);
        Recorder recorder(layers_.size());
        require(mean.loss_and_gradients(tokens_, kBatch, recorder) == loss_ / predictions,
                "the mean is not the sum over the number of predictions");
        for (std::size_t i = 0; i < layers_.size(); ++i) {
            std::vector<float> apart = recorder_.gradients[i];
            for (std::size_t k = 0; k < apart.size(); ++k) {
                apart[k] -= recorder.gradients[i][k] * static_cast<float>(predictions);
            }
            // The factor is rounded, and so is all that it is multiplied with.
            require(norm(apart) <= 1e-5 * norm(recorder_.gradients[i]),
                    layers_[i]->name + ": gradients of mean and sum do not fit");
        }
    }

    // That nothing of an earlier pass, of another batch, is left.
    void check_repetition() {
        LinearHooks none;
        gradients_.loss_and_gradients(tokens_, kBatch + 1, none);
        Recorder recorder(layers_.size());
        const double loss = gradients_.loss_and_gradients(tokens_, kBatch, recorder);
        require(loss == loss_ && recorder.gradients == recorder_.gradients,
                "the gradients depend on earlier ones");
    }

    void check_threads() {
        for (const std::size_t threads : {std::size_t(1), pool_.size() + 1}) {
            ThreadPool pool(threads);
            Llama model(directory_, pool);
            Gradients gradients(model, Reduction::sum);
            Recorder recorder(layers_.size());
            const double loss = gradients.loss_and_gradients(tokens_, kBatch, recorder);
            require(loss == loss_ && recorder.gradients == recorder_.gradients,
                    "the gradients depend on the number of threads");
        }
    }

    void check_layer(const Linear &layer) {
        const std::vector<float> &gradient = recorder_.gradients[layer.index];
        const std::vector<float> &output = recorder_.outputs[layer.index];
        const double size = norm(output) / std::sqrt(static_cast<double>(output.size()));

        std::vector<float> direction(gradient.size());
        std::mt19937 random(static_cast<std::mt19937::result_type>(layer.index));
        for (float &value : direction) {
            value = random() % 2 == 0 ? 1.0F : -1.0F;
        }
        check(layer, direction, kDirectionStep * size, kDirectionTolerance * norm(gradient));

        const std::size_t last = model_.config().context - 1;
        for (const std::size_t position : {std::size_t(0), last / 2, last - 1}) {
            in_context("position " + std::to_string(position),
                       [&] { check_element(layer, position, size); });
        }
        check_last_position(layer, direction);
    }

    // Of the largest gradient at a position of the last sequence.
    void check_element(const Linear &layer, std::size_t position, double size) {
        const std::vector<float> &gradient = recorder_.gradients[layer.index];
        const std::size_t begin = start_of(layer, position);
        const auto larger = [](float a, float b) { return std::abs(a) < std::abs(b); };
        const auto largest = std::max_element(
            gradient.begin() + static_cast<std::ptrdiff_t>(begin),
            gradient.begin() + static_cast<std::ptrdiff_t>(begin + layer.outputs()), larger);
        std::vector<float> direction(gradient.size());
        direction[static_cast<std::size_t>(largest - gradient.begin())] = 1;
        const double slope = std::abs(*largest); // 0 for the first query, which sees one key only
        const double step = std::min({kElementStep * size, kLongestStep, kLossStep / slope});
        check(layer, direction, step, kElementTolerance * slope + kLossRounding / step);
    }

    std::size_t start_of(const Linear &layer, std::size_t position) const {
        return ((kBatch - 1) * model_.config().context + position) * layer.outputs();
    }

    // Compares the loss's derivative along a direction with what the gradient says.
    void check(const Linear &layer, const std::vector<float> &direction, double step,
               double tolerance) {
        const auto difference = [&](double h) {
            return (loss(layer, direction, h) - loss(layer, direction, -h)) / (2 * h);
        };
        // Two steps cancel the third derivative.
        const double derivative = (4 * difference(step) - difference(2 * step)) / 3;
        const double expected = dot(recorder_.gradients[layer.index], direction);
        const double apart = std::abs(derivative - expected);
        require(apart <= tolerance, // false for NaN
                "the loss changes by " + std::to_string(derivative) + ", the gradient says " +
                    std::to_string(expected));
        worst_ = std::max(worst_, apart / tolerance);
        ++derivatives_;
    }

    // Nothing is predicted there, and no other position looks at it.
    void check_last_position(const Linear &layer, std::vector<float> direction) {
        const std::size_t begin = start_of(layer, model_.config().context - 1);
        std::fill(direction.begin(), direction.begin() + static_cast<std::ptrdiff_t>(begin), 0.0F);
        const std::vector<float> &gradient = recorder_.gradients[layer.index];
        require(std::all_of(gradient.begin() + static_cast<std::ptrdiff_t>(begin), gradient.end(),
                            [](float g) { return g == 0; }),
                "there is a gradient at the last position");
        require(loss(layer, direction, 1) == loss_, "the last position changes the loss");
    }

    double loss(const Linear &layer, const std::vector<float> &direction, double step) {
        Nudge nudge(layer, direction, step);
        gradients_.forward(tokens_, kBatch, nudge);
        return gradients_.loss();
    }

    // As when a quantizer has packed the weight; the model is of no use afterwards.
    void check_missing_weight() {
        LinearHooks none;
        gradients_.forward(tokens_, kBatch, none);
        layers_.front()->weight.values.clear();
        bool has_thrown = false;
        try {
            gradients_.backward(none);
        } catch (const std::runtime_error &) {
            has_thrown = true;
        }
        require(has_thrown, "a layer without a float weight had a gradient");
    }

    std::string directory_;
    const std::uint8_t *tokens_;
    ThreadPool pool_;
    Llama model_;
    std::vector<Linear *> layers_;
    Gradients gradients_;
    Recorder recorder_;
    double loss_;

    std::size_t derivatives_ = 0;
    double worst_ = 0; // difference from what the gradient says, as a part of the tolerance
};

void run(const std::vector<Options::Model> &models) {
    for (const Options::Model &files : models) {
        in_context(files.name, [&] {
            const std::size_t length = read_config(files.directory + "/config.json").context;
            const Sequences text(models.front().directory + "/test.bin", length);
            Test(files.directory, text).run(files.name);
        });
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: tiny_llama_gradient [NAME=]MODEL_DIR...\n");
        return 2;
    }
    try {
        std::vector<Options::Model> models;
        for (int i = 1; i < argc; ++i) {
            models.push_back(parse_model(argv[i]));
        }
        run(models);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "gradients: %s\n", error.what());
        return 1;
    }
    return 0;
}
