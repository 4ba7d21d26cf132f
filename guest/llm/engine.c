/* See engine.h. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "samepage/inputs.h"

enum { WASM_PAGE = 65536, SYMBOLS = 16, LINE = 256 };

sp_model_info llm_model;

/* Where a slot lies in its region. */
typedef struct place {
    uint32_t offset, capacity;
    uint32_t used;   /* inputs: bytes that were filled since engine_rest */
    uint32_t window; /* inputs: what the slot is filled as */
    sp_input input;  /* and with */
    sp_window shape; /* for engine.symbols */
} place;

static struct {
    bool open;
    void *program;         /* the bytes */
    int32_t handle, alone; /* alone: the same program with SP_PROGRAM_ROWS_ALONE; 0: not loaded (the other one came first), -1: refused */
    uint32_t n_ctx, n_batch;
    sp_inputs knows; /* how inputs are filled */
    uint64_t state_bytes;
    int32_t input_region, output_region, state_region;
    uint8_t *inputs, *output, *state;
    uint32_t inputs_bytes, max_outputs;
    uint32_t n_outputs;        /* rows that were written since engine_rest */
    uint32_t output_slot, row; /* floats of a row of the output */
    uint32_t largest_slot;     /* by output, the token of the largest logit; SP_NONE: the program does not say it */
    uint32_t largest_at;       /* in the output's region */
    bool unseen;               /* there are logits that were not asked for */
    bool embeddings;           /* the output is embeddings, for each token, and no logits */
    place *places;             /* of each slot: inputs in the inputs' region, state in the state's */
    uint64_t symbols[SYMBOLS]; /* of the last batch */
    uint32_t n_filled;         /* the inputs are those of one token, behind which so many are; 0: of something else */
} engine;

static char problem[512];

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

static int32_t get_program(uint32_t type_k, uint32_t type_v, void *out, uint32_t capacity) {
    return engine.embeddings ? sp_model_get_embeddings_program(0, type_k, type_v, out, capacity)
                             : sp_model_get_program(0, type_k, type_v, out, capacity);
}

