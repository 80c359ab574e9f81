/* SHA-256 whose state can be written down, so that hashing a file of gigabytes goes on after a kill.
 *
 * FIPS 180-4. Sixty-four rounds a block of 64 bytes:
 *
 *     T1 = h + S1(e) + Ch(e, f, g) + K[t] + W[t]      S1(x) = x>>>6 ^ x>>>11 ^ x>>>25
 *     T2 = S0(a) + Maj(a, b, c)                       S0(x) = x>>>2 ^ x>>>13 ^ x>>>22
 *
 * Where the processor has the SHA instructions, which do two rounds each, they are used: asked of CPUID at run time.
 * sha256_update with few_instructions != 0 keeps to portable C, for tests.
 */

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* What resumable_sha256.py writes down: all integers in the machine's own order. */
struct sha256 {
    uint32_t h[8];
    uint64_t n_bytes;  /* hashed so far; n_bytes % 64 of them wait in tail */
    uint8_t tail[64];
};

static const uint32_t FIRST[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint32_t word(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void blocks_portable(uint32_t *h, const uint8_t *data, uint64_t n_blocks) {
    for (; n_blocks; n_blocks--, data += 64) {
        uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], last = h[7];
        for (int t = 0; t < 16; t++) w[t] = word(data + 4 * t);
        for (int t = 16; t < 64; t++) {
            uint32_t x = w[t - 15], y = w[t - 2];
            w[t] = w[t - 16] + (rotated(x, 7) ^ rotated(x, 18) ^ x >> 3) + w[t - 7] +
                   (rotated(y, 17) ^ rotated(y, 19) ^ y >> 10);
        }
        for (int t = 0; t < 64; t++) {
            uint32_t t1 = last + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t];
            uint32_t t2 = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            last = g, g = f, f = e, e = d + t1;
            d = c, c = b, b = a, a = t1 + t2;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d;
        h[4] += e, h[5] += f, h[6] += g, h[7] += last;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

static int has_sha(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
}

/* The instructions want the words as ABEF and CDGH, highest first (Intel SDM, SHA256RNDS2). */
__attribute__((target("sha,sse4.1,ssse3"))) static void blocks_sha(uint32_t *h, const uint8_t *data, uint64_t n_blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i low = _mm_loadu_si128((const __m128i *)h);         /* D C B A */
    __m128i high = _mm_loadu_si128((const __m128i *)(h + 4));  /* H G F E */
    low = _mm_shuffle_epi32(low, 0xB1);                        /* C D A B */
    high = _mm_shuffle_epi32(high, 0x1B);                      /* E F G H */
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);
    for (; n_blocks; n_blocks--, data += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
#pragma GCC unroll 16
        for (int group = 0; group < 16; group++) {  /* four rounds each */
            __m128i now;
            if (group < 4) {
                now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * group)), swap);
            } else {  /* W[t-16] with s0 of W[t-15], W[t-7], then s1 of W[t-2] */
                __m128i oldest = w[group & 3], after = w[(group + 1) & 3], before = w[(group + 2) & 3];
                __m128i newest = w[(group + 3) & 3];
                now = _mm_sha256msg1_epu32(oldest, after);
                now = _mm_add_epi32(now, _mm_alignr_epi8(newest, before, 4));
                now = _mm_sha256msg2_epu32(now, newest);
            }
            w[group & 3] = now;
            __m128i sums = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(K + 4 * group)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sums);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sums, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#else
static int has_sha(void) { return 0; }
static void blocks_sha(uint32_t *h, const uint8_t *data, uint64_t n_blocks) { blocks_portable(h, data, n_blocks); }
#endif

static void blocks(uint32_t *h, const uint8_t *data, uint64_t n_blocks, int few_instructions) {
    if (!few_instructions && has_sha()) blocks_sha(h, data, n_blocks);
    else blocks_portable(h, data, n_blocks);
}

EXPORT void sha256_begin(struct sha256 *state) {
    memset(state, 0, sizeof *state);
    memcpy(state->h, FIRST, sizeof FIRST);
}

EXPORT void sha256_update(struct sha256 *state, const uint8_t *data, uint64_t n_bytes, int32_t few_instructions) {
    uint64_t held = state->n_bytes % 64;
    state->n_bytes += n_bytes;
    if (held) {
        uint64_t taken = n_bytes < 64 - held ? n_bytes : 64 - held;
        memcpy(state->tail + held, data, taken);
        data += taken, n_bytes -= taken;
        if (held + taken < 64) return;
        blocks(state->h, state->tail, 1, few_instructions);
    }
    blocks(state->h, data, n_bytes / 64, few_instructions);
    memcpy(state->tail, data + n_bytes / 64 * 64, n_bytes % 64);
}

/* Writes the digest; the state stays, and may be updated further. */
EXPORT void sha256_digest(const struct sha256 *state, uint8_t *digest, int32_t few_instructions) {
    struct sha256 end = *state;
    uint64_t held = state->n_bytes % 64, n_bits = state->n_bytes * 8;
    uint8_t padding[72] = {0x80};
    uint64_t n_padding = held < 56 ? 56 - held : 120 - held;
    for (int i = 0; i < 8; i++) padding[n_padding + i] = (uint8_t)(n_bits >> (56 - 8 * i));
    sha256_update(&end, padding, n_padding + 8, few_instructions);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(end.h[i / 4] >> (24 - 8 * (i % 4)));
}
