/* Absorbed attention over paged latents (DeepSeek-V2, section 2.1.2), softmax and sums in float32.
 *
 * Keys are walked in blocks of KEYS at absolute positions (0..63, 64..127, ...) with a running maximum, whatever the
 * page size and however many tokens came along: a token's result depends on its own keys alone. A block of latents is
 * widened once and serves every head and token of a chunk; for the scores it is turned over, 16 keys at a time.
 */
#ifndef FATHOM_ATTEND_H
#define FATHOM_ATTEND_H

#include "kernels.h"
#include "rows.h"

#define KEYS 64
#define CHUNK_FLOATS 65536 /* sums of one chunk of rows: 256 KB, so that they stay in the second cache */

/* TURN x TURN floats, rows `stride` apart, into columns LANES apart. */
#if defined(__AVX2__)
#define TURN 8
INLINE void turn_over(const float *from, int64_t stride, float *to) {
    __m256 row[8], pair[8];
    for (int i = 0; i < 8; i++) row[i] = _mm256_loadu_ps(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * LANES, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * LANES, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
    }
}
#else
#define TURN 4
INLINE void turn_over(const float *from, int64_t stride, float *to) {
    for (int k = 0; k < 4; k++)
        for (int d = 0; d < 4; d++) to[d * LANES + k] = from[k * stride + d];
}
#endif

typedef struct {
    int64_t latent, rope;  /* widths */
    int64_t width, wide;   /* of a stored query and key: both parts, padded to LANES; of a sum: latent, padded */
    const cache *pages;
    const void *held, *turned; /* this layer's pages */
    float scale;
} attention;

/* One thread's space: a block of keys, and the rows of a chunk, row after row. */
typedef struct {
    float *keys;   /* [KEYS, width] */
    float *turned; /* [width, LANES]: 16 of them, turned over */
    float *scores; /* [rows, KEYS] */
    float *sums;   /* [rows, wide] */
    float *maximum, *total, *keep; /* [rows] */
} attention_space;

static void load_keys(const attention *a, const int32_t *table, int64_t first, int64_t n, float *key) {
    int64_t size = a->pages->page_tokens, kind = a->pages->kind, page = first / size, offset = first % size;
    for (int64_t k = 0; k < n; k++, key += a->width) {
        int64_t slot = table[page] * size + offset;
        widen(stored(a->held, kind, slot * a->latent), kind, a->latent, key);
        widen(stored(a->turned, kind, slot * a->rope), kind, a->rope, key + a->latent);
        if (++offset == size) page++, offset = 0;
    }
}

/* scores[r][0..16) = q[r] . keys: a lane is a key, and walks the width from first to last. */
INLINE void score_tile(int rows, const float *const *q, const float *turned, int64_t width, float *scores) {
    lanes sum[SCORE_ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sum[r] = lanes_set(0.0f);
    for (int64_t d = 0; d < width; d++) {
        lanes key = lanes_load(turned + d * LANES);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sum[r] = lanes_fma(lanes_set(q[r][d]), key, sum[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) lanes_store(scores + r * KEYS, sum[r]);
}

/* Rows against n keys, 16 at a time; the scores past n are of no key. */
static void score_block(const attention *a, const float *const *q, int64_t rows, const attention_space *s, int64_t n,
                        float *scores) {
    int64_t width = a->latent + a->rope;
    for (int64_t k = 0; k < n; k += LANES) {
        for (int64_t i = 0; i < LANES; i += TURN)
            for (int64_t d = 0; d < a->width; d += TURN)
                turn_over(s->keys + (k + i) * a->width + d, a->width, s->turned + d * LANES + i);
        for (int64_t r = 0; r < rows; r += SCORE_ROWS) {
            float *to = scores + r * KEYS + k;
            switch (rows - r) {
            case 1: score_tile(1, q + r, s->turned, width, to); break;
            case 2: score_tile(2, q + r, s->turned, width, to); break;
            case 3: score_tile(3, q + r, s->turned, width, to); break;
            default: score_tile(SCORE_ROWS, q + r, s->turned, width, to);
            }
        }
    }
}

/* Scores of one row, n of them its own -> weights against the running maximum, 0 past n; returns what the sums so far
 * must be multiplied by. */
static float soften(float *scores, int64_t n, float scale, float *maximum, float *total) {
    int64_t runs = (n + LANES - 1) / LANES;
    for (int64_t k = n; k < runs * LANES; k++) scores[k] = -INFINITY;
    lanes best = lanes_set(*maximum);
    for (int64_t k = 0; k < runs * LANES; k += LANES) {
        lanes scaled = lanes_mul(lanes_load(scores + k), lanes_set(scale));
        lanes_store(scores + k, scaled);
        best = lanes_max(best, scaled);
    }
    float top = lanes_top(best), part[4];
    for (int64_t k = 0; k < runs * LANES; k++) scores[k] = exponential(scores[k] - top);
    memset(scores + runs * LANES, 0, 4u * (size_t)(KEYS - runs * LANES));
    lanes sum[4] = {lanes_load(scores), lanes_load(scores + 16), lanes_load(scores + 32), lanes_load(scores + 48)};
    reduce4(sum, part);
    float keep = exponential(*maximum - top);
    *total = *total * keep + ((part[0] + part[1]) + (part[2] + part[3]));
    *maximum = top;
    return keep;
}

/* sums[r, at..at+16) = keep[r] * sums + scores[r] . keys[.., at..at+16), key by key. */
INLINE void gather_tile(int rows, const attention *a, const attention_space *s, int64_t row, int64_t n, int64_t at) {
    lanes sum[SCORE_ROWS];
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
        for (int64_t r = first_row; r < rows; r += SCORE_ROWS) {
            switch (rows - r) {
            case 1: gather_tile(1, a, s, r, n, at); break;
            case 2: gather_tile(2, a, s, r, n, at); break;
            case 3: gather_tile(3, a, s, r, n, at); break;
            default: gather_tile(SCORE_ROWS, a, s, r, n, at);
            }
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
        score_block(a, (const float *const *)q + from, rows - from, s, n, s->scores + from * KEYS);
        for (int64_t r = from, own = position + from / heads + 1 - first; r < rows; own++) {
            for (int64_t h = 0; h < heads; h++, r++) {
                s->keep[r] = soften(s->scores + r * KEYS, own < n ? own : n, a->scale, s->maximum + r, s->total + r);
            }
        }
        gather_block(a, s, from, rows, n);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t d = 0; d < a->latent; d++) q[r][d] = s->sums[r * a->wide + d] / s->total[r];
    }
}

#endif
