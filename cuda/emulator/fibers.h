// Stacks that run in turns on one OS thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_on_cpu {

extern "C" {
/// Saves where this stack is to `*saved` and goes on where `stack` was saved.
void cuda_on_cpu_switch(void **saved, void *stack);
}

/// Stacks of one size, each followed by a page that faults when it overflows.
class Stacks {
  public:
    Stacks() = default;
    ~Stacks();
    Stacks(const Stacks &) = delete;
    Stacks &operator=(const Stacks &) = delete;

    void reserve(size_t count);
    /// A stack whose first switch enters `entry`, which must not return.
    void *start(size_t index, void (*entry)());

  private:
    std::vector<unsigned char *> lowest_;
};

} // namespace cuda_on_cpu
