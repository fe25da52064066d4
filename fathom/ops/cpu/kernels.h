/* What Python hands over: a packed model, a batch, a call; and what a variant of the kernels answers.
 *
 * The structs are mirrored field by field in structs.py. Every count is an int64_t, every float tensor float32 unless
 * said otherwise. Nothing here owns memory.
 */
#ifndef FATHOM_KERNELS_H
#define FATHOM_KERNELS_H

#include <stdint.h>

#include "team.h"

enum { OK = 0, OUT_OF_MEMORY = 1, OUT_OF_RANGE = 2, PEERS_FAILED = 3 };
enum { F32 = 0, BF16 = 1, F8 = 2, I8 = 3, I4 = 4 }; /* kinds, as numbered in packing.py */

typedef struct { /* a PackedMatrix: ops/packing.py says what lies where */
    int64_t kind, rows, columns, group;
    const void *data, *scale;
} matrix;

typedef struct { /* gate_proj, up_proj, down_proj of one expert, of the shared experts, or of a dense layer */
    matrix gate, up, down;
} mlp;

typedef struct {
    const float *input_norm, *q_norm, *kv_norm, *post_norm;
    matrix q_a, kv_a, o;            /* q_a.data is NULL without a query latent */
    const matrix *q_b, *k_b, *v_b;  /* [heads] */
    matrix router;                  /* data is NULL in a dense layer, whose feed-forward is `shared` */
    const float *bias;              /* of the router; NULL if it has none */
    const mlp *experts;             /* [held] */
    mlp shared;                     /* gate.data is NULL without shared experts */
    const float *embedding_norm, *hidden_norm, *last_norm; /* of an MTP module */
    matrix join;                                           /* eh_proj, of an MTP module */
} layer;

/* Other processes that hold parts of the same model. All ask the same of each other in the same order.
 *
 * Nothing is summed across processes: each computes whole numbers, and those that others have are fetched. So they are
 * the same however many processes there are. A function answers 0, or that it failed, which ends the forward. */
typedef struct { /* rows that others sent, each with the experts it chose among those held here */
    float *rows;           /* [most, stride] */
    int64_t stride, most;
    int64_t *expert, *row; /* [pairs]: which of the experts held, for which row */
    int64_t tokens, pairs; /* how many there are */
} arrivals;

typedef struct {
    int64_t size, rank; /* those who share a batch: its heads, rows of matrices and, before experts, its tokens */
    int64_t travels;    /* whether tokens go where their experts are; otherwise all experts are held here */
    const int64_t *heads, *hidden, *inner, *vocabulary; /* [size + 1]: where the columns of each begin */
    int (*columns)(float *rows, int64_t count, int64_t stride, const int64_t *begin); /* fetch the others' columns */
    int (*rows)(float *rows, int64_t count, int64_t stride);                          /* fetch the others' rows */
    int (*dispatch)(int64_t layer, const float *rows, int64_t count, int64_t stride, const int64_t *ids, arrivals *to);
    int (*combine)(const float *theirs, float *ours, int64_t stride); /* the results of a dispatch, back to senders */
} peers;

typedef struct {
    int64_t hidden, heads, nope, rope, value, latent, q_rank, vocabulary, layers, modules;
    int64_t begins, ends;     /* whether it has the embedding, and the last norm with what follows */
    int64_t all_heads;        /* `heads` of them are here */
    int64_t experts, held, top_k, groups, top_groups, best_two, softmax, normalise;
    int64_t inner;            /* widest feed-forward: of dense layers and shared experts */
    int64_t expert_inner;     /* width of a routed expert */
    int64_t table_positions;  /* rows of cosines and sines */
    int64_t embedding_kind;   /* F32 or BF16 */
    float scaling, eps, scale;
    const layer *layer;       /* [layers + modules]: the main model, then MTP */
    const void *embedding;    /* [vocabulary, hidden] */
    const float *cosines, *sines; /* [table_positions, rope / 2] */
    const float *last_norm;
    matrix head;
    const peers *peers;       /* NULL for a model that is all here */
} model;

typedef struct { /* pages of latents and rotated keys, per layer */
    void *latent, *rope; /* [layers + modules, pages, page_tokens, latent or rope] */
    int64_t kind, pages, page_tokens;
} cache;

typedef struct { /* tokens of all sequences end to end; the new tokens of one follow each other in position */
    int64_t tokens, sequences, table;
    const int64_t *positions;  /* [tokens] */
    const int64_t *lengths;    /* [sequences]: new tokens */
    const int32_t *pages;      /* [sequences, table] */
} batch;

typedef struct {
    int64_t module;           /* -1: the main model; otherwise which MTP module */
    const int64_t *ids;       /* [tokens]: what to embed */
    const float *before;      /* [tokens, hidden]: what an MTP module joins the embeddings with, a later stage begins with */
    float *hidden;            /* [tokens, hidden]: states after the last norm; of an earlier stage, those for the next */
    int64_t *chosen;          /* NULL, or [layers + modules, tokens, top_k]: the experts chosen, for those who look */
    int64_t asked;            /* how many states are turned into logits; space as for so many tokens, if more */
    const int64_t *rows;      /* [asked]: which; one may come twice */
    float *logits;            /* [asked, head rows padded to 16] */
    int64_t *best;            /* [asked]: where each is highest, the first of equals; a NaN counts as highest */
    float *highest;           /* [asked]: how high */
    int64_t arrivals;         /* the most tokens that peers may send */
} call;

typedef struct {
    const char *name;
    int64_t (*space)(const model *m, int64_t tokens, int64_t arrivals, int64_t threads); /* bytes `forward` works in */
    int (*forward)(const model *m, const cache *c, const batch *b, const call *what, void *space, team_pool *pool);
    /* `forward` of an MTP module, then `rounds` times of the next one (the last again) for each row asked: on its state,
     * the token that was highest and the place after it. `then` and `again` are such a round but for what changes:
     * positions [rounds, asked], best, highest [rounds, asked], hidden [rounds + 1, asked, hidden], filled here. */
    int (*draft)(const model *m, const cache *c, const batch *b, const call *what, const batch *then, const call *again,
                 int64_t rounds, void *space, team_pool *pool);
    /* out [rows, head rows padded to 16]; hidden [rows, hidden], normed; space as for `rows` tokens */
    int (*logits)(const model *m, const float *hidden, int64_t rows, float *out, void *space, team_pool *pool);
    /* out [rows, m.rows padded to 16] = x [rows, m.columns] times a packed matrix: for checks */
    int (*product)(const matrix *m, const float *x, int64_t rows, float *out, team_pool *pool);
} kernels;

extern const kernels kernels_generic, kernels_neon, kernels_dotprod, kernels_avx2, kernels_avx512, kernels_avx512bf16;

#endif
