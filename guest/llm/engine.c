/* See engine.h. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "samepage/graph.h"

enum { WASM_PAGE = 65536, KV_STEP = 256, SYMBOLS = 4, LINE = 256 };

sp_model_info llm_model;

static struct {
    bool open;
    void *program; /* the bytes */
    int32_t handle;
    uint32_t n_ctx, n_batch;
    uint32_t n_cells; /* of the cache: n_ctx rounded up as libllama rounds it */
    uint64_t state_bytes;
    uint32_t symbol[SYMBOLS]; /* positions of the symbols in the program */
    int32_t input_region, logits_region;
    uint8_t *inputs, *logits;
    uint32_t inputs_bytes, max_outputs, n_outputs;
    uint32_t logits_slot;
} engine;

static char problem[512];

/* The symbols of models' programs; docs/models.md. */
enum { N_TOKENS, N_KV, N_OUTPUTS, N_CTX };
static const char *const symbol_names[SYMBOLS] = {"n_tokens", "n_kv", "n_outputs", "n_ctx"};

/* ---- filling inputs ---- */

typedef struct batch {
    const int32_t *tokens;
    uint32_t n, n_past, n_outputs, n_kv;
} batch;

static void fill_tokens(const batch *b, void *out) {
    memcpy(out, b->tokens, b->n * sizeof(int32_t));
}

static void fill_positions(const batch *b, void *out) {
    for (uint32_t i = 0; i < b->n; i++) {
        ((int32_t *)out)[i] = (int32_t)(b->n_past + i);
    }
}

static void fill_outputs(const batch *b, void *out) {
    for (uint32_t i = 0; i < b->n_outputs; i++) {
        ((int32_t *)out)[i] = (int32_t)(b->n - b->n_outputs + i);
    }
}

/* A sequence fills the cache from its start: the cell of a token is its position. */
static void fill_cells(const batch *b, void *out) {
    for (uint32_t i = 0; i < b->n; i++) {
        ((int64_t *)out)[i] = (int64_t)(b->n_past + i);
    }
}

/* A row for each token: zero for the cells up to its own, minus infinity (F16) for the rest. */
static void fill_mask(const batch *b, void *out) {
    const uint16_t minus_infinity = 0xfc00;
    for (uint32_t i = 0; i < b->n; i++) {
        uint16_t *row = (uint16_t *)out + (uint64_t)i * b->n_kv;
        uint32_t seen = b->n_past + i + 1;
        memset(row, 0, seen * sizeof *row);
        for (uint32_t c = seen; c < b->n_kv; c++) {
            row[c] = minus_infinity;
        }
    }
}

/* What can be filled. Other kinds of state bring other inputs: they go in here. */
static const struct {
    const char *name;
    uint32_t type;
    bool host_only; /* row ids: the host reads them from our pages, they need no sync */
    void (*fill)(const batch *b, void *out);
} inputs[] = {
    {"inp_tokens", SP_TYPE_I32, true, fill_tokens},     {"inp_pos", SP_TYPE_I32, false, fill_positions},
    {"out_ids", SP_TYPE_I32, true, fill_outputs},       {"attn_inp_k_idxs", SP_TYPE_I64, true, fill_cells},
    {"attn_inp_v_idxs", SP_TYPE_I64, true, fill_cells}, {"attn_inp_kq_mask", SP_TYPE_F16, false, fill_mask},
};
enum { N_INPUTS = sizeof inputs / sizeof inputs[0] };

/* Where each input lies, by the table's order; absent ones have no slot. */
static struct {
    bool present;
    uint32_t offset, capacity;
} places[N_INPUTS];

/* ---- opening ---- */

static const char *failed(const char *what) {
    char why[LINE];
    int32_t n = sp_last_error(why, sizeof why - 1);
    why[n < 0 ? 0 : n < (int32_t)sizeof why ? n : (int32_t)sizeof why - 1] = 0;
    snprintf(problem, sizeof problem, "%s: %s", what, why);
    return problem;
}

/* Fresh pages from the end of the memory: zeros that nobody has touched, so a cache costs what is written to it. */
static void *fresh_pages(uint64_t bytes) {
    uint64_t pages = (bytes + WASM_PAGE - 1) / WASM_PAGE;
    size_t at = pages < 65536 ? __builtin_wasm_memory_grow(0, pages) : SIZE_MAX;
    return at == SIZE_MAX ? NULL : (void *)(at * WASM_PAGE);
}

static const char *no_space(uint64_t bytes, const char *what) {
    snprintf(problem, sizeof problem, "no space for %s: %llu MiB do not fit beside the rest of the guest's memory; use a smaller context (-c)", what,
             (unsigned long long)(bytes >> 20));
    return problem;
}

