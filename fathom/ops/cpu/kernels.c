/* Every kernel, compiled once per instruction set with -DVARIANT=name. Plain C11, no global state.
 *
 * Ids, positions and pages are checked here, since a wrong one would read or write elsewhere; shapes are checked by
 * whoever packed the model. Nothing is compiled with -ffast-math: the order of every sum is what the source says.
 */
#include "kernels.h"

#include "feed.h"

/* x of each token: its embedding, or an MTP module's joint of that and of what came before (section 2.2). */
static void embed(const team *t, const job *j, const layer *module) {
    const model *m = j->m;
    work *w = j->w;
    int64_t hidden = m->hidden;
    SHARE(j->tokens);
    for (int64_t i = begin; i < end; i++) {
        float *x = w->x + i * w->x_stride, *joint = w->normed.values + i * w->normed.stride;
        if (!module && !m->begins) {
            memcpy(x, j->what->before + i * hidden, 4u * (size_t)hidden);
            continue;
        }
        widen(stored(m->embedding, m->embedding_kind, j->what->ids[i] * hidden), m->embedding_kind, hidden, x);
        if (!module) continue;
        norm_row(x, module->embedding_norm, hidden, m->eps, joint);
        norm_row(j->what->before + i * hidden, module->hidden_norm, hidden, m->eps, joint + hidden);
        pad_row(&w->normed, i, 2 * hidden);
        round_row(&w->normed, i, wants(&module->join), 0, 2 * hidden);
    }
    if (!module) return;
    team_wait(t);
    {
        SHARE(blocks_of(&module->join));
        product(&module->join, begin, end, &w->normed, w->identity, j->tokens, w->x, w->x_stride);
    }
    team_wait(t);
}

/* Logits of the states asked for, and where each row of them is highest. */
static void answer(const team *t, const job *j) {
    const model *m = j->m;
    const call *what = j->what;
    const peers *p = m->peers && m->peers->size > 1 ? m->peers : NULL;
    work *w = j->w;
    int64_t stride = round_up(m->vocabulary, BLOCK);
    team_wait(t);
    {
        SHARE(what->asked);
        for (int64_t i = begin; i < end; i++) {
            const float *hidden = what->hidden + what->rows[i] * m->hidden;
            memcpy(w->normed.values + i * w->normed.stride, hidden, 4u * (size_t)m->hidden);
            pad_row(&w->normed, i, m->hidden);
            round_row(&w->normed, i, wants(&m->head), 0, m->hidden);
        }
    }
    team_wait(t);
    {
        SHARE(blocks_of(&m->head));
        float *to = what->logits + (p ? p->vocabulary[p->rank] : 0);
        product(&m->head, begin, end, &w->normed, w->identity, what->asked, to, stride);
    }
    team_wait(t);
    if (p && !ASK(p->columns(what->logits, what->asked, stride, p->vocabulary))) return;
    SHARE(what->asked);
    for (int64_t i = begin; i < end; i++) {
        what->best[i] = highest(what->logits + i * stride, m->vocabulary, what->highest + i);
    }
}

static void run(const team *t, void *given) {
    const job *j = given;
    const model *m = j->m;
    work *w = j->w;
    int64_t module = j->what->module, first = module < 0 ? 0 : m->layers + module;
    int64_t last = module < 0 ? m->layers : first + 1;
    embed(t, j, module < 0 ? NULL : &m->layer[first]);
    for (int64_t i = first; i < last; i++) {
        if (!attention_block(t, j, &m->layer[i], i) || !feed_forward(t, j, &m->layer[i], i)) return;
    }
    const float *weight = module < 0 ? m->last_norm : m->layer[first].last_norm;
    SHARE(j->tokens);
    for (int64_t i = begin; i < end; i++) {
        const float *x = w->x + i * w->x_stride;
        float *hidden = j->what->hidden + i * m->hidden;
        if (module < 0 && !m->ends) memcpy(hidden, x, 4u * (size_t)m->hidden);
        else norm_row(x, weight, m->hidden, m->eps, hidden);
    }
    if (j->what->asked) answer(t, j);
}

/* Every id, position and page that would be used to index memory. */
static int is_sound(const model *m, const cache *c, const batch *b, const call *what) {
    int64_t row = 0;
    if (what->module >= m->modules || (what->asked && !m->ends)) return 0;
    if ((!what->ids && (m->begins || what->module >= 0)) || (!what->before && (!m->begins || what->module >= 0))) {
        return b->tokens == 0;
    }
    for (int64_t i = 0; i < what->asked; i++)
        if (what->rows[i] < 0 || what->rows[i] >= b->tokens) return 0;
    for (int64_t s = 0; s < b->sequences; s++) {
        int64_t start = row < b->tokens ? b->positions[row] : -1, fresh = b->lengths[s];
        if (start < 0 || start > m->table_positions || fresh < 1 || fresh > b->tokens - row) return 0;
        int64_t length = start + fresh; /* of two numbers that are small now: any others might wrap around */
        if (length > b->table * c->page_tokens || length > m->table_positions) return 0;
        for (int64_t p = 0; p * c->page_tokens < length; p++) {
            int32_t page = b->pages[s * b->table + p];
            if (page < 0 || page >= c->pages) return 0;
        }
        for (int64_t i = 0; i < fresh; i++, row++) {
            if (b->positions[row] != start + i) return 0;
            if (what->ids && (what->ids[row] < 0 || what->ids[row] >= m->vocabulary)) return 0;
        }
    }
    return row == b->tokens;
}

