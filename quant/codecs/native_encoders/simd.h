/* Vectors of LANES floats, one row of weights a lane, on whatever the including file compiles for.
 *
 *     ENCODER_ISA   avx512 (16 lanes), avx2 (8 lanes, with FMA and F16C) or baseline (4 lanes: SSE2, NEON, …)
 *
 * GCC's and clang's vector extensions give +, -, *, /, comparisons and selection; what they spell badly (min, max, table
 * look-up, half precision) has intrinsics here and a loop for other processors. No reassociation is asked for anywhere, so
 * a build gives the same bytes each time; other ISAs contract other products and may differ in the last bit of a scale.
 */
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(ENCODER_AVX512) || defined(ENCODER_AVX2)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(ENCODER_AVX512)
#define LANES 16
#define ABREAST 4 /* candidates tried in one pass: as many as the registers hold */
#elif defined(ENCODER_AVX2)
#define LANES 8
#define ABREAST 2
#else
#define LANES 4
#define ABREAST 2
#endif

namespace {

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

#define INLINE inline __attribute__((always_inline))

/* Adding and subtracting this rounds |x| < 2^22 to the nearest integer, ties to even. */
constexpr float ROUNDER = 12582912.0f;

INLINE F splat(float value) { return value - F{}; }
INLINE F round_near(F x) { return (x + ROUNDER) - ROUNDER; }
INLINE F select(I mask, F yes, F no) { return mask ? yes : no; }
INLINE I select(I mask, I yes, I no) { return mask ? yes : no; }

INLINE F minimum(F a, F b) {
#if defined(ENCODER_AVX512)
    return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(ENCODER_AVX2)
    return (F)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (F)_mm_min_ps((__m128)a, (__m128)b);
#elif defined(__ARM_NEON)
    return (F)vminq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return a < b ? a : b;
#endif
}

INLINE F maximum(F a, F b) {
#if defined(ENCODER_AVX512)
    return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(ENCODER_AVX2)
    return (F)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (F)_mm_max_ps((__m128)a, (__m128)b);
#elif defined(__ARM_NEON)
    return (F)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
    return a > b ? a : b;
#endif
}

INLINE F clamp(F x, float low, float high) { return minimum(maximum(x, splat(low)), splat(high)); }
INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

/* 1/x where x is not 0, else 0. */
INLINE F reciprocal(F x) { return select(x != 0.0f, 1.0f / select(x != 0.0f, x, splat(1.0f)), splat(0.0f)); }

/* Whole numbers as integers. */
INLINE I to_int(F x) {
#if defined(ENCODER_AVX512)
    return (I)_mm512_cvtps_epi32((__m512)x);
#elif defined(ENCODER_AVX2)
    return (I)_mm256_cvtps_epi32((__m256)x);
#elif defined(__SSE2__)
    return (I)_mm_cvtps_epi32((__m128)x);
#else
    return __builtin_convertvector(x, I);
#endif
}

INLINE F to_float(I x) { return __builtin_convertvector(x, F); }

/* table[index] for index 0 to 15. */
INLINE F look_up(const float table[16], I index) {
#if defined(ENCODER_AVX512)
    return (F)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
#elif defined(ENCODER_AVX2)
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
    return (F)_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32((__m256i)index, 28)));
#else
    F found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[index[lane]];
    return found;
#endif
}

/* IEEE half precision, ties to even; what is too large becomes the largest finite one. */
INLINE uint16_t half_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7bff);
    if (bits < 0x38800000) { /* subnormal: let the adder of single precision round */
        float shifted;
        memcpy(&shifted, &bits, 4);
        shifted += 0.5f;
        memcpy(&bits, &shifted, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    return (uint16_t)(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

INLINE float half_value(uint16_t half) {
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t bits;
    float value;
    if (magnitude < 0x800000) { /* subnormal */
        bits = 0x38800000 | magnitude;
        memcpy(&value, &bits, 4);
        value -= 6.103515625e-05f;
    } else {
        bits = magnitude + 0x38000000;
        memcpy(&value, &bits, 4);
    }
    return half & 0x8000 ? -value : value;
}

/* Each lane as the nearest half. */
INLINE F as_half(F x) {
#if defined(ENCODER_AVX512)
    const __m512 limit = _mm512_set1_ps(65504.0f);
    const __m512 within = _mm512_min_ps(_mm512_max_ps((__m512)x, _mm512_sub_ps(_mm512_setzero_ps(), limit)), limit);
    return (F)_mm512_cvtph_ps(_mm512_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT));
#elif defined(ENCODER_AVX2)
    const __m256 limit = _mm256_set1_ps(65504.0f);
    const __m256 within = _mm256_min_ps(_mm256_max_ps((__m256)x, _mm256_sub_ps(_mm256_setzero_ps(), limit)), limit);
    return (F)_mm256_cvtph_ps(_mm256_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT));
#else
    F rounded;
    for (int lane = 0; lane < LANES; lane++) rounded[lane] = half_value(half_bits(x[lane]));
    return rounded;
#endif
}

/* n columns of LANES rows, a column a vector. */
INLINE void transpose(const float *const rows[LANES], int64_t first_column, int n, F *columns) {
    for (int lane = 0; lane < LANES; lane++) {
        const float *row = rows[lane] + first_column;
        float *to = (float *)columns + lane;
        for (int column = 0; column < n; column++) to[column * LANES] = row[column];
    }
}

} /* namespace */
