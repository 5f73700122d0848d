// Cross-entropy in double precision over float32 logits.
#include "perplexity.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {
namespace {

// Sequences per forward pass: their activations take about 4 MB each.
constexpr std::size_t kBatch = 32;

double log_sum_exp(const float *x, std::size_t n) {
    const double largest = *std::max_element(x, x + n);
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
        sum += std::exp(x[i] - largest);
    }
    return largest + std::log(sum);
}

} // namespace

double mean_nats(const float *logits, const std::uint8_t *tokens, std::size_t length,
                 std::size_t vocabulary) {
    double nats = 0;
    for (std::size_t position = 0; position + 1 < length; ++position) {
        const float *row = logits + position * vocabulary;
        nats += log_sum_exp(row, vocabulary) - row[tokens[position + 1]];
    }
    return nats / static_cast<double>(length - 1);
}

double perplexity(Llama &model, const Sequences &text, LinearHooks &hooks) {
    const std::size_t vocabulary = model.config().vocabulary;
    double nats = 0;
    for (std::size_t first = 0; first < text.count(); first += kBatch) {
        const std::size_t batch = std::min(kBatch, text.count() - first);
        const float *logits = model.forward(text[first], batch, hooks);
        for (std::size_t i = 0; i < batch; ++i) {
            nats += mean_nats(logits + i * text.length() * vocabulary, text[first + i],
                              text.length(), vocabulary);
        }
    }
    return std::exp(nats / static_cast<double>(text.count()));
}

} // namespace tiny_llama
