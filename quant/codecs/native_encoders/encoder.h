/* What Python asks of the encoders (quant/codecs/fast.py has the same struct). */
#pragma once

#include <stdint.h>

enum encode_result { ENCODE_DONE = 0, ENCODE_UNKNOWN = 1, ENCODE_UNFIT = 2 };

struct encode_request {
    const float *rows;       /* [n_rows][n_columns] */
    const float *importance; /* [n_columns], positive, 1 on average; or NULL */
    uint8_t *encoded;        /* [n_rows][bytes of a row] */
    int64_t n_rows;
    int64_t n_columns; /* a multiple of the type's block */
    int32_t type_id;   /* enum ggml_type */
    int32_t best;      /* search longer */
    float limit;       /* weights beyond it, infinity and NaN end in ENCODE_UNFIT */
};

#ifdef __cplusplus
extern "C" {
#endif

/* One an instruction set, each in a file of its own; to be called only where the processor has it. */
int encode_avx512(const struct encode_request *request);
int encode_avx2(const struct encode_request *request);
int encode_baseline(const struct encode_request *request);

#ifdef __cplusplus
}
#endif
