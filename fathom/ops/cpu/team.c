/* The threads. A worker spins for SPIN_NS after its last work, since a decoding step follows the last one by some tens
 * of microseconds, then sleeps. At a barrier everybody spins, and yields the core after a while: the machine may be
 * shared. */
#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NS 300000
#define SPINS_BEFORE_YIELD 3000

struct team_pool {
    int64_t size;
    void (*work)(const team *, void *);
    void *argument;
    _Alignas(64) atomic_int_fast64_t round;    /* raised for every piece of work */
    _Alignas(64) atomic_int_fast64_t arrived;  /* at the barrier */
    _Alignas(64) atomic_int_fast64_t passed;   /* barriers that all have passed */
    _Alignas(64) atomic_int_fast64_t sleeping; /* workers that wait on `awake` */
    int closing;
    pthread_mutex_t lock;
    pthread_cond_t awake;
    pthread_t *threads;
    team *members;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether a new round came while we span. */
static int spin_for_work(team_pool *p, int64_t seen) {
    int64_t until = now_ns() + SPIN_NS;
    for (int i = 1;; i++) {
        if (atomic_load_explicit(&p->round, memory_order_acquire) != seen) return 1;
        relax();
        if (i % 256) continue;
        if (now_ns() > until) return 0;
        sched_yield();
    }
}

static void *serve(void *given) {
    const team *t = given;
    team_pool *p = t->pool;
    for (int64_t seen = 0;; seen++) {
        if (!spin_for_work(p, seen)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleeping, 1);
            while (atomic_load(&p->round) == seen) pthread_cond_wait(&p->awake, &p->lock);
            atomic_fetch_sub(&p->sleeping, 1);
            pthread_mutex_unlock(&p->lock);
        }
        if (p->closing) return NULL;
        p->work(t, p->argument);
        team_wait(t);
    }
}

team_pool *team_open(int64_t size) {
    team_pool *p = NULL;
    if (size < 1 || posix_memalign((void **)&p, 64, sizeof *p)) return NULL;
    *p = (team_pool){.size = size};
    p->threads = calloc((size_t)size, sizeof *p->threads);
    p->members = calloc((size_t)size, sizeof *p->members);
    if (!p->threads || !p->members || pthread_mutex_init(&p->lock, NULL) || pthread_cond_init(&p->awake, NULL)) {
        free(p->threads), free(p->members), free(p);
        return NULL;
    }
    for (int64_t i = 0; i < size; i++) {
        p->members[i] = (team){i, size, p};
        if (i && pthread_create(&p->threads[i], NULL, serve, &p->members[i])) {
            p->size = i; /* those that started must still be told to go */
            team_close(p);
            return NULL;
        }
    }
    return p;
}

static void start_round(team_pool *p) {
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->sleeping)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->awake);
        pthread_mutex_unlock(&p->lock);
    }
}

void team_close(team_pool *p) {
    p->closing = 1;
    start_round(p);
    for (int64_t i = 1; i < p->size; i++) pthread_join(p->threads[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->awake);
    free(p->threads), free(p->members), free(p);
}

int64_t team_size(const team_pool *p) { return p->size; }

void team_run(team_pool *p, void (*work)(const team *, void *), void *argument) {
    p->work = work, p->argument = argument;
    if (p->size > 1) start_round(p);
    work(&p->members[0], argument);
    team_wait(&p->members[0]); /* nobody still reads `argument` when this returns */
}

void team_wait(const team *t) {
    team_pool *p = t->pool;
    if (p->size == 1) return;
    int64_t passed = atomic_load_explicit(&p->passed, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->size - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->passed, passed + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&p->passed, memory_order_acquire) == passed; i++) {
        if (i < SPINS_BEFORE_YIELD) relax();
        else sched_yield();
    }
}

int64_t team_next(int64_t *counter) {
    return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
