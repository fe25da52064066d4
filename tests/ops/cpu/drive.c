/* Drives one variant of the kernels through small random models, for sanitizers and for emulators.
 *
 * Every buffer has exactly the size that kernels.h and ops/packing.py promise, so that a sanitizer sees one byte too
 * far. Checked here: a token's states and logits have the same bits however the batch, the pages and the threads were
 * cut, and what lies outside is refused. Printed: a hash of the states of each model, which AVX2, AVX-512 and NEON
 * must have in common. Nothing here depends on the C library's mathematics.
 *
 *     drive avx2 [short]     exit code 0, or 1 with a line that says what differed
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "models.h"

extern const kernels *fathom_kernels(const char *name);
extern int fathom_probe(void);

static const kernels *const compiled[] = {
#if defined(__aarch64__)
    &kernels_neon,
#else
    &kernels_generic,
#endif
#ifdef WITH_DOTPROD
    &kernels_dotprod,
#endif
#ifdef WITH_AVX2
    &kernels_avx2,
#endif
#ifdef WITH_AVX512
    &kernels_avx512,
#endif
#ifdef WITH_AVX512BF16
    &kernels_avx512bf16,
#endif
};

/* --- sequences through it --------------------------------------------------------------------------------------------- */

typedef struct { /* how the same tokens are cut into batches, pages and work */
    int alone;   /* one token a call, instead of `steps` */
    int64_t threads, page_tokens, kind;
} cut;

static const int64_t steps[][SEQUENCES] = {{41, 0, 0}, {30, 9, 1}, {1, 1, 1}, {0, 1, 1}};
static const int64_t long_steps[][SEQUENCES] = {{700, 0, 0}}; /* more rows of attention than one chunk holds */

typedef struct { /* of every token, in the order of sequences and positions */
    int64_t tokens;
    float *hidden, *module, *logits;
} states;

/* One call for `fresh[s]` tokens of each sequence, of which `past[s]` are in the cache. The MTP module reads the token
 * after, and the main model's states. */
static void advance(const kernels *k, const model *m, const cache *c, team_pool *pool, const int64_t *past,
                    const int64_t *fresh, const int64_t *base, const int64_t *ids, states *out) {
    int64_t tokens = 0, sequences = 0, longest = 0, of_all = up(700, c->page_tokens) / c->page_tokens;
    for (int s = 0; s < SEQUENCES; s++) {
        tokens += fresh[s], sequences += fresh[s] > 0;
        if (fresh[s] && past[s] + fresh[s] > longest) longest = past[s] + fresh[s];
    }
    int64_t table = up(longest, c->page_tokens) / c->page_tokens, row = 0, at = 0;
    int64_t *positions = malloc(8u * (size_t)tokens), *lengths = malloc(8u * (size_t)sequences);
    int64_t *now = malloc(8u * (size_t)tokens), *next = malloc(8u * (size_t)tokens);
    int64_t *where = malloc(8u * (size_t)tokens), *chosen = malloc(8u * (size_t)(3 * tokens * m->top_k));
    int32_t *pages = malloc(4u * (size_t)(sequences * table));
    float *hidden = malloc(4u * (size_t)(tokens * HIDDEN)), *module = malloc(4u * (size_t)(tokens * HIDDEN));
    float *logits = malloc(4u * (size_t)(tokens * up(VOCABULARY, 16)));
    for (int s = 0; s < SEQUENCES; s++) {
        if (!fresh[s]) continue;
        for (int64_t p = 0; p < table; p++) { /* pages from the last one down, so that none lies where it is expected */
            int used = p * c->page_tokens < past[s] + fresh[s];
            pages[at * table + p] = used ? (int32_t)(c->pages - 1 - (s ? of_all + 16 * (s - 1) + p : p)) : -1;
        }
        lengths[at++] = fresh[s];
        for (int64_t i = 0; i < fresh[s]; i++, row++) {
            positions[row] = past[s] + i, where[row] = base[s] + past[s] + i;
            now[row] = ids[where[row]], next[row] = ids[where[row] + 1];
        }
    }
    batch b = {tokens, sequences, table, positions, lengths, pages};
    call main_call = {-1, now, NULL, hidden, chosen}, module_call = {0, next, hidden, module, NULL};
    int64_t bytes = k->space(m, tokens, 0, team_size(pool));
    void *space = NULL;
    CHECK(!posix_memalign(&space, 64, (size_t)bytes), "no memory");
    memset(space, 0x7f, (size_t)bytes); /* large floats and far indices, should anything be read before it is written */
    CHECK(k->forward(m, c, &b, &main_call, space, pool) == OK, "forward is refused");
    CHECK(k->forward(m, c, &b, &module_call, space, pool) == OK, "forward of the MTP module is refused");
    CHECK(k->logits(m, hidden, tokens, logits, space, pool) == OK, "logits are refused");
    for (int64_t i = tokens * m->top_k; i < 2 * tokens * m->top_k; i++) {
        CHECK(chosen[i] >= 0 && chosen[i] < m->experts, "an expert that is none");
    }
    for (int64_t i = 0; i < tokens; i++) {
        memcpy(out->hidden + where[i] * HIDDEN, hidden + i * HIDDEN, HIDDEN * 4);
        memcpy(out->module + where[i] * HIDDEN, module + i * HIDDEN, HIDDEN * 4);
        memcpy(out->logits + where[i] * VOCABULARY, logits + i * up(VOCABULARY, 16), VOCABULARY * 4);
    }
    free(space), free(logits), free(module), free(hidden), free(pages), free(chosen), free(where);
    free(next), free(now), free(lengths), free(positions);
}

