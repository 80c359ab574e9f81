/* The types without a minimum: a scale a block, or a scale of few bits a sub-block beneath one of the super-block.
 *
 *     Q6_K, IQ4_XS          weight ≈ D·sc_j·value      D half precision, sc_j whole
 *     Q4_0, Q8_0, IQ4_NL    weight ≈ d·value           d half precision
 *     MXFP4                 weight ≈ 2^(e−128)·value
 *
 * What is minimised is Σ w (weight − its approximation)², w the importance of the column or 1. For given values it is
 * least at scale = Σwxv / Σwv², by (Σwxv)² / Σwv²: two sums judge a scale, whatever the grid of values.
 */
#pragma once

#include "grids.h"

namespace {

struct ScaledEffort {
    int n_candidates; /* a multiple of ABREAST */
    int n_rounds;     /* values → scales as stored → values … */
    int n_grids;      /* scales of the super-block that are tried */
    int n_steps;      /* neighbours of sc that are tried each way, with the values that they give */
};

/* Scales are tried as CANDIDATES[i] / the weight of the largest magnitude: that weight lands on this value. Best first:
 * scripts/choose_scale_candidates.py. The grids are lopsided, so both signs are there. */
template <class GRID> struct Candidates;

template <> struct Candidates<SixBits> {
    static constexpr float VALUES[32] = {
        -32.0f, -31.0f, -30.0f, -29.0f, -28.0f, -27.0f, -26.0f, -32.5f,
        -25.0f, -24.0f, -19.25f, -31.75f, -22.0f, -23.0f, -30.75f, -33.0f,
        -31.25f, -29.75f, -30.25f, -21.0f, -28.5f, -32.25f, -29.25f, -27.75f,
        -20.0f, -28.75f, -26.25f, -25.5f, -33.75f, -27.25f, -26.75f, -18.75f,
    };
};

template <> struct Candidates<FourBits> {
    static constexpr float VALUES[32] = {
        -8.25f, -8.88f, -7.25f, -7.88f, -10.0f, -8.5f, -6.88f, -6.12f,
        -9.38f, 8.5f, -7.62f, -8.12f, 9.0f, -8.62f, 8.0f, -7.12f,
        -9.12f, -6.62f, -5.25f, -8.0f, -9.62f, -8.38f, -5.88f, -7.38f,
        -6.38f, -7.75f, -8.75f, -7.0f, 8.25f, -5.12f, 8.75f, 7.75f,
    };
};

template <> struct Candidates<Uneven> {
    static constexpr float VALUES[32] = {
        -129.0f, 115.0f, -139.0f, -121.0f, -107.0f, 125.0f, 109.0f, -155.0f,
        -133.0f, -125.0f, 139.0f, 91.0f, 119.0f, -111.0f, -145.0f, -101.0f,
        -167.0f, -87.0f, 131.0f, 113.0f, -135.0f, 105.0f, 153.0f, -119.0f,
        97.0f, -127.0f, 85.0f, -131.0f, -149.0f, -141.0f, -105.0f, 123.0f,
    };
};

/* Scaled by the largest magnitude alone; the rounds find the rest. */
template <> struct Candidates<EightBits> {
    static constexpr float VALUES[4] = {127.0f, 126.5f, 127.4f, 126.0f};
};

struct ValueSums { F xv, vv; }; /* Σwxv, Σwv² */

/* The sums of the values nearest to x·inverse[c], for C scales at once. */
template <class GRID, int N, int C, bool WEIGHTED>
INLINE void sum_values(const F *x, const F *wx, const float *w, const F *inverse, ValueSums *out) {
    ValueSums sums[C] = {};
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < C; c++) {
            const F v = GRID::nearest(x[i] * inverse[c]);
            sums[c].xv += (WEIGHTED ? wx[i] : x[i]) * v;
            sums[c].vv += (WEIGHTED ? w[i] * v : v) * v;
        }
    }
    for (int c = 0; c < C; c++) out[c] = sums[c];
}

/* The weight of the largest magnitude, with its sign. */
template <int N> INLINE F extreme_of(const F *x) {
    F low = x[0], high = x[0];
    for (int i = 1; i < N; i++) {
        low = minimum(low, x[i]);
        high = maximum(high, x[i]);
    }
    return select(-low > high, low, high);
}

