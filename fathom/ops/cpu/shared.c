/* Numbers between processes of one host, through memory that they share (ops/shared.py).
 *
 * A room has a gate, at which all wait for each other, and for each process two desks, used in turn: who writes on a desk
 * has passed the gate twice since anybody read what lay there, so one gate a turn is enough. Longer messages take
 * several turns. Waiting processes spin for a while, then sleep; one that waits too long, or is told that the others will
 * not come, answers so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { ARRIVED = 0, TOO_LATE = 1, BROKEN = 2 };
#define SLEEP_NS 100000000 /* at most, before the clock is looked at */

typedef struct {
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t round;
    _Alignas(64) _Atomic uint32_t broken;
} gate;

typedef struct { /* what lies on a desk: a piece of the sender's message, which is cut for the receivers at `begin` */
    int64_t begin[65]; /* [size + 1] */
    char piece[];
} desk;

typedef struct { /* one process's view of a room */
    char *memory;
    int64_t size, rank, capacity, timeout_ns, spins, turn;
} room;

static int64_t desk_bytes(int64_t capacity) { return (int64_t)sizeof(desk) + ((capacity + 63) & -64); }

int64_t room_bytes(int64_t size, int64_t capacity) { return (int64_t)sizeof(gate) + 2 * size * desk_bytes(capacity); }

static desk *desk_of(const room *r, int64_t rank) {
    return (desk *)(r->memory + sizeof(gate) + (2 * rank + r->turn % 2) * desk_bytes(r->capacity));
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void sleep_while(_Atomic uint32_t *word, uint32_t value) {
#if defined(__linux__)
    struct timespec most = {0, SLEEP_NS};
    syscall(SYS_futex, word, FUTEX_WAIT, value, &most, NULL, 0);
#else
    struct timespec most = {0, 20000};
    (void)word, (void)value;
    nanosleep(&most, NULL);
#endif
}

static void wake_all(_Atomic uint32_t *word) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

/* The others will not come: who waits, or comes to wait, hears so. */
void room_break(room *r) {
    gate *g = (gate *)r->memory;
    atomic_store(&g->broken, 1);
    wake_all(&g->round);
}

static int pass(room *r) {
    gate *g = (gate *)r->memory;
    uint32_t round = atomic_load(&g->round);
    if (atomic_load(&g->broken)) return BROKEN;
    if ((int64_t)atomic_fetch_add(&g->arrived, 1) == r->size - 1) {
        atomic_store(&g->arrived, 0);
        atomic_fetch_add(&g->round, 1);
        wake_all(&g->round);
        return ARRIVED;
    }
    for (int64_t i = 0; i < r->spins; i++) {
        if (atomic_load_explicit(&g->round, memory_order_acquire) != round) return ARRIVED;
        relax();
    }
    for (int64_t until = now_ns() + r->timeout_ns; atomic_load(&g->round) == round;) {
        if (atomic_load(&g->broken)) return BROKEN;
        if (now_ns() > until) return TOO_LATE;
        sleep_while(&g->round, round);
    }
    return ARRIVED;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Everybody's `bytes` bytes, by rank, into `all`. */
int room_gather(room *r, const char *own, int64_t bytes, char *all) {
    for (int64_t at = 0; at < bytes; at += r->capacity) {
        int64_t part = least(bytes - at, r->capacity);
        memcpy(desk_of(r, r->rank)->piece, own + at, (size_t)part);
        int code = pass(r);
        if (code) return code;
        for (int64_t from = 0; from < r->size; from++) {
            memcpy(all + from * bytes + at, desk_of(r, from)->piece, (size_t)part);
        }
        r->turn++;
    }
    return ARRIVED;
}

/* out[to] bytes for each rank lie end to end in `given`; what others have for this one goes end to end into `taken`, in
 * order of rank, in[from] bytes each. */
int room_exchange(room *r, const char *given, const int64_t *out, char *taken, const int64_t *in) {
    int64_t begin[65] = {0}, rounds = 1;
    for (int64_t to = 0; to < r->size; to++) begin[to + 1] = begin[to] + out[to];
    for (int64_t k = 0; k < rounds; k++) {
        int64_t from_byte = k * r->capacity, to_byte = from_byte + r->capacity;
        desk *ours = desk_of(r, r->rank);
        memcpy(ours->begin, begin, sizeof begin);
        if (from_byte < begin[r->size]) {
            memcpy(ours->piece, given + from_byte, (size_t)(least(to_byte, begin[r->size]) - from_byte));
        }
        int code = pass(r);
        if (code) return code;
        int64_t into = 0;
        for (int64_t from = 0; from < r->size; into += in[from++]) {
            const desk *d = desk_of(r, from);
            int64_t mine = d->begin[r->rank], first = most(mine, from_byte), last = least(mine + in[from], to_byte);
            if (first < last) memcpy(taken + into + first - mine, d->piece + first - from_byte, (size_t)(last - first));
            rounds = most(rounds, (d->begin[r->size] + r->capacity - 1) / r->capacity);
        }
        r->turn++;
    }
    return ARRIVED;
}