static states run(const kernels *k, const model *m, const int64_t (*batches)[SEQUENCES], int count, cut how) {
    int64_t past[SEQUENCES] = {0}, base[SEQUENCES], length[SEQUENCES] = {0}, tokens = 0;
    for (int i = 0; i < count; i++)
        for (int s = 0; s < SEQUENCES; s++) length[s] += batches[i][s];
    for (int s = 0; s < SEQUENCES; s++) base[s] = tokens, tokens += length[s];
    state = 5; /* the same ids whatever the cut */
    int64_t *ids = malloc(8u * (size_t)(tokens + 1)), pages = up(700, how.page_tokens) / how.page_tokens + 2 * 16;
    for (int64_t i = 0; i <= tokens; i++) ids[i] = draw(VOCABULARY);
    states out = {tokens, malloc(160u * (size_t)tokens), malloc(160u * (size_t)tokens),
                  malloc(4u * VOCABULARY * (size_t)tokens)};
    size_t slots = (size_t)((LAYERS + MODULES) * pages * how.page_tokens), bytes = how.kind == F32 ? 4 : 2;
    cache c = {malloc(slots * bytes * (size_t)m->latent), malloc(slots * bytes * (size_t)m->rope), how.kind, pages,
               how.page_tokens};
    team_pool *pool = team_open(how.threads);
    CHECK(pool && c.latent && c.rope, "no team or no memory");
    if (how.alone)
        for (int s = 0; s < SEQUENCES; s++)
            for (; past[s] < length[s]; past[s]++) {
                int64_t one[SEQUENCES] = {s == 0, s == 1, s == 2};
                advance(k, m, &c, pool, past, one, base, ids, &out);
            }
    else
        for (int i = 0; i < count; i++) {
            advance(k, m, &c, pool, past, batches[i], base, ids, &out);
            for (int s = 0; s < SEQUENCES; s++) past[s] += batches[i][s];
        }
    team_close(pool);
    free(c.latent), free(c.rope), free(ids);
    return out;
}

static void drop(states *s) { free(s->hidden), free(s->module), free(s->logits); }

static void must_equal(const states *a, const states *b) {
    CHECK(!memcmp(a->hidden, b->hidden, (size_t)a->tokens * HIDDEN * 4), "hidden states depend on the cut");
    CHECK(!memcmp(a->module, b->module, (size_t)a->tokens * HIDDEN * 4), "states of the MTP module depend on the cut");
    CHECK(!memcmp(a->logits, b->logits, (size_t)a->tokens * VOCABULARY * 4), "logits depend on the cut");
}