/* The best scale found, not yet rounded; 0 for a block of zeros. */
template <class GRID, int N, bool WEIGHTED>
INLINE F search_scale(const F *x, const F *wx, const float *w, int n_candidates, ValueSums *sums) {
    const F extreme = extreme_of<N>(x);
    const F unit = reciprocal(extreme);
    F best_xv = splat(0.0f), best_vv = splat(1.0f); /* in units of the extreme, so that squares stay within range */
    for (int first = 0; first < n_candidates; first += ABREAST) {
        F inverse[ABREAST];
        ValueSums tried[ABREAST];
        for (int c = 0; c < ABREAST; c++) inverse[c] = unit * Candidates<GRID>::VALUES[first + c];
        sum_values<GRID, N, ABREAST, WEIGHTED>(x, wx, w, inverse, tried);
        for (int c = 0; c < ABREAST; c++) {
            const F xv = tried[c].xv * unit;
            const I better = xv * xv * best_vv > best_xv * best_xv * tried[c].vv;
            best_xv = select(better, xv, best_xv);
            best_vv = select(better, tried[c].vv, best_vv);
        }
    }
    sums->xv = best_xv * extreme;
    sums->vv = best_vv;
    return sums->xv / best_vv;
}

/* Error at a scale with given values, but for the constant Σwx². */
INLINE F error_at(F scale, const ValueSums &sums) { return scale * (scale * sums.vv - 2.0f * sums.xv); }

/* --- super-blocks: COUNT sub-blocks of N weights, sc from LOWEST to −LOWEST − 1 ----------------------------------------- */

template <class GRID, int N, int COUNT, int LOWEST, bool WEIGHTED> struct SuperBlock {
    const F *x, *wx;
    const float *w;
    F D;
    F scale[COUNT], sc[COUNT];
    ValueSums sums[COUNT];

    static INLINE F to_range(F sc) { return clamp(sc, LOWEST, -LOWEST - 1); }

    INLINE ValueSums values_at(int j, F inverse) const {
        ValueSums found;
        sum_values<GRID, N, 1, WEIGHTED>(x + N * j, WEIGHTED ? wx + N * j : wx, w + N * j, &inverse, &found);
        return found;
    }

    /* Round all scales to multiples of the candidate for D under which the error grows least. */
    INLINE void choose_grid(int n_grids) {
        F largest = scale[0];
        for (int j = 1; j < COUNT; j++) largest = select(magnitude(scale[j]) > magnitude(largest), scale[j], largest);
        F best = splat(3e38f);
        for (int grid = 0; grid < n_grids; grid++) {
            /* The largest is LOWEST + grid/2 steps; every other grid with the opposite sign, which has a step less. */
            const float steps = grid & 1 ? -LOWEST - 1.0f - 0.5f * (float)(grid >> 1) : LOWEST + 0.5f * (float)(grid >> 1);
            const F tried = as_half(largest * (1.0f / steps));
            const F inverse = reciprocal(tried);
            F error = splat(0.0f), rounded[COUNT];
            for (int j = 0; j < COUNT; j++) {
                rounded[j] = to_range(round_near(scale[j] * inverse));
                error += error_at(tried * rounded[j], sums[j]);
            }
            const I better = error < best;
            best = select(better, error, best);
            D = select(better, tried, D);
            for (int j = 0; j < COUNT; j++) sc[j] = select(better, rounded[j], sc[j]);
        }
    }

    INLINE void try_neighbour(int j, float step, F *best) {
        const F tried = to_range(sc[j] + step);
        const F at = D * tried;
        const ValueSums found = values_at(j, reciprocal(at));
        const F error = error_at(at, found);
        const I better = error < *best;
        *best = select(better, error, *best);
        scale[j] = select(better, tried, scale[j]); /* holds sc for the time being */
        sums[j].xv = select(better, found.xv, sums[j].xv);
        sums[j].vv = select(better, found.vv, sums[j].vv);
    }

    /* Values by the scales as stored, then the scales that suit these values best, then D. */
    INLINE void improve(int n_steps) {
        const F inverse = reciprocal(D);
        for (int j = 0; j < COUNT; j++) {
            const F at = D * sc[j];
            sums[j] = values_at(j, reciprocal(at));
            F best = error_at(at, sums[j]);
            scale[j] = sc[j];
            for (int step = 1; step <= n_steps; step++) {
                try_neighbour(j, (float)step, &best);
                try_neighbour(j, (float)-step, &best);
            }
            const F suited = to_range(round_near(sums[j].xv * reciprocal(sums[j].vv) * inverse));
            sc[j] = select(error_at(D * suited, sums[j]) < best, suited, scale[j]);
        }
        F xs = splat(0.0f), ss = splat(0.0f);
        for (int j = 0; j < COUNT; j++) {
            xs += sc[j] * sums[j].xv;
            ss += sc[j] * sc[j] * sums[j].vv;
        }
        const F suited = as_half(xs * reciprocal(ss));
        D = select(suited * (suited * ss - 2.0f * xs) < D * (D * ss - 2.0f * xs), suited, D);
    }

    INLINE void search(const ScaledEffort &effort) {
        for (int j = 0; j < COUNT; j++)
            scale[j] = search_scale<GRID, N, WEIGHTED>(x + N * j, WEIGHTED ? wx + N * j : wx, w + N * j,
                                                       effort.n_candidates, &sums[j]);
        choose_grid(effort.n_grids);
        for (int round = 0; round < effort.n_rounds; round++) improve(effort.n_steps);
    }
};

