/* The encoders for AVX2: eight lanes. Empty where the compiler is not one for x86-64. */

#if defined(__x86_64__)

#include <immintrin.h>

/* To the end of the file: templates take the target that is set where they are made. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define ENCODER_AVX2
#define ENCODER_NAME encode_avx2

#include "encode_rows.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
