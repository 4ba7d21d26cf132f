/*
 * oracle/generate: programs that the verifier accepts, of every operation, shape, type, layout and place that the rules allow; and programs that
 * break one rule, with the reason that the verifier must give. The rules are read from the verifier's own table (sp_rule_get): conditions between
 * dimensions are solved, everything else is proposed at random and offered to the verifier, and what it refuses is thrown away.
 *
 * Programs have three slots: "in" (read), "state" (read and written) and EVAL_SEEN (written), where each result is copied for the judge.
 */
#ifndef SP_TESTS_ORACLE_GENERATE_H
#define SP_TESTS_ORACLE_GENERATE_H

#include "oracle/weights.h"
#include "program/program_impl.h"
#include "samepage/graph.h"

enum { GEN_IN, GEN_STATE, GEN_SEEN, GEN_SLOTS };
enum { GEN_MAX_SRC = sizeof((sp_rule *)0)->src / sizeof(sp_rule_source) };

/* Where decisions come from: bytes of a fuzzer while they last, then numbers from a seed. */
typedef struct choices {
    const uint8_t *data;
    size_t size, at;
    uint64_t state;
} choices;
/* 0 to n - 1. */
uint32_t choose(choices *c, uint32_t n);
/* True once in n. */
bool chance(choices *c, uint32_t n);

typedef struct gen_options {
    uint32_t ops;       /* at most, views not counted */
    uint32_t alignment; /* of windows: 32, or what the device wants */
    const gen_weight *weights;
    uint32_t n_weights;
    uint16_t only_op; /* 0: any */
    bool chains;      /* also operations whose result only the next one sees, which devices fuse */
} gen_options;

enum { GEN_MAX_HIDDEN = 16 };

/* A program and what the generator knew of it. */
typedef struct generated {
    sp_graph g;
    uint64_t used[GEN_SLOTS];
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    sp_program *program;
    sp_spec *spec;
    uint32_t n_ops;
    uint16_t last_op;
    uint32_t hidden[GEN_MAX_HIDDEN], n_hidden; /* results that the next operation alone may use */
    uint32_t chained, chained_at;              /* the tensor that the next operation must use, SP_PROGRAM_NONE: none; and as which source */
    /* A broken one: its kind, and the words that the refusal must have. program and spec are NULL. */
    const char *broken;
    char words[128];
} generated;

/* False if nothing came of it (rare): the choices led nowhere. */
bool generate(choices *c, const gen_options *options, generated *out);
/* A program with one rule broken; out->broken says which kind. False if that led nowhere. */
bool generate_broken(choices *c, const gen_options *options, generated *out);
void generated_free(generated *p);

/* ---- inside: an operation before it is written down ---- */

enum { FORM_PLAIN, FORM_PADDED, FORM_SWAPPED, FORM_FLAT, FORM_TRANSPOSED, FORM_COUNT };

typedef struct gen_source {
    bool absent, fixed; /* fixed: a tensor that there is, or a weight: its dimensions stand */
    bool weight;
    bool clamped;    /* by way of a clamp: free of NaN */
    uint32_t tensor; /* fixed: its number */
    uint32_t type;
    int64_t ne[4];
    uint32_t slot;
    uint32_t form;
} gen_source;

typedef struct gen_plan {
    const sp_rule *rule;
    uint32_t n_src;
    gen_source src[GEN_MAX_SRC];
    uint32_t params[SP_PROGRAM_MAX_PARAMS];
    uint32_t type; /* cast */
    bool has_ne, has_nb;
    int64_t ne[4], nb[3], offset;
} gen_plan;

/* Proposes an operation with dimensions that meet the rule's conditions; false if they can't be met. */
bool gen_propose(choices *c, const gen_options *options, const generated *p, const sp_rule *rule, gen_plan *plan);
/* Writes it down; the number of the operation. */
sp_tensor gen_emit(choices *c, const gen_options *options, generated *p, const gen_plan *plan);
/* Loads and specialises what there is; on success p->program and p->spec are it. */
bool gen_check(generated *p, sp_error *err);
sp_tensor gen_window(choices *c, const gen_options *options, generated *p, uint32_t slot, uint32_t type, const int64_t ne[4], uint32_t form);
/* The first condition of the rule that does not hold, or -1. */
int gen_broken_condition(const gen_plan *plan);
/* May a source of this type have rows of n elements? */
bool gen_row_fits(uint32_t type, int64_t n);
uint32_t gen_type_of(choices *c, unsigned types);

/* A mark to go back to. */
typedef struct gen_mark {
    uint32_t tensors, exprs, strings, symbols;
    uint64_t used[GEN_SLOTS];
} gen_mark;
gen_mark gen_set_mark(const generated *p);
void gen_go_back(generated *p, gen_mark mark);

#endif
