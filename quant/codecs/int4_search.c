/* Scales, zeros and codes of group-quantized 4-bit weights, for sixteen rows at once.
 *
 * A group is `group` consecutive columns of a row. Its weights are stored as scale * (code - zero), code and zero whole
 * numbers of 0 to 15. The search looks for the scale and zero that make
 *
 *     sum over the group of importance[column] * (weight - stored)^2
 *
 * small. With u = code - zero and all u known, the best scale is A/B and the error is the constant sum of importance *
 * weight^2 less A^2/B, where A = sum importance*u*weight and B = sum importance*u^2: one pass over the group judges a
 * candidate by its best scale. int4_arrays.py does the same with numpy, operation by operation, and gives the same bits
 * if this file was compiled without contraction of floating-point operations (-ffp-contract=off).
 */

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
/* The same function for several processors, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONED
#endif

#define LANES 16
#define MOST_COLUMNS 128        /* of a group */
#define EACH for (int l = 0; l < LANES; l++)
#define SHIFT 12582912.0f       /* 1.5 * 2^23: adding and taking it away rounds to a whole number, halves to even */
#define LEAST 5.9604644775390625e-8f /* 2^-24, the smallest f16 */
#define NORMAL 6.103515625e-5f  /* 2^-14, below which f16 is a multiple of 2^-24 */

typedef float lanes[LANES];

static const float SHRINK[] = {1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f}; /* of the group's span */
static const float STEP[] = {0.04f, 0.02f, 0.01f};                  /* relative, of the scale */
#define N_SHRINK 6
#define N_STEP 3

