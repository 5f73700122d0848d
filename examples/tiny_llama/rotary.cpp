// Rotary position embedding: channel i turns with channel i + half, by position / theta^(i / half).
#include "rotary.hpp"

#include <cmath>

namespace tiny_llama {

Rotary::Rotary(std::size_t positions, std::size_t head_size, double theta)
    : half_(head_size / 2), cos_(positions * half_), sin_(positions * half_) {
    for (std::size_t position = 0; position < positions; ++position) {
        for (std::size_t i = 0; i < half_; ++i) {
            const double exponent = static_cast<double>(i) / static_cast<double>(half_);
            const double angle = static_cast<double>(position) / std::pow(theta, exponent);
            cos_[position * half_ + i] = static_cast<float>(std::cos(angle));
            sin_[position * half_ + i] = static_cast<float>(std::sin(angle));
        }
    }
}

void Rotary::rotate(float *x, std::size_t heads, std::size_t position) const {
    turn(x, heads, position, 1);
}

void Rotary::rotate_back(float *x, std::size_t heads, std::size_t position) const {
    turn(x, heads, position, -1);
}

void Rotary::turn(float *x, std::size_t heads, std::size_t position, float direction) const {
    const float *cos = cos_.data() + position * half_;
    const float *sin = sin_.data() + position * half_;
    for (std::size_t head = 0; head < heads; ++head) {
        float *low = x + head * 2 * half_;
        float *high = low + half_;
        for (std::size_t i = 0; i < half_; ++i) {
            const float l = low[i];
            const float h = high[i];
            const float s = direction * sin[i];
            low[i] = l * cos[i] - h * s;
            high[i] = h * cos[i] + l * s;
        }
    }
}

} // namespace tiny_llama
