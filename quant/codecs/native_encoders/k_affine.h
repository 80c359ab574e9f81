/* Q4_K and Q5_K: super-blocks of 256 weights, eight sub-blocks of 32 with a scale and a minimum of 6 bits each.
 *
 *     weight ≈ D·sc_j·l − M·m_j      D, M half precision; sc_j, m_j 0…63; l 0…TOP (15 or 31)
 *
 * What is minimised is Σ w (weight − its approximation)², w the importance of the column or 1.
 */
#pragma once

#include "simd.h"

namespace {

struct AffineEffort {
    int n_candidates; /* a multiple of ABREAST */
    int n_rounds;     /* codes → scales of 6 bits → codes … */
};

/* Codes are tried as round(y·(TOP + span)/range − shift), y counted from the sub-block's least weight. Best first: each
 * lowers the error of those before it most, on normal, Student-t and trained weights, half of them weighted
 * (scripts/choose_scale_candidates.py). A shift lets the smallest weights be cut off as a larger span does the largest. */
struct Candidate { float span, shift; };

constexpr Candidate CANDIDATES[2][64] = {
    {   /* TOP 15 */
        {0.4, 0.2}, {0.2, -0.2}, {0.2, 0.4}, {-1.0, 0.0}, {0.2, 0.2}, {0.2, 0.0}, {0.8, 0.0}, {1.0, 0.8},
        {-2.0, 0.0}, {-1.0, 0.2}, {-1.0, -0.2}, {1.2, 0.6}, {1.2, 1.2}, {0.8, 0.2}, {-0.4, -0.2}, {0.8, -0.2},
        {0.4, 0.4}, {0.0, -0.2}, {-0.6, 0.2}, {-0.4, 0.0}, {0.4, 0.6}, {-2.0, -0.2}, {1.8, 0.6}, {-2.0, 0.2},
        {1.0, 0.6}, {1.8, 0.0}, {-0.8, 0.2}, {1.6, 1.2}, {1.8, 1.8}, {-3.0, 0.0}, {-0.8, 0.0}, {0.4, -0.2},
        {0.6, 0.2}, {1.6, 0.2}, {-0.2, -0.2}, {2.0, 1.0}, {-0.2, 0.0}, {-3.6, 0.2}, {0.8, 0.6}, {-0.8, 0.4},
        {-1.2, -0.4}, {0.4, 0.0}, {0.6, 0.4}, {-1.6, 0.2}, {-1.4, -0.2}, {1.6, 1.4}, {0.6, 0.8}, {1.0, 0.2},
        {2.0, 1.2}, {0.0, 0.0}, {2.0, 0.0}, {0.0, 0.2}, {-0.2, -0.4}, {1.8, 0.8}, {-2.8, 0.2}, {-3.0, -0.2},
        {-0.4, 0.2}, {1.8, 0.2}, {-1.8, 0.2}, {-0.4, 0.4}, {1.6, 1.6}, {-1.4, 0.0}, {0.8, 0.8}, {-1.8, 0.0},
    },
    {   /* TOP 31 */
        {0.0, 0.0}, {-0.6, 0.2}, {0.2, -0.2}, {0.0, 0.2}, {-2.0, 0.0}, {-1.0, 0.2}, {-1.0, -0.2}, {-3.0, 0.0},
        {0.6, 0.6}, {0.2, 0.0}, {-3.6, 0.2}, {-2.0, 0.2}, {-2.0, -0.2}, {0.6, 0.4}, {1.0, 0.2}, {-1.4, -0.2},
        {0.6, 0.8}, {-3.0, 0.2}, {0.0, -0.2}, {-5.0, 0.0}, {1.0, 0.4}, {-3.0, -0.2}, {1.0, 0.0}, {-0.6, -0.2},
        {-0.8, 0.0}, {-4.2, -0.2}, {-0.8, 0.2}, {-0.6, -0.4}, {-4.0, 0.2}, {0.2, 0.4}, {-1.8, 0.0}, {0.2, 0.2},
        {-1.8, 0.2}, {1.8, 1.6}, {-5.0, 0.2}, {1.0, 0.6}, {0.0, -0.4}, {1.4, 0.0}, {-1.2, 0.2}, {1.0, 0.8},
        {-2.4, 0.2}, {-0.8, -0.2}, {-5.0, -0.2}, {-1.2, -0.2}, {-2.8, -0.4}, {1.8, 1.4}, {-3.4, -0.2}, {0.6, 0.0},
        {0.4, 0.2}, {-1.2, 0.0}, {-5.0, 0.6}, {-3.6, 0.0}, {1.6, 1.6}, {-2.8, 0.2}, {0.4, 0.6}, {-0.2, -0.2},
        {-4.8, 0.4}, {1.8, 0.8}, {-4.2, 0.0}, {-1.6, 0.2}, {-2.2, -0.4}, {0.4, 0.0}, {1.8, 0.4}, {-0.2, 0.0},
    },
};

/* Sums over a sub-block's codes l, with weights y counted from the sub-block's base: Σwl, Σwl², Σwly. */
struct CodeSums { F l, ll, yl; };

/* round(y·inverse + shift), from 0 to TOP. */
template <int TOP> INLINE F code_of(F y, F inverse, F shift) { return clamp(round_near(y * inverse + shift), 0, TOP); }

/* The sums of the codes for N scales at once. */
template <int N, bool WEIGHTED, int TOP>
INLINE void sum_codes(const F *y, const F *wy, const float *w, const F *inverse, const F *shift, CodeSums *out) {
    CodeSums sums[N] = {};
    for (int i = 0; i < 32; i++) {
        for (int c = 0; c < N; c++) {
            const F l = code_of<TOP>(y[i], inverse[c], shift[c]);
            const F wl = WEIGHTED ? w[i] * l : l;
            sums[c].l += wl;
            sums[c].ll += wl * l;
            sums[c].yl += (WEIGHTED ? wy[i] : y[i]) * l;
        }
    }
    for (int c = 0; c < N; c++) out[c] = sums[c];
}

struct SubBlock {
    F base;        /* min(0, least weight); y = weight − base */
    F sum_y;       /* Σwy */
    float sum_w;   /* Σw: the same in all rows */
    CodeSums sums; /* of the current codes */
    F scale, offset; /* y ≈ scale·l − offset, the best for them */
    F sc, m;       /* 6 bits each */