static uint32_t aligned(uint64_t bytes) {
    uint32_t page = sp_page_size();
    return (uint32_t)((bytes + page - 1) / page * page);
}

static const char *load_program(uint32_t type_k, uint32_t type_v) {
    int32_t size = sp_model_get_program(0, type_k, type_v, NULL, 0);
    if (size < 0) {
        return failed("the model can't be run");
    }
    engine.program = malloc((size_t)size);
    if (!engine.program) {
        return no_space((uint64_t)size, "the model's program");
    }
    sp_model_get_program(0, type_k, type_v, engine.program, (uint32_t)size);
    engine.handle = sp_program_load(engine.program, (uint32_t)size);
    if (engine.handle < 0) {
        return failed("the model's program is refused");
    }
    const sp_program_header *header = engine.program;
    if (header->n_symbols != SYMBOLS) {
        snprintf(problem, sizeof problem, "the model's program has %u symbols, not %d", header->n_symbols, SYMBOLS);
        return problem;
    }
    for (int i = 0; i < SYMBOLS; i++) {
        engine.symbol[i] = sp_program_find_symbol(engine.program, symbol_names[i]);
        if (engine.symbol[i] == SP_PROGRAM_NONE) {
            snprintf(problem, sizeof problem, "the model's program has no symbol %s", symbol_names[i]);
            return problem;
        }
    }
    return NULL;
}

static void set_symbols(uint64_t values[SYMBOLS], uint32_t n_tokens, uint32_t n_kv, uint32_t n_outputs) {
    values[engine.symbol[N_TOKENS]] = n_tokens;
    values[engine.symbol[N_KV]] = n_kv;
    values[engine.symbol[N_OUTPUTS]] = n_outputs;
    values[engine.symbol[N_CTX]] = engine.n_cells;
}

/* Slots are laid out one after the other, each where any device can bind it. */
static uint64_t next_slot(uint64_t at) {
    return (at + 255) / 256 * 256;
}

