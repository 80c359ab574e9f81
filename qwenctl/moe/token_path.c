/* The hot path of generation: one token through one expert layer when every routed expert is in RAM.
 *
 * The same as TokenStep.__call__ of token_step.py (a product an expert) and BatchStep.__call__ of batch_step.py
 * (MUL_MAT_ID), which are its reference and do everything else: what is not known here, or not there, goes to
 * `fallback`, a callback into Python. After a layer's gigabytes have gone through the caches, Python needs 60 us, with
 * MUL_MAT_ID 200, for what takes 3 here.
 *
 * Uses are not counted here but logged; Python gives the log to the layer's pool before it decides anything.
 * One thread computes, and Python changes a step only from callbacks on that thread. Layouts: token_path.py.
 */

#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define MOST_USED 64
#define N_SAMPLES 4096

typedef int (*compute_fn)(void *backend, void *graph);

struct token_step {
    uint64_t uid;               /* of llama.cpp's graph */
    const int32_t *ids;         /* [n_ranked] experts by the router's liking; the first n_used are routed to */
    const int32_t *ready;       /* [n_experts] slot, -1: not there */
    uint64_t base;              /* address of slot 0 */
    uint64_t stride;            /* bytes from slot to slot */
    uint64_t down_offset;       /* of the last matrix in a slot */
    uint64_t *const *gates;     /* [n_used] where the address of the first matrix goes */
    uint64_t *const *downs;     /* [n_used] where the address of the last matrix goes */
    int32_t *numbers;           /* [n_used] where the slots' numbers go; NULL: addresses are wanted */
    void *graph;                /* to compute then; NULL: llama.cpp's own */
    int32_t *log;               /* [log_steps][n_ranked] */
    int32_t n_used;
    int32_t n_ranked;
    int32_t log_steps;
    int32_t n_logged;
};

struct token_path {
    compute_fn compute;         /* ggml_backend_graph_compute */
    void *cpu;                  /* its backend */
    compute_fn fallback;        /* Python */
    struct token_step **table;  /* [mask + 1] by the low bits of the uid */
    uint64_t mask;
    uint64_t uid_at;            /* offset of uid in a ggml_cgraph */
    int64_t is_off;             /* everything goes to the fallback */
    int64_t n_steps;
    int64_t compute_ns;
    int64_t n_samples;
    int32_t own_ns[N_SAMPLES];  /* the last samples of this path's own time */
};

static struct token_path *attached;

EXPORT void token_path_attach(struct token_path *path) { attached = path; }

static int64_t now_ns(void) {
#if defined(_WIN32)
    return 0;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
#endif
}

EXPORT int token_path_run(void *backend, void *graph) {
    struct token_path *path = attached;
    const int64_t began = now_ns();
    uint64_t uid;
    memcpy(&uid, (const char *)graph + path->uid_at, sizeof uid);
    struct token_step *step = path->table[uid & path->mask];
    if (path->is_off || uid == 0 || step == NULL || step->uid != uid || step->n_logged == step->log_steps) {
        return path->fallback(backend, graph);
    }
    int32_t slots[MOST_USED];
    const int32_t n = step->n_used;
    for (int32_t i = 0; i < n; i++) {
        slots[i] = step->ready[step->ids[i]];
        if (slots[i] < 0) {
            return path->fallback(backend, graph);
        }
    }
    if (step->numbers != NULL) {
        memcpy(step->numbers, slots, (size_t)n * sizeof *slots);
    }
    for (int32_t i = 0; step->numbers == NULL && i < n; i++) {
        const uint64_t slot = step->base + (uint64_t)slots[i] * step->stride;
        *step->gates[i] = slot;
        *step->downs[i] = slot + step->down_offset;
    }
    const int32_t n_ranked = step->n_ranked;
    memcpy(step->log + (int64_t)step->n_logged * n_ranked, step->ids, (size_t)n_ranked * sizeof *step->ids);
    step->n_logged++;
    const int64_t ready = now_ns();
    const int status = path->compute(path->cpu, step->graph != NULL ? step->graph : graph);
    const int64_t computed = now_ns();
    path->n_steps++;
    path->compute_ns += computed - ready;
    path->own_ns[path->n_samples++ % N_SAMPLES] = (int32_t)(ready - began);
    return status;
}
