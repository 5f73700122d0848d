// What CUDA threads do together: barriers, shuffles and votes. The scheduler completes an operation
// when everyone who must take part has come, and does the exchange itself.
#pragma once

#include <cstring>

#include "thread_state.h"

namespace cuda_on_cpu {

enum class Together { Barrier, BarrierOr, BarrierAnd, BarrierCount, Sync, Shuffle, Ballot };

/// Waits for the other threads of the block; the line tells barriers apart that must not be mixed.
int wait_for_block(Together kind, int predicate, int line);
/// Waits for the lanes of the mask, and returns what the operation gives this lane.
uint64_t wait_for_lanes(Together kind, unsigned mask, uint64_t value, int source, int line);
int current_lane();
unsigned living_lanes();

/// The lane itself is the source when there is nobody on the other side, as the hardware has it.
template <class T> T shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = wait_for_lanes(Together::Shuffle, mask, bits, source, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace cuda_on_cpu

// The default arguments give the line of the kernel's source that the call stands on.
inline void __syncthreads(int line = __builtin_LINE()) {
    cuda_on_cpu::wait_for_block(cuda_on_cpu::Together::Barrier, 0, line);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
    return cuda_on_cpu::wait_for_block(cuda_on_cpu::Together::BarrierOr, predicate, line);
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
    return cuda_on_cpu::wait_for_block(cuda_on_cpu::Together::BarrierAnd, predicate, line);
}
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
    return cuda_on_cpu::wait_for_block(cuda_on_cpu::Together::BarrierCount, predicate, line);
}

// Lanes may come to a __syncwarp from different lines; to a shuffle or a vote they may not.
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    cuda_on_cpu::wait_for_lanes(cuda_on_cpu::Together::Sync, mask, 0, 0, 0);
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     int line = __builtin_LINE()) {
    int lane = cuda_on_cpu::current_lane();
    return cuda_on_cpu::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int flips, int width = 32,
                         int line = __builtin_LINE()) {
    int lane = cuda_on_cpu::current_lane(), source = lane ^ flips;
    bool is_there = source <= (lane | (width - 1));
    return cuda_on_cpu::shuffle(mask, value, is_there ? source & 31 : lane, line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          int line = __builtin_LINE()) {
    int lane = cuda_on_cpu::current_lane(), source = lane + static_cast<int>(delta);
    bool is_there = source <= (lane | (width - 1));
    return cuda_on_cpu::shuffle(mask, value, is_there ? source : lane, line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        int line = __builtin_LINE()) {
    int lane = cuda_on_cpu::current_lane(), source = lane - static_cast<int>(delta);
    bool is_there = source >= (lane & ~(width - 1));
    return cuda_on_cpu::shuffle(mask, value, is_there ? source : lane, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return static_cast<unsigned>(
        cuda_on_cpu::wait_for_lanes(cuda_on_cpu::Together::Ballot, mask, predicate != 0, 0, line));
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate == 0, line) == 0;
}
// Which lanes run in step is the hardware's choice; here, all that have not returned.
inline unsigned __activemask() { return cuda_on_cpu::living_lanes(); }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
