/* Absorbed attention over paged latents (DeepSeek-V2, section 2.1.2), softmax and sums in float32.
 *
 * Keys are walked in blocks of KEYS at absolute positions (0..63, 64..127, ...) with a running maximum, whatever the
 * page size and however many tokens came along: a token's result depends on its own keys alone. A block is prepared
 * once for every head and token of a chunk: for the scores its keys are turned over, 16 side by side.
 *
 * Beside a bfloat16 cache, queries and weights are rounded to bfloat16 too. A step of a sum then takes in two values at
 * once, of neighbouring dimensions for the scores and of neighbouring keys for the results; of floats it takes one.
 */
#ifndef FATHOM_ATTEND_H
#define FATHOM_ATTEND_H

#include "kernels.h"
#include "rows.h"

#define KEYS 64
#define ASKED 4 /* keys */
#define CHUNK_FLOATS 65536 /* sums of one chunk of rows: 256 KB, so that they stay in the second cache */
#define TILE_KEYS (SCORE_TILES * LANES)

/* TURN floats, or pairs, of TURN keys, from the `at`th on, into columns LANES apart. */
#if defined(__AVX2__)
#define TURN 8
INLINE void turn_over(const char *const *key, int64_t at, float *to) {
    for (int c = 0; c < 8; c += 4, at += 4, to += 4 * LANES) { /* four columns: keys i and i + 4 in one register */
        __m256 row[4], pair[4];
        for (int i = 0; i < 4; i++) {
            __m256 upper = _mm256_castps128_ps256(_mm_loadu_ps((const float *)key[i] + at));
            row[i] = _mm256_insertf128_ps(upper, _mm_loadu_ps((const float *)key[i + 4] + at), 1);
        }
        for (int i = 0; i < 4; i += 2) {
            pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
            pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
        }
        _mm256_storeu_ps(to, _mm256_shuffle_ps(pair[0], pair[2], 0x44));
        _mm256_storeu_ps(to + LANES, _mm256_shuffle_ps(pair[0], pair[2], 0xee));
        _mm256_storeu_ps(to + 2 * LANES, _mm256_shuffle_ps(pair[1], pair[3], 0x44));
        _mm256_storeu_ps(to + 3 * LANES, _mm256_shuffle_ps(pair[1], pair[3], 0xee));
    }
}
#else
#define TURN 4
INLINE void turn_over(const char *const *key, int64_t at, float *to) {
    for (int k = 0; k < 4; k++)
        for (int d = 0; d < 4; d++) memcpy(to + d * LANES + k, key[k] + 4 * (at + d), 4);
}
#endif

typedef struct {
    int64_t latent, rope;  /* widths */
    int64_t width, wide;   /* of a query and a key: both parts, padded to 2 * LANES; of a sum: padded latent */
    const cache *pages;
    const void *held, *turned; /* this layer's pages */
    float scale;
} attention;

/* One thread's space: a block of keys, and the rows of a chunk, row after row. Whatever is as wide as a float may also
 * hold pairs of bfloat16 numbers. */
typedef struct {
    const char **latents, **ropes; /* [KEYS]: where each key's parts lie, in their pages or copied */
    float *keys;    /* [KEYS, width]: copies, one part after the other, padded; then a key of zeros */
    float *turned;  /* [width, LANES] per 16 keys of a tile */
    float *side;    /* [KEYS / 2, wide]: the latents of two keys side by side; not used for floats */
    float *queries; /* [rows, width] */
    float *scores;  /* [rows, KEYS] */
    factor *weights; /* [rows, KEYS] */
    float *sums;    /* [rows, wide] */
    float *maximum, *total, *keep; /* [rows] */
} attention_space;

/* A row of a few hundred bytes, where a call of memcpy takes longer than the copying. */
INLINE void copy(char *restrict to, const char *restrict from, int64_t bytes) {
    int64_t i = 0;
    for (; i + 32 <= bytes; i += 32) __builtin_memcpy(to + i, from + i, 32);
    for (; i < bytes; i++) to[i] = from[i];
}

/* Whether keys can be turned over where they lie: both parts are whole runs of pairs. Floats are read from copies. */
INLINE int stay_in_pages(int64_t kind, const attention *a) {
    return kind == BF16 && (a->latent | a->rope) % (2 * TURN) == 0;
}

