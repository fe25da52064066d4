/* Where a forward works: every buffer of every thread, cut from one piece of memory that the caller owns. */
#ifndef FATHOM_SPACE_H
#define FATHOM_SPACE_H

#include "attend.h"
#include "matrix.h"

typedef struct { /* one thread's own */
    activations rows;          /* [tokens]: a head's plain queries, then its latent results */
    float *head;               /* [tokens, head_stride]: what a head's matrix gave */
    float *sum;                /* [x_stride]: one row */
    float **q;                 /* [chunk_rows] */
    int64_t *start, *place, *row; /* expert e's rows: row[start[e]..start[e+1]), in slots place[...] */
    attention_space attention;
} own_space;

typedef struct {
    int64_t x_stride, a_stride, query_stride, sum_stride, head_stride, gate_stride, chunk_rows;
    int64_t *identity;   /* [tokens]: 0, 1, 2, ... */
    int64_t *sequence;   /* [tokens]: whose */
    float *x;            /* [tokens, x_stride]: the residual stream */
    activations normed;  /* [tokens]: hidden, or both halves of an MTP module's input */
    activations query;   /* [tokens]: q_rank */
    activations mixed;   /* [tokens]: heads * value */
    activations inner;   /* [tokens]: inner */
    activations chosen;  /* [tokens * top_k]: expert_inner */
    float *qa, *kv;      /* [tokens, a_stride] */
    float *queries;      /* [tokens, heads, query_stride] */
    float *affinity;     /* [tokens, gate_stride] */
    float *weights;      /* [tokens, top_k] */
    int64_t *ids;        /* [tokens, top_k] */
    int64_t *row_of;     /* [tokens * top_k]: the token of each slot */
    float *y;            /* [tokens * top_k, x_stride]: what each slot's expert gave */
    float *shared;       /* [tokens, x_stride] */
    activations arrived; /* [arrivals]: hidden; what peers sent */
    arrivals came;
    float *given;        /* [arrivals * slots, x_stride]: what experts gave for these */
    int failed;          /* what a peer answered */
    int64_t *counters;   /* [layers + modules, 3]: of jobs taken */
    own_space *own;      /* [threads] */
} work;

typedef struct {
    char *base; /* NULL while only counting */
    int64_t used;
} arena;

static void *take(arena *a, int64_t bytes) {
    void *found = a->base ? a->base + a->used : NULL;
    a->used += round_up(bytes, 64);
    return found;
}

static float *take_floats(arena *a, int64_t n) { return take(a, n * 4); }

static activations take_rows(arena *a, int64_t rows, int64_t width) {
    activations got = {.stride = round_up(width, PAD)};
    int64_t values = rows * got.stride;
    got.values = take_floats(a, values);
    for (int s = 0; s < 3; s++) {
        got.rounded[s].level = take(a, values);
        got.rounded[s].scale = take_floats(a, values / (32 << s));
        got.rounded[s].sum = take(a, values / (32 << s) * 4);
    }
    return got;
}

/* Zeros from `width` to the end of a row. */
INLINE void pad_row(const activations *a, int64_t row, int64_t width) {
    memset(a->values + row * a->stride + width, 0, 4u * (size_t)(a->stride - width));
}

INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The most rows of experts: each token here once per slot, each that arrives at most once per expert held. */
static int64_t most_pairs(const model *m, int64_t tokens, int64_t arrivals) {
    return most(tokens * m->top_k, arrivals * least(m->top_k, m->held));
}

