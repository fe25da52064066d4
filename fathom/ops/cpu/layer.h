/* One layer for a batch of tokens, by a team: attention, then a feed-forward (DeepSeek-V3, section 2.1).
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

/* --- feed-forward: chunks of an expert's rows or columns are jobs that whoever is free takes ---------------------- */

#define CHUNK_BLOCKS 8 /* 128 rows of a matrix, the widest group of the next one's columns */

/* silu(gate x) * (up x) for 128 of the inner values, from `column` of `to` on, rounded for `down` if they are all of
 * them. `place[i]` is where row i's values go. */
static void gate_up(const mlp *e, int64_t chunk, const activations *from, const int64_t *row, const int64_t *place,
                    int64_t rows, const activations *to, int64_t column) {
    int64_t first = chunk * CHUNK_BLOCKS, all = blocks_of(&e->gate), inner = e->gate.rows;
    int64_t last = first + CHUNK_BLOCKS < all ? first + CHUNK_BLOCKS : all;
    float gate[SUMS][BLOCK], up[SUMS][BLOCK];
    for (int64_t b = first, blocks; b < last; b += blocks) {
        blocks = together(&e->gate, rows, last - b);
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            int n = rows - r < TILE_ROWS ? (int)(rows - r) : TILE_ROWS;
            tile(&e->gate, b, (int)blocks, from, row + r, n, gate);
            tile(&e->up, b, (int)blocks, from, row + r, n, up);
            for (int i = 0; i < n * blocks; i++) {
                float *out = to->values + place[r + i % n] * to->stride + column + (b + i / n) * BLOCK;
                for (int k = 0; k < BLOCK; k++) out[k] = silu(gate[i][k]) * up[i][k];
            }
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
