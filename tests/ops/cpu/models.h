/* Random matrices and models of exactly the size that kernels.h and ops/packing.py promise: what drive.c drives. */
#ifndef FATHOM_TEST_MODELS_H
#define FATHOM_TEST_MODELS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define CHECK(truth, ...) ((truth) ? (void)0 : fail(__LINE__, __VA_ARGS__))

static const char *const kind_names[] = {"f32", "bf16", "f8", "i8", "i4"};
static const char *doing = "";

static void fail(int line, const char *what) {
    printf("line %d, %s: %s\n", line, doing, what);
    exit(1);
}

/* --- memory that a model keeps, and numbers to fill it ---------------------------------------------------------------- */

static void *kept[4096];
static int kept_count;

static void *keep(int64_t bytes) {
    void *found = bytes ? malloc((size_t)bytes) : NULL;
    CHECK(kept_count < COUNT(kept) && (found || !bytes), "no memory");
    return kept[kept_count++] = found;
}

static void drop_all(void) {
    while (kept_count) free(kept[--kept_count]);
}

static uint64_t state;

static uint32_t draw(uint32_t below) { /* splitmix64 */
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

static float uniform(float size) { return size * ((float)(int32_t)draw(1u << 24) * 0x1p-23f - 1.0f); }

static float *floats(int64_t n, float middle, float size) {
    float *made = keep(n * 4);
    for (int64_t i = 0; i < n; i++) made[i] = middle + uniform(size);
    return made;
}

static uint16_t *bf16s(int64_t n, float size) {
    uint16_t *made = keep(n * 2);
    for (int64_t i = 0; i < n; i++) {
        float value = uniform(size);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        made[i] = (uint16_t)(bits >> 16);
    }
    return made;
}

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Laid out as ops/packing.py says; rows and columns of padding hold rubbish, which no result may show. */
static matrix make_matrix(int kind, int64_t rows, int64_t columns, int64_t group) {
    int64_t high = up(rows, 16);
    matrix m = {kind, rows, columns, 1, NULL, NULL};
    if (kind == F32) m.data = floats(high * columns, 0.0f, 0.2f);
    if (kind == BF16) m.data = bf16s(high * up(columns, 2), 0.2f);
    if (kind < F8) return m;
    m.group = kind == F8 ? 128 : group;
    int64_t groups = up(columns, m.group) / m.group, bytes = high * groups * m.group / (kind == I4 ? 2 : 1);
    uint8_t *data = keep(bytes);
    for (int64_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)draw(256);
        if (kind == F8) data[i] &= 0xbf;                    /* below 2; no NaN */
        if (kind == I8 && data[i] == 0x80) data[i] = 0x7f; /* -128 is no level */
    }
    m.data = data;
    if (kind == F8) m.scale = floats(high / 16 * groups, 0.1f, 0.05f);
    else {
        uint16_t *scale = keep(high * groups * 2); /* half floats: 2^-10 to 2^-9, and 2^-6 for nibbles */
        for (int64_t i = 0; i < high * groups; i++) scale[i] = (uint16_t)((kind == I8 ? 0x1400 : 0x2400) + draw(0x400));
        scale[0] = 0x0155, scale[1] = 0; /* one below the normal numbers, and none */
        m.scale = scale;
    }
    return m;
}

/* --- a model ---------------------------------------------------------------------------------------------------------- */

enum { SEQUENCES = 3, HIDDEN = 40, VOCABULARY = 37, MOST_TOKENS = 1024, LAYERS = 2, MODULES = 1 };

static mlp make_mlp(int kind, int64_t inner) {
    mlp e = {make_matrix(kind, inner, HIDDEN, 64), make_matrix(kind, inner, HIDDEN, 64),
             make_matrix(kind, HIDDEN, inner, 32)};
    return e;
}

static const matrix *make_heads(const model *m, int kind, int64_t rows, int64_t columns) {
    matrix *made = keep(m->heads * (int64_t)sizeof *made);
    for (int64_t h = 0; h < m->heads; h++) made[h] = make_matrix(kind, rows, columns, 32);
    return made;
}

