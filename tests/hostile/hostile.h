/*
 * For hostile guests. Each source says on lines of its own what the host must do, and test_hostile_guests checks that it does:
 *
 *     expect: load|spawn|step|fork STATUS [words that the error has]     the call that fails; STATUS is that of SP_ERR_STATUS;
 *                                                                   a guest that is forked is so after its first step, and lives on
 *     expect: done                                                  it runs to SP_DONE: the guest has checked the codes that it got itself
 *     limits: name=value ...                                        fields of sp_limits that differ from the test's defaults
 */
#ifndef TESTS_HOSTILE_H
#define TESTS_HOSTILE_H

#include "samepage/actor.h"
#include "samepage/graph.h"

#define EXPECT(code, call)                                                                                                                           \
    do {                                                                                                                                             \
        int32_t got_ = (call);                                                                                                                       \
        if (got_ != (code)) {                                                                                                                        \
            fprintf(stderr, "%s:%d: %s gave %d, not %d\n", __FILE__, __LINE__, #call, got_, (int32_t)(code));                                        \
            __builtin_trap();                                                                                                                        \
        }                                                                                                                                            \
    } while (0)

/* An address and a size that the compiler can't reason about. */
static inline void *at(uint64_t address) {
    volatile uint32_t hidden = (uint32_t)address;
    return (void *)hidden;
}

static inline uint64_t memory_size(void) {
    return (uint64_t)__builtin_wasm_memory_size(0) << 16;
}

/* out[i] = table[ids[i]] for n of rows rows of width floats; slots: table, ids, out. */
static inline int32_t load_gather(uint32_t width, uint32_t rows, uint32_t n) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "table", SP_SLOT_READ), ids = sp_graph_slot(&g, "ids", SP_SLOT_READ),
             out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor table = sp_graph_memory_2d(&g, "table", in, SP_TYPE_F32, sp_dim(width), sp_dim(rows), sp_dim(0));
    sp_tensor which = sp_graph_memory_1d(&g, "ids", ids, SP_TYPE_I32, sp_dim(n), sp_dim(0));
    sp_tensor to = sp_graph_memory_2d(&g, "out", out, SP_TYPE_F32, sp_dim(width), sp_dim(n), sp_dim(0));
    sp_graph_into(&g, sp_get_rows(&g, table, which), to);
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    int32_t program = sp_program_load(bytes, size);
    sp_graph_free(&g);
    return program;
}

/* c = a * b, square matrices of n; slots: in (both), out. */
static inline int32_t load_product(uint32_t n) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor a = sp_graph_memory_2d(&g, "a", in, SP_TYPE_F32, sp_dim(n), sp_dim(n), sp_dim(0));
    sp_tensor b = sp_graph_memory_2d(&g, "b", in, SP_TYPE_F32, sp_dim(n), sp_dim(n), sp_dim((int64_t)n * n * 4));
    sp_tensor c = sp_graph_memory_2d(&g, "c", out, SP_TYPE_F32, sp_dim(n), sp_dim(n), sp_dim(0));
    sp_graph_into(&g, sp_mul_mat(&g, a, b), c);
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    int32_t program = sp_program_load(bytes, size);
    sp_graph_free(&g);
    return program;
}

#endif