/* Load 256 columns, weighted as well where there are importances. */
template <bool WEIGHTED>
INLINE void load(const float *const rows[LANES], int64_t column, int n, const float *w, F *x, F *wx) {
    transpose(rows, column, n, x);
    if (WEIGHTED)
        for (int i = 0; i < n; i++) wx[i] = w[i] * x[i];
}

/* Word `word` of 16 bytes of nibbles: weights 0-15 in the low halves, 16-31 in the high ones. */
template <class GRID> INLINE I nibbles(const F *x, F inverse, int word) {
    I bits = {};
    for (int byte = 0; byte < 4; byte++) {
        const int i = 4 * word + byte;
        bits |= (GRID::code(x[i] * inverse) | GRID::code(x[i + 16] * inverse) << 4) << 8 * byte;
    }
    return bits;
}

INLINE void store_words(const I *words, int n, int lane, uint8_t *to) {
    for (int word = 0; word < n; word++) memcpy(to + 4 * word, (const int32_t *)&words[word] + lane, 4);
}

/* block_q6_K: low four bits 128, high two bits 64, scales 16, D 2 bytes. In each half of 128 weights, q0-31 and q64-95
 * share the first 32 bytes of low bits, q32-63 and q96-127 the second; the high bits of all four share a byte. */
template <bool WEIGHTED>
INLINE void encode_q6_k(const float *const rows[LANES], int64_t column, const float *w, const ScaledEffort &effort,
                        uint8_t *const to[LANES]) {
    alignas(64) F x[256], wx[WEIGHTED ? 256 : 1];
    load<WEIGHTED>(rows, column, 256, w, x, wx);
    SuperBlock<SixBits, 16, 16, -128, WEIGHTED> block;
    block.x = x, block.wx = wx, block.w = w;
    block.search(effort);
    F inverse[16];
    for (int j = 0; j < 16; j++) inverse[j] = reciprocal(block.D * block.sc[j]);
    alignas(64) I words[48];
    for (int half = 0; half < 2; half++) {
        for (int word = 0; word < 8; word++) {
            I first = {}, second = {}, high = {};
            for (int byte = 0; byte < 4; byte++) {
                I q[4];
                for (int k = 0; k < 4; k++) {
                    const int i = 128 * half + 32 * k + 4 * word + byte;
                    q[k] = SixBits::code(x[i] * inverse[i / 16]);
                }
                first |= ((q[0] & 15) | (q[2] & 15) << 4) << 8 * byte;
                second |= ((q[1] & 15) | (q[3] & 15) << 4) << 8 * byte;
                high |= (q[0] >> 4 | q[1] >> 4 << 2 | q[2] >> 4 << 4 | q[3] >> 4 << 6) << 8 * byte;
            }
            words[16 * half + word] = first;
            words[16 * half + 8 + word] = second;
            words[32 + 8 * half + word] = high;
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        store_words(words, 48, lane, to[lane]);
        for (int j = 0; j < 16; j++) to[lane][192 + j] = (uint8_t)(int8_t)block.sc[j][lane];
        const uint16_t d = half_bits(block.D[lane]);
        memcpy(to[lane] + 208, &d, 2);
    }
}

/* block_iq4_xs: D 2 bytes, upper two bits of the scales 2, lower four bits 4, nibbles 128. Scales are stored plus 32. */
template <bool WEIGHTED>
INLINE void encode_iq4_xs(const float *const rows[LANES], int64_t column, const float *w, const ScaledEffort &effort,
                          uint8_t *const to[LANES]) {
    alignas(64) F x[256], wx[WEIGHTED ? 256 : 1];
    load<WEIGHTED>(rows, column, 256, w, x, wx);
    SuperBlock<Uneven, 32, 8, -32, WEIGHTED> block;
    block.x = x, block.wx = wx, block.w = w;
    block.search(effort);
    alignas(64) I words[32];
    for (int j = 0; j < 8; j++) {
        const F inverse = reciprocal(block.D * block.sc[j]);
        for (int word = 0; word < 4; word++) words[4 * j + word] = nibbles<Uneven>(x + 32 * j, inverse, word);
    }
    for (int lane = 0; lane < LANES; lane++) {
        uint8_t low[4] = {};
        uint16_t high = 0;
        for (int j = 0; j < 8; j++) {
            const int sc = (int)block.sc[j][lane] + 32;
            low[j / 2] = (uint8_t)(low[j / 2] | (sc & 15) << 4 * (j % 2));
            high = (uint16_t)(high | sc >> 4 << 2 * j);
        }
        const uint16_t d = half_bits(block.D[lane]);
        memcpy(to[lane], &d, 2);
        memcpy(to[lane] + 2, &high, 2);
        memcpy(to[lane] + 4, low, 4);
        store_words(words, 32, lane, to[lane] + 8);
    }
}

/* --- blocks of 32 with a scale of their own ---------------------------------------------------------------------------- */

/* The best scale of half precision. */
template <class GRID, bool WEIGHTED>
INLINE F search_half(const F *x, const F *wx, const float *w, const ScaledEffort &effort) {
    ValueSums sums;
    F d = as_half(search_scale<GRID, 32, WEIGHTED>(x, wx, w, effort.n_candidates, &sums));
    for (int round = 0; round < effort.n_rounds; round++) {
        const F inverse = reciprocal(d);
        sum_values<GRID, 32, 1, WEIGHTED>(x, wx, w, &inverse, &sums);
        const F suited = as_half(sums.xv * reciprocal(sums.vv));
        d = select(error_at(suited, sums) < error_at(d, sums), suited, d);
    }
    return d;
}

/* block_q4_0, block_iq4_nl: d 2 bytes, nibbles 16. */
template <class GRID, bool WEIGHTED>
INLINE void encode_nibbles(const float *const rows[LANES], int64_t column, const float *w, const ScaledEffort &effort,
                           uint8_t *const to[LANES]) {
    alignas(64) F x[32], wx[WEIGHTED ? 32 : 1];
    load<WEIGHTED>(rows, column, 32, w, x, wx);
    const F d = search_half<GRID, WEIGHTED>(x, wx, w, effort);
    const F inverse = reciprocal(d);
    alignas(64) I words[4];
    for (int word = 0; word < 4; word++) words[word] = nibbles<GRID>(x, inverse, word);
    for (int lane = 0; lane < LANES; lane++) {
        const uint16_t half = half_bits(d[lane]);
        memcpy(to[lane], &half, 2);
        store_words(words, 4, lane, to[lane] + 2);
    }
}

/* block_q8_0: d 2 bytes, 32 signed bytes. */
template <bool WEIGHTED>
INLINE void encode_q8_0(const float *const rows[LANES], int64_t column, const float *w, const ScaledEffort &effort,
                        uint8_t *const to[LANES]) {
    alignas(64) F x[32], wx[WEIGHTED ? 32 : 1];
    load<WEIGHTED>(rows, column, 32, w, x, wx);
    const F d = search_half<EightBits, WEIGHTED>(x, wx, w, effort);
    const F inverse = reciprocal(d);
    alignas(64) I words[8];
    for (int word = 0; word < 8; word++) {
        I bits = {};
        for (int byte = 0; byte < 4; byte++)
            bits |= (to_int(EightBits::nearest(x[4 * word + byte] * inverse)) & 255) << 8 * byte;
        words[word] = bits;
    }
    for (int lane = 0; lane < LANES; lane++) {
        const uint16_t half = half_bits(d[lane]);
        memcpy(to[lane], &half, 2);
        store_words(words, 8, lane, to[lane] + 2);
    }
}

/* block_mxfp4: exponent 1 byte, nibbles 16. ggml takes the exponent of the largest magnitude; here its neighbours are
 * tried, too: one more holds the largest weight without cutting it, one less is finer for all others. */
template <bool WEIGHTED>
INLINE void encode_mxfp4(const float *const rows[LANES], int64_t column, const float *w, const ScaledEffort &,
                         uint8_t *const to[LANES]) {
    alignas(64) F x[32], wx[WEIGHTED ? 32 : 1];
    load<WEIGHTED>(rows, column, 32, w, x, wx);
    const F largest = magnitude(extreme_of<32>(x));
    /* 2^(e−128) = 2^(e−1−127), so the biased exponent of the scale is e − 1; the largest value, 12, has exponent 3. */
    const I middle = ((I)largest >> 23) - 3;
    F best = splat(3e38f), inverse = splat(0.0f);
    I exponent = {};
    for (int step = -1; step <= 1; step++) {
        I biased = middle + step;
        biased = select(biased > 1, biased, I{} + 1);
        const F scale = (F)(biased << 23), finer = (F)((254 - biased) << 23);
        ValueSums sums;
        sum_values<Float4, 32, 1, WEIGHTED>(x, wx, w, &finer, &sums);
        const F error = error_at(scale, sums);
        const I better = error < best;
        best = select(better, error, best);
        inverse = select(better, finer, inverse);
        exponent = select(better, biased + 1, exponent);
    }
    alignas(64) I words[4];
    for (int word = 0; word < 4; word++) words[word] = nibbles<Float4>(x, inverse, word);
    for (int lane = 0; lane < LANES; lane++) {
        to[lane][0] = (uint8_t)exponent[lane];
        store_words(words, 4, lane, to[lane] + 1);
    }
}

} /* namespace */
