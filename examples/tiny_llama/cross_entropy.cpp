// Cross-entropy of one prediction. The gradient is softmax(logits), less 1 at the target.
#include "cross_entropy.hpp"

#include <algorithm>
#include <cmath>

namespace tiny_llama {
namespace {

double log_sum_exp(const float *x, std::size_t n) {
    const double largest = *std::max_element(x, x + n);
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
        sum += std::exp(x[i] - largest);
    }
    return largest + std::log(sum);
}

} // namespace

double cross_entropy(const float *logits, std::size_t vocabulary, std::uint8_t target) {
    return log_sum_exp(logits, vocabulary) - logits[target];
}

void cross_entropy_gradient(const float *logits, std::size_t vocabulary, std::uint8_t target,
                            float scale, float *gradient) {
    const double total = log_sum_exp(logits, vocabulary);
    for (std::size_t i = 0; i < vocabulary; ++i) {
        const double probability = std::exp(logits[i] - total);
        gradient[i] = static_cast<float>(probability - (i == target ? 1 : 0)) * scale;
    }
}

} // namespace tiny_llama
