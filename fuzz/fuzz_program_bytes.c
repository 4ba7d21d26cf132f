/*
 * Programs from bytes: loaded, and what is accepted is specialised with symbol values from the input and listed nowhere. The last bytes of the input
 * are the values; the header's sizes and the magic are mended, so that mutations reach what is behind them.
 */
#include <string.h>

#include "fuzz.h"
#include "oracle/weights.h"
#include "program/program.h"

enum { VALUES = SP_PROGRAM_MAX_SYMBOLS };

/* Half of the inputs have counts that fit: strings_size takes up what the tables leave. */
static void mend(sp_program_header *h, size_t size) {
    h->magic = SP_PROGRAM_MAGIC;
    h->version = SP_PROGRAM_VERSION;
    h->size = (uint32_t)size;
    h->flags &= SP_PROGRAM_ROWS_ALONE;
    memset(h->reserved, 0, sizeof h->reserved);
    const uint64_t tables = sizeof *h + (uint64_t)h->n_symbols * sizeof(sp_program_symbol) + (uint64_t)h->n_exprs * sizeof(sp_program_expr) +
                            (uint64_t)h->n_slots * sizeof(sp_program_slot) + (uint64_t)h->n_tensors * sizeof(sp_program_tensor);
    if (tables <= size) {
        h->strings_size = (uint32_t)(size - tables);
    }
}

/* What specialising promises of every tensor. */
static void check_spec(const sp_spec *spec) {
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        const sp_spec_tensor *t = &spec->tensors[i];
        const sp_type_traits *traits = sp_type_get(t->type);
        CHECK(traits);
        for (int d = 0; d < 4; d++) {
            CHECK(t->ne[d] >= 1 && t->ne[d] <= INT32_MAX && t->nb[d] > 0 && t->nb[d] % traits->size == 0);
        }
        CHECK(t->ne[0] % traits->block == 0);
        CHECK(t->alias <= i);
        if (t->kind == SP_TENSOR_MEMORY) {
            uint64_t last = t->offset + traits->size + ((uint64_t)t->ne[0] / traits->block - 1) * t->nb[0];
            for (int d = 1; d < 4; d++) {
                last += ((uint64_t)t->ne[d] - 1) * t->nb[d];
            }
            CHECK(last <= spec->slots[t->slot].size);
        }
    }
    for (uint32_t i = 0; i < spec->n_indices; i++) {
        const sp_spec_tensor *t = &spec->tensors[spec->indices[i].tensor];
        CHECK(t->kind == SP_TENSOR_MEMORY && t->index && spec->indices[i].bound > 0 && !(spec->slots[t->slot].flags & SP_SLOT_WRITE));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t values[VALUES * 2] = {0};
    const size_t tail = size < sizeof values ? size : sizeof values;
    if (size > 1 << 20) {
        return 0;
    }
    memcpy(values, data + size - tail, tail);
    size -= tail;
    size -= size % 8;
    uint8_t *bytes = malloc(size ? size : 1);
    CHECK(bytes);
    memcpy(bytes, data, size);
    if (size >= sizeof(sp_program_header) && bytes[0] != 0) {
        mend((sp_program_header *)(void *)bytes, size);
    }
    sp_program *program = NULL;
    sp_error err = {0};
    sp_status status = sp_program_load(bytes, size, &described_weights, &program, &err);
    CHECK((status == SP_OK) == (program != NULL) && (status == SP_OK || err.message[0]));
    free(bytes);
    if (!program) {
        return 0;
    }
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    const uint32_t n = sp_program_get_header(program)->n_symbols;
    for (uint32_t i = 0; i < n; i++) {
        const sp_program_symbol *s = &sp_program_symbols(program)[i];
        const uint64_t word = (uint64_t)values[2 * i] | (uint64_t)values[2 * i + 1] << 8;
        symbols[i] = word == 0xffff ? s->max : s->min + (s->max > s->min ? word % (s->max - s->min + 1) : 0);
    }
    sp_spec *spec = NULL;
    const sp_spec_limits limits = {.flops = UINT64_C(1) << 50, .temporary_bytes = UINT64_C(1) << 40};
    status = sp_program_specialise(program, symbols, n, &limits, &spec, &err);
    CHECK((status == SP_OK) == (spec != NULL));
    if (spec) {
        check_spec(spec);
    }
    sp_spec_free(spec);
    sp_program_free(program);
    return 0;
}
