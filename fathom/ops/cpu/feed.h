/* The second half of a layer: a dense feed-forward, or experts, here and at peers (DeepSeek-V3, section 2.1.2). */
#ifndef FATHOM_FEED_H
#define FATHOM_FEED_H

#include "layer.h"

/* --- feed-forward: chunks of an expert's rows or columns are jobs that whoever is free takes ---------------------- */

#define CHUNK_BLOCKS 8 /* 128 rows of a matrix, the widest group of the next one's columns */

/* out[(b - first) * rows + r]: some blocks times up to TILE_ROWS rows. */
static void tiles(const matrix *m, int64_t first, int64_t last, const activations *a, const int64_t *row, int rows,
                  float (*out)[BLOCK]) {
    for (int64_t b = first, blocks; b < last; b += blocks, out += blocks * rows) {
        blocks = together(m, rows, last - b);
        tile(m, b, (int)blocks, a, row, rows, out);
    }
}

/* silu(gate x) * (up x) for 128 of the inner values, from `column` of `to` on, rounded for `down` if they are all of
 * them. `place[i]` is where row i's values go. */
static void gate_up(const mlp *e, int64_t chunk, const activations *from, const int64_t *row, const int64_t *place,
                    int64_t rows, const activations *to, int64_t column) {
    int64_t first = chunk * CHUNK_BLOCKS, all = blocks_of(&e->gate), inner = e->gate.rows;
    int64_t last = first + CHUNK_BLOCKS < all ? first + CHUNK_BLOCKS : all;
    float gate[CHUNK_BLOCKS * SUMS][BLOCK], up[CHUNK_BLOCKS * SUMS][BLOCK];
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        int n = rows - r < TILE_ROWS ? (int)(rows - r) : TILE_ROWS;
        tiles(&e->gate, first, last, from, row + r, n, gate);
        tiles(&e->up, first, last, from, row + r, n, up);
        for (int64_t i = 0; i < n * (last - first); i++) {
            float *out = to->values + place[r + i % n] * to->stride + column + (first + i / n) * BLOCK;
            for (int k = 0; k < BLOCK; k++) out[k] = silu(gate[i][k]) * up[i][k];
        }
    }
    if (inner < e->down.columns) return;
    int64_t end = last == all ? inner : last * BLOCK;
    for (int64_t r = 0; r < rows; r++) {
        if (last == all) pad_row(to, place[r], inner);
        round_row(to, place[r], wants(&e->down), first * BLOCK, end);
    }
}

static void down(const mlp *e, int64_t chunk, const activations *from, const int64_t *place, int64_t rows, float *y,
                 int64_t stride) {
    int64_t first = chunk * CHUNK_BLOCKS, all = blocks_of(&e->down);
    int64_t last = first + CHUNK_BLOCKS < all ? first + CHUNK_BLOCKS : all;
    float sum[SUMS][BLOCK];
    for (int64_t b = first, blocks; b < last; b += blocks) {
        blocks = together(&e->down, rows, last - b);
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            int n = rows - r < TILE_ROWS ? (int)(rows - r) : TILE_ROWS;
            tile(&e->down, b, (int)blocks, from, place + r, n, sum);
            for (int i = 0; i < n * blocks; i++) {
                memcpy(y + place[r + i % n] * stride + (b + i / n) * BLOCK, sum[i], sizeof *sum);
            }
        }
    }
}

/* Rows that meet experts: each as often as it chose one of those held here. */
typedef struct {
    const activations *from;
    int64_t count;
    const int64_t *expert, *row; /* [count] */
    float *y;                    /* [count, x_stride] */
} meeting;

