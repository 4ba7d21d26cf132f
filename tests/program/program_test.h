/* What the tests of programs share: a graph with two slots, windows that lie one behind the other, weights by description, and expectations. */
#ifndef SP_TESTS_PROGRAM_TEST_H
#define SP_TESTS_PROGRAM_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "program/program.h"
#include "samepage/graph.h"

enum { IN = 0, STATE = 1 }; /* the slots of every test graph: read-only inputs, and memory that may be written */

typedef struct bench {
    sp_graph g;
    uint64_t used[2]; /* bytes of the slots */
} bench;

static inline bench new_bench(void) {
    bench b = {.used = {0, 0}};
    sp_graph_init(&b.g);
    sp_graph_slot(&b.g, "in", SP_SLOT_READ);
    sp_graph_slot(&b.g, "state", SP_SLOT_STATE);
    return b;
}

/* A contiguous window behind the last one of its slot. */
static inline sp_tensor window(bench *b, uint32_t slot, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    uint32_t block = 1, size = 1;
    sp_type_block(type, &block, &size);
    sp_tensor t = sp_graph_memory_4d(&b->g, NULL, slot, type, sp_dim(ne0), sp_dim(ne1), sp_dim(ne2), sp_dim(ne3), sp_dim((int64_t)b->used[slot]));
    b->used[slot] += ((uint64_t)(ne0 * ne1 * ne2 * ne3) * size / block + 4095) / 4096 * 4096;
    return t;
}
static inline sp_tensor f32(bench *b, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    return window(b, IN, SP_TYPE_F32, ne0, ne1, ne2, ne3);
}
static inline sp_tensor typed(bench *b, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    return window(b, IN, type, ne0, ne1, ne2, ne3);
}
static inline sp_tensor ids(bench *b, int64_t ne0, int64_t ne1) {
    return window(b, IN, SP_TYPE_I32, ne0, ne1, 1, 1);
}
static inline sp_tensor state(bench *b, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    return window(b, STATE, type, ne0, ne1, ne2, ne3);
}
/* A view with strides in bytes. */
static inline sp_tensor strided(bench *b, sp_tensor a, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3, int64_t nb1, int64_t nb2, int64_t nb3,
                                int64_t offset) {
    return sp_view_4d(&b->g, a, sp_dim(ne0), sp_dim(ne1), sp_dim(ne2), sp_dim(ne3), sp_dim(nb1), sp_dim(nb2), sp_dim(nb3), sp_dim(offset));
}

/* A weight called "TYPE NE0 NE1 NE2 NE3" is just that; any other name is not found. */
static inline bool find_described(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    (void)context;
    long long ne[4];
    *out = (sp_weight_info){.index = 7};
    if (model != 0 || sscanf(name, "%u %lld %lld %lld %lld", &out->type, &ne[0], &ne[1], &ne[2], &ne[3]) != 5) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        out->ne[i] = ne[i];
    }
    return true;
}
static inline sp_tensor weight(bench *b, uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    char name[64];
    snprintf(name, sizeof name, "%u %lld %lld %lld %lld", type, (long long)ne0, (long long)ne1, (long long)ne2, (long long)ne3);
    return sp_graph_weight(&b->g, name);
}
static const sp_weight_source described = {find_described, NULL};

typedef struct outcome {
    sp_program *program;
    sp_spec *spec;
    sp_status status;
    sp_error err;
} outcome;

/* Loads and specialises what was built so far. */
static inline outcome check_with(bench *b, const uint64_t *symbols, uint32_t n_symbols) {
    outcome o = {0};
    uint32_t size;
    const void *bytes = sp_graph_bytes(&b->g, &size);
    if (!bytes) {
        fail_msg("the builder says: %s", b->g.error);
    }
    o.status = sp_program_load(bytes, size, &described, &o.program, &o.err);
    if (o.status == SP_OK) {
        o.status = sp_program_specialise(o.program, symbols, n_symbols, NULL, &o.spec, &o.err);
        assert_true((o.spec != NULL) == (o.status == SP_OK));
    }
    return o;
}
static inline void drop(outcome *o) {
    sp_spec_free(o->spec);
    sp_program_free(o->program);
}

/* Ends the graph: it must be accepted. */
static inline void accept_graph(bench *b) {
    outcome o = check_with(b, NULL, 0);
    if (o.status != SP_OK) {
        fail_msg("refused: %s", o.err.message);
    }
    drop(&o);
    sp_graph_free(&b->g);
}

/* Ends the graph: it must be refused, with these words in the message. */
static inline void refuse_graph(bench *b, const char *words) {
    outcome o = check_with(b, NULL, 0);
    if (o.status == SP_OK) {
        fail_msg("accepted, but should say: %s", words);
    }
    if (!strstr(o.err.message, words)) {
        fail_msg("says: %s; should say: %s", o.err.message, words);
    }
    drop(&o);
    sp_graph_free(&b->g);
}

#endif
