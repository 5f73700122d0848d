// Atomic functions of CUDA. They are atomic here too: blocks may run on several OS threads.
#pragma once

#include <cstring>

#include "thread_state.h"

namespace cuda_on_cpu {

template <class Bits, class T, class Change> T atomically(T *address, Change change) {
    static_assert(sizeof(Bits) == sizeof(T), "the bits of the value");
    Bits *bits = reinterpret_cast<Bits *>(address);
    Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED), after;
    T value, changed;
    do {
        std::memcpy(&value, &before, sizeof value);
        changed = change(value);
        std::memcpy(&after, &changed, sizeof after);
    } while (!__atomic_compare_exchange_n(bits, &before, after, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return value;
}

template <class T> void check_atomic(const T *address) {
    if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
        fault_misaligned(address, sizeof(T));
    }
}

} // namespace cuda_on_cpu

#define MQ_ATOMIC(name, T, Bits, expression)                                                       \
    inline T name(T *address, T operand) {                                                         \
        cuda_on_cpu::check_atomic(address);                                                        \
        return cuda_on_cpu::atomically<Bits>(address,                                              \
                                             [operand](T old) -> T { return expression; });        \
    }
#define MQ_INTEGER_ATOMICS(T, Bits)                                                                \
    MQ_ATOMIC(atomicAdd, T, Bits,                                                                  \
              static_cast<T>(static_cast<Bits>(old) + static_cast<Bits>(operand)))                 \
    MQ_ATOMIC(atomicMax, T, Bits, old > operand ? old : operand)                                   \
    MQ_ATOMIC(atomicMin, T, Bits, old < operand ? old : operand)                                   \
    MQ_ATOMIC(atomicOr, T, Bits, old | operand)                                                    \
    MQ_ATOMIC(atomicAnd, T, Bits, old &operand)                                                    \
    MQ_ATOMIC(atomicXor, T, Bits, old ^ operand)                                                   \
    inline T atomicExch(T *address, T operand) {                                                   \
        cuda_on_cpu::check_atomic(address);                                                        \
        return __atomic_exchange_n(address, operand, __ATOMIC_RELAXED);                            \
    }                                                                                              \
    inline T atomicCAS(T *address, T expected, T operand) {                                        \
        cuda_on_cpu::check_atomic(address);                                                        \
        __atomic_compare_exchange_n(address, &expected, operand, false, __ATOMIC_RELAXED,          \
                                    __ATOMIC_RELAXED);                                             \
        return expected;                                                                           \
    }
MQ_INTEGER_ATOMICS(int, unsigned)
MQ_INTEGER_ATOMICS(unsigned, unsigned)
MQ_INTEGER_ATOMICS(unsigned long long, unsigned long long)
#undef MQ_INTEGER_ATOMICS

MQ_ATOMIC(atomicAdd, float, unsigned, old + operand)
MQ_ATOMIC(atomicAdd, double, unsigned long long, old + operand)
MQ_ATOMIC(atomicExch, float, unsigned, ((void)old, operand))
#undef MQ_ATOMIC

inline int atomicSub(int *address, int operand) {
    return atomicAdd(address, static_cast<int>(0u - static_cast<unsigned>(operand)));
}
inline unsigned atomicSub(unsigned *address, unsigned operand) {
    return atomicAdd(address, 0u - operand);
}