/* Finds keys [first, first + n) of a sequence; zeros stand for those up to the end of their tile. */
INLINE void find_keys(int64_t kind, const attention *a, const attention_space *s, const int32_t *table, int64_t first,
                      int64_t n) {
    int64_t size = a->pages->page_tokens, page = first / size, offset = first % size, bytes = kind == F32 ? 4 : 2;
    int64_t row = a->width * bytes, in_place = stay_in_pages(kind, a), k = 0;
    char *copied = (char *)s->keys, *zeros = copied + KEYS * row;
    for (; k < n; k++, copied += row) {
        int64_t slot = table[page] * size + offset;
        s->latents[k] = stored(a->held, kind, slot * a->latent);
        s->ropes[k] = stored(a->turned, kind, slot * a->rope);
        if (++offset == size) page++, offset = 0;
        if (in_place) continue;
        copy(copied, s->latents[k], a->latent * bytes);
        copy(copied + a->latent * bytes, s->ropes[k], a->rope * bytes);
        memset(copied + (a->latent + a->rope) * bytes, 0, (size_t)(row - (a->latent + a->rope) * bytes));
        s->latents[k] = copied;
    }
    for (; k % TILE_KEYS; k++) s->latents[k] = s->ropes[k] = zeros;
}

/* Keys that are read next: their pages lie anywhere, so nothing else foresees them. */
typedef struct {
    const int32_t *page;
    int64_t offset, left; /* the next one in its page, and how many there are */
} coming;

/* Asks for a few of them: more at once would wait for one another, and the sums for them. */
INLINE void ask_ahead(int64_t kind, const attention *a, coming *keys) {
    int64_t size = a->pages->page_tokens, bytes = kind == F32 ? 4 : 2;
    for (int64_t i = 0; i < ASKED && keys->left; i++, keys->left--) {
        int64_t slot = *keys->page * size + keys->offset;
        const char *latent = stored(a->held, kind, slot * a->latent), *rope = stored(a->turned, kind, slot * a->rope);
        for (int64_t at = 0; at < a->latent * bytes; at += 64) __builtin_prefetch(latent + at, 0, 2);
        for (int64_t at = 0; at < a->rope * bytes; at += 64) __builtin_prefetch(rope + at, 0, 2);
        if (++keys->offset == size) keys->page++, keys->offset = 0;
    }
}

/* A tile of keys from the `first`th on, its values, or pairs of them, in the order of queries. */
INLINE void turn_keys(int64_t kind, const attention *a, const attention_space *s, int64_t first) {
    int64_t steps = kind == F32 ? a->width : a->width / 2, in_place = stay_in_pages(kind, a);
    int64_t latent = in_place ? a->latent / 2 : steps, rope = in_place ? a->rope / 2 : 0;
    for (int64_t i = 0; i < TILE_KEYS; i += TURN) {
        float *to = s->turned + i / LANES * steps * LANES + i % LANES;
        for (int64_t d = 0; d < latent; d += TURN) turn_over(s->latents + first + i, d, to + d * LANES);
        for (int64_t d = 0; d < rope; d += TURN) turn_over(s->ropes + first + i, d, to + (latent + d) * LANES);
        if (i % LANES == 0) memset(to + (latent + rope) * LANES, 0, 4u * LANES * (size_t)(steps - latent - rope));
    }
}

/* Sixteen values of one key and of the next, side by side. */
INLINE void side_by_side(const uint16_t *one, const uint16_t *two, uint16_t *to) {
#if defined(__AVX512F__)
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)one));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)two));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
#else
    for (int d = 0; d < LANES; d++) to[2 * d] = one[d], to[2 * d + 1] = two[d];
#endif
}

/* Latents of neighbouring keys side by side, for the first n keys. */
INLINE void pair_keys(const attention *a, const attention_space *s, int64_t n) {
    uint16_t *side = (uint16_t *)s->side;
    for (int64_t k = 0; k < n; k += 2, side += 2 * a->wide) {
        const uint16_t *one = (const uint16_t *)s->latents[k], *two = (const uint16_t *)s->latents[k + 1];
        for (int64_t d = 0; d < a->wide; d += LANES) side_by_side(one + d, two + d, side + 2 * d);
    }
}

