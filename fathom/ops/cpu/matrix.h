/* Products of activations with packed matrices.
 *
 * An output is one lane's sum over the columns, first to last: its bits depend on its row of weights and its row of
 * activations alone, never on how many rows came along or which thread took it. 8- and 4-bit weights meet activations
 * rounded to 8 bits, per row and group; the others meet floats.
 */
#ifndef FATHOM_MATRIX_H
#define FATHOM_MATRIX_H

#include <math.h>
#include <stdlib.h>

#include "kernels.h"
#include "levels.h"

#define BLOCK 16
#define HELD_SUMS 8 /* that stay in registers beside what feeds them */
#define PAD 128 /* values in a row are padded with zeros to the widest group */

/* Groups are powers of two: no kernel divides, which takes as long as a block of short rows. */
INLINE int64_t round_up(int64_t n, int64_t power) { return (n + power - 1) & -power; }
INLINE int64_t blocks_of(const matrix *m) { return (m->rows + BLOCK - 1) / BLOCK; }
INLINE int64_t columns_of(const matrix *m) { return round_up(m->columns, m->kind == BF16 ? 2 : m->group); }
INLINE int is_quantised(const matrix *m) { return m->kind == I8 || m->kind == I4; }

/* Rows of activations, as floats and, for each group size that a matrix asks for, as 8-bit levels. */
typedef struct {
    int64_t stride; /* values from row to row, a multiple of PAD */
    float *values;
    struct { int8_t *level; float *scale; int32_t *sum; } rounded[3]; /* groups of 32, 64, 128 */
} activations;

INLINE int size_of_group(int64_t group) { return group == 32 ? 0 : group == 64 ? 1 : 2; }
INLINE int wants(const matrix *m) { return m->data && is_quantised(m) ? 1 << size_of_group(m->group) : 0; }

/* Round columns [from, to) of a row; `which` has a bit for each group size wanted. Both ends are multiples of those. */
static void round_row(const activations *a, int64_t row, int which, int64_t from, int64_t to) {
    const float *x = a->values + row * a->stride;
    for (int s = 0; s < 3; s++) {
        if (!(which >> s & 1)) continue;
        int64_t group = 32 << s;
        int8_t *level = a->rounded[s].level + row * a->stride;
        float *scale = a->rounded[s].scale + row * (a->stride >> (5 + s));
        int32_t *sum = a->rounded[s].sum + row * (a->stride >> (5 + s));
        for (int64_t g = from >> (5 + s); g < round_up(to, group) >> (5 + s); g++) {
            lanes best = lanes_set(0.0f);
            for (int64_t i = g * group; i < (g + 1) * group; i += LANES) {
                lanes value = lanes_load(x + i);
                best = lanes_max(best, lanes_max(value, lanes_mul(value, lanes_set(-1.0f))));
            }
            float peak = lanes_top(best);
            float inverse = peak > 0.0f ? 127.0f / peak : 0.0f;
            int32_t total = 0;
            for (int64_t i = g * group; i < (g + 1) * group; i++) {
                /* 1.5 * 2^23: the low bits of the sum are the nearest integer, ties to even */
                float shifted = x[i] * inverse + 12582912.0f;
                int32_t bits;
                memcpy(&bits, &shifted, sizeof bits);
                level[i] = (int8_t)bits;
                total += level[i]; /* not of the bits, which are anything for a NaN or next to nothing */
            }
            scale[g] = peak / 127.0f;
            sum[g] = -8 * total; /* what an offset of 8 in the weights adds, to be taken off */
        }
    }
}

