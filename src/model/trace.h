/*
 * What libllama's graph looked like at one size, and the values that a dimension took at several.
 * metadata.c says what is traced, trace.c watches libllama, fit.c finds expressions, inputs.c knows inputs, emit.c writes the program, translate.c
 * knows ggml's operations.
 */
#ifndef SP_MODEL_TRACE_H
#define SP_MODEL_TRACE_H

#include "model/model_impl.h"
#include "samepage/inputs.h"

/* The symbols of a traced program, in the order of the program; those of a sliding window only where there is one. */
enum { SYM_TOKENS, SYM_KV, SYM_OUTPUTS, SYM_CTX, SYM_KV_SWA, SYM_CTX_SWA, N_SYMS };
extern const char *const sp_trace_symbols[N_SYMS];

enum { N_TRACES = 5, NO_NODE = -1, MOST_TRACED_WINDOW = 100 };

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
    bool used;      /* an output or a state write needs it */
    bool empty;     /* it has no elements */
    bool whole_row; /* top_k: of as many as there are */
    bool input;     /* libllama fills it */
    void *content;  /* inputs: what libllama filled it with */
} trace_node;

typedef struct trace {
    trace_node *nodes;
    int n, capacity;
    uint64_t symbols[N_SYMS];
    uint32_t n_past; /* tokens that were there before the batch */
} trace;

/* What a sliding window is in the file, and in the model that is traced: a smaller one there makes small caches. */
typedef struct trace_window {
    uint32_t real, traced; /* 0: none */
    uint32_t kind;         /* SP_WINDOW_* */
    bool alibi;
    bool no_cache;    /* no state: each batch stands alone, and its tokens see each other */
    bool all_outputs; /* libllama's graph has an output for each token, whatever the batch asks for */
    uint32_t temperature_length;
    float temperature_scale, temperature_offset;
    float token_scale; /* embeddings of tokens are multiplied by it */
} trace_window;

/* trace.c: may a model with weights of this many bytes have libllama reserve so many for its graph? SP_ERR_UNSUPPORTED: no. */
sp_status sp_trace_check_bytes(uint64_t bytes, uint64_t weight_bytes, sp_error *err);

/* Finds a * symbol + b for a value that was values[i] at the i-th trace. False: it is no such thing. */
bool sp_trace_fit(const trace *traces, const int64_t values[N_TRACES], int *symbol, int64_t *a, int64_t *b);

/* The program's operation for a node, and its parameters in the program's order; 0: there is none. */
uint16_t sp_trace_operation(const trace_node *node, uint32_t params[SP_PROGRAM_MAX_PARAMS]);

/* metadata.c: the file's metadata as it is traced. The caller frees it with gguf_free. NULL: out of memory. */
struct gguf_context *sp_trace_metadata(const sp_model *model, trace_window *window);
/* The same for libllama's own loader, which compares what the header implies with the file's tensors and reserves nothing. NULL: it refuses. */
struct llama_model *sp_trace_load_sizes(const sp_model *model);
/* Takes what libllama says about the model made of it. */
void sp_trace_learn(const sp_model *model, const struct llama_model *llama, trace_window *window);

/*
 * inputs.c: is the leaf an input that samepage/inputs.h fills, in every trace with what libllama filled it with? Its slot's name: libllama's, which
 * has the same for two caches, with the end _swa for the window's.
 */
bool sp_trace_input(const trace *traces, int index, const trace_window *window, char name[GGML_MAX_NAME], char *why, size_t capacity);
/* Learns from the traces what the metadata does not say: the window's kind, biases by distance. */
void sp_trace_learn_masks(const trace *traces, trace_window *window);
/* Is the node's dimension d the symbol in all traces? NO_NODE: 1. */
bool sp_trace_is_sized(const trace *traces, int index, int d, int symbol);

/* Writes the program that the traces, alike but for their sizes, stand for. *bytes is malloc'ed. */
sp_status sp_trace_emit(const sp_model *model, bool embeddings, trace traces[N_TRACES], const trace_window *window, void **bytes, uint64_t *size,
                        sp_error *err);

#endif
