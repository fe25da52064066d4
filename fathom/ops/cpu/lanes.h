/* Sixteen float lanes and sixteen integer lanes, however the machine groups them: one for each row of a packed block.
 *
 * Every variant adds in the same order, and all but the generic one fuse multiply and add: AVX2, AVX-512 and NEON give
 * the same bits. A `part` is one register of a block's 16 rows, PARTS of them a block.
 * A variant chooses how many rows and keys its kernels hold in registers, never the order of a sum. */
#ifndef FATHOM_LANES_H
#define FATHOM_LANES_H

#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

INLINE float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE uint16_t to_bf16(float value) { /* to nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INLINE float from_half(uint16_t bits) {
    uint32_t wide = ((uint32_t)(bits & 0x7fffu) << 13) + 0x38000000u, sign = (uint32_t)(bits & 0x8000u) << 16;
    if ((bits & 0x7c00u) == 0x7c00u) wide += 0x38000000u; /* infinity, NaN */
    float value;
    if (!(bits & 0x7c00u)) { /* zero and the smallest numbers: count steps of 2^-24 */
        value = (float)(bits & 0x3ffu) * 0x1p-24f;
        memcpy(&wide, &value, sizeof wide);
    }
    wide |= sign;
    memcpy(&value, &wide, sizeof value);
    return value;
}

