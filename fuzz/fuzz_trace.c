/*
 * What a trace puts out is verified like any program: the program of a real model, with edits of its words, as a damaged file of the cache or a model
 * that lies would have it. What is still accepted runs, and gives the same bytes on a device with memory of its own as on the guest's pages.
 */
#include <string.h>
#include <sys/mman.h>

#include "device/device.h"
#include "edits.h"
#include "fuzz.h"
#include "model/model.h"

enum { DEVICES = 2, SLOT_BYTES = 1 << 20, MAX_SLOTS = 32 };

static sp_model *model;
static const uint8_t *traced;
static uint64_t traced_size;
static uint8_t *edited;
static struct {
    sp_device *device;
    sp_device_weights *weights;
    uint8_t *pages; /* a piece of SLOT_BYTES for each slot */
    sp_device_memory *memory;
} on[DEVICES];

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fprintf(stderr, "%s\n", err->message);
        abort();
    }
}

static void start(void) {
    static const char *const names[DEVICES] = {"cpu", "discrete"};
    sp_error err = {0};
    if (model) {
        return;
    }
    must(sp_model_open_cached(NULL, tiny_model(), NULL, &model, &err), &err);
    must(sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, (const void **)&traced, &traced_size, &err),
         &err);
    edited = malloc(traced_size);
    CHECK(edited);
    for (int i = 0; i < DEVICES; i++) {
        must(sp_device_open(names[i], 1, &on[i].device, &err), &err);
        must(sp_device_weights_open(on[i].device, sp_model_weight_table(model), NULL, NULL, &on[i].weights, &err), &err);
        on[i].pages = mmap(NULL, (size_t)SLOT_BYTES * MAX_SLOTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(on[i].pages != MAP_FAILED);
        must(sp_device_memory_open(on[i].device, on[i].pages, (uint64_t)SLOT_BYTES * MAX_SLOTS, &on[i].memory, &err), &err);
    }
}

/* Sets words of symbols, expressions, slots and tensors; the header and the names stay. */
static void apply(const uint8_t *data, size_t size) {
    sp_program_header *h = (sp_program_header *)(void *)edited;
    edit e;
    memcpy(edited, traced, traced_size);
    const size_t words = (traced_size - sizeof *h - h->strings_size) / 4, tensors = words - (size_t)h->n_tensors * (sizeof(sp_program_tensor) / 4);
    for (size_t i = 0; edit_get(data, size, 8, i, &e); i++) {
        uint32_t *all = (uint32_t *)(void *)(edited + sizeof *h);
        const size_t at = e.kind & 1 ? e.place % words : tensors + e.place % (words - tensors);
        const uint64_t value = edit_value(e.value);
        switch (e.kind >> 1 & 3) {
        case 0: /* the bits */
            all[at] = (uint32_t)value;
            break;
        case 1: /* a step */
            all[at] += (uint32_t)value;
            break;
        case 2: /* what another word has */
            all[at] = all[(at + e.value) % words];
            break;
        default: /* half of it: kinds, operations, types */
            all[at] ^= e.kind & 8 ? (uint32_t)(value << 16) : (uint32_t)(value & 0xffff);
            break;
        }
    }
}

static bool run(int i, const sp_spec *spec, sp_error *err) {
    sp_workspace *workspace;
    sp_executable *executable = NULL;
    sp_slot_binding bindings[MAX_SLOTS];
    for (uint32_t s = 0; s < spec->n_slots; s++) {
        bindings[s] = (sp_slot_binding){.memory = on[i].memory, .offset = (uint64_t)s * SLOT_BYTES, .length = SLOT_BYTES};
    }
    const uint64_t used = (uint64_t)spec->n_slots * SLOT_BYTES;
    memset(on[i].pages, 0, used);
    must(sp_workspace_open(on[i].device, UINT64_C(1) << 30, &workspace, err), err);
    sp_status status = sp_device_prepare(workspace, spec, bindings, &on[i].weights, 1, &executable, err);
    status = status ? status : sp_device_memory_sync(on[i].memory, 0, used, SP_SYNC_TO_DEVICE, err);
    status = status ? status : sp_device_execute(executable, err);
    status = status ? status : sp_device_memory_sync(on[i].memory, 0, used, SP_SYNC_FROM_DEVICE, err);
    sp_executable_close(executable);
    sp_workspace_close(workspace);
    return status == SP_OK;
}

static void check_run(const sp_spec *spec) {
    sp_error err;
    for (uint32_t s = 0; s < spec->n_slots; s++) {
        if (spec->slots[s].size > SLOT_BYTES) {
            return;
        }
    }
    if (spec->n_slots <= MAX_SLOTS) {
        const bool ran = run(0, spec, &err);
        CHECK(run(1, spec, &err) == ran);
        CHECK(!ran || memcmp(on[0].pages, on[1].pages, (size_t)spec->n_slots * SLOT_BYTES) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    start();
    if (size < 8) {
        return 0;
    }
    apply(data, size);
    const sp_weight_source weights = {.find = sp_model_find_weight, .context = model};
    sp_program *program;
    sp_spec *spec;
    sp_error err;
    if (sp_program_load(edited, traced_size, &weights, &program, &err) != SP_OK) {
        return 0;
    }
    uint64_t symbols[SP_PROGRAM_MAX_SYMBOLS];
    for (uint32_t i = 0; i < sp_program_get_header(program)->n_symbols; i++) {
        const sp_program_symbol *s = &sp_program_symbols(program)[i];
        symbols[i] = s->min + data[i % 8] % (s->max - s->min + 1);
    }
    const sp_spec_limits limits = {.flops = 200000000, .temporary_bytes = 64 << 20};
    if (sp_program_specialise(program, symbols, sp_program_get_header(program)->n_symbols, &limits, &spec, &err) == SP_OK) {
        check_run(spec);
        sp_spec_free(spec);
    }
    sp_program_free(program);
    return 0;
}
