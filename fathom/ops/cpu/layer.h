/* The first half of a layer for a batch of tokens, by a team: attention (DeepSeek-V3, section 2.1.1). The second is
 * in feed.h.
 *
 * Between two `team_wait`s every thread writes rows or columns of its own, so that no number depends on how many there
 * are. A token's row of x, the residual stream in float32, belongs to one thread from `combine` to the next norm.
 */
#ifndef FATHOM_LAYER_H
#define FATHOM_LAYER_H

#include "route.h"
#include "space.h"

typedef struct {
    const model *m;
    const cache *c;
    const batch *b;
    const call *what;
    work *w;
    int64_t skip, tokens; /* those to work on, and the rows of x before them */
} job;

/* This thread's part of n things: from `begin` to `end`. */
#define SHARE(n) int64_t begin = (n) * t->rank / t->size, end = (n) * (t->rank + 1) / t->size

static void norm_rows(const team *t, const job *j, const float *weight, int which) {
    work *w = j->w;
    SHARE(j->tokens);
    for (int64_t i = begin; i < end; i++) {
        norm_row(w->x + (j->skip + i) * w->x_stride, weight, j->m->hidden, j->m->eps, w->normed.values + i * w->normed.stride);
        pad_row(&w->normed, i, j->m->hidden);
        round_row(&w->normed, i, which, 0, j->m->hidden);
    }
}

/* Two matrices with the same input, as if one lay below the other; the first may be none. */
static void two_products(const team *t, const job *j, const matrix *one, float *to_one, const matrix *two,
                         float *to_two) {
    work *w = j->w;
    int64_t first = one->data ? blocks_of(one) : 0;
    SHARE(first + blocks_of(two));
    int64_t stop = end < first ? end : first, start = begin > first ? begin : first;
    if (begin < stop) product(one, begin, stop, &w->normed, w->identity, j->tokens, to_one, w->a_stride);
    if (start < end) {
        product(two, start - first, end - first, &w->normed, w->identity, j->tokens, to_two, w->a_stride);
    }
}

/* x += shared, in some columns. */
static void add_columns(const job *j, int64_t begin, int64_t end) {
    work *w = j->w;
    for (int64_t i = 0; i < j->tokens; i++) {
        float *x = w->x + i * w->x_stride;
        const float *y = w->shared + i * w->x_stride;
        for (int64_t d = begin; d < end; d++) x[d] += y[d];
    }
}

/* Whether others have computed columns of these tokens, which are to be fetched. */
INLINE int is_shared(const job *j) { return j->m->peers && j->m->peers->size > 1 && j->tokens; }

/* Hear what peers answered, once the first thread has asked; whether to go on. */
static int heard(const team *t, const job *j, int answer) {
    if (t->rank == 0) j->w->failed = answer;
    team_wait(t);
    return !j->w->failed;
}
#define ASK(question) heard(t, j, t->rank ? 0 : (question))

/* Columns that the others computed of rows in which ours are written; whether to go on. Everybody waits before. */
static int fetch_columns(const team *t, const job *j, float *rows, int64_t stride, const int64_t *begin) {
    return ASK(j->m->peers->columns(rows, j->tokens, stride, begin));
}

/* x += m times rows of `from`; each thread its own columns, or rows where others have computed some of them. */
static int add_product(const team *t, const job *j, const matrix *m, const activations *from) {
    work *w = j->w;
    int shared = is_shared(j);
    const int64_t *columns = shared ? j->m->peers->hidden : NULL;
    {
        SHARE(blocks_of(m));
        product(m, begin, end, from, w->identity, j->tokens, w->shared + (shared ? columns[j->m->peers->rank] : 0),
                w->x_stride);
        if (!shared) {
            add_columns(j, begin * BLOCK, end * BLOCK);
            return 1;
        }
    }
    team_wait(t);
    if (!fetch_columns(t, j, w->shared, w->x_stride, columns)) return 0;
    SHARE(round_up(j->m->hidden, BLOCK) / BLOCK);
    add_columns(j, begin * BLOCK, end * BLOCK);
    return 1;
}

