/*
 * Fills the inputs of a model's program (sp_model_get_program): what docs/models.md says, as code. Header-only C, for guests and for hosts.
 *
 *     sp_inputs in;
 *     const char *wrong = sp_inputs_open(&in, program, n_ctx, n_batch);    // knows the program's kinds of state from its symbols and slots
 *     sp_inputs_batch b = {.tokens = tokens, .n_tokens = n, .n_past = n_past, .n_outputs = 1};
 *     sp_inputs_symbols(&in, &b, symbols);                                 // values for sp_program_run
 *     sp_inputs_fill(&in, slot, &b, memory);                               // for each slot that sp_inputs_is_input says is one
 *
 * One sequence that fills its caches from the start: the cell of the token at position p is p, and p modulo the window's cells where a sliding window
 * has a cache of its own. That is what libllama does, so the logits are libllama's, byte for byte. The host uses these functions too: a trace of a
 * model is accepted only if they fill every input with what libllama filled it with.
 */
#ifndef SAMEPAGE_INPUTS_H
#define SAMEPAGE_INPUTS_H

#include <math.h>
#include <stdio.h>

#include "samepage/graph.h"

enum { SP_INPUTS_PAD = 256 }; /* libllama looks at a cache in steps of so many cells, and sizes it so */
enum { SP_INPUTS_MOST = 16 }; /* symbols of a program at most */

/* What a window lets a token see: the last `window` positions; those of its chunk of `window`; or half a window to both sides. */
enum { SP_WINDOW_NONE = 0, SP_WINDOW_STANDARD = 1, SP_WINDOW_CHUNKED = 2, SP_WINDOW_SYMMETRIC = 3 };

typedef struct sp_inputs {
    const void *program;
    uint32_t n_ctx, n_batch; /* cells of the cache; most tokens of a batch */
    uint32_t n_ctx_swa;      /* cells of the sliding window's own cache; 0: it has none */
    uint32_t window, window_kind;
    bool alibi;                  /* the mask holds distances */
    bool no_cache;               /* no state: a batch stands alone, and all its tokens see each other; text can't be continued token by token */
    bool recurrent;              /* some state can't go back */
    uint32_t temperature_length; /* attention is scaled by the logarithm of the position over this */
    float temperature_scale, temperature_offset;
    float token_scale;               /* embeddings of tokens are multiplied by it */
    uint8_t symbols[SP_INPUTS_MOST]; /* what each of the program's is (sp_inputs_find_symbol) */
    char problem[128];
} sp_inputs;

typedef struct sp_inputs_batch {
    const int32_t *tokens;
    uint32_t n_tokens, n_past, n_outputs; /* the first is at position n_past; logits of the last n_outputs */
} sp_inputs_batch;

/* ---- inner parts ---- */

static inline uint32_t sp_inputs_padded(uint32_t cells) {
    return (cells + SP_INPUTS_PAD - 1) / SP_INPUTS_PAD * SP_INPUTS_PAD;
}

/* A symbol whose value is the same at every run tells a fact about the model; 0: the program does not have it. */
static inline uint32_t sp_inputs_fact(const void *program, const char *name) {
    uint32_t at = sp_program_find_symbol(program, name);
    return at == SP_NONE ? 0 : (uint32_t)sp_program_symbol_table(program)[at].min;
}

