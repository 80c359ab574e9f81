/* Chooses the instruction set. `encoder_isa` says the best there is, `encoder_encode` takes that or a lesser one. */

#include "encoder.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

enum isa { BASELINE = 0, AVX2 = 1, AVX512 = 2 };

EXPORT int encoder_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return BASELINE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    return AVX2;
#else
    return BASELINE;
#endif
}

EXPORT int encoder_encode(const struct encode_request *request, int isa) {
#if defined(__x86_64__)
    if (isa == AVX512) return encode_avx512(request);
    if (isa == AVX2) return encode_avx2(request);
#endif
    (void)isa;
    return encode_baseline(request);
}