static own_space take_own(arena *a, const model *m, int64_t tokens, int64_t slots, const work *w) {
    own_space own = {0};
    own.rows = take_rows(a, tokens, most(m->nope, m->latent));
    own.head = take_floats(a, tokens * w->head_stride);
    own.sum = take_floats(a, w->x_stride);
    own.q = take(a, w->chunk_rows * (int64_t)sizeof *own.q);
    own.start = take(a, (m->held + 2) * 8);
    own.place = take(a, slots * 8);
    own.row = take(a, slots * 8);
    own.attention.latents = take(a, KEYS * (int64_t)sizeof *own.attention.latents);
    own.attention.ropes = take(a, KEYS * (int64_t)sizeof *own.attention.ropes);
    own.attention.keys = take_floats(a, (KEYS + 1) * w->query_stride);
    own.attention.turned = take_floats(a, 2 * LANES * w->query_stride); /* this and weights: the most of any variant */
    own.attention.side = take_floats(a, KEYS / 2 * w->sum_stride);
    own.attention.queries = take_floats(a, w->chunk_rows * w->query_stride);
    own.attention.scores = take_floats(a, w->chunk_rows * KEYS);
    own.attention.weights = (factor *)take_floats(a, w->chunk_rows * KEYS);
    own.attention.sums = take_floats(a, w->chunk_rows * w->sum_stride);
    own.attention.maximum = take_floats(a, w->chunk_rows);
    own.attention.total = take_floats(a, w->chunk_rows);
    own.attention.keep = take_floats(a, w->chunk_rows);
    return own;
}

/* Lay everything out for `tokens` tokens and so many that arrive; returns the bytes it takes. With base NULL it only
 * counts. */
static int64_t lay_out(const model *m, int64_t tokens, int64_t arriving, int64_t threads, void *base, work **at) {
    arena a = {base, 0};
    work counted, *w = take(&a, sizeof *w);
    if (!w) w = &counted;
    int64_t slots = tokens * m->top_k, pairs = most_pairs(m, tokens, arriving);
    int64_t head_rows = most(m->nope + m->rope, m->value);
    w->x_stride = round_up(m->hidden, PAD);
    w->a_stride = round_up(most(m->q_rank, m->latent + m->rope), PAD);
    w->query_stride = round_up(m->latent + m->rope, 2 * LANES);
    w->sum_stride = round_up(m->latent, BLOCK);
    w->head_stride = round_up(head_rows, BLOCK);
    w->gate_stride = round_up(most(m->experts, 1), BLOCK);
    w->chunk_rows = most(m->heads, CHUNK_FLOATS / w->sum_stride);
    if (tokens * m->heads < w->chunk_rows) w->chunk_rows = tokens * m->heads;
    w->identity = take(&a, most(tokens, slots) * 8);
    w->sequence = take(&a, tokens * 8);
    w->x = take_floats(&a, tokens * w->x_stride);
    w->normed = take_rows(&a, tokens, m->hidden * (m->modules ? 2 : 1));
    w->query = take_rows(&a, tokens, most(m->q_rank, 1));
    w->mixed = take_rows(&a, tokens, m->all_heads * m->value);
    w->inner = take_rows(&a, tokens, m->inner);
    w->chosen = take_rows(&a, pairs, m->expert_inner);
    w->qa = take_floats(&a, tokens * w->a_stride);
    w->kv = take_floats(&a, tokens * w->a_stride);
    w->queries = take_floats(&a, tokens * m->heads * w->query_stride);
    w->affinity = take_floats(&a, tokens * w->gate_stride);
    w->weights = take_floats(&a, slots);
    w->ids = take(&a, slots * 8);
    w->row_of = take(&a, slots * 8);
    w->y = take_floats(&a, slots * w->x_stride);
    w->shared = take_floats(&a, tokens * w->x_stride);
    w->arrived = take_rows(&a, arriving, m->hidden);
    w->came = (arrivals){w->arrived.values, w->arrived.stride, arriving, take(&a, pairs * 8), take(&a, pairs * 8), 0, 0};
    w->given = take_floats(&a, arriving ? pairs * w->x_stride : 0);
    w->counters = take(&a, 3 * (m->layers + m->modules) * 8);
    w->own = take(&a, threads * (int64_t)sizeof *w->own);
    for (int64_t i = 0; i < threads; i++) {
        own_space own = take_own(&a, m, tokens, pairs, w);
        if (base) w->own[i] = own;
    }
    if (at) *at = w;
    return a.used;
}

#endif
