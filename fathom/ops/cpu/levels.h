/* Sums of products of integers: 8-bit activations with the 8- or 4-bit levels of a packed block.
 *
 * Integers add exactly, so each instruction set may go its own way to the same sums. For `n` columns of one group, some
 * rows of x and some parts of the block's 16 rows:
 *
 *     sum[r * parts + p][i] = x[r][0..n) . w[row i of part p][0..n)      w: [n / 4][16][4], or nibbles [n / 8][16][4]
 *
 * Levels of 8 bits lie within +-127, as activations do; nibbles stand for 0..15, and the caller takes 8 * sum(x) off.
 */
#ifndef FATHOM_LEVELS_H
#define FATHOM_LEVELS_H

#include "lanes.h"

/* Keeps a sum in its register and the additions in the order written: gcc otherwise does all products first, and
 * spills them. */
#if defined(__x86_64__)
#define HOLD(sum) __asm__ volatile("" : "+x"(sum))
#elif defined(__aarch64__)
#define HOLD(sum) __asm__ volatile("" : "+w"(sum))
#else
#define HOLD(sum) (void)(sum)
#endif

INLINE int32_t four(const int8_t *x) {
    int32_t bits;
    memcpy(&bits, x, 4);
    return bits;
}

/* So far ahead of the sums weights are asked for: +10 to 15 % where they come from memory. */
#define AHEAD_BYTES 1024

#if defined(__AVX512F__)

INLINE __m512i level8(const int8_t *w) { /* + OFFSET8 */
    return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8((char)0x80));
}

INLINE void levels8(int rows, int parts, const int8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    (void)parts;
    if (rows == 1) { /* a sum waits for its last addition: two of them, for every other step */
        ints one = sum[0], two = ints_set(0);
        for (int64_t k = 0; k < n; k += 8, w += 128) {
            __builtin_prefetch(w + AHEAD_BYTES);
            __builtin_prefetch(w + AHEAD_BYTES + 64);
            one = _mm512_dpbusd_epi32(one, level8(w), _mm512_set1_epi32(four(x[0] + k)));
            two = _mm512_dpbusd_epi32(two, level8(w + 64), _mm512_set1_epi32(four(x[0] + k + 4)));
        }
        sum[0] = ints_add(one, two);
        return;
    }
    for (int64_t k = 0; k < n; k += 4, w += 64) {
        __builtin_prefetch(w + AHEAD_BYTES);
        __m512i level = level8(w);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            sum[r] = _mm512_dpbusd_epi32(sum[r], level, _mm512_set1_epi32(four(x[r] + k)));
            HOLD(sum[r]);
        }
    }
}

INLINE void levels4(int rows, int parts, const uint8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    const __m512i low = _mm512_set1_epi8(15);
    ints more = ints_set(0); /* of a single row's second halves, for the same reason */
    (void)parts;
    for (int64_t k = 0; k < n; k += 8, w += 64) {
        __builtin_prefetch(w + AHEAD_BYTES);
        __m512i both = _mm512_loadu_si512(w);
        __m512i first = _mm512_and_si512(both, low), second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        if (rows == 1) {
            sum[0] = _mm512_dpbusd_epi32(sum[0], first, _mm512_set1_epi32(four(x[0] + k)));
            more = _mm512_dpbusd_epi32(more, second, _mm512_set1_epi32(four(x[0] + k + 4)));
            continue;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            sum[r] = _mm512_dpbusd_epi32(sum[r], first, _mm512_set1_epi32(four(x[r] + k)));
            sum[r] = _mm512_dpbusd_epi32(sum[r], second, _mm512_set1_epi32(four(x[r] + k + 4)));
            HOLD(sum[r]);
        }
    }
    if (rows == 1) sum[0] = ints_add(sum[0], more);
}

#elif defined(__AVX2__)

