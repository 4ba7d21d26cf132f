#include "oracle/run.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/device.h"
#include "oracle/fill.h"
#include "oracle/weights.h"

enum { ARENA = 2 << 20, GUARD = 1 << 16 };

struct runner {
    sp_device *device;
    sp_device_weights *weights;
    sp_workspace *workspace;
    sp_device_info info;
    uint8_t *arena[GEN_SLOTS]; /* ARENA bytes, behind and before GUARD bytes that can't be touched */
    sp_device_memory *memory[GEN_SLOTS];
    uint8_t *before[GEN_SLOTS], *after[GEN_SLOTS]; /* ARENA bytes: copies of the slots */
};

static bool open_arena(runner *r, int slot, sp_error *err) {
    uint8_t *at = mmap(NULL, ARENA + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at + GUARD, ARENA, PROT_READ | PROT_WRITE) != 0) {
        return false;
    }
    r->arena[slot] = at + GUARD;
    r->before[slot] = malloc(ARENA);
    r->after[slot] = malloc(ARENA);
    return r->before[slot] && r->after[slot] && sp_device_memory_open(r->device, r->arena[slot], ARENA, &r->memory[slot], err) == SP_OK;
}

runner *runner_open(const char *device, int threads, sp_error *err) {
    runner *r = calloc(1, sizeof *r);
    const sp_weight_table *table = weight_pool_table();
    bool ok = r && table && sp_device_open(device, threads, &r->device, err) == SP_OK && sp_device_describe(r->device, &r->info) == SP_OK &&
              sp_device_weights_open(r->device, table, NULL, NULL, &r->weights, err) == SP_OK &&
              sp_workspace_open(r->device, UINT64_C(256) << 20, &r->workspace, err) == SP_OK;
    for (int i = 0; ok && i < GEN_SLOTS; i++) {
        ok = open_arena(r, i, err);
    }
    if (!ok) {
        runner_close(r);
        return NULL;
    }
    return r;
}

void runner_close(runner *r) {
    if (!r) {
        return;
    }
    sp_workspace_close(r->workspace);
    for (int i = 0; i < GEN_SLOTS; i++) {
        sp_device_memory_close(r->memory[i]);
        if (r->arena[i]) {
            munmap(r->arena[i] - GUARD, ARENA + 2 * GUARD);
        }
        free(r->before[i]);
        free(r->after[i]);
    }
    sp_device_weights_close(r->weights);
    sp_device_close(r->device);
    free(r);
}

uint32_t runner_alignment(const runner *r) {
    return strncmp(r->info.name, "vulkan", 6) == 0 ? 256 : 32;
}

static const uint8_t *weight_bytes(void *context, uint32_t index) {
    (void)context;
    const sp_weight_table *table = weight_pool_table();
    return (const uint8_t *)table->base + table->entries[index].offset;
}

/* Row ids that must differ and of which there are too few: the program is right, and no run of it is. */
static bool can_have_ids(const sp_spec *spec) {
    for (uint32_t i = 0; i < spec->n_indices; i++) {
        if (spec->indices[i].distinct_rows && spec->tensors[spec->indices[i].tensor].ne[0] > spec->indices[i].bound) {
            return false;
        }
    }
    return true;
}

/* Slots end as near to the untouchable pages as the alignment lets them. */
static bool bind(const runner *r, const sp_spec *spec, sp_slot_binding *bindings) {
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        if (spec->slots[i].size > ARENA) {
            return false;
        }
        const uint64_t offset = (ARENA - spec->slots[i].size) / 256 * 256;
        bindings[i] = (sp_slot_binding){.memory = r->memory[i], .offset = offset, .length = ARENA - offset};
    }
    return true;
}

static sp_status move(const sp_spec *spec, const sp_slot_binding *bindings, sp_sync_direction direction, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < spec->n_slots; i++) {
        status = sp_device_memory_sync(bindings[i].memory, bindings[i].offset, bindings[i].length, direction, err);
    }
    return status;
}

/* Prepares, gives the device the bytes in r->before, runs, and leaves what the slots hold then in r->after. */
static run_outcome execute(runner *r, const sp_spec *spec, sp_error *err) {
    sp_slot_binding bindings[GEN_SLOTS];
    if (!bind(r, spec, bindings)) {
        return RUN_UNSUPPORTED;
    }
    sp_executable *executable;
    sp_status status = sp_device_prepare(r->workspace, spec, bindings, &r->weights, 1, &executable, err);
    if (status != SP_OK) {
        return status == SP_ERR_UNSUPPORTED ? RUN_UNSUPPORTED : RUN_FAILED;
    }
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        memcpy(r->arena[i] + bindings[i].offset, r->before[i], spec->slots[i].size);
    }
    status = move(spec, bindings, SP_SYNC_TO_DEVICE, err);
    status = status ? status : sp_device_execute(executable, err);
    status = status ? status : move(spec, bindings, SP_SYNC_FROM_DEVICE, err);
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        memcpy(r->after[i], r->arena[i] + bindings[i].offset, spec->slots[i].size);
    }
    sp_executable_close(executable);
    return status == SP_OK ? RUN_EQUAL : RUN_FAILED;
}

run_outcome runner_run(runner *r, const generated *p, const run_options *options, eval_result *result, sp_error *err) {
    const sp_spec *spec = p->spec;
    memset(result, 0, sizeof *result);
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        if (spec->slots[i].size > ARENA || !can_have_ids(spec)) {
            return RUN_UNSUPPORTED;
        }
    }
    fill_slots(spec, r->before, options->seed, options->wild);
    const run_outcome outcome = execute(r, spec, err);
    if (outcome != RUN_EQUAL) {
        return outcome;
    }
    const bool loose = strncmp(r->info.name, "vulkan", 6) == 0;
    const eval_input input = {.spec = spec,
                              .before = (const uint8_t *const *)r->before,
                              .after = (const uint8_t *const *)r->after,
                              .weight = weight_bytes,
                              .loose = loose,
                              .wild = options->wild};
    *result = eval_judge(&input);
    return result->ok ? RUN_EQUAL : RUN_WRONG;
}

bool runner_refuses_bad_ids(runner *r, const generated *p, uint64_t seed, sp_error *err) {
    const sp_spec *spec = p->spec;
    sp_slot_binding bindings[GEN_SLOTS];
    sp_executable *executable;
    if (spec->n_indices == 0 || !can_have_ids(spec) || !bind(r, spec, bindings)) {
        return true;
    }
    fill_slots(spec, r->before, seed, false);
    const sp_spec_index *index = &spec->indices[seed % spec->n_indices];
    const sp_spec_tensor *t = &spec->tensors[index->tensor];
    const uint64_t at = t->offset + (uint64_t)(seed >> 8) % (uint64_t)sp_elements(t) * t->nb[0];
    const int64_t bad = seed & 1 ? -1 : index->bound;
    memcpy(r->before[t->slot] + at, &bad, t->nb[0]);
    if (sp_device_prepare(r->workspace, spec, bindings, &r->weights, 1, &executable, err) != SP_OK) {
        return true; /* the device can't do the program at all */
    }
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        memcpy(r->arena[i] + bindings[i].offset, r->before[i], spec->slots[i].size);
    }
    const sp_status status = sp_device_execute(executable, err);
    bool untouched = true;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        untouched &= memcmp(r->arena[i] + bindings[i].offset, r->before[i], spec->slots[i].size) == 0;
    }
    sp_executable_close(executable);
    return status == SP_ERR_RANGE && untouched;
}