INLINE float whole(float x) { return x + SHIFT - SHIFT; }
INLINE float within(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* to += from * factor. Spelled out, because compilers otherwise vectorize the loop around it, which is slower. */
INLINE void add_product(float *to, const float *from, float factor) {
#if defined(__GNUC__)
    typedef float together __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
    *(together *)to += *(const together *)from * factor;
#else
    EACH to[l] += from[l] * factor;
#endif
}

/* Rounded to eight significant bits, so that bf16 holds it, and to f16. */
INLINE float stored_scale(float s) {
    uint32_t bits;
    memcpy(&bits, &s, sizeof bits);
    bits = ((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) << 16;
    memcpy(&s, &bits, sizeof s);
    s = s < NORMAL ? whole(s * 16777216.0f) * LEAST : s;
    return s < LEAST ? LEAST : s;
}

struct best {
    lanes gain, scale, zero;
};

/* Judge scale s and zero z of every lane, and keep the better ones. x is [n][LANES]. */
INLINE void judge(const float *x, const float *importance, int64_t n, const lanes s, const lanes z, struct best *best) {
    lanes a = {0}, b = {0}, inverse, low, high;
    EACH {
        inverse[l] = 1.0f / s[l];
        low[l] = -z[l];
        high[l] = 15.0f - z[l];
    }
    for (int64_t j = 0; j < n; j++) {
        const float *row = x + j * LANES;
        const float weight = importance[j];
        EACH {
            const float u = within(whole(row[l] * inverse[l]), low[l], high[l]);
            const float wu = weight * u;
            a[l] += wu * row[l];
            b[l] += wu * u;
        }
    }
    EACH {
        const float gain = b[l] > 0.0f ? a[l] * a[l] / b[l] : 0.0f;
        const float scale = b[l] > 0.0f ? a[l] / b[l] : 1.0f;
        const int is_better = gain > best->gain[l];
        best->gain[l] = is_better ? gain : best->gain[l];
        best->scale[l] = is_better ? (scale < LEAST ? LEAST : scale) : best->scale[l];
        best->zero[l] = is_better ? z[l] : best->zero[l];
    }
}

/* The grid: the group's span shrunk by each factor; the zero that clips both ends alike, and its two neighbours. */
INLINE void try_grid(const float *x, const float *importance, int64_t n, int is_symmetric, int is_rough,
                     struct best *best) {
    lanes low = {0}, high = {0}, s, z;
    for (int64_t j = 0; j < n; j++) {
        EACH {
            const float w = x[j * LANES + l];
            low[l] = w < low[l] ? w : low[l];
            high[l] = w > high[l] ? w : high[l];
        }
    }
    for (int i = 0; i < N_SHRINK; i++) {
        if (is_symmetric) {
            EACH {
                const float peak = high[l] > -low[l] ? high[l] : -low[l];
                s[l] = peak * (SHRINK[i] / 7.5f);
                s[l] = s[l] < LEAST ? LEAST : s[l];
                z[l] = 8.0f;
            }
            judge(x, importance, n, s, z, best);
            continue;
        }
        for (int shift = is_rough ? 0 : -1; shift <= (is_rough ? 0 : 1); shift++) {
            EACH {
                s[l] = (high[l] - low[l]) * (SHRINK[i] / 15.0f);
                s[l] = s[l] < LEAST ? LEAST : s[l];
                const float middle = within(7.5f - (high[l] + low[l]) * 0.5f / s[l], -1.0f, 16.0f);
                z[l] = within(whole(middle) + (float)shift, 0.0f, 15.0f);
            }
            judge(x, importance, n, s, z, best);
        }
    }
}

/* Steps of the scale up and down, and of the zero, from the best so far; smaller from round to round. */
INLINE void try_steps(const float *x, const float *importance, int64_t n, int is_symmetric, struct best *best) {
    lanes s, z;
    for (int i = 0; i < N_STEP; i++) {
        const struct best from = *best;
        for (int side = -1; side <= 1; side += 2) {
            EACH s[l] = from.scale[l] * (1.0f + (float)side * STEP[i]);
            judge(x, importance, n, s, from.zero, best);
        }
        for (int side = -1; side <= 1 && !is_symmetric; side += 2) {
            EACH z[l] = within(from.zero[l] + (float)side, 0.0f, 15.0f);
            judge(x, importance, n, from.scale, z, best);
        }
    }
}

INLINE void load(const float *weights, int64_t stride, int64_t n_rows, int64_t n, float *x) {
    for (int64_t l = 0; l < LANES; l++) {
        for (int64_t j = 0; j < n; j++) {
            x[j * LANES + l] = l < n_rows ? weights[l * stride + j] : 0.0f;
        }
    }
}

CLONED
static void search(const float *weights, const float *importance, int64_t n_rows, int64_t n_groups, int64_t group,
                   int is_symmetric, int is_rough, float *scales, uint8_t *zeros, float *losses, uint8_t *codes) {
    float x[MOST_COLUMNS * LANES];
    const int64_t stride = n_groups * group;
    for (int64_t first = 0; first < n_rows; first += LANES) {
        const int64_t n_here = n_rows - first < LANES ? n_rows - first : LANES;
        for (int64_t g = 0; g < n_groups; g++) {
            const float *h = importance + g * group;
            load(weights + first * stride + g * group, stride, n_here, group, x);
            struct best best;
            EACH {
                best.gain[l] = -1.0f;
                best.scale[l] = 1.0f;
                best.zero[l] = 0.0f;
            }
            try_grid(x, h, group, is_symmetric, is_rough, &best);
            if (!is_rough) {
                try_steps(x, h, group, is_symmetric, &best);
                const struct best from = best;
                judge(x, h, group, from.scale, from.zero, &best);
            }
            lanes scale, inverse, loss = {0};
            EACH {
                scale[l] = stored_scale(best.scale[l]);
                inverse[l] = 1.0f / scale[l];
            }
            uint8_t code[MOST_COLUMNS * LANES];
            for (int64_t j = 0; j < group; j++) {
                EACH {
                    const float u = within(whole(x[j * LANES + l] * inverse[l]), -best.zero[l], 15.0f - best.zero[l]);
                    const float error = x[j * LANES + l] - u * scale[l];
                    loss[l] += h[j] * (error * error);
                    code[j * LANES + l] = (uint8_t)(int32_t)(u + best.zero[l]);
                }
            }
            for (int64_t l = 0; l < n_here; l++) {
                const int64_t at = (first + l) * n_groups + g;
                scales[at] = scale[l];
                zeros[at] = (uint8_t)best.zero[l];
                losses[at] = loss[l];
                for (int64_t j = 0; j < group; j++) {
                    codes[(first + l) * stride + g * group + j] = code[j * LANES + l];
                }
            }
        }
    }
}

CLONED
static void compensate(const float *weights, const float *wanted, const float *mix, int64_t n_rows, int64_t group,
                       const float *scales, const uint8_t *zeros, uint8_t *codes, float *errors) {
    float w[MOST_COLUMNS * LANES], x[MOST_COLUMNS * LANES];
    for (int64_t first = 0; first < n_rows; first += LANES) {
        const int64_t n_here = n_rows - first < LANES ? n_rows - first : LANES;
        lanes scale, inverse, zero;
        load(weights + first * group, group, n_here, group, w);
        load(wanted + first * group, group, n_here, group, x);
        EACH {
            scale[l] = l < n_here ? scales[first + l] : 1.0f;
            inverse[l] = 1.0f / scale[l];
            zero[l] = l < n_here ? (float)zeros[first + l] : 0.0f;
        }
        for (int64_t j = 0; j < group; j++) {
            lanes u, error;
            EACH {
                u[l] = within(whole(x[j * LANES + l] * inverse[l]), -zero[l], 15.0f - zero[l]);
                error[l] = w[j * LANES + l] - u[l] * scale[l];
            }
            for (int64_t k = j + 1; k < group; k++) {
                add_product(x + k * LANES, error, mix[j * group + k]);
            }
            for (int64_t l = 0; l < n_here; l++) {
                codes[(first + l) * group + j] = (uint8_t)(int32_t)(u[l] + zero[l]);
                errors[(first + l) * group + j] = error[l];
            }
        }
    }
}

/* weights [n_rows][n_groups*group], importance [n_groups*group] -> scales, zeros, losses [n_rows][n_groups] and
 * codes like weights. is_rough: for comparisons, a fifth of the candidates. */
EXPORT void int4_search(const float *weights, const float *importance, int64_t n_rows, int64_t n_groups, int64_t group,
                        int32_t is_symmetric, int32_t is_rough, float *scales, uint8_t *zeros, float *losses,
                        uint8_t *codes) {
    search(weights, importance, n_rows, n_groups, group, is_symmetric, is_rough, scales, zeros, losses, codes);
}

/* Round one group column by column; the error of each moves those that follow. All [n_rows][group] but:
 * mix [group][group], by how much an error of column j moves column k > j; scales, zeros [n_rows].
 * wanted: what the stored weights should be, earlier errors taken into account; errors: weight - stored. */
EXPORT void int4_compensate(const float *weights, const float *wanted, const float *mix, int64_t n_rows, int64_t group,
                            const float *scales, const uint8_t *zeros, uint8_t *codes, float *errors) {
    compensate(weights, wanted, mix, n_rows, group, scales, zeros, codes, errors);
}