static uint64_t hash(uint64_t so_far, const float *x, int64_t n) { /* FNV-1a over bits */
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        CHECK((bits & 0x7f800000u) != 0x7f800000u, "not a finite number");
        so_far = (so_far ^ bits) * 0x100000001b3u;
    }
    return so_far;
}

static void drive_model(const kernels *k, int kind, int as_v3, int brief) {
    static const int64_t page_tokens[] = {1, 5, 16}, threads[] = {1, 3};
    state = 1;
    model m = make_model(kind, as_v3);
    for (int64_t stored = F32; stored <= BF16; stored++) {
        states alone = run(k, &m, steps, COUNT(steps), (cut){!brief, 1, 16, stored});
        for (int p = 0; p < COUNT(page_tokens); p++)
            for (int t = 0; t < COUNT(threads); t++) {
                if (brief && p + t != 2) continue;
                states other = run(k, &m, steps, COUNT(steps), (cut){0, threads[t], page_tokens[p], stored});
                must_equal(&alone, &other);
                drop(&other);
            }
        uint64_t all = hash(hash(14695981039346656037u, alone.hidden, alone.tokens * HIDDEN), alone.module,
                            alone.tokens * HIDDEN);
        printf("%s %s, %s cache: %016llx\n", as_v3 ? "v3" : "v2", kind_names[kind], kind_names[stored],
               (unsigned long long)hash(all, alone.logits, alone.tokens * VOCABULARY));
        drop(&alone);
    }
    if (kind == F32 && as_v3 && !brief) {
        states one = run(k, &m, long_steps, 1, (cut){0, 1, 16, F32}), three = run(k, &m, long_steps, 1, (cut){0, 3, 5, F32});
        must_equal(&one, &three);
        drop(&one), drop(&three);
    }
    drop_all();
}

/* --- products alone, and what must be refused ------------------------------------------------------------------------- */

/* Rows at, below and above every tile; then rows that are not finite or next to nothing, for the sanitizer's eyes. */
static void drive_products(const kernels *k, int kind, int brief) {
    static const int64_t rows[] = {1, 16, 40, 130}, columns[] = {1, 33, 64, 129, 200};
    uint64_t all = 14695981039346656037u;
    state = 2;
    for (int r = 0; r < COUNT(rows); r++)
        for (int c = 0; c < COUNT(columns); c++)
            for (int64_t group = 32; group <= (kind < I8 ? 32 : 128); group *= 2) {
                matrix m = make_matrix(kind, rows[r], columns[c], group);
                int64_t most = brief ? 5 : 19, padded = up(m.rows, 16);
                float *x = floats(most * m.columns, 0.0f, 2.0f), *out = keep(most * padded * 4), *one = keep(padded * 4);
                team_pool *pool = team_open(3), *alone = team_open(1);
                CHECK(pool && alone, "no team");
                for (int64_t n = brief ? most : 1; n <= most; n++) {
                    float *exact = malloc((size_t)(n * m.columns) * 4);
                    memcpy(exact, x, (size_t)(n * m.columns) * 4);
                    CHECK(k->product(&m, exact, n, out, pool) == OK, "product is refused");
                    CHECK(k->product(&m, exact + (n - 1) * m.columns, 1, one, alone) == OK, "product is refused");
                    CHECK(!memcmp(one, out + (n - 1) * padded, (size_t)m.rows * 4), "a product depends on its neighbours");
                    free(exact);
                }
                for (int64_t i = 0; i < most; i++) all = hash(all, out + i * padded, m.rows);
                static const float odd[] = {1e-40f, -1e-39f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN};
                for (int i = 0; i < COUNT(odd); i++)
                    for (int64_t d = 0; d < m.columns; d++) x[i % most * m.columns + d] = d % 3 ? odd[i] : 0.0f;
                CHECK(k->product(&m, x, most, out, pool) == OK, "product is refused");
                team_close(pool), team_close(alone);
                drop_all();
            }
    printf("products %s: %016llx\n", kind_names[kind], (unsigned long long)all);
}

