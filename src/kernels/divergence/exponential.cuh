// exp and log in float64, of our own: the same bits everywhere, and no library of a compiler's in between.
#pragma once

#include "../cuda/mq.cuh"

// ln 2 in two parts, the first of which has zeros at its end: a product with an exponent is exact.
constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;

// 2^k for a k of normal numbers.
__device__ __forceinline__ double double_power_of_two(int k) {
  return __longlong_as_double((long long)((u64)(1023 + k) << 52));
}

// exp(x) of numbers up to 700, within 2^-51 of it; 0 where the result would be below the normal numbers.
__device__ __forceinline__ double exponential(double x) {
  if (x != x) return x;
  if (x < -708.0) return 0.0;
  // To the nearest whole number: what is lost behind the point of so large a sum is gone.
  constexpr double kWhole = 6755399441055744.0;
  double k = __dsub_rn(__dadd_rn(__dmul_rn(x, 1.44269504088896338700), kWhole), kWhole);
  double r = __dsub_rn(__dsub_rn(x, __dmul_rn(k, kLn2High)), __dmul_rn(k, kLn2Low));
  // The series; |r| <= 0.35, so that r^14 / 14! is below 2^-57.
  constexpr double kFactors[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                 1.0 / 40320.0,      1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,     1.0 / 24.0,
                                 1.0 / 6.0,          0.5,               1.0,              1.0};
  double sum = kFactors[0];
#pragma unroll
  for (int i = 1; i < 14; ++i) sum = __dadd_rn(__dmul_rn(sum, r), kFactors[i]);
  return __dmul_rn(sum, double_power_of_two((int)k));
}

// log(x) of a positive normal number, within 2^-50 of it or of 1; NaN stays.
__device__ __forceinline__ double logarithm(double x) {
  if (x != x) return x;
  u64 bits = (u64)__double_as_longlong(x);
  int exponent = (int)(bits >> 52) - 1023;
  double m = __longlong_as_double((long long)((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull));
  // Between √½ and √2.
  if (m > 1.41421356237309514547) {
    m = __dmul_rn(m, 0.5);
    ++exponent;
  }
  // log m = 2 artanh f; |f| <= 0.172, so that f^23 / 23 is below 2^-62.
  double f = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0)), square = __dmul_rn(f, f), sum = 1.0 / 21.0;
#pragma unroll
  for (int i = 19; i >= 1; i -= 2) sum = __dadd_rn(__dmul_rn(sum, square), 1.0 / (double)i);
  double of_m = __dmul_rn(__dmul_rn(2.0, f), sum), k = (double)exponent;
  return __dadd_rn(__dmul_rn(k, kLn2High), __dadd_rn(of_m, __dmul_rn(k, kLn2Low)));
}
