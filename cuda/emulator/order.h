// In which order threads, warps and blocks take their turns. CUDA promises none, so a correct
// kernel gives the same in all of them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace cuda_on_cpu {

struct Order {
    enum class Kind { Forward, Reverse, Shuffle } kind = Kind::Forward;
    uint64_t seed = 0;
};

/// A permutation of 0..count, drawn anew by each mix().
class Shuffle {
  public:
    void start(const Order &order, int count, uint64_t number) {
        order_ = order;
        state_ = order.seed * 0x9e3779b97f4a7c15u + number * 0xbf58476d1ce4e5b9u + 1;
        places_.resize(static_cast<size_t>(count));
        for (int i = 0; i < count; ++i) {
            places_[static_cast<size_t>(i)] =
                order.kind == Order::Kind::Reverse ? count - 1 - i : i;
        }
    }
    void mix() {
        if (order_.kind == Order::Kind::Shuffle) {
            for (size_t i = places_.size(); i > 1; --i) {
                std::swap(places_[i - 1], places_[next() % i]);
            }
        }
    }
    const std::vector<int> &places() const { return places_; }

  private:
    uint64_t next() { // splitmix64
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

    Order order_;
    uint64_t state_ = 0;
    std::vector<int> places_;
};

} // namespace cuda_on_cpu
