/* The router's choice: experts by affinity + bias inside the best groups, weights by affinity alone.
 * DeepSeek-V3, eq. 12-16; group scores and the mask as in the released model code. */
#ifndef FATHOM_ROUTE_H
#define FATHOM_ROUTE_H

#include "space.h"

#define MOST_EXPERTS 1024 /* of one layer; packed.py refuses more */

/* NaN counts as the largest, as in a descending sort of torch; equal scores go to the lower id. */
INLINE int ahead(float a, float b) { return a > b || (a != a && b == b); }

/* The place of the best score that is not taken; the lowest one if they tie. */
static int64_t best_of(const float *score, const unsigned char *taken, int64_t n) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || ahead(score[i], score[best]))) best = i;
    return best;
}

static float score_group(const float *choice, int64_t n, int64_t best_two) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (ahead(choice[i], first)) second = first, first = choice[i];
        else if (ahead(choice[i], second)) second = choice[i];
    }
    return best_two ? first + second : first;
}

/* Logits of one token -> sigmoid (V3) or softmax (V2), in place. */
static void to_affinity(float *logit, int64_t n, int64_t softmax) {
    if (!softmax) {
        for (int64_t e = 0; e < n; e++) logit[e] = 1.0f / (1.0f + exponential(-logit[e]));
        return;
    }
    float top = logit[0], sum = 0.0f;
    for (int64_t e = 1; e < n; e++) top = logit[e] > top ? logit[e] : top;
    for (int64_t e = 0; e < n; e++) sum += logit[e] = exponential(logit[e] - top);
    for (int64_t e = 0; e < n; e++) logit[e] /= sum;
}

/* ids in descending order of choice score. */
static void route(const model *m, const float *affinity, const float *bias, int64_t *ids, float *weights) {
    int64_t held = m->experts / m->groups;
    float choice[MOST_EXPERTS], group[MOST_EXPERTS];
    unsigned char taken[MOST_EXPERTS] = {0}, kept[MOST_EXPERTS] = {0};
    for (int64_t e = 0; e < m->experts; e++) choice[e] = bias ? affinity[e] + bias[e] : affinity[e];
    if (m->groups > 1) {
        for (int64_t g = 0; g < m->groups; g++) group[g] = score_group(choice + g * held, held, m->best_two);
        for (int64_t i = 0; i < m->top_groups; i++) kept[best_of(group, kept, m->groups)] = 1;
        for (int64_t e = 0; e < m->experts; e++) choice[e] = kept[e / held] ? choice[e] : -INFINITY;
    }
    float sum = 0.0f; /* in the order of ids: the same experts weigh the same in whatever order they were chosen */
    for (int64_t i = 0; i < m->top_k; i++) taken[ids[i] = best_of(choice, taken, m->experts)] = 1;
    for (int64_t e = 0; e < m->experts; e++) sum += taken[e] ? affinity[e] : 0.0f;
    float over = m->normalise ? sum + 1e-20f : 1.0f;
    for (int64_t i = 0; i < m->top_k; i++) weights[i] = affinity[ids[i]] / over * m->scaling;
}

#endif
