/* Absorbed attention over paged latents (DeepSeek-V2, section 2.1.2), softmax and sums in float32.
 *
 * Keys are walked in blocks of KEYS at absolute positions (0..63, 64..127, ...) with a running maximum, whatever the
 * page size and however many tokens came along: a token's result depends on its own keys alone. A block of latents is
 * widened once into `keys`, and serves every head and token of the chunk.
 */
#ifndef FATHOM_ATTEND_H
#define FATHOM_ATTEND_H

#include "kernels.h"
#include "rows.h"

#define KEYS 64
#define CHUNK_FLOATS 65536 /* sums of one chunk of rows: 256 KB, so that they stay in the second cache */

typedef struct {
    int64_t latent, rope;  /* widths */
    int64_t width, wide;   /* of a query and a key: both parts, padded to LANES; of a sum: latent, padded */
    const cache *pages;
    const void *held, *turned; /* this layer's pages */
    float scale;
} attention;

/* One thread's space: a block of keys, and the rows of a chunk, row after row. */
typedef struct {
    float *keys;   /* [KEYS, width] */
    float *scores; /* [rows, KEYS] */
    float *sums;   /* [rows, wide] */
    float *maximum, *total, *keep; /* [rows] */
} attention_space;

static void load_keys(const attention *a, const int32_t *table, int64_t first, int64_t n, float *keys) {
    int64_t size = a->pages->page_tokens;
    for (int64_t k = 0; k < n; k++) {
        int64_t position = first + k, slot = table[position / size] * size + position % size;
        float *key = keys + k * a->width;
        widen(stored(a->held, a->pages->kind, slot * a->latent), a->pages->kind, a->latent, key);
        widen(stored(a->turned, a->pages->kind, slot * a->rope), a->pages->kind, a->rope, key + a->latent);
    }
}

/* scores[r, k..k+keys) = q[r] . key[k..k+keys) */
INLINE void score_tile(int rows, int keys, const float *const *q, const float *key, int64_t width, float *scores) {
    lanes sum[SCORE_ROWS * SCORE_KEYS + 3];
#pragma GCC unroll 16
    for (int i = 0; i < SCORE_ROWS * SCORE_KEYS + 3; i++) sum[i] = lanes_set(0.0f);
    for (int64_t at = 0; at < width; at += LANES) {
        lanes value[SCORE_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) value[r] = lanes_load(q[r] + at);
#pragma GCC unroll 4
        for (int k = 0; k < keys; k++) {
            lanes other = lanes_load(key + k * width + at);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) sum[r * keys + k] = lanes_fma(value[r], other, sum[r * keys + k]);
        }
    }
    float part[SCORE_ROWS * SCORE_KEYS + 3];
#pragma GCC unroll 4
    for (int i = 0; i < rows * keys; i += 4) reduce4(sum + i, part + i);
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < keys; k++) scores[r * KEYS + k] = part[r * keys + k];
}

/* Rows [0, rows) against `n` keys; keys past n hold stale numbers, which `soften` never reads. */
static void score_block(const attention *a, const float *const *q, int64_t rows, const float *keys, int64_t n,
                        float *scores) {
    for (int64_t k = 0; k < n; k += SCORE_KEYS) {
        int full = n - k >= SCORE_KEYS;
        for (int64_t r = 0; r < rows;) {
            const float *key = keys + k * a->width;
            float *to = scores + r * KEYS + k;
            int taken = rows - r >= SCORE_ROWS ? SCORE_ROWS : 1;
            if (full && taken == SCORE_ROWS) score_tile(SCORE_ROWS, SCORE_KEYS, q + r, key, a->width, to);
            else if (full) score_tile(1, SCORE_KEYS, q + r, key, a->width, to);
            else
                for (int64_t i = 0; i < n - k; i++)
                    for (int j = 0; j < taken; j++)
                        score_tile(1, 1, q + r + j, key + i * a->width, a->width, to + j * KEYS + i);
            r += taken;
        }
    }
}

/* Scores of one row -> weights against the running maximum; returns what the sums so far must be multiplied by. */
static float soften(float *scores, int64_t n, float scale, float *maximum, float *total) {
    float top = *maximum;
    for (int64_t k = 0; k < n; k++) {
        scores[k] *= scale;
        top = scores[k] > top ? scores[k] : top;
    }
    for (int64_t k = n; k < KEYS; k++) scores[k] = -INFINITY;
    for (int64_t k = 0; k < KEYS; k++) scores[k] = exponential(scores[k] - top);
    lanes sum[4] = {lanes_load(scores), lanes_load(scores + 16), lanes_load(scores + 32), lanes_load(scores + 48)};
    float part[4];
    reduce4(sum, part);
    float keep = exponential(*maximum - top);
    *total = *total * keep + ((part[0] + part[1]) + (part[2] + part[3]));
    *maximum = top;
    return keep;
}

/* sums[r, at..at+16) = keep[r] * sums + scores[r] . keys[.., at..at+16), key by key. */
INLINE void gather_tile(int rows, const attention *a, const attention_space *s, int64_t row, int64_t n, int64_t at) {
    lanes sum[SCORE_ROWS * 2];
    const float *key = s->keys + at, *weight = s->scores + row * KEYS;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        sum[r] = lanes_mul(lanes_load(s->sums + (row + r) * a->wide + at), lanes_set(s->keep[row + r]));
    }
    for (int64_t k = 0; k < n; k++) {
        lanes value = lanes_load(key + k * a->width);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sum[r] = lanes_fma(lanes_set(weight[r * KEYS + k]), value, sum[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) lanes_store(s->sums + (row + r) * a->wide + at, sum[r]);
}

/* Weights past a row's own keys are 0, and adding 0 times a finite key changes no sum: all rows take all n keys. */
static void gather_block(const attention *a, const attention_space *s, int64_t first_row, int64_t rows, int64_t n) {
    for (int64_t at = 0; at < a->wide; at += LANES) {
        for (int64_t r = first_row; r < rows;) {
            int taken = rows - r >= 2 * SCORE_ROWS ? 2 * SCORE_ROWS : 1;
            if (taken > 1) gather_tile(2 * SCORE_ROWS, a, s, r, n, at);
            else gather_tile(1, a, s, r, n, at);
            r += taken;
        }
    }
}

/* `heads` heads of `tokens` tokens of one sequence, from `position` on. q[token * heads + head] is a query, and its
 * first `latent` values become the result. */
static void attend(const attention *a, const attention_space *s, float *const *q, int64_t tokens, int64_t heads,
                   int64_t position, const int32_t *table) {
    int64_t rows = tokens * heads, length = position + tokens;
    memset(s->sums, 0, sizeof(float) * (size_t)(rows * a->wide));
    for (int64_t r = 0; r < rows; r++) s->maximum[r] = -3.0e38f, s->total[r] = 0.0f;
    for (int64_t first = 0; first < length; first += KEYS) {
        int64_t n = length - first < KEYS ? length - first : KEYS;
        int64_t from = first > position ? (first - position) * heads : 0; /* tokens before see none of these keys */
        load_keys(a, table, first, n, s->keys);
        score_block(a, (const float *const *)q + from, rows - from, s->keys, n, s->scores + from * KEYS);
        for (int64_t r = from; r < rows; r++) {
            int64_t own = position + r / heads + 1 - first;
            s->keep[r] = soften(s->scores + r * KEYS, own < n ? own : n, a->scale, s->maximum + r, s->total + r);
        }
        gather_block(a, s, from, rows, n);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t d = 0; d < a->latent; d++) q[r][d] = s->sums[r * a->wide + d] / s->total[r];
    }
}

#endif