/* Every chunk of every expert that has rows, the shared ones first; `counter` hands them out. */
static void expert_jobs(const team *t, const job *j, const layer *l, const meeting *met, int is_down, int64_t *counter) {
    work *w = j->w;
    const own_space *own = &w->own[t->rank];
    int64_t experts = l->router.data ? j->m->held : 0, next = team_next(counter);
    const peers *p = l->router.data ? NULL : j->m->peers; /* a dense layer is divided */
    for (int64_t e = -1, before = 0; e < experts; e++) {
        const mlp *part = e < 0 ? &l->shared : &l->experts[e];
        int64_t rows = e < 0 ? j->tokens : own->start[e + 1] - own->start[e];
        if (!rows || !part->gate.data) continue;
        const int64_t *row = e < 0 ? w->identity : own->row + own->start[e];
        const int64_t *place = e < 0 ? w->identity : own->place + own->start[e];
        const activations *inner = e < 0 ? &w->inner : &w->chosen;
        int64_t blocks = blocks_of(is_down ? &part->down : &part->gate);
        int64_t after = before + (blocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
        for (; next < after; next = team_next(counter)) {
            if (is_down) {
                float *y = e < 0 ? w->shared + (p ? p->hidden[p->rank] : 0) : met->y;
                down(part, next - before, inner, place, rows, y, w->x_stride);
            } else {
                gate_up(part, next - before, e < 0 ? &w->normed : met->from, row, place, rows, inner,
                        p ? p->inner[p->rank] : 0);
            }
        }
        before = after;
    }
}

/* Rows by expert, in the order of tokens and slots; every thread makes its own list. */
static void sort_rows(const job *j, const meeting *met, own_space *own) {
    int64_t experts = j->m->held, *start = own->start;
    memset(start, 0, (size_t)(experts + 2) * sizeof *start);
    for (int64_t i = 0; i < met->count; i++) start[met->expert[i] + 2]++;
    for (int64_t e = 0; e < experts; e++) start[e + 2] += start[e + 1];
    for (int64_t i = 0; i < met->count; i++) {
        int64_t at = start[met->expert[i] + 1]++;
        own->place[at] = i, own->row[at] = met->row[i];
    }
}

/* The experts of this thread's own tokens, whose normed rows it has just written. */
static void choose_experts(const team *t, const job *j, const layer *l, int64_t place) {
    const model *m = j->m;
    work *w = j->w;
    SHARE(j->tokens);
    product(&l->router, 0, blocks_of(&l->router), &w->normed, w->identity + begin, end - begin,
            w->affinity + begin * w->gate_stride, w->gate_stride);
    for (int64_t i = begin; i < end; i++) {
        float *affinity = w->affinity + i * w->gate_stride;
        to_affinity(affinity, m->experts, m->softmax);
        route(m, affinity, l->bias, w->ids + i * m->top_k, w->weights + i * m->top_k);
        if (!j->what->chosen) continue;
        memcpy(j->what->chosen + (place * j->b->tokens + j->skip + i) * m->top_k, w->ids + i * m->top_k, 8u * (size_t)m->top_k);
    }
}

/* x += sum over slots of weight * y, in the order of slots, and what the shared experts gave. */
static void combine(const team *t, const job *j, const layer *l) {
    const model *m = j->m;
    work *w = j->w;
    float *sum = w->own[t->rank].sum;
    SHARE(j->tokens);
    for (int64_t i = begin; i < end; i++) {
        float *x = w->x + (j->skip + i) * w->x_stride;
        const float *shared = w->shared + i * w->x_stride;
        if (l->router.data) {
            memset(sum, 0, 4u * (size_t)m->hidden);
            for (int64_t s = i * m->top_k; s < (i + 1) * m->top_k; s++) {
                const float *y = w->y + s * w->x_stride;
                float weight = w->weights[s];
                for (int64_t d = 0; d < m->hidden; d++) sum[d] += y[d] * weight;
            }
            if (l->shared.gate.data)
                for (int64_t d = 0; d < m->hidden; d++) sum[d] += shared[d];
            shared = sum;
        }
        for (int64_t d = 0; d < m->hidden; d++) x[d] += shared[d];
    }
}

/* Those of the tokens whose experts this process asks for: peers with the same batch divide them. */
static job part_of(const job *j) {
    const peers *p = j->m->peers;
    job part = *j;
    if (!p || p->size == 1) return part;
    part.skip = j->tokens * p->rank / p->size;
    part.tokens = j->tokens * (p->rank + 1) / p->size - part.skip;
    return part;
}

/* Send rows to where their experts are, and prepare those that come; whether to go on. */
static int dispatch(const team *t, const job *j, const layer *l, int64_t place, meeting *met) {
    work *w = j->w;
    arrivals *came = &w->came;
    if (!ASK(j->m->peers->dispatch(place, w->normed.values, j->tokens, w->normed.stride, w->ids, came))) return 0;
    *met = (meeting){&w->arrived, came->pairs, came->expert, came->row, w->given};
    {
        SHARE(came->tokens);
        for (int64_t i = begin; i < end; i++) {
            pad_row(&w->arrived, i, j->m->hidden);
            round_row(&w->arrived, i, wants(&l->experts[0].gate), 0, j->m->hidden);
        }
    }
    team_wait(t);
    return 1;
}

/* The feed-forward of a dense layer, whose inner values and results are divided among peers: fetch the others'. */
static int fetch_inner(const team *t, const job *j, const layer *l) {
    work *w = j->w;
    int64_t inner = l->shared.down.columns;
    if (!fetch_columns(t, j, w->inner.values, w->inner.stride, j->m->peers->inner)) return 0;
    {
        SHARE(j->tokens);
        for (int64_t i = begin; i < end; i++) {
            pad_row(&w->inner, i, inner);
            round_row(&w->inner, i, wants(&l->shared.down), 0, inner);
        }
    }
    team_wait(t);
    return 1;
}

static int feed_forward(const team *t, const job *all, const layer *l, int64_t place) {
    const peers *p = all->m->peers;
    work *w = all->w;
    int routed = l->router.data != NULL, travels = routed && p && p->travels, divided = !routed && is_shared(all);
    job own = routed ? part_of(all) : *all;
    const job *j = &own;
    meeting met = {&w->normed, j->tokens * j->m->top_k, w->ids, w->row_of, w->y};
    int64_t *counters = w->counters + 3 * place;

    norm_rows(t, j, l->post_norm, wants(&l->shared.gate) | (routed ? wants(&l->experts[0].gate) : 0));
    if (routed) choose_experts(t, j, l, place);
    team_wait(t);
    if (travels && !dispatch(t, j, l, place, &met)) return 0;
    if (routed) sort_rows(j, &met, &w->own[t->rank]);
    expert_jobs(t, j, l, &met, 0, counters + 1);
    team_wait(t);
    if (divided && !fetch_inner(t, j, l)) return 0;
    expert_jobs(t, j, l, &met, 1, counters + 2);
    team_wait(t);
    if (travels && !ASK(p->combine(w->given, w->y, w->x_stride))) return 0;
    if (divided && !fetch_columns(t, j, w->shared, w->x_stride, p->hidden)) return 0;
    combine(t, j, l);
    if (!routed || !is_shared(all)) return 1;
    team_wait(t);
    return ASK(p->rows(w->x, all->tokens, w->x_stride));
}

#endif
