// The vector types of CUDA, with its alignments.
#pragma once

#define MQ_VECTOR_2(name, T, bytes)                                                                \
    struct alignas(bytes) name {                                                                   \
        T x, y;                                                                                    \
    };                                                                                             \
    inline name make_##name(T x, T y) { return {x, y}; }
#define MQ_VECTOR_4(name, T, bytes)                                                                \
    struct alignas(bytes) name {                                                                   \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
MQ_VECTOR_2(uchar2, unsigned char, 2)
MQ_VECTOR_2(ushort2, unsigned short, 4)
MQ_VECTOR_2(int2, int, 8)
MQ_VECTOR_2(uint2, unsigned, 8)
MQ_VECTOR_2(float2, float, 8)
MQ_VECTOR_2(double2, double, 16)
MQ_VECTOR_2(ulonglong2, unsigned long long, 16)
MQ_VECTOR_4(uchar4, unsigned char, 4)
MQ_VECTOR_4(char4, signed char, 4)
MQ_VECTOR_4(ushort4, unsigned short, 8)
MQ_VECTOR_4(int4, int, 16)
MQ_VECTOR_4(uint4, unsigned, 16)
MQ_VECTOR_4(float4, float, 16)
#undef MQ_VECTOR_2
#undef MQ_VECTOR_4

inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
