/* Which variant this processor, and its operating system, can run. */
#include <string.h>

#include "kernels.h"

#if defined(__aarch64__)
#define BASE kernels_neon
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#else
#define BASE kernels_generic
#endif

#define ABI_VERSION 5 /* structs.py holds the same number; raise both when a struct or a signature changes */

int fathom_abi_version(void) { return ABI_VERSION; }

/* Sizes of the structs in the order of kernels.h, so that structs.py can be held against them; 0 past the last. */
int64_t fathom_struct_bytes(int which) {
    static const int64_t bytes[] = {sizeof(matrix), sizeof(mlp),   sizeof(layer),    sizeof(arrivals), sizeof(peers),
                                    sizeof(model),  sizeof(cache), sizeof(batch),    sizeof(call),     sizeof(kernels)};
    return which < 0 || which >= (int)(sizeof bytes / sizeof *bytes) ? 0 : bytes[which];
}

#if defined(__aarch64__) && defined(WITH_DOTPROD)
static int has_dotprod(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1ul << 20)) != 0; /* HWCAP_ASIMDDP */
#else
    return 1; /* every Apple processor of this architecture */
#endif
}
#endif

/* The named variant, or the best one for "": NULL if it was not compiled or cannot run here. */
const kernels *fathom_kernels(const char *name) {
    const kernels *usable[4];
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init(); /* reads cpuid, and whether the system saves the wide registers */
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
    (void)wide;
#ifdef WITH_AVX512BF16
    if (wide && __builtin_cpu_supports("avx512bf16")) usable[count++] = &kernels_avx512bf16;
#endif
#ifdef WITH_AVX512
    if (wide) usable[count++] = &kernels_avx512;
#endif
#ifdef WITH_AVX2
    /* every processor with AVX2 has F16C */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) usable[count++] = &kernels_avx2;
#endif
#elif defined(__aarch64__) && defined(WITH_DOTPROD)
    if (has_dotprod()) usable[count++] = &kernels_dotprod;
#endif
    usable[count++] = &BASE;
    for (int i = 0; i < count; i++)
        if (!*name || !strcmp(name, usable[i]->name)) return usable[i];
    return NULL;
}

/* Runs a little of every usable variant: what cannot run dies here, in the process that build.py spares for it. */
int fathom_probe(void) {
    static const char *const names[] = {"", "generic", "neon", "dotprod", "avx2", "avx512", "avx512bf16"};
    static float weight[16 * 64], x[5 * 64], out[5 * 16];
    static int8_t level[16 * 64];
    static const uint16_t one[16] = {0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00,
                                     0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00}; /* 1.0 */
    matrix floats = {F32, 16, 64, 1, weight, NULL}, levels = {I8, 16, 64, 64, level, one};
    team_pool *pool = team_open(2);
    if (!pool) return 1;
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 64; k++) {
            weight[k * 16 + row] = (float)((row + k) % 5 - 2);
            level[k / 4 * 64 + row * 4 + k % 4] = (int8_t)((row + k) % 5 - 2);
        }
    for (int i = 0; i < 5 * 64; i++) x[i] = i % 64 ? (float)(i % 7 - 3) : 127.0f; /* a peak of 127: levels are exact */
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        const kernels *chosen = fathom_kernels(names[i]);
        for (int kind = 0; chosen && kind < 2; kind++) {
            if (chosen->product(kind ? &levels : &floats, x, 5, out, pool)) return 2;
            for (int r = 0; r < 5; r++)
                for (int row = 0; row < 16; row++) {
                    float sum = 0.0f; /* small integers: every order of addition is exact */
                    for (int k = 0; k < 64; k++) sum += x[r * 64 + k] * (float)((row + k) % 5 - 2);
                    if (sum != out[r * 16 + row]) return 3;
                }
        }
    }
    team_close(pool);
    return 0;
}
