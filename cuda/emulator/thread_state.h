// What the emulator keeps for each OS thread. All of it lies in one object without a constructor,
// because everything else that is thread-local in this library is `__shared__` memory, which is
// poisoned before each block (block.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

/// As uint3 and dim3 of CUDA.
struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace mock {
struct Context;
}

namespace cuda_on_cpu {

class Block;

constexpr int kMostContexts = 64;

struct ThreadState {
    // Of the CUDA thread that runs now.
    uint3 thread_index;
    uint3 block_index;
    uint3 block_size;
    uint3 grid_size;
    unsigned char *dynamic_shared;
    /// The block that this OS thread is inside of; null while it runs code of the host.
    Block *block;
    // The stack of current contexts, and the capture mode of this thread: the driver's.
    mock::Context *contexts[kMostContexts];
    int context_depth;
    int capture_mode;
};

// Not `thread_local`: that would be reached through a wrapper which looks for a constructor.
extern __thread ThreadState thread_state;

[[noreturn]] void fault_misaligned(const void *address, size_t bytes);

} // namespace cuda_on_cpu