static void fill_layer(const model *m, layer *l, int kind, int routed, int shared) {
    int64_t from = m->q_rank ? m->q_rank : HIDDEN;
    memset(l, 0, sizeof *l);
    l->input_norm = floats(HIDDEN, 1.0f, 0.3f), l->post_norm = floats(HIDDEN, 1.0f, 0.3f);
    l->kv_norm = floats(m->latent, 1.0f, 0.3f);
    if (m->q_rank) l->q_norm = floats(m->q_rank, 1.0f, 0.3f), l->q_a = make_matrix(kind, m->q_rank, HIDDEN, 64);
    l->kv_a = make_matrix(kind, m->latent + m->rope, HIDDEN, 64);
    l->o = make_matrix(kind, HIDDEN, m->heads * m->value, 128);
    l->q_b = make_heads(m, kind, m->nope + m->rope, from);
    l->k_b = make_heads(m, kind, m->latent, m->nope);
    l->v_b = make_heads(m, kind, m->value, m->latent);
    if (!routed) {
        l->shared = make_mlp(kind, m->inner);
        return;
    }
    l->router = make_matrix(F32, m->experts, HIDDEN, 1);
    if (m->best_two) l->bias = floats(m->experts, 0.0f, 0.1f);
    if (shared) l->shared = make_mlp(kind, m->expert_inner);
    mlp *experts = keep(m->experts * (int64_t)sizeof *experts);
    for (int64_t e = 0; e < m->experts; e++) experts[e] = make_mlp(kind, m->expert_inner);
    l->experts = experts;
}

/* As V3 is (a query latent, sigmoid, bias, shared experts), or as V2-Lite (none of them, but for the shared ones). */
static model make_model(int kind, int as_v3) {
    model m = {.hidden = HIDDEN, .heads = 3, .all_heads = 3, .begins = 1, .ends = 1, .nope = 24, .rope = 8, .value = 20, .latent = 24, .q_rank = as_v3 ? 21 : 0,
               .vocabulary = VOCABULARY, .layers = LAYERS, .modules = MODULES, .experts = 8, .held = 8, .top_k = 3, .groups = 4,
               .top_groups = 2, .best_two = as_v3, .softmax = !as_v3, .normalise = as_v3, .inner = 150,
               .expert_inner = 52, .table_positions = MOST_TOKENS, .embedding_kind = as_v3 ? BF16 : F32,
               .scaling = 1.5f, .eps = 1e-6f, .scale = 0.18f};
    layer *layers = keep((LAYERS + MODULES) * (int64_t)sizeof *layers);
    for (int i = 0; i < LAYERS + MODULES; i++) fill_layer(&m, &layers[i], kind, i > 0, as_v3 || i == 1);
    layer *module = &layers[LAYERS];
    module->embedding_norm = floats(HIDDEN, 1.0f, 0.3f), module->hidden_norm = floats(HIDDEN, 1.0f, 0.3f);
    module->last_norm = floats(HIDDEN, 1.0f, 0.3f), module->join = make_matrix(kind, HIDDEN, 2 * HIDDEN, 64);
    m.layer = layers;
    m.embedding = as_v3 ? (void *)bf16s(VOCABULARY * HIDDEN, 1.0f) : (void *)floats(VOCABULARY * HIDDEN, 0.0f, 1.0f);
    int64_t turns = m.table_positions * (m.rope / 2);
    float *cosines = keep(turns * 4), *sines = keep(turns * 4);
    for (int64_t i = 0; i < turns; i++) { /* a point of the circle, without cos and sin */
        float t = uniform(1.0f);
        cosines[i] = (1.0f - t * t) / (1.0f + t * t), sines[i] = 2.0f * t / (1.0f + t * t);
    }
    m.cosines = cosines, m.sines = sines;
    m.last_norm = floats(HIDDEN, 1.0f, 0.3f);
    m.head = make_matrix(kind, VOCABULARY, HIDDEN, 64);
    return m;
}

#endif
