// The products every linear layer is made of: y = x * W^T in float32, and back, g * W.
#pragma once

#include "simd.hpp"
#include "thread_pool.hpp"

#include <cstddef>
#include <vector>

namespace tiny_llama {

class Matmul {
  public:
    explicit Matmul(ThreadPool &pool) : pool_(pool) {}

    /// y[m, n] = x[m, k] * w[n, k]^T, all row-major without gaps; y overlaps neither x nor w.
    /// k is not 0. The bits of y do not depend on the number of threads.
    void operator()(const float *x, const float *w, float *y, std::size_t m, std::size_t n,
                    std::size_t k);

    /// y[m, n] = x[m, k] * w[k, n], or y plus that with `add`; otherwise as above.
    void untransposed(const float *x, const float *w, float *y, std::size_t m, std::size_t n,
                      std::size_t k, bool add);

    /// What a packed W is made of: two vectors of outputs at one position of k.
    struct alignas(kVectorBytes) PanelRow {
        float values[2 * kLanes];
    };

  private:
    template <typename Pack> void pack(std::size_t n, std::size_t k, const Pack &pack_one);
    void multiply(const float *x, float *y, std::size_t m, std::size_t n, std::size_t k, bool add);

    ThreadPool &pool_;
    std::vector<PanelRow> packed_w_; // kept from call to call, so that it is allocated once
};

} // namespace tiny_llama