/* scores[r][16 * t + lane] = query r . key: each lane walks the width from first to last. */
INLINE void score_tile(int rows, int tiles, int64_t kind, const attention *a, const attention_space *s, int64_t row,
                       int64_t first_key) {
    int64_t steps = kind == F32 ? a->width : a->width / 2;
    const float *turned = s->turned, *q = s->queries + row * a->width;
    const factor *two = (const factor *)s->queries + row * a->width;
    lanes sum[SCORE_ROWS * SCORE_TILES];
#pragma GCC unroll 8
    for (int i = 0; i < rows * tiles; i++) sum[i] = lanes_set(0.0f);
    for (int64_t d = 0; d < steps; d++, turned += LANES) {
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            const float *at = turned + t * steps * LANES;
            if (kind == F32) {
                lanes key = lanes_load(at);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    sum[r * tiles + t] = lanes_fma(lanes_set(q[r * a->width + d]), key, sum[r * tiles + t]);
                }
            } else {
                pairs key = pairs_load((const uint16_t *)at);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    sum[r * tiles + t] = lanes_dot(sum[r * tiles + t], two + r * a->width + 2 * d, key);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            lanes_store(s->scores + (row + r) * KEYS + first_key + t * LANES, sum[r * tiles + t]);
        }
}

/* Rows [from, rows) against n keys; the scores past n are of no key. */
INLINE void score_block(int64_t kind, const attention *a, const attention_space *s, int64_t from, int64_t rows,
                        int64_t n, coming *next) {
    for (int64_t k = 0; k < n; k += TILE_KEYS) {
        turn_keys(kind, a, s, k);
        for (int64_t r = from; r < rows; r += SCORE_ROWS) {
            ask_ahead(kind, a, next);
            switch (rows - r) {
            case 1: score_tile(1, SCORE_TILES, kind, a, s, r, k); break;
            case 2: score_tile(2, SCORE_TILES, kind, a, s, r, k); break;
            case 3: score_tile(3, SCORE_TILES, kind, a, s, r, k); break;
            default: score_tile(SCORE_ROWS, SCORE_TILES, kind, a, s, r, k);
            }
        }
    }
}