/* --- attention: each head is one thread's, from its query to its values ------------------------------------ */

/* This thread's tokens: normalised latents and rotated keys into their slots, query latents normalised. */
static void latents(const team *t, const job *j, const layer *l, int64_t place) {
    const model *m = j->m;
    const cache *c = j->c;
    work *w = j->w;
    float *latent = w->own[t->rank].attention.keys, *turned = latent + m->latent; /* free until attention */
    SHARE(j->tokens);
    for (int64_t i = begin; i < end; i++) {
        const float *both = w->kv + i * w->a_stride;
        int64_t position = j->b->positions[i], turn = position * (m->rope / 2);
        int32_t page = j->b->pages[w->sequence[i] * j->b->table + position / c->page_tokens];
        int64_t slot = (place * c->pages + page) * c->page_tokens + position % c->page_tokens;
        norm_row(both, l->kv_norm, m->latent, m->eps, latent);
        rotate_row(both + m->latent, m->cosines + turn, m->sines + turn, m->rope / 2, turned);
        narrow(latent, c->kind, m->latent, (void *)stored(c->latent, c->kind, slot * m->latent));
        narrow(turned, c->kind, m->rope, (void *)stored(c->rope, c->kind, slot * m->rope));
        if (!l->q_a.data) continue;
        norm_row(w->qa + i * w->a_stride, l->q_norm, m->q_rank, m->eps, w->query.values + i * w->query.stride);
        pad_row(&w->query, i, m->q_rank);
        round_row(&w->query, i, wants(&l->q_b[0]), 0, m->q_rank);
    }
}

/* A head's own matrix times `width` values of each token, from `from` on; the result goes to own->head. */
static void head_product(const job *j, const matrix *m, const float *from, int64_t from_stride, int64_t width,
                         own_space *own, float *to, int64_t to_stride) {
    for (int64_t i = 0; i < j->tokens; i++) {
        memcpy(own->rows.values + i * own->rows.stride, from + i * from_stride, 4u * (size_t)width);
        pad_row(&own->rows, i, width);
        round_row(&own->rows, i, wants(m), 0, width);
    }
    product(m, 0, blocks_of(m), &own->rows, j->w->identity, j->tokens, to, to_stride);
}

/* The queries of one head, in latent space: k_b (q_nope), then q_rope turned. */
static void absorb(const job *j, const layer *l, int64_t head, own_space *own) {
    const model *m = j->m;
    work *w = j->w;
    int64_t stride = w->query_stride * m->heads;
    float *to = w->queries + head * w->query_stride;
    const activations *from = l->q_a.data ? &w->query : &w->normed;
    product(&l->q_b[head], 0, blocks_of(&l->q_b[head]), from, w->identity, j->tokens, own->head, w->head_stride);
    head_product(j, &l->k_b[head], own->head, w->head_stride, m->nope, own, to, stride);
    for (int64_t i = 0; i < j->tokens; i++, to += stride) {
        int64_t turn = j->b->positions[i] * (m->rope / 2);
        rotate_row(own->head + i * w->head_stride + m->nope, m->cosines + turn, m->sines + turn, m->rope / 2,
                   to + m->latent);
        memset(to + m->latent + m->rope, 0, 4u * (size_t)(w->query_stride - m->latent - m->rope));
    }
}

/* Some heads of `n` tokens of a sequence, the first in `row`, in chunks whose sums fit this thread's space. */
static void attend_tokens(const job *j, const attention *a, own_space *own, int64_t first, int64_t heads,
                          int64_t sequence, int64_t row, int64_t n) {
    int64_t most_tokens = j->w->chunk_rows / heads, width = j->w->query_stride;
    for (int64_t end = row + n; row < end; row += most_tokens) {
        int64_t tokens = end - row < most_tokens ? end - row : most_tokens;
        for (int64_t i = 0; i < tokens * heads; i++) {
            own->q[i] = j->w->queries + ((row + i / heads) * j->m->heads + first + i % heads) * width;
        }
        attend(a, &own->attention, own->q, tokens, heads, j->b->positions[row], j->b->pages + sequence * j->b->table);
    }
}