/* Two sequences of 3 and 2 new tokens after 4 and 0, pages of 4; one thing is wrong at a time. */
static void drive_refusals(const kernels *k) {
    enum { TOKENS = 5, PAGES = 3 };
    state = 3;
    model m = make_model(F32, 1);
    m.table_positions = 12;
    float *latent = floats((LAYERS + MODULES) * PAGES * 4 * m.latent, 0.0f, 1.0f), hidden[TOKENS * HIDDEN];
    float *rope = floats((LAYERS + MODULES) * PAGES * 4 * m.rope, 0.0f, 1.0f);
    const cache c = {latent, rope, F32, PAGES, 4};
    team_pool *pool = team_open(1);
    void *space = NULL;
    CHECK(pool && !posix_memalign(&space, 64, (size_t)k->space(&m, TOKENS, 0, 1)), "no memory");
    static const struct { const char *what; int which, at; int64_t value; int code; } cases[] = {
        {"nothing wrong", 0, 0, 0, OK},
        {"an id below 0", 0, 1, -1, OUT_OF_RANGE},
        {"an id past the vocabulary", 0, 4, VOCABULARY, OUT_OF_RANGE},
        {"an id far past it", 0, 0, INT64_MIN, OUT_OF_RANGE},
        {"a page below 0", 1, 0, -1, OUT_OF_RANGE},
        {"a page past the cache", 1, 2, PAGES, OUT_OF_RANGE},
        {"a page past the sequence", 1, 3, 99, OK},
        {"a position that does not follow", 2, 1, 4, OUT_OF_RANGE},
        {"a position below 0", 2, 3, -1, OUT_OF_RANGE},
        {"a position past the table of pages", 2, 4, 8, OUT_OF_RANGE},
        {"a lone position past all numbers", 7, 3, INT64_MAX, OUT_OF_RANGE},
        {"no new tokens", 3, 0, 0, OUT_OF_RANGE},
        {"too few new tokens", 3, 1, 1, OUT_OF_RANGE},
        {"too many new tokens", 3, 1, 3, OUT_OF_RANGE},
        {"more new tokens than there are numbers", 3, 1, INT64_MAX, OUT_OF_RANGE},
        {"a sequence without tokens", 4, 0, 3, OUT_OF_RANGE},
        {"a module too many", 5, 0, MODULES, OUT_OF_RANGE},
        {"a last sequence past the table of cosines", 6, 0, 6, OUT_OF_RANGE},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        int64_t ids[TOKENS] = {1, 2, 3, 4, 5}, positions[TOKENS] = {4, 5, 6, 0, 1}, lengths[3] = {3, 2, 1};
        int32_t pages[6] = {0, 1, 2, -1, 0, 0};
        int64_t *const changed[] = {ids, NULL, positions, lengths};
        model limited = m;
        batch b = {TOKENS, 2, 2, positions, lengths, pages};
        call what = {-1, ids, NULL, hidden, NULL};
        doing = cases[i].what;
        if (cases[i].which == 1) pages[cases[i].at] = (int32_t)cases[i].value;
        else if (i && cases[i].which < 4) changed[cases[i].which][cases[i].at] = cases[i].value;
        if (cases[i].which == 4) b.sequences = cases[i].value;
        if (cases[i].which == 5) what.module = cases[i].value, what.before = hidden;
        if (cases[i].which == 7) b.tokens = 4, lengths[1] = 1, positions[3] = cases[i].value;
        if (cases[i].which == 6) limited.table_positions = cases[i].value;
        CHECK(k->forward(&limited, &c, &b, &what, space, pool) == cases[i].code, "is not answered so");
    }
    team_close(pool), free(space), drop_all();
}

