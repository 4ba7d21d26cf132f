/*
 * What libllama's graph looked like at one size, and the values that a dimension took at several.
 * trace.c watches libllama, fit.c finds expressions, emit.c writes the program, translate.c knows ggml's operations.
 */
#ifndef SP_MODEL_TRACE_H
#define SP_MODEL_TRACE_H

#include "model/model_impl.h"
#include "samepage/graph.h"

/* The symbols of a traced program, in the order of the program. */
enum { SYM_TOKENS, SYM_KV, SYM_OUTPUTS, SYM_CTX, N_SYMS };
extern const char *const sp_trace_symbols[N_SYMS];

enum { N_TRACES = 5, NO_NODE = -1 };

/* One tensor as it was seen. */
typedef struct trace_node {
    char name[GGML_MAX_NAME];
    enum ggml_op op;
    enum ggml_type type;
    int64_t ne[4];
    uint64_t nb[4];
    int src[GGML_MAX_SRC]; /* NO_NODE: none */
    int32_t params[GGML_MAX_OP_PARAMS / sizeof(int32_t)];
    uint64_t view_offset; /* from the start of src[0] for views; else 0 */
    bool self_source;     /* ggml_cast: its second source is itself */
    bool is_view;
    bool contiguous;
    bool used; /* an output or a state write needs it */
} trace_node;

typedef struct trace {
    trace_node *nodes;
    int n, capacity;
    uint64_t symbols[N_SYMS];
} trace;

/* Finds a * symbol + b for a value that was values[i] at the i-th trace. False: it is no such thing. */
bool sp_trace_fit(const trace *traces, const int64_t values[N_TRACES], int *symbol, int64_t *a, int64_t *b);

/* The program's operation for a node, and its parameters in the program's order; 0: there is none. */
uint16_t sp_trace_operation(const trace_node *node, uint32_t params[SP_PROGRAM_MAX_PARAMS]);

/* Writes the program that the traces, alike but for their sizes, stand for. *bytes is malloc'ed. */
sp_status sp_trace_emit(const sp_model *model, trace traces[N_TRACES], void **bytes, uint64_t *size, sp_error *err);

#endif
