/* The AVX-512 intrinsics that the kernels use, one lane at a time, for a processor with AVX2 only: scripts/emulate.
 *
 * Found before the compiler's own immintrin.h. What an intrinsic does is taken from Intel's guide; a new one is a line
 * here. After this header the compiler poses as one with AVX-512, and as none for x86-64: a sum of 64 bytes fits no
 * register here, so that levels.h must not HOLD it.
 */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H

#include_next <immintrin.h>
#undef __x86_64__
#define __AVX512F__ 1

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef union {
    float f[16];
    int32_t i[16];
    uint32_t u[16];
    uint16_t h[32];
    int8_t b[64];
    uint8_t ub[64];
    __m256 y[2];
    __m256d d[2];
} wide;

#define __m512 wide
#define __m512i wide
#define EMULATE(name, arguments, lanes, each)          \
    static inline wide emulated_##name arguments {     \
        wide r;                                        \
        for (int k = 0; k < (lanes); k++) each;        \
        return r;                                      \
    }

EMULATE(set1_epi8, (char x), 64, r.b[k] = (int8_t)x)
EMULATE(set1_epi32, (int x), 16, r.i[k] = x)
EMULATE(set1_ps, (float x), 16, r.f[k] = x)
EMULATE(add_epi32, (wide a, wide b), 16, r.u[k] = a.u[k] + b.u[k])
EMULATE(and, (wide a, wide b), 16, r.u[k] = a.u[k] & b.u[k])
EMULATE(or, (wide a, wide b), 16, r.u[k] = a.u[k] | b.u[k])
EMULATE(xor, (wide a, wide b), 16, r.u[k] = a.u[k] ^ b.u[k])
EMULATE(slli_epi32, (wide a, int n), 16, r.u[k] = a.u[k] << n)
EMULATE(srli_epi16, (wide a, int n), 32, r.h[k] = (uint16_t)(a.h[k] >> n))
EMULATE(add_ps, (wide a, wide b), 16, r.f[k] = a.f[k] + b.f[k])
EMULATE(mul_ps, (wide a, wide b), 16, r.f[k] = a.f[k] * b.f[k])
EMULATE(max_ps, (wide a, wide b), 16, r.f[k] = a.f[k] > b.f[k] ? a.f[k] : b.f[k])
EMULATE(fmadd_ps, (wide a, wide b, wide c), 16, r.f[k] = fmaf(a.f[k], b.f[k], c.f[k]))
EMULATE(cvtepi32_ps, (wide a), 16, r.f[k] = (float)a.i[k])

/* Four unsigned bytes of a times four signed bytes of b, added to a lane without saturation. */
static inline int32_t dot4(wide a, wide b, int k) {
    int32_t sum = 0;
    for (int j = 4 * k; j < 4 * k + 4; j++) sum += (int32_t)a.ub[j] * b.b[j];
    return sum;
}
EMULATE(dpbusd, (wide c, wide a, wide b), 16, r.u[k] = c.u[k] + (uint32_t)dot4(a, b, k))

static inline wide emulated_load(const void *p) {
    wide r;
    memcpy(&r, p, sizeof r);
    return r;
}
static inline wide emulated_cvtepu16(__m256i x) {
    uint16_t half[16];
    wide r;
    memcpy(half, &x, sizeof half);
    for (int k = 0; k < 16; k++) r.u[k] = half[k];
    return r;
}
static inline wide emulated_cvtph(__m256i x) {
    wide r = {.y = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))}};
    return r;
}

#define _mm512_set1_epi8 emulated_set1_epi8
#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_set1_ps emulated_set1_ps
#define _mm512_add_epi32 emulated_add_epi32
#define _mm512_and_si512 emulated_and
#define _mm512_or_si512 emulated_or
#define _mm512_xor_si512 emulated_xor
#define _mm512_slli_epi32(a, n) emulated_slli_epi32(a, n)
#define _mm512_srli_epi16(a, n) emulated_srli_epi16(a, n)
#define _mm512_add_ps emulated_add_ps
#define _mm512_mul_ps emulated_mul_ps
#define _mm512_max_ps emulated_max_ps
#define _mm512_fmadd_ps emulated_fmadd_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps
#define _mm512_dpbusd_epi32 emulated_dpbusd
#define _mm512_loadu_ps(p) emulated_load(p)
#define _mm512_loadu_si512(p) emulated_load(p)
#define _mm512_storeu_ps(p, x) memcpy(p, (x).f, 64)
#define _mm512_storeu_si512(p, x) memcpy(p, (x).f, 64)
#define _mm512_cvtepu16_epi32 emulated_cvtepu16
#define _mm512_cvtph_ps emulated_cvtph
#define _mm512_castsi512_ps(x) (x)
#define _mm512_castps_pd(x) (x)
#define _mm512_castps512_ps256(x) ((x).y[0])
#define _mm512_extractf64x4_pd(x, half) ((x).d[half])

#endif