/* Guesses in a row by one call: those of a call for each, with the same states and latents. */
static void drive_drafts(const kernels *k, int kind) {
    enum { TOKENS = 7, ASKED = 2, ROUNDS = 3, PAGE = 4, WIDE = 3, PAGES = ASKED * WIDE, PADDED = VOCABULARY + 16 };
    int64_t ids[TOKENS] = {3, 1, 4, 1, 5, 2, 6}, next[TOKENS] = {1, 4, 1, 5, 9, 6, 5}, positions[TOKENS] = {0, 1, 2, 3, 4, 0, 1};
    int64_t lengths[ASKED] = {5, 2}, rows[ASKED] = {4, 6}, each[ASKED] = {0, 1}, ones[ASKED] = {1, 1};
    int64_t then[ROUNDS * ASKED] = {5, 2, 6, 3, 7, 4}, best[2][(ROUNDS + 1) * ASKED] = {{0}};
    int32_t pages[PAGES] = {5, 1, 3, 0, 4, 2};
    static float hidden[TOKENS * HIDDEN], ahead[TOKENS * HIDDEN], logits[ASKED * PADDED], highest[(ROUNDS + 1) * ASKED];
    static float states[2][(ROUNDS + 1) * ASKED * HIDDEN];
    state = 11;
    model m = make_model(kind, 1);
    size_t slots = (size_t)((LAYERS + MODULES) * PAGES * PAGE), latent = slots * 4 * (size_t)m.latent, rope = slots * 4 * (size_t)m.rope;
    cache c[2];
    team_pool *pool = team_open(2);
    void *space = NULL;
    CHECK(pool && !posix_memalign(&space, 64, (size_t)k->space(&m, TOKENS, 0, 2)), "no memory");
    for (int one_by_one = 0; one_by_one < 2; one_by_one++) {
        c[one_by_one] = (cache){calloc(1, latent), calloc(1, rope), F32, PAGES, PAGE};
        int64_t *to = best[one_by_one];
        float *of = states[one_by_one];
        batch b = {TOKENS, ASKED, WIDE, positions, lengths, pages}, at = {ASKED, ASKED, WIDE, then, ones, pages};
        call read = {-1, ids, NULL, hidden, NULL};
        call what = {0, next, hidden, ahead, NULL, ASKED, rows, logits, to, highest, 0};
        call again = {0, NULL, NULL, of, NULL, ASKED, each, logits, to + ASKED, highest + ASKED, 0};
        CHECK(k->forward(&m, &c[one_by_one], &b, &read, space, pool) == OK, "forward is refused");
        if (!one_by_one) {
            CHECK(k->draft(&m, &c[0], &b, &what, &at, &again, ROUNDS, space, pool) == OK, "drafts are refused");
            continue;
        }
        CHECK(k->forward(&m, &c[1], &b, &what, space, pool) == OK, "forward of the MTP module is refused");
        for (int i = 0; i < ASKED; i++) memcpy(of + i * HIDDEN, ahead + rows[i] * HIDDEN, HIDDEN * 4);
        for (int r = 0; r < ROUNDS; r++, at.positions += ASKED) {
            call one = {0, to + r * ASKED, of + r * ASKED * HIDDEN, of + (r + 1) * ASKED * HIDDEN, NULL,
                        ASKED, each, logits, to + (r + 1) * ASKED, highest, 0};
            CHECK(k->forward(&m, &c[1], &at, &one, space, pool) == OK, "a round is refused");
        }
    }
    CHECK(!memcmp(best[0], best[1], sizeof best[0]), "guesses depend on the calls");
    CHECK(!memcmp(states[0], states[1], sizeof states[0]), "their states depend on the calls");
    CHECK(!memcmp(c[0].latent, c[1].latent, latent) && !memcmp(c[0].rope, c[1].rope, rope), "latents depend on the calls");
    for (int i = 0; i < 2; i++) free(c[i].latent), free(c[i].rope);
    team_close(pool), free(space), drop_all();
}

int main(int argc, char **argv) {
    const kernels *k = NULL;
    int brief = argc > 2 && !strcmp(argv[2], "short");
    for (int i = 0; argc > 1 && i < COUNT(compiled); i++)
        if (!strcmp(argv[1], compiled[i]->name)) k = compiled[i];
    CHECK(k, "no such variant was compiled");
    doing = "probe";
    CHECK(fathom_kernels("") && !fathom_probe(), "a variant gives wrong products");
    for (int kind = F32; kind <= I4; kind++) {
        doing = kind_names[kind];
        drive_products(k, kind, brief);
        for (int as_v3 = 0; as_v3 < 2; as_v3++) drive_model(k, kind, as_v3, brief);
        drive_drafts(k, kind);
    }
    drive_refusals(k);
    return 0;
}