/* Scores of one row, n of them its own -> weights against the running maximum, 0 past n. */
INLINE void soften(int64_t kind, const attention *a, const attention_space *s, int64_t row, int64_t n) {
    float *scores = s->scores + row * KEYS, *maximum = s->maximum + row, *total = s->total + row, part[4];
    for (int64_t k = n; k < KEYS; k++) scores[k] = -3.0e38f;
    lanes sum[4], best = lanes_set(*maximum);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        sum[i] = lanes_mul(lanes_load(scores + i * LANES), lanes_set(a->scale));
        best = lanes_max(best, sum[i]);
    }
    float top = lanes_top(best);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) lanes_store(scores + i * LANES, sum[i]);
    for (int64_t k = 0; k < KEYS; k++) scores[k] = exponential(scores[k] - top);
    if (kind == BF16) {
        factor *weights = s->weights + row * KEYS;
        for (int64_t k = 0; k < KEYS; k++) {
            scores[k] = from_bf16(to_bf16(scores[k]));
            weights[k] = to_factor(scores[k]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sum[i] = lanes_load(scores + i * LANES);
    reduce4(sum, part);
    float keep = exponential(*maximum - top);
    *total = *total * keep + ((part[0] + part[1]) + (part[2] + part[3]));
    *maximum = top;
    s->keep[row] = keep; /* what the sums so far are to be multiplied by */
}

/* sums[r][at..) = keep[r] * sums + weights[r] . keys[..][at..), key by key, or two by two. */
INLINE void gather_tile(int rows, int tiles, int64_t kind, const attention *a, const attention_space *s, int64_t row,
                        int64_t n, int64_t at) {
    const float *key = s->keys + at, *side = s->side + at, *weight = s->scores + row * KEYS;
    const factor *two = s->weights + row * KEYS;
    lanes sum[SCORE_ROWS * SCORE_TILES];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            lanes before = lanes_load(s->sums + (row + r) * a->wide + at + t * LANES);
            sum[r * tiles + t] = lanes_mul(before, lanes_set(s->keep[row + r]));
        }
    for (int64_t k = 0; k < n; k += kind == F32 ? 1 : 2) {
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            if (kind == F32) {
                lanes value = lanes_load(key + k * a->width + t * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    sum[r * tiles + t] = lanes_fma(lanes_set(weight[r * KEYS + k]), value, sum[r * tiles + t]);
                }
            } else {
                pairs value = pairs_load((const uint16_t *)(side + k / 2 * a->wide + t * LANES));
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    sum[r * tiles + t] = lanes_dot(sum[r * tiles + t], two + r * KEYS + k, value);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int t = 0; t < tiles; t++) {
            lanes_store(s->sums + (row + r) * a->wide + at + t * LANES, sum[r * tiles + t]);
        }
}

INLINE void gather_rows(int rows, int64_t kind, const attention *a, const attention_space *s, int64_t row, int64_t n,
                        int64_t at) {
    if (at + TILE_KEYS <= a->wide) gather_tile(rows, SCORE_TILES, kind, a, s, row, n, at);
    else gather_tile(rows, 1, kind, a, s, row, n, at);
}

/* Weights past a row's own keys are 0, and adding 0 times a finite key changes no sum: all rows take all n keys. */
INLINE void gather_block(int64_t kind, const attention *a, const attention_space *s, int64_t from, int64_t rows,
                         int64_t n, coming *next) {
    for (int64_t at = 0; at < a->wide; at += TILE_KEYS) {
        for (int64_t r = from; r < rows; r += SCORE_ROWS) {
            ask_ahead(kind, a, next);
            switch (rows - r) {
            case 1: gather_rows(1, kind, a, s, r, n, at); break;
            case 2: gather_rows(2, kind, a, s, r, n, at); break;
            case 3: gather_rows(3, kind, a, s, r, n, at); break;
            default: gather_rows(SCORE_ROWS, kind, a, s, r, n, at);
            }
        }
    }
}

INLINE void attend_kind(int64_t kind, const attention *a, const attention_space *s, float *const *q, int64_t tokens,
                        int64_t heads, int64_t position, const int32_t *table) {
    int64_t rows = tokens * heads, length = position + tokens, key_bytes = a->width * (kind == F32 ? 4 : 2);
    for (int64_t r = 0; r < rows; r++) {
        s->maximum[r] = -3.0e38f, s->total[r] = 0.0f;
        if (kind == F32) memcpy(s->queries + r * a->width, q[r], sizeof(float) * (size_t)a->width);
        else
            for (int64_t d = 0; d < a->width; d++) ((factor *)s->queries)[r * a->width + d] = to_factor(q[r][d]);
    }
    memset(s->sums, 0, sizeof(float) * (size_t)(rows * a->wide));
    memset((char *)s->keys + KEYS * key_bytes, 0, (size_t)key_bytes);
    for (int64_t first = 0; first < length; first += KEYS) {
        int64_t n = length - first < KEYS ? length - first : KEYS;
        int64_t from = first > position ? (first - position) * heads : 0; /* tokens before see none of these keys */
        find_keys(kind, a, s, table, first, n);
        int64_t later = first + n, size = a->pages->page_tokens;
        coming next = {table + later / size, later % size, length - later < KEYS ? length - later : KEYS};
        if (kind == BF16) pair_keys(a, s, n);
        score_block(kind, a, s, from, rows, n, &next);
        for (int64_t r = from, own = position + from / heads + 1 - first; r < rows; own++)
            for (int64_t h = 0; h < heads; h++, r++) soften(kind, a, s, r, own < n ? own : n);
        gather_block(kind, a, s, from, rows, n, &next);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < a->latent; d++) q[r][d] = s->sums[r * a->wide + d] / s->total[r];
}

/* `heads` heads of `tokens` tokens of one sequence, from `position` on. q[token * heads + head] is a query, and its
 * first `latent` values become the result. */
static void attend(const attention *a, const attention_space *s, float *const *q, int64_t tokens, int64_t heads,
                   int64_t position, const int32_t *table) {
    if (a->pages->kind == F32) attend_kind(F32, a, s, q, tokens, heads, position, table);
    else attend_kind(BF16, a, s, q, tokens, heads, position, table);
}

#endif