/* out[r][16]: some parts of a block times `rows` rows. Both counts are constants where this is inlined. */
INLINE void parts_of_levels(int rows, int parts, int first, int eight, const matrix *m, int64_t block,
                            const activations *a, const int64_t *row, float (*out)[BLOCK]) {
    enum { WIDTH = BLOCK / PARTS };
    int s = size_of_group(m->group), offset = eight ? OFFSET8 / 8 : 1;
    int64_t group = 32 << s, columns = columns_of(m), groups = columns >> (5 + s), held = a->stride >> (5 + s);
    const uint8_t *w = (const uint8_t *)m->data + block * columns * (eight ? BLOCK : BLOCK / 2) + first * WIDTH * 4;
    const uint16_t *steps = (const uint16_t *)m->scale + block * groups * BLOCK + first * WIDTH;
    const int8_t *x[TILE_ROWS];
    const float *scale[TILE_ROWS];
    const int32_t *total[TILE_ROWS];
    part to[TILE_ROWS * PARTS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        x[r] = a->rounded[s].level + row[r] * a->stride;
        scale[r] = a->rounded[s].scale + row[r] * held;
        total[r] = a->rounded[s].sum + row[r] * held;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows * parts; i++) to[i] = part_set(0.0f);
    for (int64_t g = 0; g < groups; g++, steps += BLOCK, w += group * (eight ? BLOCK : BLOCK / 2)) {
        ints sum[TILE_ROWS * PARTS];
#pragma GCC unroll 8
        for (int i = 0; i < rows * parts; i++) sum[i] = offset ? ints_set(offset * total[i / parts][g]) : ints_set(0);
        if (eight) levels8(rows, parts, (const int8_t *)w, x, group, sum);
        else levels4(rows, parts, w, x, group, sum);
        part step[PARTS];
#pragma GCC unroll 4
        for (int p = 0; p < parts; p++) step[p] = part_load_half(steps + p * WIDTH);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            x[r] += group;
            part size = part_set(scale[r][g]);
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) {
                part value = part_mul(part_of_ints(sum[r * parts + p]), size);
                to[r * parts + p] = part_fma(value, step[p], to[r * parts + p]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int p = 0; p < parts; p++) part_store(out[r] + (first + p) * WIDTH, to[r * parts + p]);
}

/* A whole block: all its parts at once while their sums fit the registers, one after another otherwise. */
INLINE void block_of_levels(int rows, int eight, const matrix *m, int64_t block, const activations *a,
                            const int64_t *row, float (*out)[BLOCK]) {
    if (rows * PARTS <= HELD_SUMS) parts_of_levels(rows, PARTS, 0, eight, m, block, a, row, out);
    else
        for (int p = 0; p < PARTS; p++) parts_of_levels(rows, 1, p, eight, m, block, a, row, out);
}

/* out[b * rows + r]: `blocks` neighbouring blocks at once give a single row enough sums in flight. */
INLINE void blocks_of_floats(int rows, int blocks, int kind, const matrix *m, int64_t block, const activations *a,
                             const int64_t *row, float (*out)[BLOCK]) {
    int64_t columns = columns_of(m), step = kind == BF16 ? 2 : 1;
    const char *w[4];
    const float *x[FLOAT_ROWS];
    lanes sum[FLOAT_ROWS > 4 ? FLOAT_ROWS : 4];
    int64_t bytes = columns * BLOCK * (kind == F32 ? 4 : 2);
    for (int b = 0; b < blocks; b++) w[b] = (const char *)m->data + (block + b) * bytes;
    for (int r = 0; r < rows; r++) x[r] = a->values + row[r] * a->stride;
#pragma GCC unroll 8
    for (int i = 0; i < rows * blocks; i++) sum[i] = lanes_set(0.0f);
    for (int64_t k = 0; k < columns; k += step) {
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            lanes even, odd;
            if (kind == F32) even = odd = lanes_load((const float *)w[b] + k * BLOCK);
            else lanes_load_pairs((const uint16_t *)w[b] + k * BLOCK, &even, &odd);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                lanes *to = sum + b * rows + r;
                *to = lanes_fma(lanes_set(x[r][k]), even, *to);
                if (kind == BF16) *to = lanes_fma(lanes_set(x[r][k + 1]), odd, *to);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows * blocks; i++) lanes_store(out[i], sum[i]);
}

/* The E4M3 number of each row's byte `at`, times 2^-120: its bits moved to where a float32 has them. */
INLINE lanes lanes_e4m3(const uint8_t *w, int64_t at) {
    float value[LANES];
    for (int i = 0; i < LANES; i++) {
        uint32_t byte = w[4 * i + at], bits = (byte & 0x80u) << 24 | (byte & 0x7fu) << 20;
        memcpy(value + i, &bits, 4);
    }
    return lanes_load(value);
}

static void block_of_f8(int rows, const matrix *m, int64_t block, const activations *a, const int64_t *row,
                        float (*out)[BLOCK]) {
    int64_t columns = columns_of(m), group = m->group;
    const uint8_t *w = (const uint8_t *)m->data + block * columns * BLOCK;
    const float *scale = (const float *)m->scale + block * (columns / group);
    lanes sum[TILE_ROWS];
    for (int r = 0; r < rows; r++) sum[r] = lanes_set(0.0f);
    for (int64_t g = 0; g < columns / group; g++) {
        lanes part[TILE_ROWS], step = lanes_set(scale[g] * 0x1p120f);
        for (int r = 0; r < rows; r++) part[r] = lanes_set(0.0f);
        for (int64_t k = g * group; k < (g + 1) * group; k++) {
            lanes weight = lanes_e4m3(w + k / 4 * 4 * BLOCK, k % 4);
            for (int r = 0; r < rows; r++) {
                part[r] = lanes_fma(lanes_set(a->values[row[r] * a->stride + k]), weight, part[r]);
            }
        }
        for (int r = 0; r < rows; r++) sum[r] = lanes_fma(part[r], step, sum[r]);
    }
    for (int r = 0; r < rows; r++) lanes_store(out[r], sum[r]);
}

/* Each count of rows, up to `most`, is a kernel of its own, its sums in registers. */
#define WITHIN(n, most) ((n) < (most) ? (n) : (most))
#define FOR_ROWS(kernel, most, ...)                     \
    switch (rows) {                                     \
    case 1: kernel(1, __VA_ARGS__); break;              \
    case 2: kernel(WITHIN(2, most), __VA_ARGS__); break; \
    case 3: kernel(WITHIN(3, most), __VA_ARGS__); break; \
    case 4: kernel(WITHIN(4, most), __VA_ARGS__); break; \
    case 5: kernel(WITHIN(5, most), __VA_ARGS__); break; \
    case 6: kernel(WITHIN(6, most), __VA_ARGS__); break; \
    case 7: kernel(WITHIN(7, most), __VA_ARGS__); break; \
    default: kernel(most, __VA_ARGS__);                 \
    }

/* Blocks of floats that a tile of so many rows takes at once, so that enough sums are under way. */
#define FLOAT_BLOCKS(rows) ((rows) <= 1 ? 4 : (rows) < FLOAT_ROWS ? FLOAT_ROWS / (rows) : 1)
#define SUMS (TILE_ROWS > 4 ? TILE_ROWS : 4) /* of a tile */

INLINE void tile_of_floats(int rows, int blocks, const matrix *m, int64_t block, const activations *a,
                           const int64_t *row, float (*out)[BLOCK]) {
    if (m->kind == F32 && blocks > 1) blocks_of_floats(rows, FLOAT_BLOCKS(rows), F32, m, block, a, row, out);
    else if (m->kind == F32) blocks_of_floats(rows, 1, F32, m, block, a, row, out);
    else if (blocks > 1) blocks_of_floats(rows, FLOAT_BLOCKS(rows), BF16, m, block, a, row, out);
    else blocks_of_floats(rows, 1, BF16, m, block, a, row, out);
}

/* How many blocks `tile` shall take at once, of `left`. */
INLINE int together(const matrix *m, int64_t rows, int64_t left) {
    int floats = m->kind == F32 || m->kind == BF16;
    int most = floats && rows <= FLOAT_ROWS ? FLOAT_BLOCKS((int)rows) : 1;
    return most <= left ? most : 1;
}

/* out[b * rows + r] = one block, or as many as `together` says, times 1 to TILE_ROWS rows. */
static void tile(const matrix *m, int64_t block, int blocks, const activations *a, const int64_t *row, int rows,
                 float (*out)[BLOCK]) {
    if (m->kind == I8) FOR_ROWS(block_of_levels, TILE_ROWS, 1, m, block, a, row, out)
    else if (m->kind == I4) FOR_ROWS(block_of_levels, TILE_ROWS, 0, m, block, a, row, out)
    else if (m->kind == F8) block_of_f8(rows, m, block, a, row, out);
    else
        for (int left = rows; left > 0; left -= FLOAT_ROWS, row += FLOAT_ROWS, out += FLOAT_ROWS) {
            rows = left;
            FOR_ROWS(tile_of_floats, FLOAT_ROWS, blocks, m, block, a, row, out)
        }
}

/* out[i][16 * block ..] = row[i] of `a` times blocks [first, last) of m. */
static void product(const matrix *m, int64_t first, int64_t last, const activations *a, const int64_t *row,
                    int64_t rows, float *out, int64_t stride) {
    float sum[SUMS][BLOCK];
    for (int64_t b = first; b < last;) {
        int blocks = together(m, rows, last - b);
        for (int64_t r = 0; r < rows; r += TILE_ROWS) {
            int n = rows - r < TILE_ROWS ? (int)(rows - r) : TILE_ROWS;
            tile(m, b, blocks, a, row + r, n, sum);
            for (int i = 0; i < n * blocks; i++) {
                memcpy(out + (r + i % n) * stride + (b + i / n) * BLOCK, sum[i], sizeof *sum);
            }
        }
        b += blocks;
    }
}

#endif
