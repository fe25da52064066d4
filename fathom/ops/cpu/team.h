/* A team of threads that runs one function together: everybody enters it with their rank, and `team_wait` lets nobody
 * on before all have come. */
#ifndef FATHOM_TEAM_H
#define FATHOM_TEAM_H

#include <stdint.h>

typedef struct team_pool team_pool;

typedef struct {
    int64_t rank, size;
    team_pool *pool;
} team;

team_pool *team_open(int64_t size);
void team_close(team_pool *pool);
int64_t team_size(const team_pool *pool);
void team_run(team_pool *pool, void (*work)(const team *, void *), void *argument);
void team_wait(const team *t);
int64_t team_next(int64_t *counter); /* counter++, each number to one caller */

#endif
