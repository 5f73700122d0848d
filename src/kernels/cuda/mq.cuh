// What every kernel is made of: exported functions, elements of the three storage types, 16-byte accesses.
//
// The same text is compiled by nvcc for a GPU and by a C++ compiler for tests on the CPU (MQ_EMULATOR). No header of
// the CUDA toolkit is needed.
#pragma once

#ifdef MQ_EMULATOR
#include "cuda_on_cpu.h"
#else
#define MQ_REGISTER(name)
#define MQ_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

#define MQ_KERNEL(name) extern "C" __global__ void name
// One of which a multiprocessor works on two thread blocks at once, which bounds its registers.
#define MQ_KERNEL_IN_PAIRS(name) extern "C" __global__ void __launch_bounds__(256, 2) name

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// Threads of a block, unless a kernel says otherwise.
constexpr int kThreads = 256;
constexpr u32 kWarp = 32;
constexpr u32 kAllLanes = 0xffffffffu;
constexpr u32 kInfinity = 0x7f800000u;

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float float_of(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ bool is_nan(float x) { return (bits_of(x) & 0x7fffffffu) > kInfinity; }
__device__ __forceinline__ bool is_finite(float x) { return (bits_of(x) & 0x7fffffffu) < kInfinity; }

// The storage types, as their bits. float32 is `float` itself.
struct alignas(2) Half {
  u16 bits;
};
struct alignas(2) Bfloat {
  u16 bits;
};

// As F16::to_f32 and F16::from_f32 of the CPU, but for what is left of a NaN.
__device__ __forceinline__ float load(Half x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  u32 magnitude = x.bits & 0x7fffu;
  // Exponent and mantissa at their float32 places read as x * 2^-112; the product is exact and normalizes.
  float finite = float_of(magnitude << 13) * float_of((127u + 112u) << 23);
  u32 value = magnitude >= 0x7c00u ? kInfinity | magnitude << 13 : bits_of(finite);
  return float_of(value | (u32)(x.bits & 0x8000u) << 16);
#endif
}

__device__ __forceinline__ float load(Bfloat x) { return float_of((u32)x.bits << 16); }
__device__ __forceinline__ float load(float x) { return x; }

// Rounded to nearest, ties to even.
template <class T>
__device__ __forceinline__ T store(float x);

template <>
__device__ __forceinline__ float store<float>(float x) {
  return x;
}

template <>
__device__ __forceinline__ Bfloat store<Bfloat>(float x) {
  u32 bits = bits_of(x);
  u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  // Rounding could carry a NaN into an infinity: keep its sign and make it quiet.
  return {(u16)(is_nan(x) ? bits >> 16 | 0x0040u : rounded)};
}

template <>
__device__ __forceinline__ Half store<Half>(float x) {
#if defined(__CUDA_ARCH__)
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  u32 bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  u32 normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // At 0.5 a float32 is spaced 2^-24, the subnormal spacing of binary16: the addition rounds.
  u32 subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  u32 finite = magnitude < (113u << 23) ? subnormal : normal;
  finite = magnitude >= 0x477ff000u ? 0x7c00u : finite;
  u32 nan = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  return {(u16)(sign | (magnitude > kInfinity ? nan : finite))};
#endif
}

// The magnitude of an element as float32 bits: ordered as magnitudes are, NaN above infinity.
template <class T>
__device__ __forceinline__ u32 magnitude(T x) {
  return bits_of(load(x)) & 0x7fffffffu;
}

// Elements of a type that is known at run time alone, for kernels that do much with every element they load: one
// function then serves all types.
struct Elements {
  const void* at;
  // Bits of an element; 17 stands for bfloat16.
  u32 kind;
  __device__ __forceinline__ float operator[](u64 i) const {
    if (kind == 32) return static_cast<const float*>(at)[i];
    u16 bits = static_cast<const u16*>(at)[i];
    return kind == 16 ? load(Half{bits}) : load(Bfloat{bits});
  }
  // Those from one of them on.
  __device__ __forceinline__ Elements from(u64 i) const {
    return {static_cast<const u8*>(at) + i * (kind == 32 ? 4 : 2), kind};
  }
  // A number as it is read back once it was stored.
  __device__ __forceinline__ float stored(float x) const {
    if (kind == 32) return x;
    return kind == 16 ? load(store<Half>(x)) : load(store<Bfloat>(x));
  }
};

// 16 bytes of elements.
template <class T>
struct alignas(16) Vector {
  static constexpr int kCount = 16 / sizeof(T);
  T values[kCount];
};

// `at` must be a multiple of 16 bytes.
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* at) {
#ifdef MQ_EMULATOR
  mq_check_aligned(at, 16);
#endif
  return *reinterpret_cast<const Vector<T>*>(at);
}

template <class T>
__device__ __forceinline__ void store_vector(T* at, const Vector<T>& vector) {
#ifdef MQ_EMULATOR
  mq_check_aligned(at, 16);
#endif
  *reinterpret_cast<Vector<T>*>(at) = vector;
}

// Two numbers rounded to nearest, ties to even, in one word: the first one in its lower half.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
__device__ __forceinline__ u32 store_pair(float low, float high, Bfloat) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ u32 store_pair(float low, float high, Half) {
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#else
template <class T>
__device__ __forceinline__ u32 store_pair(float low, float high, T) {
  return (u32)store<T>(high).bits << 16 | store<T>(low).bits;
}
#endif

struct alignas(16) Words {
  u32 values[4];
};

// The elements of a vector, as float32 until here.
template <class T>
__device__ __forceinline__ void store_rounded(T* at, const float* values) {
#ifdef MQ_EMULATOR
  mq_check_aligned(at, 16);
#endif
  Words words;
#pragma unroll
  for (int i = 0; i < 4; ++i) words.values[i] = store_pair(values[2 * i], values[2 * i + 1], T{});
  *reinterpret_cast<Words*>(at) = words;
}

template <>
__device__ __forceinline__ void store_rounded<float>(float* at, const float* values) {
  store_vector(at, Vector<float>{{values[0], values[1], values[2], values[3]}});
}

// Whether both addresses allow 16-byte accesses.
__device__ __forceinline__ bool is_aligned(const void* a, const void* b) {
  return ((reinterpret_cast<u64>(a) | reinterpret_cast<u64>(b)) & 15u) == 0;
}

__device__ __forceinline__ u32 larger(u32 a, u32 b) { return a > b ? a : b; }

// The largest value of the `lanes` (a power of two) neighbouring lanes; all of them get it.
__device__ __forceinline__ u32 largest_of_lanes(u32 value, u32 lanes) {
  for (u32 step = lanes / 2; step > 0; step /= 2) {
    value = larger(value, __shfl_xor_sync(kAllLanes, value, (int)step));
  }
  return value;
}

// The largest value of a block of kThreads; all of its threads get it. `scratch` has a place for every warp.
__device__ __forceinline__ u32 largest_of_block(u32 value, u32* scratch) {
  value = largest_of_lanes(value, kWarp);
  // Whoever still reads the scratch of a call before.
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  u32 all = 0;
  for (u32 warp = 0; warp < blockDim.x / kWarp; ++warp) all = larger(all, scratch[warp]);
  return all;
}

// One instantiation for each storage type: X(suffix, type).
#define MQ_FOR_EACH_ELEMENT(X) X(f32, float) X(f16, Half) X(bf16, Bfloat)
