/* The values that the types without a minimum can take, and the nearest of them: one class a type, `sum` for its search.
 *
 *     weight ≈ scale · VALUE[code]
 *
 *     SixBits    Q6_K     −32 … 31
 *     FourBits   Q4_0      −8 … 7
 *     EightBits  Q8_0    −127 … 127
 *     Uneven     IQ4      −127 −104 … 89 113
 *     Float4     MXFP4    0 ½ 1 1½ 2 3 4 6 and their negatives, doubled as in ggml
 */
#pragma once

#include "simd.h"

namespace {

/* Whole numbers from LOW to HIGH, stored as code = value − LOW. */
template <int LOW, int HIGH> struct Whole {
    static INLINE F nearest(F v) { return clamp(round_near(v), LOW, HIGH); }
    static INLINE I code(F v) { return to_int(nearest(v)) - LOW; }
};

typedef Whole<-32, 31> SixBits;
typedef Whole<-8, 7> FourBits;
typedef Whole<-127, 127> EightBits;

/* kvalues_iq4nl of ggml-common.h. The line is cut into 16 pieces of 13.3, from −117.8 on, so that in none of them lies
 * more than one of the 15 midpoints between values: what is nearest needs one look-up and one comparison. */
struct Uneven {
    static INLINE I piece(F v) { return to_int(clamp(round_near(v * (1.0f / 13.3f) + (117.8f / 13.3f - 0.5f)), 0.0f, 15.0f)); }

    static INLINE F nearest(F v) {
        const I at = piece(v);
        return select(v > look_up(MIDPOINT, at), look_up(ABOVE, at), look_up(BELOW, at));
    }

    static INLINE I code(F v) {
        const I at = piece(v);
        return to_int(look_up(CODE, at)) - (v > look_up(MIDPOINT, at)); /* a true comparison is −1 */
    }

    /* Piece 2 holds no midpoint: both sides are the same value. */
    static constexpr float MIDPOINT[16] = {-115.5f, -93.5f, 1e9f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f,
                                           -4.5f, 7.0f, 19.0f, 31.5f, 45.5f, 61.0f, 79.0f, 101.0f};
    static constexpr float BELOW[16] = {-127, -104, -83, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89};
    static constexpr float ABOVE[16] = {-104, -83, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static constexpr float CODE[16] = {0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
};

/* kvalues_mxfp4: E2M1, doubled, code 8 and up negative. In [2^k, 2^(k+1)) the values are 2^(k−1) apart, from 2 on. */
struct Float4 {
    static INLINE F of_magnitude(F v) {
        const F fine = round_near(v), middle = round_near(v * 0.5f) * 2.0f, coarse = round_near(v * 0.25f) * 4.0f;
        return minimum(select(v < 4.0f, fine, select(v < 8.0f, middle, coarse)), splat(12.0f));
    }

    static INLINE F nearest(F v) {
        const F value = of_magnitude(magnitude(v));
        return (F)((I)value | ((I)v & (int32_t)0x80000000));
    }

    static INLINE I code(F v) {
        const F value = of_magnitude(magnitude(v));
        const F number = select(value < 5.0f, value, select(value < 9.0f, value * 0.5f + 2.0f, splat(7.0f)));
        const I negative = (v < 0.0f) & (value > 0.0f);
        return to_int(number) | (negative & 8);
    }
};

} /* namespace */