    /* Error of y ≈ d·l − b with the current codes, but for the constant Σwy². */
    INLINE F error(F d, F b) const {
        return d * (d * sums.ll - 2.0f * (sums.yl + b * sums.l)) + b * (2.0f * sum_y + b * sum_w);
    }
};

/* The best scale and offset for given codes. The offset is at least `base`, for the minimum that is stored, offset − base,
 * cannot be negative. */
INLINE void fit(const SubBlock &block, const CodeSums &sums, F *scale, F *offset) {
    const F determinant = block.sum_w * sums.ll - sums.l * sums.l;
    const I regular = determinant > 1e-6f * block.sum_w * sums.ll;
    const F free_scale = (block.sum_w * sums.yl - block.sum_y * sums.l) / select(regular, determinant, splat(1.0f));
    const F free_offset = (free_scale * sums.l - block.sum_y) * (1.0f / block.sum_w);
    const I usable = regular & (I)(free_offset >= block.base);
    const F bound = select(regular, block.base, splat(0.0f));
    const F held_scale = (sums.yl + bound * sums.l) * reciprocal(sums.ll);
    *scale = maximum(select(usable, free_scale, held_scale), splat(0.0f));
    *offset = select(usable, free_offset, bound);
}

/* Choose sc and m of 6 bits, given codes: the scale's three nearest, each with the minimum that fits it best. */
INLINE F choose_bits(SubBlock &block, F D, F inverse_d, F M, F inverse_m, bool keep) {
    const F inverse_w = splat(1.0f / block.sum_w);
    const F nearest = round_near(block.scale * inverse_d);
    F best_sc = block.sc, best_m = block.m;
    F best = keep ? block.error(D * block.sc, M * block.m + block.base) : splat(3e38f);
    for (int step = -1; step <= 1; step++) {
        const F sc = clamp(nearest + (float)step, 0.0f, 63.0f);
        const F d = D * sc;
        const F wanted = (d * block.sums.l - block.sum_y) * inverse_w - block.base;
        const F m = clamp(round_near(wanted * inverse_m), 0.0f, 63.0f);
        const F error = block.error(d, M * m + block.base);
        const I better = error < best;
        best = select(better, error, best);
        best_sc = select(better, sc, best_sc);
        best_m = select(better, m, best_m);
    }
    block.sc = best_sc;
    block.m = best_m;
    return best;
}

/* Take the codes with `sums` for a sub-block where they fit better than `best`, the error so far. */
INLINE void keep_better(SubBlock &block, const CodeSums &sums, F *best) {
    F scale, offset;
    fit(block, sums, &scale, &offset);
    const F error = scale * (scale * sums.ll - 2.0f * (sums.yl + offset * sums.l)) +
                    offset * (2.0f * block.sum_y + offset * block.sum_w);
    const I better = error < *best;
    *best = select(better, error, *best);
    block.scale = select(better, scale, block.scale);
    block.offset = select(better, offset, block.offset);
    block.sums.l = select(better, sums.l, block.sums.l);
    block.sums.ll = select(better, sums.ll, block.sums.ll);
    block.sums.yl = select(better, sums.yl, block.sums.yl);
}

template <bool WEIGHTED, int TOP>
INLINE void search_sub_block(SubBlock &block, const F *y, const F *wy, const float *w, F range, const AffineEffort &effort) {
    const F unit = reciprocal(range);
    F best = splat(3e38f);
    for (int first = 0; first < effort.n_candidates; first += ABREAST) {
        F inverse[ABREAST], shift[ABREAST];
        CodeSums sums[ABREAST];
        for (int c = 0; c < ABREAST; c++) {
            const Candidate &candidate = CANDIDATES[TOP > 15][first + c];
            inverse[c] = unit * (TOP + candidate.span);
            shift[c] = splat(-candidate.shift);
        }
        sum_codes<ABREAST, WEIGHTED, TOP>(y, wy, w, inverse, shift, sums);
        for (int c = 0; c < ABREAST; c++) keep_better(block, sums[c], &best);
    }
}

template <bool WEIGHTED, int TOP>
INLINE void recode(SubBlock &block, const F *y, const F *wy, const float *w, F D, F M) {
    const F d = D * block.sc;
    const F inverse = reciprocal(d);
    const F shift = (M * block.m + block.base) * inverse;
    sum_codes<1, WEIGHTED, TOP>(y, wy, w, &inverse, &shift, &block.sums);
}

/* D and M that fit all sub-blocks best, given their codes, sc and m; kept only where the halves are better. */
INLINE void refit_super_block(const SubBlock *blocks, F *D, F *M) {
    F dd = {}, dm = {}, mm = {}, xd = {}, xm = {}, before = {};
    for (int j = 0; j < 8; j++) {
        const SubBlock &b = blocks[j];
        /* weight = y + base: Σ w·weight·l and Σ w·weight */
        const F wl = b.sums.yl + b.base * b.sums.l, ws = b.sum_y + b.base * b.sum_w;
        dd += b.sc * b.sc * b.sums.ll;
        dm += b.sc * b.m * b.sums.l;
        mm += b.m * b.m * b.sum_w;
        xd += b.sc * wl;
        xm += b.m * ws;
    }
    /* minimise D²dd − 2DM·dm + M²mm − 2D·xd + 2M·xm */
    const F determinant = dd * mm - dm * dm;
    const I regular = determinant > 1e-6f * dd * mm;
    const F one = splat(1.0f);
    const F safe = select(regular, determinant, one);
    F d = select(regular, (xd * mm - dm * xm) / safe, (xd + *M * dm) * reciprocal(dd));
    F m = select(regular, (xd * dm - dd * xm) / safe, *M);
    d = as_half(maximum(d, splat(0.0f)));
    m = as_half(maximum(m, splat(0.0f)));
    before = *D * (*D * dd - 2.0f * (*M * dm + xd)) + *M * (*M * mm + 2.0f * xm);
    const F after = d * (d * dd - 2.0f * (m * dm + xd)) + m * (m * mm + 2.0f * xm);
    const I better = after < before;
    *D = select(better, d, *D);
    *M = select(better, m, *M);
}

/* Encode one super-block of LANES rows. `w` are the importances of its 256 columns. */
template <bool WEIGHTED, int TOP>
INLINE void search_affine(const float *const rows[LANES], int64_t column, const float *w, const AffineEffort &effort,
                          F *x, F *wy, SubBlock *blocks, F *D_out, F *M_out) {
    transpose(rows, column, 256, x);
    F widest = splat(0.0f), deepest = splat(0.0f);
    for (int j = 0; j < 8; j++) {
        SubBlock &block = blocks[j];
        F *y = x + 32 * j;
        F low = y[0], high = y[0];
        for (int i = 1; i < 32; i++) {
            low = minimum(low, y[i]);
            high = maximum(high, y[i]);
        }
        block.base = minimum(low, splat(0.0f));
        block.sum_y = F{};
        block.sum_w = WEIGHTED ? 0.0f : 32.0f;
        for (int i = 0; i < 32; i++) {
            y[i] -= block.base;
            if (WEIGHTED) {
                wy[32 * j + i] = w[32 * j + i] * y[i];
                block.sum_w += w[32 * j + i];
            }
            block.sum_y += WEIGHTED ? wy[32 * j + i] : y[i];
        }
        search_sub_block<WEIGHTED, TOP>(block, y, wy + 32 * j, w + 32 * j, high - block.base, effort);
        widest = maximum(widest, block.scale);
        deepest = maximum(deepest, block.offset - block.base);
    }
    F D = as_half(widest * (1.0f / 63.0f)), M = as_half(deepest * (1.0f / 63.0f));
    for (int round = 0; round <= effort.n_rounds; round++) {
        const F inverse_d = reciprocal(D), inverse_m = reciprocal(M);
        for (int j = 0; j < 8; j++) {
            SubBlock &block = blocks[j];
            if (round > 0) {
                recode<WEIGHTED, TOP>(block, x + 32 * j, wy + 32 * j, w + 32 * j, D, M);
                F offset;
                fit(block, block.sums, &block.scale, &offset);
            }
            choose_bits(block, D, inverse_d, M, inverse_m, round > 0);
        }
        refit_super_block(blocks, &D, &M);
    }
    *D_out = D;
    *M_out = M;
}

/* Where scale and minimum j lie in the 12 bytes (ggml-quants.c, get_scale_min_k4):
 *
 *     byte 0-3    sc0-3 in bits 0-5, sc4-7's upper two bits in bits 6-7
 *     byte 4-7    m0-3 likewise, with m4-7's
 *     byte 8-11   sc4-7's lower four bits, then m4-7's
 */
INLINE void pack_scales(const SubBlock *blocks, int lane, uint8_t *to) {
    for (int j = 0; j < 4; j++) {
        const int sc = (int)blocks[j].sc[lane], m = (int)blocks[j].m[lane];
        const int sc4 = (int)blocks[j + 4].sc[lane], m4 = (int)blocks[j + 4].m[lane];
        to[j] = (uint8_t)(sc | (sc4 >> 4) << 6);
        to[j + 4] = (uint8_t)(m | (m4 >> 4) << 6);
        to[j + 8] = (uint8_t)((sc4 & 15) | (m4 & 15) << 4);
    }
}

template <bool WEIGHTED, int TOP>
INLINE void encode_affine(const float *const rows[LANES], int64_t column, const float *w, const AffineEffort &effort,
                          uint8_t *const to[LANES]) {
    alignas(64) F x[256], wy[WEIGHTED ? 256 : 1];
    SubBlock blocks[8] = {};
    F D, M;
    search_affine<WEIGHTED, TOP>(rows, column, w, effort, x, wy, blocks, &D, &M);

    alignas(64) I low[32];  /* four bits a weight, in the order of the bytes, four bytes a lane */
    alignas(64) I high[8] = {};
    for (int pair = 0; pair < 4; pair++) {
        const SubBlock *two = blocks + 2 * pair;
        F inverse[2], shift[2];
        for (int h = 0; h < 2; h++) {
            inverse[h] = reciprocal(D * two[h].sc);
            shift[h] = (M * two[h].m + two[h].base) * inverse[h];
        }
        for (int word = 0; word < 8; word++) {
            I bits = {};
            for (int byte = 0; byte < 4; byte++) {
                const int i = 64 * pair + 4 * word + byte;
                const I first = to_int(code_of<TOP>(x[i], inverse[0], shift[0]));
                const I second = to_int(code_of<TOP>(x[i + 32], inverse[1], shift[1]));
                bits |= ((first & 15) | (second & 15) << 4) << 8 * byte;
                if (TOP > 15) high[word] |= ((first >> 4) | (second >> 4) << 1) << (2 * pair + 8 * byte);
            }
            low[8 * pair + word] = bits;
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        uint8_t *block = to[lane];
        const uint16_t d = half_bits(D[lane]), m = half_bits(M[lane]);
        memcpy(block, &d, 2);
        memcpy(block + 2, &m, 2);
        pack_scales(blocks, lane, block + 4);
        uint8_t *quants = block + 16;
        if (TOP > 15) {
            for (int word = 0; word < 8; word++) memcpy(quants + 4 * word, (const int32_t *)&high[word] + lane, 4);
            quants += 32;
        }
        for (int word = 0; word < 32; word++) memcpy(quants + 4 * word, (const int32_t *)&low[word] + lane, 4);
    }
}

} /* namespace */