/* All heads of chunks of tokens, as jobs that whoever is free takes; the latest tokens of a sequence, which have most
 * keys, come first. */
static void attention_jobs(const team *t, const job *j, const attention *a, int64_t *counter) {
    int64_t heads = j->m->heads, size = j->w->chunk_rows / heads, row = j->tokens, next = team_next(counter);
    for (int64_t s = j->b->sequences - 1, before = 0; s >= 0; s--) {
        int64_t n = j->b->lengths[s], chunks = (n + size - 1) / size;
        row -= n;
        for (; next < before + chunks; next = team_next(counter)) {
            int64_t from = (chunks - 1 - (next - before)) * size;
            attend_tokens(j, a, &j->w->own[t->rank], 0, heads, s, row + from, n - from < size ? n - from : size);
        }
        before += chunks;
    }
}

/* Whether a head's thread can round its values for the output projection: no group of columns holds two heads', and
 * all heads are here. */
static int rounds_by_head(const model *m, const layer *l) {
    return m->value % l->o.group == 0 && m->heads == m->all_heads;
}

/* Latent results of one head -> its values, into their columns of `mixed`. */
static void open_values(const job *j, const layer *l, int64_t head, own_space *own) {
    const model *m = j->m;
    work *w = j->w;
    int which = rounds_by_head(m, l) ? wants(&l->o) : 0;
    int64_t column = (m->peers ? m->peers->heads[m->peers->rank] : 0) + head * m->value;
    head_product(j, &l->v_b[head], w->queries + head * w->query_stride, w->query_stride * m->heads, m->latent, own,
                 own->head, w->head_stride);
    for (int64_t i = 0; i < j->tokens; i++) {
        float *to = w->mixed.values + i * w->mixed.stride + column;
        memcpy(to, own->head + i * w->head_stride, 4u * (size_t)m->value);
        if (head == m->heads - 1) pad_row(&w->mixed, i, m->all_heads * m->value);
        round_row(&w->mixed, i, which, column, column + m->value);
    }
}

static int attention_block(const team *t, const job *j, const layer *l, int64_t place) {
    const model *m = j->m;
    const cache *c = j->c;
    work *w = j->w;
    own_space *own = &w->own[t->rank];
    int64_t slots = place * c->pages * c->page_tokens;
    attention a = {m->latent, m->rope, w->query_stride, w->sum_stride, c, stored(c->latent, c->kind, slots * m->latent),
                   stored(c->rope, c->kind, slots * m->rope), m->scale};

    norm_rows(t, j, l->input_norm, wants(l->q_a.data ? &l->q_a : &l->q_b[0]) | wants(&l->kv_a));
    team_wait(t);
    two_products(t, j, &l->q_a, w->qa, &l->kv_a, w->kv);
    team_wait(t);
    latents(t, j, l, place);
    team_wait(t);
    {
        SHARE(m->heads);
        for (int64_t h = begin; h < end; h++) absorb(j, l, h, own);
        if (j->b->sequences >= t->size) { /* keys are prepared once for all heads */
            team_wait(t);
            attention_jobs(t, j, &a, w->counters + 3 * place);
            team_wait(t);
        } else if (begin < end)
            for (int64_t s = 0, row = 0; s < j->b->sequences; row += j->b->lengths[s++])
                attend_tokens(j, &a, own, begin, end - begin, s, row, j->b->lengths[s]);
        for (int64_t h = begin; h < end; h++) open_values(j, l, h, own);
    }
    team_wait(t);
    if (is_shared(j) && !fetch_columns(t, j, w->mixed.values, w->mixed.stride, m->peers->heads)) return 0;
    if (!rounds_by_head(m, l)) {
        SHARE(j->tokens);
        for (int64_t i = begin; i < end; i++) round_row(&w->mixed, i, wants(&l->o), 0, m->all_heads * m->value);
        team_wait(t);
    }
    if (!add_product(t, j, &l->o, &w->mixed)) return 0;
    team_wait(t);
    return 1;
}

#endif