/* The program, that also says which logit is the largest; its size, or 0. */
static uint32_t add_largest(const void *program, void **out) {
    sp_graph g;
    sp_graph_from(&g, program);
    sp_tensor window = SP_NONE, logits = sp_graph_result_of(&g, sp_program_find_slot(program, "logits"), &window);
    *out = NULL;
    if (logits != SP_NONE) {
        const uint32_t slot = sp_graph_slot(&g, "largest", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
        const sp_tensor largest = sp_graph_memory_1d(&g, "largest", slot, SP_TYPE_I32, sp_graph_window_dim(&g, window, 1), sp_dim(0));
        sp_graph_into(&g, sp_argmax(&g, logits), largest);
        const uint32_t size = sp_graph_finish(&g, NULL, 0);
        *out = size ? malloc(size) : NULL;
    }
    const uint32_t size = *out ? sp_graph_finish(&g, *out, UINT32_MAX) : 0;
    sp_graph_free(&g);
    return size;
}

/* Logits that lie in the device's own memory take a while to get here: where the largest is all that matters, the device finds it. */
static void load_with_largest(void) {
    void *longer;
    const uint32_t size = add_largest(engine.program, &longer);
    engine.handle = size ? sp_program_load(longer, size) : -1;
    if (engine.handle < 0) {
        free(longer);
        return;
    }
    free(engine.program);
    engine.program = longer;
}

static const char *load_program(uint32_t type_k, uint32_t type_v) {
    int32_t size = get_program(type_k, type_v, NULL, 0);
    if (size < 0) {
        return failed("the model can't be run");
    }
    engine.program = malloc((size_t)size);
    if (!engine.program) {
        return no_space((uint64_t)size, "the model's program");
    }
    get_program(type_k, type_v, engine.program, (uint32_t)size);
    engine.handle = -1;
    if (!engine.embeddings && !sp_device_is_unified()) {
        load_with_largest();
    }
    engine.handle = engine.handle < 0 ? sp_program_load(engine.program, (uint32_t)size) : engine.handle;
    if (engine.handle < 0) {
        return failed("the model's program is refused");
    }
    engine.largest_slot = sp_program_find_slot(engine.program, "largest");
    const sp_program_header *header = engine.program;
    engine.places = calloc(header->n_slots, sizeof *engine.places);
    return engine.places ? sp_inputs_open(&engine.knows, engine.program, engine.n_ctx, engine.n_batch) : "out of memory";
}

/* The values of the symbols for the largest batch at the end of the context. */
static void most_symbols(uint64_t symbols[SYMBOLS], uint32_t n_tokens, uint32_t n_outputs) {
    const sp_inputs_batch most = {.n_tokens = n_tokens, .n_past = engine.knows.n_ctx, .n_outputs = n_outputs};
    sp_inputs_symbols(&engine.knows, &most, symbols);
}

static const char *slot_name(uint32_t slot) {
    return sp_program_text(engine.program, sp_program_slot_table(engine.program)[slot].name);
}

/* Slots are laid out one after the other, each where any device can bind it. */
static uint64_t next_slot(uint64_t at) {
    return (at + 255) / 256 * 256;
}

static const char *open_region(void *at, uint32_t bytes, int32_t *region) {
    *region = sp_region_open(at, bytes);
    return *region < 0 ? failed("memory can't be shared with the device") : NULL;
}

static const char *bind(uint32_t slot, int32_t region, uint64_t offset, uint64_t size) {
    if (sp_program_bind(engine.handle, slot, region, (uint32_t)offset, (uint32_t)size) < 0 ||
        (engine.alone > 0 && sp_program_bind(engine.alone, slot, region, (uint32_t)offset, (uint32_t)size) < 0)) {
        return failed("a slot can't be bound");
    }
    return NULL;
}

/* Lays out the slots of one kind, state or inputs; the bytes that they take. */
static uint64_t lay_out(bool state, const uint64_t most[SYMBOLS]) {
    const sp_program_header *header = engine.program;
    const sp_program_slot *slots = sp_program_slot_table(engine.program);
    uint64_t total = 0;
    for (uint32_t i = 0; i < header->n_slots; i++) {
        if (!(slots[i].flags & SP_SLOT_OUTPUT) && sp_inputs_is_input(&engine.knows, i) == !state) {
            total = next_slot(total);
            engine.places[i].offset = (uint32_t)total;
            engine.places[i].capacity = (uint32_t)sp_program_slot_size(engine.program, i, most);
            engine.places[i].window = state ? SP_NONE : sp_inputs_window_of(engine.program, i);
            engine.places[i].input = sp_inputs_know(slot_name(i));
            total += engine.places[i].capacity;
        }
    }
    return total;
}

static const char *bind_slots(bool state, int32_t region) {
    const sp_program_header *header = engine.program;
    const sp_program_slot *slots = sp_program_slot_table(engine.program);
    const char *wrong = NULL;
    for (uint32_t i = 0; !wrong && i < header->n_slots; i++) {
        if (!(slots[i].flags & SP_SLOT_OUTPUT) && sp_inputs_is_input(&engine.knows, i) == !state) {
            wrong = bind(i, region, engine.places[i].offset, engine.places[i].capacity);
        }
    }
    return wrong;
}

/* State of every kind is one region. */
static const char *place_state(const uint64_t most[SYMBOLS]) {
    const uint64_t total = lay_out(true, most);
    engine.state_bytes = total;
    if (!total) {
        return NULL;
    }
    engine.state = total < UINT32_MAX - WASM_PAGE ? fresh_pages(aligned(total)) : NULL;
    if (!engine.state) {
        return no_space(total, "the cache");
    }
    const char *wrong = open_region(engine.state, aligned(total), &engine.state_region);
    wrong = wrong ? wrong : bind_slots(true, engine.state_region);
    if (!wrong && sp_region_sync(engine.state_region, 0, aligned(total), SP_TO_DEVICE) < 0) {
        wrong = failed("the cache can't be cleared");
    }
    return wrong;
}

static const char *place_inputs(const uint64_t most[SYMBOLS]) {
    const uint64_t total = lay_out(false, most);
    engine.inputs_bytes = aligned(total);
    engine.inputs = fresh_pages(engine.inputs_bytes);
    if (!engine.inputs) {
        return no_space(total, "the inputs");
    }
    const char *wrong = open_region(engine.inputs, engine.inputs_bytes, &engine.input_region);
    return wrong ? wrong : bind_slots(false, engine.input_region);
}

static const char *bind_output(int32_t region, uint32_t n_outputs) {
    const char *wrong = bind(engine.output_slot, region, 0, (uint64_t)n_outputs * engine.row * sizeof(float));
    return wrong || engine.largest_slot == SP_NONE ? wrong : bind(engine.largest_slot, region, engine.largest_at, n_outputs * sizeof(int32_t));
}

static const char *place_output(uint32_t n_outputs) {
    uint64_t most[SYMBOLS];
    most_symbols(most, n_outputs, n_outputs);
    const uint64_t rows = sp_program_slot_size(engine.program, engine.output_slot, most);
    const uint64_t size = engine.largest_slot == SP_NONE ? rows : next_slot(rows) + n_outputs * sizeof(int32_t);
    uint8_t *at = size < UINT32_MAX - WASM_PAGE ? fresh_pages(aligned(size)) : NULL;
    if (!at) {
        return no_space(size, engine.embeddings ? "the embeddings" : "the logits");
    }
    int32_t region;
    const char *wrong = open_region(at, aligned(size), &region);
    if (!wrong) {
        engine.row = (uint32_t)(rows / n_outputs / sizeof(float));
        engine.largest_at = (uint32_t)next_slot(rows);
        wrong = bind_output(region, n_outputs);
    }
    if (!wrong) {
        engine.output = at;
        engine.output_region = region;
        engine.max_outputs = n_outputs;
    }
    return wrong;
}

const char *engine_open(uint32_t n_ctx, uint32_t n_batch, uint32_t type_k, uint32_t type_v, bool embeddings) {
    if (sp_model_count() < 1 || sp_model_get_info(0, &llm_model) < 0) {
        return "the actor was given no model";
    }
    uint32_t usual = llm_model.n_ctx_train && llm_model.n_ctx_train < 4096 ? llm_model.n_ctx_train : 4096;
    engine.n_ctx = n_ctx ? n_ctx : usual;
    engine.n_batch = n_batch && n_batch < MAX_BATCH ? n_batch : MAX_BATCH;
    if (engine.n_ctx > 1u << 24) {
        snprintf(problem, sizeof problem, "a context of %u tokens is too large", engine.n_ctx);
        return problem;
    }
    engine.embeddings = embeddings;
    const char *wrong = load_program(type_k, type_v);
    if (wrong) {
        return wrong;
    }
    if (engine.knows.no_cache && !embeddings) {
        return "the model can't continue text: it keeps no state from token to token (a diffusion model)";
    }
    if (engine.knows.no_cache) { /* what it is to see must be in one batch */
        engine.n_batch = engine.n_ctx = engine.n_ctx < MAX_BATCH ? engine.n_ctx : MAX_BATCH;
    }
    engine.output_slot = sp_program_find_slot(engine.program, embeddings ? "embeddings" : "logits");
    if (engine.output_slot == SP_PROGRAM_NONE) {
        return "the model's program has no output";
    }
    uint64_t most[SYMBOLS];
    most_symbols(most, engine.n_batch, engine.n_batch);
    wrong = place_state(most);
    wrong = wrong ? wrong : place_inputs(most);
    wrong = wrong ? wrong : place_output(embeddings ? engine.n_batch : 1);
    engine.open = !wrong;
    return wrong;
}

bool engine_is_open(void) {
    return engine.open;
}
bool engine_embeds(void) {
    return engine.embeddings;
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

uint32_t engine_keep(uint32_t n_past, uint32_t wanted) {
    return sp_inputs_keep(&engine.knows, n_past, wanted);
}

/* State that summarises the past is zeros where a sequence begins. Caches need no clearing: the mask hides what was there. */
static const char *clear_summaries(void) {
    const sp_program_header *header = engine.program;
    for (uint32_t i = 0; i < header->n_slots; i++) {
        const place *at = &engine.places[i];
        if (sp_inputs_is_input(&engine.knows, i) || !sp_inputs_is_summary(slot_name(i))) {
            continue;
        }
        memset(engine.state + at->offset, 0, at->capacity);
        if (sp_region_sync(engine.state_region, at->offset, at->capacity, SP_TO_DEVICE) < 0) {
            return failed("the state can't be cleared");
        }
    }
    return NULL;
}

/* Most tokens have the windows of the one before them. */
static void shape_inputs(const uint64_t symbols[SYMBOLS]) {
    const sp_program_header *header = engine.program;
    uint32_t n = 0;
    while (n < header->n_symbols && symbols[n] == engine.symbols[n]) {
        n++;
    }
    if (n == header->n_symbols) {
        return;
    }
    engine.n_filled = 0;
    memcpy(engine.symbols, symbols, header->n_symbols * sizeof *symbols);
    for (uint32_t i = 0; i < header->n_slots; i++) {
        place *at = &engine.places[i];
        if (sp_inputs_is_input(&engine.knows, i) && at->window != SP_NONE) {
            at->shape = sp_program_window(engine.program, at->window, symbols);
        }
    }
}

/* Where a token follows the one that the inputs are of, its mask differs from that one's in the newest cell. False: it must be filled. */
static bool show_newest(const place *at, const sp_inputs_batch *batch, uint32_t n_filled, bool *synced) {
    const uint32_t element = at->shape.type == SP_TYPE_F16 ? sizeof(uint16_t) : sizeof(float), cell = at->offset + batch->n_past * element;
    if (at->input.kind != SP_INPUT_MASK || at->input.window || engine.knows.alibi || !n_filled || batch->n_tokens != 1 || batch->n_past != n_filled ||
        batch->n_past >= at->shape.ne[0]) {
        return false;
    }
    memset(engine.inputs + cell, 0, element);
    *synced = sp_region_sync(engine.input_region, cell & ~3u, 4, SP_TO_DEVICE) == 0;
    return true;
}

/* Once a token: so nothing is looked for in the program, which is long, and no names are compared. */
static const char *fill_inputs(const sp_inputs_batch *batch, const uint64_t symbols[SYMBOLS]) {
    const sp_program_header *header = engine.program;
    shape_inputs(symbols);
    const uint32_t n_filled = engine.n_filled;
    engine.n_filled = 0;
    for (uint32_t i = 0; i < header->n_slots; i++) {
        place *at = &engine.places[i];
        if (!sp_inputs_is_input(&engine.knows, i)) {
            continue;
        }
        const sp_window *w = &at->shape;
        bool synced = true;
        if (at->window != SP_NONE && show_newest(at, batch, n_filled, &synced)) {
            if (!synced) {
                return failed("an input can't be synced");
            }
            continue;
        }
        if (at->window == SP_NONE || !sp_inputs_fill_known(&engine.knows, &at->input, w->type, w->ne, batch, engine.inputs + at->offset)) {
            snprintf(problem, sizeof problem, "the model wants the input %s, which this guest does not know how to fill", slot_name(i));
            return problem;
        }
        at->used = w->end > at->used ? (uint32_t)w->end : at->used;
        if (!at->input.ids && sp_region_sync(engine.input_region, at->offset, (uint32_t)w->end, SP_TO_DEVICE) < 0) {
            return failed("an input can't be synced");
        }
    }
    engine.n_filled = batch->n_tokens == 1 ? batch->n_past + 1 : 0;
    return NULL;
}

static const char *submit(int32_t handle, const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs) {
    const sp_inputs_batch batch = {.tokens = tokens, .n_tokens = n, .n_past = n_past, .n_outputs = n_outputs};
    const char *wrong = n_outputs > engine.max_outputs ? place_output(n_outputs) : NULL;
    wrong = wrong || n_past ? wrong : clear_summaries();
    uint64_t symbols[SYMBOLS];
    sp_inputs_symbols(&engine.knows, &batch, symbols);
    wrong = wrong ? wrong : fill_inputs(&batch, symbols);
    if (wrong) {
        return wrong;
    }
    if (sp_program_submit(handle, symbols, ((const sp_program_header *)engine.program)->n_symbols) < 0) {
        return failed("the batch can't be run");
    }
    engine.n_outputs = n_outputs > engine.n_outputs ? n_outputs : engine.n_outputs;
    return NULL;
}

const char *engine_submit(const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs) {
    return submit(engine.handle, tokens, n, n_past, n_outputs);
}

/* ---- batches of tokens that get what they would get alone ---- */

bool engine_allow_alone(uint32_t most) {
    if (most > engine.max_outputs && place_output(most)) {
        return false;
    }
    if (engine.alone) {
        return engine.alone > 0;
    }
    sp_program_header *header = engine.program;
    header->flags |= SP_PROGRAM_ROWS_ALONE;
    const int32_t handle = sp_program_load(engine.program, header->size);
    header->flags &= ~(uint32_t)SP_PROGRAM_ROWS_ALONE;
    engine.alone = handle > 0 ? handle : -1;
    const char *wrong = handle > 0 ? bind_slots(true, engine.state_region) : "it is refused";
    wrong = wrong ? wrong : bind_slots(false, engine.input_region);
    wrong = wrong ? wrong : bind_output(engine.output_region, engine.max_outputs);
    engine.alone = wrong ? -1 : engine.alone;
    return !wrong;
}

const char *engine_submit_alone(const int32_t *tokens, uint32_t n, uint32_t n_past) {
    return submit(engine.alone, tokens, n, n_past, n);
}

uint32_t engine_block(uint32_t position) {
    return position / SP_INPUTS_PAD;
}

uint32_t engine_block_left(uint32_t position) {
    return SP_INPUTS_PAD - position % SP_INPUTS_PAD;
}

/* Where a value's elements lie n_ctx apart, there is an id for each of them. */
static bool is_transposed(void) {
    const uint32_t slot = sp_program_find_slot(engine.program, "attn_inp_v_idxs");
    uint64_t symbols[SYMBOLS];
    most_symbols(symbols, 1, 1);
    return slot != SP_NONE && sp_program_slot_size(engine.program, slot, symbols) > sizeof(int64_t);
}

static bool use_cell(int use, uint32_t at, uint32_t bytes, uint8_t *cell) {
    if (use == CELLS_WRITE) {
        memcpy(engine.state + at, cell, bytes);
        return sp_region_sync(engine.state_region, at, bytes, SP_TO_DEVICE) == 0;
    }
    if (sp_region_sync(engine.state_region, at, bytes, SP_FROM_DEVICE) < 0 || (use == CELLS_COMPARE && memcmp(engine.state + at, cell, bytes) != 0)) {
        return false;
    }
    memcpy(cell, engine.state + at, bytes);
    return true;
}

bool engine_cells(int use, uint32_t from, uint32_t n, uint8_t *cells) {
    const sp_program_header *header = engine.program;
    uint64_t symbols[SYMBOLS];
    most_symbols(symbols, 1, 1);
    for (uint32_t i = 0; i < header->n_slots; i++) {
        if (!(sp_program_slot_table(engine.program)[i].flags & SP_SLOT_STATE)) {
            continue;
        }
        const sp_window w = sp_program_window(engine.program, sp_inputs_window_of(engine.program, i), symbols);
        const uint32_t bytes = (uint32_t)w.nb[1];
        for (uint32_t t = 0; t < n; t++, cells += bytes) {
            const uint64_t row = (from + t) % (uint64_t)w.ne[1];
            if (!use_cell(use, engine.places[i].offset + (uint32_t)(w.offset + row * bytes), bytes, cells)) {
                return false;
            }
        }
    }
    return true;
}

uint32_t engine_cell_bytes(void) {
    const sp_program_header *header = engine.program;
    uint64_t symbols[SYMBOLS], total = 0;
    most_symbols(symbols, 1, 1);
    for (uint32_t i = 0; i < header->n_slots; i++) {
        if (sp_program_slot_table(engine.program)[i].flags & SP_SLOT_STATE) {
            const uint32_t window = sp_inputs_window_of(engine.program, i);
            if (window == SP_NONE) {
                return 0;
            }
            total += sp_program_window(engine.program, window, symbols).nb[1];
        }
    }
    return is_transposed() ? 0 : (uint32_t)total;
}

uint32_t engine_row(void) {
    return engine.row;
}

float *engine_output(uint32_t i) {
    uint64_t row = (uint64_t)engine.row * sizeof(float);
    sp_region_sync(engine.output_region, (uint32_t)(i * row), (uint32_t)row, SP_FROM_DEVICE);
    return (float *)(engine.output + i * row);
}

int32_t engine_largest(uint32_t i) {
    const uint32_t at = engine.largest_at + i * (uint32_t)sizeof(int32_t);
    int32_t token;
    if (engine.largest_slot == SP_NONE || sp_device_is_unified() || sp_region_sync(engine.output_region, at, sizeof token, SP_FROM_DEVICE) < 0) {
        return -1;
    }
    memcpy(&token, engine.output + at, sizeof token);
    if (token <= 0 || (uint32_t)token >= engine.row - 1) { /* one of these, where nothing is above minus infinity */
        return -1;
    }
    engine.unseen = true;
    return token;
}

/* What was not asked for would come back with the next freeze. */
static void take_unseen(void) {
    if (engine.largest_slot != SP_NONE) {
        sp_region_sync(engine.output_region, engine.largest_at, engine.n_outputs * (uint32_t)sizeof(int32_t), SP_FROM_DEVICE);
        memset(engine.output + engine.largest_at, 0, engine.n_outputs * sizeof(int32_t));
    }
    if (engine.unseen) {
        sp_region_sync(engine.output_region, 0, engine.n_outputs * engine.row * (uint32_t)sizeof(float), SP_FROM_DEVICE);
        engine.unseen = false;
    }
}

void engine_rest(void) {
    const sp_program_header *header = engine.program;
    for (uint32_t i = 0; i < header->n_slots; i++) {
        if (sp_inputs_is_input(&engine.knows, i)) {
            memset(engine.inputs + engine.places[i].offset, 0, engine.places[i].used);
            engine.places[i].used = 0;
        }
    }
    engine.n_filled = 0;
    take_unseen();
    memset(engine.output, 0, (uint64_t)engine.n_outputs * engine.row * sizeof(float));
    engine.n_outputs = 0;
}
