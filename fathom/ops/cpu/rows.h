/* What happens to one row of floats: norm, rotation, activation, a change of width. */
#ifndef FATHOM_ROWS_H
#define FATHOM_ROWS_H

#include <math.h>

#include "lanes.h"

/* e^x to 2e-7 relative; 0 below -87, and nothing overflows. No branch, so that loops of it become vectors. */
INLINE float exponential(float x) {
    float inside = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted = inside * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the nearest integer */
    float n = shifted - 12582912.0f;
    float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts; polynomial of Cephes' expf */
    float y = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
               1.6666665459e-1f) * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : y * power;
}

INLINE float silu(float x) { return x / (1.0f + exponential(-x)); }

INLINE float sum_of_squares(const float *x, int64_t dim) {
    lanes sum[4] = {lanes_set(0.0f), lanes_set(0.0f), lanes_set(0.0f), lanes_set(0.0f)};
    int64_t at = 0;
    for (; at + 4 * LANES <= dim; at += 4 * LANES) {
        for (int i = 0; i < 4; i++) {
            lanes value = lanes_load(x + at + i * LANES);
            sum[i] = lanes_fma(value, value, sum[i]);
        }
    }
    for (int i = 0; at < dim; at += LANES, i++) {
        lanes value = dim - at < LANES ? load_tail(x + at, dim - at) : lanes_load(x + at);
        sum[i] = lanes_fma(value, value, sum[i]);
    }
    float part[4];
    reduce4(sum, part);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

static void norm_row(const float *x, const float *weight, int64_t dim, float eps, float *out) {
    float factor = 1.0f / sqrtf(sum_of_squares(x, dim) / (float)dim + eps);
    for (int64_t d = 0; d < dim; d++) out[d] = x[d] * factor * weight[d];
}

/* Neighbouring pairs (x0, x1), (x2, x3), ... turned by their angles; in place is allowed. */
static void rotate_row(const float *x, const float *cosine, const float *sine, int64_t pairs, float *out) {
    for (int64_t i = 0; i < pairs; i++) {
        float even = x[2 * i], odd = x[2 * i + 1];
        out[2 * i] = even * cosine[i] - odd * sine[i];
        out[2 * i + 1] = even * sine[i] + odd * cosine[i];
    }
}

/* Where a row is highest, the first of equals; a NaN counts as highest. */
static int64_t highest(const float *x, int64_t n, float *value) {
    lanes top = lanes_set(-INFINITY), odd = lanes_set(0.0f);
    float check[LANES];
    int64_t whole = n - n % LANES, best = 0, plain = 1;
    for (int64_t i = 0; i < whole; i += LANES) {
        lanes here = lanes_load(x + i);
        top = lanes_max(top, here);
        odd = lanes_fma(here, lanes_set(0.0f), odd); /* NaN for a NaN, and for an infinity */
    }
    lanes_store(check, odd);
    for (int i = 0; i < LANES; i++) plain &= check[i] == 0.0f;
    *value = plain ? lanes_top(top) : -INFINITY;
    if (plain && whole)
        while (x[best] != *value) best++;
    for (int64_t i = plain ? whole : 0; i < n; i++) {
        if (x[i] != x[i]) return *value = x[i], i;
        if (x[i] > *value) best = i, *value = x[i];
    }
    return best;
}

/* Row-major storage of `kind` F32 or BF16, read and written as floats. */
INLINE const void *stored(const void *base, int64_t kind, int64_t values) {
    return (const char *)base + values * (kind == F32 ? 4 : 2);
}

static void widen(const void *from, int64_t kind, int64_t dim, float *to) {
    if (kind == F32) memcpy(to, from, 4u * (size_t)dim);
    else
        for (int64_t i = 0; i < dim; i++) to[i] = from_bf16(((const uint16_t *)from)[i]);
}

static void narrow(const float *from, int64_t kind, int64_t dim, void *to) {
    if (kind == F32) memcpy(to, from, 4u * (size_t)dim);
    else
        for (int64_t i = 0; i < dim; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
}

#endif
