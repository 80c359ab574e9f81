/* All encoders for one instruction set: the including file defines ENCODER_NAME, and ENCODER_AVX512, ENCODER_AVX2 or
 * neither. LANES rows are encoded together; a last group that is smaller repeats its last row, for nobody. */

#include "encoder.h"
#include "k_affine.h"
#include "scaled.h"

namespace {

struct Effort {
    AffineEffort affine;
    ScaledEffort scaled;
};

/* One block of LANES rows, from `column` on, with the importances of its columns, to LANES places. */
typedef const float *const *Rows;
typedef uint8_t *const *Blocks;
typedef void (*encode_fn)(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to);

template <bool W> void q4_k(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_affine<W, 15>(rows, column, w, effort.affine, to);
}

template <bool W> void q5_k(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_affine<W, 31>(rows, column, w, effort.affine, to);
}

template <bool W> void q6_k(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_q6_k<W>(rows, column, w, effort.scaled, to);
}

template <bool W> void iq4_xs(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_iq4_xs<W>(rows, column, w, effort.scaled, to);
}

template <bool W> void iq4_nl(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_nibbles<Uneven, W>(rows, column, w, effort.scaled, to);
}

template <bool W> void q4_0(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_nibbles<FourBits, W>(rows, column, w, effort.scaled, to);
}

template <bool W> void q8_0(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_q8_0<W>(rows, column, w, effort.scaled, to);
}

template <bool W> void mxfp4(Rows rows, int64_t column, const float *w, const Effort &effort, Blocks to) {
    encode_mxfp4<W>(rows, column, w, effort.scaled, to);
}

struct Encoder {
    int type_id; /* enum ggml_type */
    int block_weights, block_bytes;
    encode_fn encode[2]; /* unweighted, weighted */
    Effort efforts[3];   /* quick unweighted, quick weighted, best */
};

/* Efforts were measured on normal, Student-t and trained weights (scripts/bench_quant.py): the quick ones leave room above
 * twenty times ggml's rate for Q4_K and IQ4_XS and ten times for Q5_K and Q6_K, the best above four times. ggml takes
 * twice as long for K-quants with importance. */
constexpr Encoder ENCODERS[] = {
    {2, 32, 18, {q4_0<false>, q4_0<true>}, {{{}, {8, 2, 0, 0}}, {{}, {12, 2, 0, 0}}, {{}, {32, 4, 0, 0}}}},
    {8, 32, 34, {q8_0<false>, q8_0<true>}, {{{}, {4, 1, 0, 0}}, {{}, {4, 1, 0, 0}}, {{}, {4, 3, 0, 0}}}},
    {12, 256, 144, {q4_k<false>, q4_k<true>}, {{{8, 2}, {}}, {{12, 2}, {}}, {{64, 6}, {}}}},
    {13, 256, 176, {q5_k<false>, q5_k<true>}, {{{12, 2}, {}}, {{16, 2}, {}}, {{64, 6}, {}}}},
    {14, 256, 210, {q6_k<false>, q6_k<true>}, {{{}, {8, 2, 4, 0}}, {{}, {8, 2, 4, 0}}, {{}, {32, 3, 16, 2}}}},
    {20, 32, 18, {iq4_nl<false>, iq4_nl<true>}, {{{}, {16, 2, 0, 0}}, {{}, {16, 2, 0, 0}}, {{}, {32, 4, 0, 0}}}},
    {23, 256, 136, {iq4_xs<false>, iq4_xs<true>}, {{{}, {16, 2, 8, 0}}, {{}, {16, 2, 8, 0}}, {{}, {32, 3, 16, 2}}}},
    {39, 32, 17, {mxfp4<false>, mxfp4<true>}, {}},
};

/* Tell whether all n weights are finite and no larger than `limit`; their bits compare like whole numbers. */
INLINE bool fits(const float *weights, int64_t n, float limit) {
    int32_t limit_bits;
    memcpy(&limit_bits, &limit, 4);
    I over = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        I bits;
        memcpy(&bits, weights + i, sizeof bits);
        over |= (bits & 0x7fffffff) > limit_bits;
    }
    int32_t any = 0;
    for (int lane = 0; lane < LANES; lane++) any |= over[lane];
    for (; i < n; i++) {
        int32_t bits;
        memcpy(&bits, weights + i, 4);
        any |= -((bits & 0x7fffffff) > limit_bits);
    }
    return any == 0;
}

} /* namespace */

extern "C" int ENCODER_NAME(const struct encode_request *request) {
    for (const Encoder &encoder : ENCODERS) {
        if (encoder.type_id != request->type_id) continue;
        const int64_t n_columns = request->n_columns, n_rows = request->n_rows;
        const int64_t row_bytes = n_columns / encoder.block_weights * encoder.block_bytes;
        const encode_fn encode = encoder.encode[request->importance != nullptr];
        const Effort &effort = encoder.efforts[request->best ? 2 : request->importance != nullptr];
        uint8_t spare[256];
        for (int64_t first = 0; first < n_rows; first += LANES) {
            const int64_t n = n_rows - first < LANES ? n_rows - first : LANES;
            if (!fits(request->rows + first * n_columns, n * n_columns, request->limit)) return ENCODE_UNFIT;
            const float *rows[LANES];
            uint8_t *to[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                rows[lane] = request->rows + (first + (lane < n ? lane : n - 1)) * n_columns;
                to[lane] = lane < n ? request->encoded + (first + lane) * row_bytes : spare;
            }
            for (int64_t column = 0; column < n_columns; column += encoder.block_weights) {
                encode(rows, column, request->importance != nullptr ? request->importance + column : nullptr, effort, to);
                for (int64_t lane = 0; lane < n; lane++) to[lane] += encoder.block_bytes;
            }
        }
        return ENCODE_DONE;
    }
    return ENCODE_UNKNOWN;
}