static int forward(const model *m, const cache *c, const batch *b, const call *what, void *space, team_pool *pool) {
    work *w;
    if (!is_sound(m, c, b, what)) return OUT_OF_RANGE;
    lay_out(m, most(b->tokens, what->asked), what->arrivals, team_size(pool), space, &w);
    for (int64_t s = 0, row = 0; s < b->sequences; s++)
        for (int64_t i = 0; i < b->lengths[s]; i++, row++) w->sequence[row] = s;
    for (int64_t i = 0; i < most(most(1, m->top_k) * b->tokens, what->asked); i++) w->identity[i] = i;
    for (int64_t i = 0; i < m->top_k * b->tokens; i++) w->row_of[i] = i / m->top_k;
    w->failed = 0;
    memset(w->counters, 0, (size_t)(3 * (m->layers + m->modules)) * sizeof *w->counters);
    job j = {m, c, b, what, w, 0, b->tokens};
    team_run(pool, run, &j);
    return w->failed ? PEERS_FAILED : OK;
}

static int draft(const model *m, const cache *c, const batch *b, const call *what, const batch *then, const call *again,
                 int64_t rounds, void *space, team_pool *pool) {
    int64_t asked = what->asked, states = asked * m->hidden;
    int code = forward(m, c, b, what, space, pool);
    if (code != OK) return code;
    for (int64_t i = 0; i < asked; i++) {
        memcpy(again->hidden + i * m->hidden, what->hidden + what->rows[i] * m->hidden, 4u * (size_t)m->hidden);
    }
    const int64_t *chosen = what->best;
    for (int64_t r = 0; r < rounds && code == OK; r++) {
        batch at = *then;
        call next = *again;
        at.positions += r * asked;
        next.module = what->module + 1 + r < m->modules ? what->module + 1 + r : m->modules - 1;
        next.ids = chosen;
        next.before = again->hidden + r * states;
        next.hidden = again->hidden + (r + 1) * states;
        next.best += r * asked;
        next.highest += r * asked;
        chosen = next.best;
        code = forward(m, c, &at, &next, space, pool);
    }
    return code;
}

/* --- a product of its own: the head, and checks ------------------------------------------------------------------- */

typedef struct {
    const matrix *m;
    const float *x;
    int64_t rows;
    float *out;
    activations *a;
    int64_t *identity;
} lone_product;

static void run_product(const team *t, void *given) {
    const lone_product *p = given;
    int64_t dim = p->m->columns;
    {
        SHARE(p->rows);
        for (int64_t i = begin; i < end; i++) {
            memcpy(p->a->values + i * p->a->stride, p->x + i * dim, 4u * (size_t)dim);
            pad_row(p->a, i, dim);
            round_row(p->a, i, wants(p->m), 0, dim);
            p->identity[i] = i;
        }
    }
    team_wait(t);
    SHARE(blocks_of(p->m));
    product(p->m, begin, end, p->a, p->identity, p->rows, p->out, round_up(p->m->rows, BLOCK));
}

static int logits(const model *m, const float *hidden, int64_t rows, float *out, void *space, team_pool *pool) {
    work *w;
    lay_out(m, rows, 0, team_size(pool), space, &w);
    lone_product p = {&m->head, hidden, rows, out, &w->normed, w->identity};
    team_run(pool, run_product, &p);
    return OK;
}

static int product_alone(const matrix *m, const float *x, int64_t rows, float *out, team_pool *pool) {
    arena count = {NULL, 0};
    take_rows(&count, rows, m->columns);
    take(&count, rows * 8);
    arena a = {malloc((size_t)count.used), 0};
    if (!a.base) return OUT_OF_MEMORY;
    activations values = take_rows(&a, rows, m->columns);
    lone_product p = {m, x, rows, out, &values, take(&a, rows * 8)};
    team_run(pool, run_product, &p);
    free(a.base);
    return OK;
}

static int64_t space(const model *m, int64_t tokens, int64_t arriving, int64_t threads) {
    return lay_out(m, tokens, arriving, threads, NULL, NULL);
}

#define JOIN(a, b) a##b
#define NAMED(variant) JOIN(kernels_, variant)
#define TEXT(variant) #variant
#define NAME_OF(variant) TEXT(variant)

const kernels NAMED(VARIANT) = {NAME_OF(VARIANT), space, forward, draft, logits, product_alone};