static inline float sp_inputs_float_fact(const void *program, const char *name) {
    uint32_t bits = sp_inputs_fact(program, name);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline bool sp_inputs_ends(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Minus a whole number as F16, rounded to even. */
static inline uint16_t sp_inputs_half(uint32_t distance) {
    uint32_t exponent = 0, mantissa, shift, half;
    while (distance >> (exponent + 1)) {
        exponent++;
    }
    if (exponent <= 10) {
        mantissa = (distance << (10 - exponent)) & 0x3ff;
    } else {
        shift = exponent - 10;
        half = 1u << (shift - 1);
        mantissa = distance >> shift;
        mantissa += (distance & (2 * half - 1)) > half || ((distance & (2 * half - 1)) == half && (mantissa & 1));
        if (mantissa >> 11) {
            mantissa >>= 1;
            exponent++;
        }
        mantissa &= 0x3ff;
    }
    return exponent > 15 ? 0xfc00 : (uint16_t)(0x8000 | (exponent + 15) << 10 | mantissa);
}

/* The first position that the token at position p sees through the window. */
static inline uint32_t sp_inputs_first_seen(const sp_inputs *in, uint32_t p) {
    switch (in->window_kind) {
    case SP_WINDOW_STANDARD:
        return p >= in->window ? p - in->window + 1 : 0;
    case SP_WINDOW_CHUNKED:
        return p / in->window * in->window;
    case SP_WINDOW_SYMMETRIC:
        return p >= in->window / 2 ? p - in->window / 2 : 0;
    default:
        return 0;
    }
}

/* May the token at position p see the one at position q (at most p) through the window? */
static inline bool sp_inputs_in_window(const sp_inputs *in, uint32_t q, uint32_t p) {
    return q >= sp_inputs_first_seen(in, p);
}

/* What a token sees of a cell: minus infinity, 0, or its distance. */
static inline void sp_inputs_mask_cell(void *out, uint64_t at, uint32_t type, bool seen, uint32_t distance) {
    if (type == SP_TYPE_F16) {
        ((uint16_t *)out)[at] = !seen ? 0xfc00 : distance ? sp_inputs_half(distance) : 0;
    } else {
        ((float *)out)[at] = !seen ? -INFINITY : distance ? -(float)distance : 0;
    }
}

/* Cells [from, to) of a row, all seen or none, without distances. */
static inline void sp_inputs_mask_run(void *out, uint64_t from, uint64_t to, uint32_t type, bool seen) {
    const uint64_t size = type == SP_TYPE_F16 ? sizeof(uint16_t) : sizeof(float);
    uint64_t c;
    if (seen) {
        memset((uint8_t *)out + from * size, 0, (size_t)((to - from) * size));
    } else if (type == SP_TYPE_F16) {
        for (c = from; c < to; c++) {
            ((uint16_t *)out)[c] = 0xfc00;
        }
    } else {
        for (c = from; c < to; c++) {
            ((float *)out)[c] = -INFINITY;
        }
    }
}

/* Of cells [from, to) of a row, of which cell 0 would hold position q, those that hold positions [first, p] are seen. */
static inline void sp_inputs_mask_part(const sp_inputs *in, void *out, uint64_t row, uint32_t type, int64_t from, int64_t to, int64_t q,
                                       int64_t first, int64_t p) {
    const int64_t begin = first - q < from ? from : first - q > to ? to : first - q;
    const int64_t end = p - q + 1 < begin ? begin : p - q + 1 > to ? to : p - q + 1;
    int64_t c;
    sp_inputs_mask_run(out, row + (uint64_t)from, row + (uint64_t)begin, type, false);
    if (!in->alibi) {
        sp_inputs_mask_run(out, row + (uint64_t)begin, row + (uint64_t)end, type, true);
    }
    for (c = begin; in->alibi && c < end; c++) {
        sp_inputs_mask_cell(out, row + (uint64_t)c, type, true, (uint32_t)(p - q - c));
    }
    sp_inputs_mask_run(out, row + (uint64_t)end, row + (uint64_t)to, type, false);
}

/* A row for each token. With the batch stored, a cell holds the newest position that maps to it: in the first cells that of this lap around the
 * cache, in those behind, of the lap before. */
static inline void sp_inputs_mask(const sp_inputs *in, const sp_inputs_batch *b, bool window, uint32_t n_kv, uint32_t type, void *out) {
    const uint32_t cells = window ? in->n_ctx_swa : in->n_ctx, n_held = b->n_past + b->n_tokens;
    const uint32_t lap = (n_held - 1) / cells * cells; /* position of cell 0 */
    const uint32_t newer = n_held - lap < n_kv ? n_held - lap : n_kv;
    uint32_t i;
    for (i = 0; i < b->n_tokens; i++) {
        const uint32_t p = b->n_past + i, first = window ? sp_inputs_first_seen(in, p) : 0;
        const uint64_t row = (uint64_t)i * n_kv;
        sp_inputs_mask_part(in, out, row, type, 0, newer, lap, first, p);
        if (lap) {
            sp_inputs_mask_part(in, out, row, type, newer, n_kv, (int64_t)lap - cells, first, p);
        } else {
            sp_inputs_mask_run(out, row + newer, row + n_kv, type, false);
        }
    }
}

/* The same where there is no cache: a column for each token of the batch, which see each other to both sides. */
static inline void sp_inputs_mask_batch(const sp_inputs *in, uint32_t n, bool window, uint32_t type, void *out) {
    uint32_t p, q;
    for (p = 0; p < n; p++) {
        for (q = 0; q < n; q++) {
            const uint32_t first = q < p ? q : p, last = q < p ? p : q;
            const bool seen = !window || sp_inputs_in_window(in, first, last);
            sp_inputs_mask_cell(out, (uint64_t)p * n + q, type, seen, seen && in->alibi ? last - first : 0);
        }
    }
}

/* The rotation of a quantised cache: an orthonormal Walsh-Hadamard matrix. */
static inline void sp_inputs_rotation(float *out, uint32_t n) {
    uint32_t s, i, j;
    out[0] = (float)(1.0 / sqrtf((float)n));
    for (s = 1; s < n; s *= 2) {
        for (i = 0; i < s; i++) {
            for (j = 0; j < s; j++) {
                const float value = out[i * n + j];
                out[(i + s) * n + j] = value;
                out[i * n + j + s] = value;
                out[(i + s) * n + j + s] = -value;
            }
        }
    }
}

/* Slopes of lightning attention, by head. */
static inline float sp_inputs_slope(uint32_t n_head, uint32_t head) {
    const float start = powf(2, -powf(2, -(log2f((float)n_head) - 3)));
    return start * powf(start, (float)head);
}

/* How much of what a token adds is left at another, as logarithms by head: at itself of what was before the batch; at the batch's end; at each other.
 */
static inline bool sp_inputs_decay(const char *name, const int64_t ne[4], uint32_t n, float *out) {
    const bool query = strcmp(name, "q_decay_exp") == 0, key = strcmp(name, "k_decay_exp") == 0, pair = strcmp(name, "diag_decay_exp") == 0;
    const uint32_t n_head = (uint32_t)ne[pair ? 2 : 1];
    uint32_t i, j, h;
    for (h = 0; h < n_head && (query || key); h++) {
        const float slope = sp_inputs_slope(n_head, h);
        for (i = 0; i < n; i++) {
            out[(uint64_t)i * n_head + h] = -slope * (float)(query ? i + 1 : n - i - 1);
        }
    }
    for (h = 0; h < n_head && pair; h++) {
        const float slope = sp_inputs_slope(n_head, h);
        for (j = 0; j < n; j++) {
            for (i = 0; i < n; i++) {
                out[((uint64_t)h * n + j) * n + i] = j >= i ? -slope * (float)(j - i) : -INFINITY;
            }
        }
    }
    return query || key || pair;
}

static inline uint32_t sp_inputs_window_of(const void *program, uint32_t slot) {
    const sp_program_tensor *tensors = sp_program_tensor_table(program);
    uint32_t i;
    for (i = 0; i < ((const sp_program_header *)program)->n_tensors; i++) {
        if (tensors[i].kind == SP_TENSOR_MEMORY && tensors[i].slot == slot) {
            return i;
        }
    }
    return SP_NONE;
}

/* ---- for callers ---- */

/* Symbols that differ from run to run, by their names; what else a symbol is, is a fact. */
static const char *const sp_inputs_symbol_names[] = {"n_tokens", "n_outputs", "n_ctx", "n_kv", "n_ctx_swa", "n_kv_swa"};
enum { SP_INPUTS_SYMBOLS = sizeof sp_inputs_symbol_names / sizeof sp_inputs_symbol_names[0] };

/* Which of them; SP_INPUTS_SYMBOLS: none. */
static inline uint32_t sp_inputs_find_symbol(const char *name) {
    uint32_t i = 0;
    while (i < SP_INPUTS_SYMBOLS && strcmp(name, sp_inputs_symbol_names[i]) != 0) {
        i++;
    }
    return i;
}

static inline uint64_t sp_inputs_symbol_value(const sp_inputs *in, uint32_t which, const sp_inputs_batch *b) {
    const uint32_t padded = sp_inputs_padded(b->n_past + b->n_tokens);
    const uint32_t values[SP_INPUTS_SYMBOLS] = {b->n_tokens,   b->n_outputs,
                                                in->n_ctx,     padded < in->n_ctx ? padded : in->n_ctx,
                                                in->n_ctx_swa, padded < in->n_ctx_swa ? padded : in->n_ctx_swa};
    return values[which];
}

/* The value of a symbol for a batch; false: it is not known. */
static inline bool sp_inputs_symbol(const sp_inputs *in, const char *name, const sp_inputs_batch *b, uint64_t *value) {
    const uint32_t which = sp_inputs_find_symbol(name);
    if (which == SP_INPUTS_SYMBOLS) {
        return false;
    }
    *value = sp_inputs_symbol_value(in, which, b);
    return true;
}

/* Values of the program's symbols for a batch, in the program's order; at most 16. */
static inline void sp_inputs_symbols(const sp_inputs *in, const sp_inputs_batch *b, uint64_t *values) {
    const sp_program_symbol *symbols = sp_program_symbol_table(in->program);
    uint32_t i;
    for (i = 0; i < ((const sp_program_header *)in->program)->n_symbols && i < SP_INPUTS_MOST; i++) {
        values[i] = in->symbols[i] == SP_INPUTS_SYMBOLS ? symbols[i].min : sp_inputs_symbol_value(in, in->symbols[i], b);
    }
}

/* Must the caller fill this slot before a run? (The others are state, outputs and scratch.) */
static inline bool sp_inputs_is_input(const sp_inputs *in, uint32_t slot) {
    return !(sp_program_slot_table(in->program)[slot].flags & SP_SLOT_WRITE);
}

/* Row ids: the host reads them from guest memory, so they need no sync. */
static inline bool sp_inputs_is_ids(const char *name) {
    return strcmp(name, "inp_tokens") == 0 || strcmp(name, "out_ids") == 0 || strcmp(name, "rs_s_copy") == 0 || strstr(name, "_idxs") != NULL;
}

/* State that one run leaves to the next and that holds a summary of the past: it must be zeros where a sequence begins. */
static inline bool sp_inputs_is_summary(const char *name) {
    return strncmp(name, "cache_r_", 8) == 0 || strncmp(name, "cache_s_", 8) == 0;
}

/* What inputs are filled with. */
enum {
    SP_INPUT_UNKNOWN,
    SP_INPUT_TOKENS,
    SP_INPUT_POSITIONS,
    SP_INPUT_OUTPUTS,
    SP_INPUT_CELLS,
    SP_INPUT_MASK,
    SP_INPUT_BATCH_MASK,
    SP_INPUT_FIRST_STATE,
    SP_INPUT_ROTATION,
    SP_INPUT_TEMPERATURE,
    SP_INPUT_MINUS_TOKENS,
    SP_INPUT_SLOPES,
    SP_INPUT_DECAY,
    SP_INPUT_ROW_SCALES
};

/* An input, as its name says. To be found out once, where many runs follow. */
typedef struct sp_input {
    const char *name;
    uint8_t kind; /* SP_INPUT_* */
    bool window;  /* of the sliding window */
    bool ids;     /* sp_inputs_is_ids */
} sp_input;

static inline sp_input sp_inputs_know(const char *name) {
    static const struct {
        const char *name;
        uint8_t length, kind; /* length: of what the name begins with; 0: it is the name */
    } known[] = {{"inp_tokens", 0, SP_INPUT_TOKENS},
                 {"inp_pos", 0, SP_INPUT_POSITIONS},
                 {"out_ids", 0, SP_INPUT_OUTPUTS},
                 {"attn_inp_k_idxs", 15, SP_INPUT_CELLS},
                 {"attn_inp_v_idxs", 15, SP_INPUT_CELLS},
                 {"attn_inp_kq_mask", 16, SP_INPUT_MASK},
                 {"self_kq_mask", 12, SP_INPUT_BATCH_MASK},
                 {"rs_s_copy", 0, SP_INPUT_FIRST_STATE},
                 {"attn_inp_k_rot", 14, SP_INPUT_ROTATION},
                 {"attn_inp_v_rot", 14, SP_INPUT_ROTATION},
                 {"inp_attn_scale", 0, SP_INPUT_TEMPERATURE},
                 {"minus_n_tokens", 0, SP_INPUT_MINUS_TOKENS},
                 {"slopes", 0, SP_INPUT_SLOPES},
                 {"inp_scale_rows", 0, SP_INPUT_ROW_SCALES}};
    sp_input input = {name, SP_INPUT_UNKNOWN, false, false};
    uint32_t i;
    input.window = sp_inputs_ends(name, "_swa");
    input.ids = sp_inputs_is_ids(name);
    for (i = 0; i < sizeof known / sizeof known[0] && !input.kind; i++) {
        if (known[i].length ? strncmp(name, known[i].name, known[i].length) == 0 : strcmp(name, known[i].name) == 0) {
            input.kind = known[i].kind;
        }
    }
    if (!input.kind && sp_inputs_ends(name, "_decay_exp")) {
        input.kind = SP_INPUT_DECAY;
    }
    return input;
}

/* Fills an input of the given type and shape; false: it is not known. */
static inline bool sp_inputs_fill_known(const sp_inputs *in, const sp_input *input, uint32_t type, const int64_t ne[4], const sp_inputs_batch *b,
                                        void *out) {
    const uint32_t cells = input->window ? in->n_ctx_swa : in->n_ctx, n = b->n_tokens, kind = input->kind;
    uint32_t i, s;
    if (kind == SP_INPUT_TOKENS && type == SP_TYPE_I32) {
        memcpy(out, b->tokens, n * sizeof(int32_t));
    } else if (kind == SP_INPUT_POSITIONS && type == SP_TYPE_I32 && n && ne[0] % n == 0) {
        for (s = 0; s < (uint32_t)ne[0] / n; s++) { /* positions in several dimensions: text has three alike, and no fourth */
            for (i = 0; i < n; i++) {
                ((int32_t *)out)[s * n + i] = s < 3 ? (int32_t)(b->n_past + i) : 0;
            }
        }
    } else if (kind == SP_INPUT_OUTPUTS && type == SP_TYPE_I32) {
        for (i = 0; i < (uint32_t)ne[0]; i++) { /* as many as there are outputs, or tokens */
            ((int32_t *)out)[i] = (int32_t)(n - (uint32_t)ne[0] + i);
        }
    } else if (kind == SP_INPUT_CELLS && type == SP_TYPE_I64 && cells && n) {
        const uint32_t each = (uint32_t)ne[0] / n; /* above 1: a transposed cache, where a value's elements lie `cells` apart */
        for (i = 0; i < n; i++) {
            for (s = 0; s < each; s++) {
                ((int64_t *)out)[(uint64_t)i * each + s] = (int64_t)s * cells + (int64_t)((b->n_past + i) % cells);
            }
        }
    } else if (kind == SP_INPUT_MASK && (type == SP_TYPE_F16 || type == SP_TYPE_F32) && cells) {
        sp_inputs_mask(in, b, input->window, (uint32_t)ne[0], type, out);
    } else if (kind == SP_INPUT_BATCH_MASK && (type == SP_TYPE_F16 || type == SP_TYPE_F32) && ne[0] == n) {
        sp_inputs_mask_batch(in, n, input->window, type, out);
    } else if (kind == SP_INPUT_FIRST_STATE && type == SP_TYPE_I32) {
        memset(out, 0, (size_t)ne[0] * sizeof(int32_t)); /* the state is in the first place, and stays there */
    } else if (kind == SP_INPUT_ROTATION && type == SP_TYPE_F32 && ne[0] == ne[1]) {
        sp_inputs_rotation((float *)out, (uint32_t)ne[0]);
    } else if (kind == SP_INPUT_TEMPERATURE && type == SP_TYPE_F32 && in->temperature_length) {
        for (i = 0; i < n; i++) {
            const float steps = floorf(((float)(b->n_past + i) + in->temperature_offset) / (float)in->temperature_length);
            ((float *)out)[i] = (float)(log((double)steps + 1.0) * (double)in->temperature_scale + 1.0);
        }
    } else if (kind == SP_INPUT_MINUS_TOKENS && type == SP_TYPE_F32) {
        *(float *)out = -(float)n;
    } else if (kind == SP_INPUT_SLOPES && type == SP_TYPE_F32) {
        for (i = 0; i < (uint32_t)ne[0]; i++) {
            ((float *)out)[i] = sp_inputs_slope((uint32_t)ne[0], i);
        }
    } else if (kind == SP_INPUT_DECAY && type == SP_TYPE_F32) {
        return sp_inputs_decay(input->name, ne, n, (float *)out);
    } else if (kind == SP_INPUT_ROW_SCALES && type == SP_TYPE_F32) {
        for (i = 0; i < n; i++) {
            ((float *)out)[i] = in->token_scale;
        }
    } else {
        return false;
    }
    return true;
}

/* The same by the slot's name. */
static inline bool sp_inputs_fill_named(const sp_inputs *in, const char *name, uint32_t type, const int64_t ne[4], const sp_inputs_batch *b,
                                        void *out) {
    const sp_input input = sp_inputs_know(name);
    return sp_inputs_fill_known(in, &input, type, ne, b, out);
}

/* Fills an input. out has as many bytes as sp_program_slot_size says for the batch's symbols. False: the input is not known. */
static inline bool sp_inputs_fill(const sp_inputs *in, uint32_t slot, const sp_inputs_batch *b, void *out) {
    uint64_t symbols[16];
    sp_window w;
    uint32_t window = sp_inputs_window_of(in->program, slot);
    if (window == SP_NONE) {
        return false;
    }
    sp_inputs_symbols(in, b, symbols);
    w = sp_program_window(in->program, window, symbols);
    return sp_inputs_fill_named(in, sp_program_text(in->program, sp_program_slot_table(in->program)[slot].name), w.type, w.ne, b, out);
}

/*
 * How much of n_past evaluated tokens can be kept when the first `wanted` of them are to stay: wanted, or 0 where state can't go back so far. Cells
 * of a window are used again and again; recurrent state knows no past at all.
 */
static inline uint32_t sp_inputs_keep(const sp_inputs *in, uint32_t n_past, uint32_t wanted) {
    const uint32_t oldest = in->n_ctx_swa && n_past > in->n_ctx_swa ? n_past - in->n_ctx_swa : 0;
    if (wanted >= n_past) {
        return n_past;
    }
    if (in->recurrent || (oldest && (oldest > wanted || sp_inputs_in_window(in, oldest - 1, wanted)))) {
        return 0;
    }
    return wanted;
}

/* Reads a program's facts. n_ctx: cells for one sequence, rounded up as libllama does. NULL, or what is wrong (valid as long as *in). */
static inline const char *sp_inputs_open(sp_inputs *in, const void *program, uint32_t n_ctx, uint32_t n_batch) {
    const sp_program_symbol *symbols = sp_program_symbol_table(program);
    const sp_program_slot *slots = sp_program_slot_table(program);
    const sp_program_header *header = (const sp_program_header *)program;
    uint32_t i, cells;
    memset(in, 0, sizeof *in);
    in->program = program;
    in->n_ctx = sp_inputs_padded(n_ctx);
    in->n_batch = n_batch;
    in->window = sp_inputs_fact(program, "swa_window");
    in->window_kind = sp_inputs_fact(program, "swa_kind");
    cells = sp_inputs_padded(in->window + n_batch);
    in->n_ctx_swa = !in->window ? 0 : cells < in->n_ctx ? cells : in->n_ctx;
    in->alibi = sp_inputs_fact(program, "alibi") != 0;
    in->no_cache = sp_inputs_fact(program, "no_cache") != 0;
    in->temperature_length = sp_inputs_fact(program, "temperature_length");
    in->temperature_scale = sp_inputs_float_fact(program, "temperature_scale");
    in->temperature_offset = sp_inputs_float_fact(program, "temperature_offset");
    in->token_scale = sp_inputs_float_fact(program, "token_scale");
    for (i = 0; i < header->n_symbols && i < SP_INPUTS_MOST; i++) {
        const char *name = sp_program_text(program, symbols[i].name);
        in->symbols[i] = (uint8_t)sp_inputs_find_symbol(name);
        if (symbols[i].min != symbols[i].max && in->symbols[i] == SP_INPUTS_SYMBOLS) {
            snprintf(in->problem, sizeof in->problem, "the model's program has a symbol that is not known: %s", name);
            return in->problem;
        }
    }
    for (i = 0; i < header->n_slots; i++) {
        in->recurrent |= (slots[i].flags & SP_SLOT_STATE) && sp_inputs_is_summary(sp_program_text(program, slots[i].name));
    }
    return NULL;
}

#endif
