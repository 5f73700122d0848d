// How well the model predicts a text.
#pragma once

#include "linear.hpp"
#include "llama.hpp"
#include "sequences.hpp"

#include <cstddef>
#include <cstdint>

namespace tiny_llama {

/// Mean of -ln p(next token) over positions 0 .. length - 2 of one sequence.
/// `logits` is [length, vocabulary].
double mean_nats(const float *logits, const std::uint8_t *tokens, std::size_t length,
                 std::size_t vocabulary);

/// exp of the mean of -ln p over all predictions in all sequences.
double perplexity(Llama &model, const Sequences &text, LinearHooks &hooks);

} // namespace tiny_llama
