// Arithmetic of CUDA that C++ has not, or has with other corner cases. Built without contraction
// and fast-math, so that a product and a sum are two roundings, as with nvcc -fmad=false.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <math.h>

namespace cuda_on_cpu {

template <class To, class From> To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// The C library may give either zero; the GPU takes +0 as the larger one. A NaN loses against a
// number.
template <class T> T smaller(T a, T b) {
    if (a != a || b != b) {
        return a != a ? b : a;
    }
    return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T> T larger(T a, T b) {
    if (a != a || b != b) {
        return a != a ? b : a;
    }
    return a > b || (a == b && !std::signbit(a)) ? a : b;
}

} // namespace cuda_on_cpu

inline float mq_fminf(float a, float b) { return cuda_on_cpu::smaller(a, b); }
inline float mq_fmaxf(float a, float b) { return cuda_on_cpu::larger(a, b); }
inline double mq_fmin(double a, double b) { return cuda_on_cpu::smaller(a, b); }
inline double mq_fmax(double a, double b) { return cuda_on_cpu::larger(a, b); }
#undef fminf
#undef fmaxf
#undef fmin
#undef fmax
#define fminf mq_fminf
#define fmaxf mq_fmaxf
#define fmin mq_fmin
#define fmax mq_fmax

#define MQ_MIN_MAX(T)                                                                              \
    inline T min(T a, T b) { return a < b ? a : b; }                                               \
    inline T max(T a, T b) { return a > b ? a : b; }
MQ_MIN_MAX(int)
MQ_MIN_MAX(unsigned)
MQ_MIN_MAX(long)
MQ_MIN_MAX(unsigned long)
MQ_MIN_MAX(long long)
MQ_MIN_MAX(unsigned long long)
#undef MQ_MIN_MAX
inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
inline float min(float a, float b) { return mq_fminf(a, b); }
inline float max(float a, float b) { return mq_fmaxf(a, b); }
inline double min(double a, double b) { return mq_fmin(a, b); }
inline double max(double a, double b) { return mq_fmax(a, b); }

inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bit_cast<float>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::bit_cast<int>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bit_cast<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(__double_as_longlong(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(__double_as_longlong(x)); }

// What a GPU's arithmetic makes of every NaN, whatever its sign and payload were.
inline float mq_gpu_result(float x) { return x == x ? x : __uint_as_float(0x7fffffffu); }

inline float __fadd_rn(float a, float b) { return mq_gpu_result(a + b); }
inline float __fsub_rn(float a, float b) { return mq_gpu_result(a - b); }
inline float __fmul_rn(float a, float b) { return mq_gpu_result(a * b); }
inline float __fdiv_rn(float a, float b) { return mq_gpu_result(a / b); }
inline float __frcp_rn(float a) { return mq_gpu_result(1.0f / a); }
inline float __fsqrt_rn(float a) { return mq_gpu_result(sqrtf(a)); }
inline float __fmaf_rn(float a, float b, float c) { return mq_gpu_result(fmaf(a, b, c)); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
// As the hardware converts: out of range saturates, NaN becomes 0.
inline int __float2int_rn(float x) {
    if (x != x) {
        return 0;
    }
    return x >= 2147483648.0f   ? INT32_MAX
           : x < -2147483648.0f ? INT32_MIN
                                : static_cast<int>(rintf(x));
}

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) {
        reversed |= (x >> bit & 1u) << (31 - bit);
    }
    return reversed;
}

template <class T> inline T __ldg(const T *address) { return *address; }