#if defined(__AVX512F__)
#include <immintrin.h>
#define TILE_ROWS 8  /* activation rows that share one block of integer weights */
#define FLOAT_ROWS 8 /* and of floats */
#define SCORE_ROWS 4
#define SCORE_TILES 2 /* sixteen keys, or sixteen values, each */
#define PARTS 1
#define OFFSET8 128 /* vpdpbusd wants its first factor unsigned: +128, which `dot8` expects to be taken off before */
typedef __m512 lanes;
typedef __m512 part;
typedef __m512i ints;
INLINE ints ints_set(int32_t x) { return _mm512_set1_epi32(x); }
INLINE ints ints_add(ints a, ints b) { return _mm512_add_epi32(a, b); }
INLINE part part_set(float x) { return _mm512_set1_ps(x); }
INLINE part part_of_ints(ints x) { return _mm512_cvtepi32_ps(x); }
INLINE part part_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE part part_mul(part a, part b) { return _mm512_mul_ps(a, b); }
INLINE part part_fma(part a, part b, part c) { return _mm512_fmadd_ps(a, b, c); }
INLINE void part_store(float *p, part x) { _mm512_storeu_ps(p, x); }
INLINE lanes lanes_add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
INLINE void lanes_load_pairs(const uint16_t *p, lanes *even, lanes *odd) { /* bf16: lane i from 2i, and from 2i + 1 */
    __m512i both = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000u)));
}
INLINE lanes lanes_set(float x) { return _mm512_set1_ps(x); }
INLINE lanes lanes_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE lanes lanes_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
INLINE void lanes_store(float *p, lanes x) { _mm512_storeu_ps(p, x); }
INLINE lanes lanes_fma(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
INLINE lanes lanes_mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
INLINE lanes lanes_max(lanes a, lanes b) { return _mm512_max_ps(a, b); }
INLINE __m128 fold(lanes x) { /* lane i + 8, then + 4 */
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
}

#elif defined(__AVX2__)
#include <immintrin.h>
#define TILE_ROWS 8
#define FLOAT_ROWS 4
#define SCORE_ROWS 4
#define SCORE_TILES 1
#define PARTS 2
#define OFFSET8 0
typedef struct { __m256 low, high; } lanes;
typedef __m256 part;
typedef __m256i ints;
INLINE ints ints_set(int32_t x) { return _mm256_set1_epi32(x); }
INLINE ints ints_add(ints a, ints b) { return _mm256_add_epi32(a, b); }
INLINE part part_set(float x) { return _mm256_set1_ps(x); }
INLINE part part_of_ints(ints x) { return _mm256_cvtepi32_ps(x); }
INLINE part part_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE part part_mul(part a, part b) { return _mm256_mul_ps(a, b); }
INLINE part part_fma(part a, part b, part c) { return _mm256_fmadd_ps(a, b, c); }
INLINE void part_store(float *p, part x) { _mm256_storeu_ps(p, x); }
INLINE lanes lanes_add(lanes a, lanes b) {
    return (lanes){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
INLINE void lanes_load_pairs(const uint16_t *p, lanes *even, lanes *odd) { /* bf16: lane i from 2i, and from 2i + 1 */
    __m256i low = _mm256_loadu_si256((const void *)p), high = _mm256_loadu_si256((const void *)(p + 16));
    __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
    *even = (lanes){_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
    *odd = (lanes){_mm256_castsi256_ps(_mm256_and_si256(low, upper)),
                   _mm256_castsi256_ps(_mm256_and_si256(high, upper))};
}
INLINE __m256 wide8(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
INLINE lanes lanes_set(float x) { return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE lanes lanes_load(const float *p) { return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE lanes lanes_load_bf16(const uint16_t *p) { return (lanes){wide8(p), wide8(p + 8)}; }
INLINE void lanes_store(float *p, lanes x) { _mm256_storeu_ps(p, x.low), _mm256_storeu_ps(p + 8, x.high); }
INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    return (lanes){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE lanes lanes_mul(lanes a, lanes b) {
    return (lanes){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
INLINE lanes lanes_max(lanes a, lanes b) {
    return (lanes){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
INLINE __m128 fold(lanes x) {
    __m256 y = _mm256_add_ps(x.low, x.high);
    return _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
}

#elif defined(__aarch64__)
#include <arm_neon.h>
#define TILE_ROWS 4
#define FLOAT_ROWS 4
#define SCORE_ROWS 4
#define SCORE_TILES 1
#define PARTS 4
#define OFFSET8 0
typedef struct { float32x4_t part[4]; } lanes;
typedef float32x4_t part;
typedef int32x4_t ints;
INLINE ints ints_set(int32_t x) { return vdupq_n_s32(x); }
INLINE ints ints_add(ints a, ints b) { return vaddq_s32(a, b); }
INLINE part part_set(float x) { return vdupq_n_f32(x); }
INLINE part part_of_ints(ints x) { return vcvtq_f32_s32(x); }
INLINE part part_load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE part part_mul(part a, part b) { return vmulq_f32(a, b); }
INLINE part part_fma(part a, part b, part c) { return vfmaq_f32(c, a, b); }
INLINE void part_store(float *p, part x) { vst1q_f32(p, x); }
INLINE lanes lanes_add(lanes a, lanes b) {
    for (int i = 0; i < 4; i++) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
    return a;
}
INLINE void lanes_load_pairs(const uint16_t *p, lanes *even, lanes *odd) { /* bf16: lane i from 2i, and from 2i + 1 */
    for (int i = 0; i < 4; i++) {
        uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
        even->part[i] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
        odd->part[i] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
    }
}
INLINE lanes lanes_set(float x) {
    float32x4_t y = vdupq_n_f32(x);
    return (lanes){{y, y, y, y}};
}
INLINE lanes lanes_load(const float *p) {
    return (lanes){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
INLINE float32x4_t wide4(const uint16_t *p) { return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16)); }
INLINE lanes lanes_load_bf16(const uint16_t *p) {
    return (lanes){{wide4(p), wide4(p + 4), wide4(p + 8), wide4(p + 12)}};
}
INLINE void lanes_store(float *p, lanes x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.part[i]);
}
INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    for (int i = 0; i < 4; i++) c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
    return c;
}
INLINE lanes lanes_mul(lanes a, lanes b) {
    for (int i = 0; i < 4; i++) a.part[i] = vmulq_f32(a.part[i], b.part[i]);
    return a;
}
INLINE lanes lanes_max(lanes a, lanes b) {
    for (int i = 0; i < 4; i++) a.part[i] = vmaxq_f32(a.part[i], b.part[i]);
    return a;
}
INLINE void reduce4(const lanes x[4], float out[4]) {
    for (int i = 0; i < 4; i++) {
        float32x4_t y = vaddq_f32(vaddq_f32(x[i].part[0], x[i].part[2]), vaddq_f32(x[i].part[1], x[i].part[3]));
        out[i] = (vgetq_lane_f32(y, 0) + vgetq_lane_f32(y, 2)) + (vgetq_lane_f32(y, 1) + vgetq_lane_f32(y, 3));
    }
}

#else
#define TILE_ROWS 1
#define FLOAT_ROWS 1
#define SCORE_ROWS 4
#define SCORE_TILES 1
#define PARTS 16
#define OFFSET8 0
typedef struct { float lane[LANES]; } lanes;
typedef float part;
typedef int32_t ints;
INLINE ints ints_set(int32_t x) { return x; }
INLINE ints ints_add(ints a, ints b) { return a + b; }
INLINE part part_set(float x) { return x; }
INLINE part part_of_ints(ints x) { return (float)x; }
INLINE part part_load_half(const uint16_t *p) { return from_half(*p); }
INLINE part part_mul(part a, part b) { return a * b; }
INLINE part part_fma(part a, part b, part c) { return c + a * b; }
INLINE void part_store(float *p, part x) { *p = x; }
INLINE lanes lanes_add(lanes a, lanes b) {
    for (int i = 0; i < LANES; i++) a.lane[i] += b.lane[i];
    return a;
}
INLINE void lanes_load_pairs(const uint16_t *p, lanes *even, lanes *odd) { /* bf16: lane i from 2i, and from 2i + 1 */
    for (int i = 0; i < LANES; i++) even->lane[i] = from_bf16(p[2 * i]), odd->lane[i] = from_bf16(p[2 * i + 1]);
}
INLINE lanes lanes_set(float x) {
    lanes y;
    for (int i = 0; i < LANES; i++) y.lane[i] = x;
    return y;
}
INLINE lanes lanes_load(const float *p) {
    lanes y;
    memcpy(y.lane, p, sizeof y.lane);
    return y;
}
INLINE lanes lanes_load_bf16(const uint16_t *p) {
    lanes y;
    for (int i = 0; i < LANES; i++) y.lane[i] = from_bf16(p[i]);
    return y;
}
INLINE void lanes_store(float *p, lanes x) { memcpy(p, x.lane, sizeof x.lane); }
INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    for (int i = 0; i < LANES; i++) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
}
INLINE lanes lanes_mul(lanes a, lanes b) {
    for (int i = 0; i < LANES; i++) a.lane[i] *= b.lane[i];
    return a;
}
INLINE lanes lanes_max(lanes a, lanes b) {
    for (int i = 0; i < LANES; i++) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
INLINE void reduce4(const lanes x[4], float out[4]) {
    for (int i = 0; i < 4; i++) {
        float y[4];
        for (int j = 0; j < 4; j++) {
            y[j] = (x[i].lane[j] + x[i].lane[j + 8]) + (x[i].lane[j + 4] + x[i].lane[j + 12]);
        }
        out[i] = (y[0] + y[2]) + (y[1] + y[3]);
    }
}
#endif

#if defined(__AVX2__)
/* The sums of four vectors at once: each is ((0+8)+(4+12)) and so on per lane mod 4, then (0+2) + (1+3). */
INLINE void reduce4(const lanes x[4], float out[4]) {
    __m128 a = fold(x[0]), b = fold(x[1]), c = fold(x[2]), d = fold(x[3]);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)); /* a0+a2 a1+a3 b0+b2 b1+b3 */
    __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}
#endif

/* Products of bfloat16 pairs: sum + x[1] * (the second of each pair), rounded, + x[0] * (the first), rounded. That is
 * what vdpbf16ps does, which takes results below 2^-126 for 0; the products themselves are exact either way. */
#if defined(__AVX512BF16__)
typedef uint16_t factor;  /* a bfloat16 number, as x is held */
typedef __m512bh pairs;
INLINE factor to_factor(float x) { return to_bf16(x); }
INLINE pairs pairs_load(const uint16_t *p) { return (__m512bh)_mm512_loadu_si512(p); }
INLINE lanes lanes_dot(lanes sum, const factor *x, pairs y) {
    int32_t both;
    memcpy(&both, x, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(both), y);
}
#else
typedef float factor;
typedef struct { lanes first, second; } pairs;
INLINE factor to_factor(float x) { return from_bf16(to_bf16(x)); }
INLINE pairs pairs_load(const uint16_t *p) {
    pairs y;
    lanes_load_pairs(p, &y.first, &y.second);
    return y;
}
INLINE lanes lanes_dot(lanes sum, const factor *x, pairs y) {
    return lanes_fma(lanes_set(x[0]), y.first, lanes_fma(lanes_set(x[1]), y.second, sum));
}
#endif

/* The largest lane. */
#if defined(__AVX2__)
INLINE float lanes_top(lanes x) {
#if defined(__AVX512F__)
    __m256 y = _mm256_max_ps(_mm512_castps512_ps256(x),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
#else
    __m256 y = _mm256_max_ps(x.low, x.high);
#endif
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}
#else
INLINE float lanes_top(lanes x) {
    float held[LANES];
    lanes_store(held, x);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) held[i] = held[i] > held[i + width] ? held[i] : held[i + width];
    return held[0];
}
#endif

/* The last n < 16 values of a row, the other lanes 0. */
INLINE lanes load_tail(const float *x, int64_t n) {
    float held[LANES] = {0};
    for (int64_t i = 0; i < n; i++) held[i] = x[i];
    return lanes_load(held);
}

#endif