static int find_input(const char *name) {
    for (int i = 0; i < N_INPUTS; i++) {
        if (strcmp(inputs[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static const char *open_region(void *at, uint32_t bytes, int32_t *region) {
    *region = sp_region_open(at, bytes);
    return *region < 0 ? failed("memory can't be shared with the device") : NULL;
}

static const char *bind(uint32_t slot, int32_t region, uint64_t offset, uint64_t size) {
    return sp_program_bind(engine.handle, slot, region, (uint32_t)offset, (uint32_t)size) < 0 ? failed("a slot can't be bound") : NULL;
}

/* State of every kind is one region. */
static const char *place_state(const uint64_t most[SYMBOLS]) {
    const sp_program_header *header = engine.program;
    const sp_program_slot *slots = sp_program_slot_table(engine.program);
    uint64_t total = 0;
    for (uint32_t i = 0; i < header->n_slots; i++) {
        total = slots[i].flags & SP_SLOT_STATE ? next_slot(total) + sp_program_slot_size(engine.program, i, most) : total;
    }
    engine.state_bytes = total;
    if (!total) {
        return NULL;
    }
    uint8_t *at = total < UINT32_MAX - WASM_PAGE ? fresh_pages(aligned(total)) : NULL;
    if (!at) {
        return no_space(total, "the cache");
    }
    int32_t region;
    const char *wrong = open_region(at, aligned(total), &region);
    uint64_t offset = 0;
    for (uint32_t i = 0; !wrong && i < header->n_slots; i++) {
        if (slots[i].flags & SP_SLOT_STATE) {
            uint64_t size = sp_program_slot_size(engine.program, i, most);
            offset = next_slot(offset);
            wrong = bind(i, region, offset, size);
            offset += size;
        }
    }
    if (!wrong && sp_region_sync(region, 0, aligned(total), SP_TO_DEVICE) < 0) {
        wrong = failed("the cache can't be cleared");
    }
    return wrong;
}

static const char *place_inputs(const uint64_t most[SYMBOLS]) {
    const sp_program_header *header = engine.program;
    const sp_program_slot *slots = sp_program_slot_table(engine.program);
    uint64_t total = 0;
    memset(places, 0, sizeof places);
    for (uint32_t i = 0; i < header->n_slots; i++) {
        const char *name = sp_program_text(engine.program, slots[i].name);
        if (slots[i].flags & (SP_SLOT_STATE | SP_SLOT_OUTPUT)) {
            continue;
        }
        int which = find_input(name);
        if (which < 0) {
            snprintf(problem, sizeof problem, "the model wants the input %s, which this guest does not know how to fill", name);
            return problem;
        }
        total = next_slot(total);
        places[which].present = true;
        places[which].offset = (uint32_t)total;
        places[which].capacity = (uint32_t)sp_program_slot_size(engine.program, i, most);
        total += places[which].capacity;
    }
    engine.inputs_bytes = aligned(total);
    engine.inputs = fresh_pages(engine.inputs_bytes);
    if (!engine.inputs) {
        return no_space(total, "the inputs");
    }
    const char *wrong = open_region(engine.inputs, engine.inputs_bytes, &engine.input_region);
    for (uint32_t i = 0; !wrong && i < header->n_slots; i++) {
        int which = find_input(sp_program_text(engine.program, slots[i].name));
        if (which >= 0) {
            wrong = bind(i, engine.input_region, places[which].offset, places[which].capacity);
        }
    }
    return wrong;
}

static const char *place_logits(uint32_t n_outputs) {
    uint64_t most[SYMBOLS];
    set_symbols(most, n_outputs, engine.n_cells, n_outputs);
    uint64_t size = sp_program_slot_size(engine.program, engine.logits_slot, most);
    uint8_t *at = size < UINT32_MAX - WASM_PAGE ? fresh_pages(aligned(size)) : NULL;
    if (!at) {
        return no_space(size, "the logits");
    }
    int32_t region;
    const char *wrong = open_region(at, aligned(size), &region);
    if (!wrong) {
        wrong = bind(engine.logits_slot, region, 0, size);
    }
    if (!wrong) {
        engine.logits = at;
        engine.logits_region = region;
        engine.max_outputs = n_outputs;
    }
    return wrong;
}

const char *engine_open(uint32_t n_ctx, uint32_t n_batch, uint32_t type_k, uint32_t type_v) {
    if (sp_model_count() < 1 || sp_model_get_info(0, &llm_model) < 0) {
        return "the actor was given no model";
    }
    uint32_t usual = llm_model.n_ctx_train && llm_model.n_ctx_train < 4096 ? llm_model.n_ctx_train : 4096;
    engine.n_ctx = n_ctx ? n_ctx : usual;
    engine.n_batch = n_batch && n_batch < MAX_BATCH ? n_batch : MAX_BATCH;
    engine.n_cells = (engine.n_ctx + KV_STEP - 1) / KV_STEP * KV_STEP;
    if (engine.n_cells > 1u << 24) {
        snprintf(problem, sizeof problem, "a context of %u tokens is too large", engine.n_ctx);
        return problem;
    }
    const char *wrong = load_program(type_k, type_v);
    if (wrong) {
        return wrong;
    }
    engine.logits_slot = sp_program_find_slot(engine.program, "logits");
    if (engine.logits_slot == SP_PROGRAM_NONE) {
        return "the model's program has no logits";
    }
    uint64_t most[SYMBOLS];
    set_symbols(most, engine.n_batch, engine.n_cells, engine.n_batch);
    wrong = place_state(most);
    wrong = wrong ? wrong : place_inputs(most);
    wrong = wrong ? wrong : place_logits(1);
    engine.open = !wrong;
    return wrong;
}

bool engine_is_open(void) {
    return engine.open;
}
uint32_t engine_n_ctx(void) {
    return engine.n_ctx;
}
uint32_t engine_n_batch(void) {
    return engine.n_batch;
}
uint64_t engine_state_bytes(void) {
    return engine.state_bytes;
}

/* ---- running ---- */

/* As libllama pads it, so that graphs stay the same from token to token, and equal to libllama's. */
static uint32_t padded_kv(uint32_t used) {
    uint32_t padded = (used + KV_STEP - 1) / KV_STEP * KV_STEP;
    return padded < engine.n_cells ? padded : engine.n_cells;
}

const char *engine_submit(const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs) {
    batch b = {.tokens = tokens, .n = n, .n_past = n_past, .n_outputs = n_outputs, .n_kv = padded_kv(n_past + n)};
    if (n_outputs > engine.max_outputs) {
        const char *wrong = place_logits(n_outputs);
        if (wrong) {
            return wrong;
        }
    }
    uint64_t symbols[SYMBOLS];
    set_symbols(symbols, n, b.n_kv, n_outputs);
    for (int i = 0; i < N_INPUTS; i++) {
        if (!places[i].present) {
            continue;
        }
        inputs[i].fill(&b, engine.inputs + places[i].offset);
        if (!inputs[i].host_only && sp_region_sync(engine.input_region, places[i].offset, places[i].capacity, SP_TO_DEVICE) < 0) {
            return failed("an input can't be synced");
        }
    }
    if (sp_program_submit(engine.handle, symbols, SYMBOLS) < 0) {
        return failed("the batch can't be run");
    }
    engine.n_outputs = n_outputs;
    return NULL;
}

float *engine_logits(uint32_t i) {
    uint64_t row = (uint64_t)llm_model.n_vocab * sizeof(float);
    sp_region_sync(engine.logits_region, (uint32_t)(i * row), (uint32_t)row, SP_FROM_DEVICE);
    return (float *)(engine.logits + i * row);
}