/* vpmaddubsw wants one factor unsigned: |w| times x with the sign of w. Two products of 127 * 127 fit 16 bits. */
INLINE void levels8(int rows, int parts, const int8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    for (int64_t k = 0; k < n; k += 4, w += 64) {
        __m256i level[PARTS], size[PARTS];
        __builtin_prefetch(w + AHEAD_BYTES);
#pragma GCC unroll 2
        for (int p = 0; p < parts; p++) {
            level[p] = _mm256_loadu_si256((const void *)(w + 32 * p));
            size[p] = _mm256_abs_epi8(level[p]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m256i value = _mm256_set1_epi32(four(x[r] + k));
#pragma GCC unroll 2
            for (int p = 0; p < parts; p++) {
                __m256i pairs = _mm256_maddubs_epi16(size[p], _mm256_sign_epi8(value, level[p]));
                ints *to = sum + r * parts + p;
                *to = _mm256_add_epi32(*to, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                HOLD(*to);
            }
        }
    }
}

/* Eight products of 15 * 127, in pairs, fit 16 bits: sums stay narrow for 32 columns. */
INLINE void levels4(int rows, int parts, const uint8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (int64_t k = 0; k < n; k += 32) {
        __m256i narrow[TILE_ROWS];
#pragma GCC unroll 8
        for (int i = 0; i < rows * parts; i++) narrow[i] = _mm256_setzero_si256();
        for (int64_t j = k; j < k + 32; j += 8, w += 64) {
            __m256i first[PARTS], second[PARTS];
            __builtin_prefetch(w + AHEAD_BYTES);
#pragma GCC unroll 2
            for (int p = 0; p < parts; p++) {
                __m256i both = _mm256_loadu_si256((const void *)(w + 32 * p));
                first[p] = _mm256_and_si256(both, mask);
                second[p] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                __m256i one = _mm256_set1_epi32(four(x[r] + j)), two = _mm256_set1_epi32(four(x[r] + j + 4));
#pragma GCC unroll 2
                for (int p = 0; p < parts; p++) {
                    __m256i *to = narrow + r * parts + p;
                    *to = _mm256_add_epi16(*to, _mm256_maddubs_epi16(first[p], one));
                    *to = _mm256_add_epi16(*to, _mm256_maddubs_epi16(second[p], two));
                    HOLD(*to);
                }
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows * parts; i++) {
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(narrow[i], _mm256_set1_epi16(1)));
        }
    }
}

#elif defined(__aarch64__)

INLINE int32x4_t dot8(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w, x);
#else
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_s8(vget_high_s8(w), vget_high_s8(x));
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

INLINE int8x16_t same_four(const int8_t *x) { return vreinterpretq_s8_s32(vdupq_n_s32(four(x))); }

INLINE void levels8(int rows, int parts, const int8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    for (int64_t k = 0; k < n; k += 4, w += 64) {
        for (int r = 0; r < rows; r++) {
            int8x16_t value = same_four(x[r] + k);
            for (int p = 0; p < parts; p++) {
                sum[r * parts + p] = dot8(sum[r * parts + p], vld1q_s8(w + 16 * p), value);
            }
        }
    }
}

INLINE void levels4(int rows, int parts, const uint8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    for (int64_t k = 0; k < n; k += 8, w += 64) {
        for (int r = 0; r < rows; r++) {
            int8x16_t one = same_four(x[r] + k), two = same_four(x[r] + k + 4);
            for (int p = 0; p < parts; p++) {
                uint8x16_t both = vld1q_u8(w + 16 * p);
                int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
                int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
                sum[r * parts + p] = dot8(dot8(sum[r * parts + p], first, one), second, two);
            }
        }
    }
}

#else

INLINE void levels8(int rows, int parts, const int8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    for (int64_t k = 0; k < n; k += 4, w += 64)
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < parts; p++)
                for (int j = 0; j < 4; j++) sum[r * parts + p] += w[4 * p + j] * x[r][k + j];
}

INLINE void levels4(int rows, int parts, const uint8_t *w, const int8_t *const *x, int64_t n, ints *sum) {
    for (int64_t k = 0; k < n; k += 8, w += 64)
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < parts; p++)
                for (int j = 0; j < 4; j++) {
                    int both = w[4 * p + j];
                    sum[r * parts + p] += (both & 15) * x[r][k + j] + (both >> 4) * x[r][k + 4 + j];
                }
}

#endif
#endif
