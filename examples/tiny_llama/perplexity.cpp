// Averages of cross-entropy over predictions.
#include "perplexity.hpp"

#include "cross_entropy.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {
namespace {

// Sequences per forward pass: their activations take about 4 MB each.
constexpr std::size_t kBatch = 32;

} // namespace

double mean_nats(const float *logits, const std::uint8_t *tokens, std::size_t length,
                 std::size_t vocabulary) {
    double nats = 0;
    for (std::size_t position = 0; position + 1 < length; ++position) {
        nats += cross_entropy(logits + position * vocabulary, vocabulary, tokens[position + 1]);
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
