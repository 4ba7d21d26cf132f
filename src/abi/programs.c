/* Programs of a guest: loaded, bound, and prepared once for each set of symbol values. */
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "abi/limits.h"
#include "base/checked.h"

static sp_loaded *find(sp_actor *actor, int32_t program, sp_error *err) {
    if (program < 0 || (uint32_t)program >= actor->limits.programs || !actor->programs[program].program) {
        sp_fail(err, SP_ERR_NOT_FOUND, "there is no program %d", program);
        return NULL;
    }
    return &actor->programs[program];
}

static bool find_weight(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    const sp_actor *actor = context;
    return model < actor->n_models && sp_model_find_weight(actor->models[model], 0, name, out);
}

int64_t sp_abi_program_load(sp_actor *actor, uint32_t bytes, uint32_t size, sp_error *err) {
    if (size > actor->limits.program_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_program_bytes, size, err);
    }
    const void *at = sp_guest_range(actor, bytes, size, err);
    if (!at) {
        return SP_ERR_RANGE;
    }
    uint32_t slot = 0;
    while (slot < actor->limits.programs && actor->programs[slot].program) {
        slot++;
    }
    if (slot == actor->limits.programs) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_programs, actor->limits.programs + 1, err);
    }
    sp_loaded *loaded = &actor->programs[slot];
    sp_weight_source weights = {.find = find_weight, .context = actor};
    sp_status status = sp_program_load(at, size, &weights, &loaded->program, err);
    if (status != SP_OK) {
        return status;
    }
    uint32_t n = sp_program_get_header(loaded->program)->n_slots;
    loaded->slots = calloc(n ? n : 1, sizeof *loaded->slots);
    if (!loaded->slots) {
        sp_program_free(loaded->program);
        *loaded = (sp_loaded){0};
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < n; i++) {
        loaded->slots[i].region = -1;
    }
    return slot;
}

static void drop_one(sp_actor *actor, sp_prepared *prepared) {
    actor->prepared_bytes -= prepared->bytes;
    sp_executable_close(prepared->executable);
    *prepared = (sp_prepared){0};
}

static void drop_prepared(sp_actor *actor, sp_loaded *loaded) {
    for (int i = 0; i < SP_CACHED_EXECUTABLES; i++) {
        drop_one(actor, &loaded->prepared[i]);
    }
}

static void unload(sp_actor *actor, sp_loaded *loaded) {
    drop_prepared(actor, loaded);
    sp_program_free(loaded->program);
    free(loaded->slots);
    *loaded = (sp_loaded){0};
}

int64_t sp_abi_program_close(sp_actor *actor, int32_t program, sp_error *err) {
    sp_loaded *loaded = find(actor, program, err);
    if (!loaded) {
        return SP_ERR_NOT_FOUND;
    }
    if (actor->n_submitted) {
        return sp_fail(err, SP_ERR_STATE, "a run was submitted in this step: close programs before or after");
    }
    unload(actor, loaded);
    return 0;
}

int64_t sp_abi_program_bind(sp_actor *actor, int32_t program, uint32_t slot, int32_t region, uint32_t offset, uint32_t length, sp_error *err) {
    sp_loaded *loaded = find(actor, program, err);
    if (!loaded) {
        return SP_ERR_NOT_FOUND;
    }
    if (actor->n_submitted) {
        return sp_fail(err, SP_ERR_STATE, "a run was submitted in this step: bind before or after");
    }
    if (slot >= sp_program_get_header(loaded->program)->n_slots) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "program %d has no slot %u", program, slot);
    }
    if (region < 0 || (uint32_t)region >= actor->limits.regions || !actor->regions[region].memory) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no region %d", region);
    }
    if (!sp_range_within(offset, length, actor->regions[region].length)) {
        return sp_fail(err, SP_ERR_RANGE, "[%u, +%u) is not inside region %d of %u bytes", offset, length, region, actor->regions[region].length);
    }
    loaded->slots[slot] = (sp_bound_slot){.region = region, .offset = offset, .length = length};
    drop_prepared(actor, loaded);
    return 0;
}

/* The device's side of an actor is set up when it is first needed: most guests' first step needs none. */
static sp_status need_device(sp_actor *actor, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < actor->n_models; i++) {
        if (!actor->weights[i]) {
            status = sp_host_acquire_weights(actor->host, actor->device, actor->models[i], &actor->weights[i], err);
        }
    }
    if (status == SP_OK && !actor->workspace) {
        status = sp_workspace_open(actor->device, actor->limits.temporary_bytes, &actor->workspace, err);
    }
    return status;
}

static sp_status prepare(sp_actor *actor, sp_loaded *loaded, const uint64_t *symbols, uint32_t n_symbols, sp_executable **out, sp_error *err) {
    sp_status status = need_device(actor, err);
    if (status != SP_OK) {
        return status;
    }
    sp_spec_limits limits = {.flops = actor->limits.run_flops, .temporary_bytes = actor->limits.temporary_bytes};
    sp_spec *spec = NULL;
    status = sp_program_specialise(loaded->program, symbols, n_symbols, &limits, &spec, err);
    if (status != SP_OK) {
        return status;
    }
    sp_slot_binding *bindings = calloc(spec->n_slots ? spec->n_slots : 1, sizeof *bindings);
    sp_device_weights **weights = calloc(actor->n_models ? actor->n_models : 1, sizeof *weights);
    if (!bindings || !weights) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; status == SP_OK && i < spec->n_slots; i++) {
        const sp_bound_slot *s = &loaded->slots[i];
        if (s->region >= 0) {
            bindings[i] = (sp_slot_binding){.memory = actor->regions[s->region].memory, .offset = s->offset, .length = s->length};
        }
    }
    for (uint32_t i = 0; status == SP_OK && i < actor->n_models; i++) {
        weights[i] = actor->weights[i]->weights;
    }
    if (status == SP_OK) {
        status = sp_device_prepare(actor->workspace, spec, bindings, weights, actor->n_models, out, err);
    }
    free(bindings);
    free(weights);
    sp_spec_free(spec);
    return status;
}

static bool is_submitted(const sp_actor *actor, const sp_executable *executable) {
    for (uint32_t i = 0; i < actor->n_submitted; i++) {
        if (actor->submitted[i] == executable) {
            return true;
        }
    }
    return false;
}

/* Drops what was not used for longest, of all programs, until the rest fits. What this step submitted stays. */
static sp_status make_room(sp_actor *actor, const sp_prepared *keep, sp_error *err) {
    while (actor->prepared_bytes > actor->limits.prepared_bytes) {
        sp_prepared *oldest = NULL;
        for (uint32_t i = 0; i < actor->limits.programs; i++) {
            for (int j = 0; j < SP_CACHED_EXECUTABLES; j++) {
                sp_prepared *p = &actor->programs[i].prepared[j];
                bool free_to_go = p != keep && p->executable && !is_submitted(actor, p->executable);
                oldest = free_to_go && (!oldest || p->last_use < oldest->last_use) ? p : oldest;
            }
        }
        if (!oldest) {
            return sp_limit_reached(&actor->limits, SP_LIMIT_prepared_bytes, actor->prepared_bytes, err);
        }
        drop_one(actor, oldest);
    }
    return SP_OK;
}

/* From the cache, or prepared in place of the one that was not used for the longest time. */
static sp_status get_prepared(sp_actor *actor, sp_loaded *loaded, const uint64_t *symbols, uint32_t n_symbols, sp_executable **out, sp_error *err) {
    sp_prepared *oldest = NULL;
    for (int i = 0; i < SP_CACHED_EXECUTABLES; i++) {
        sp_prepared *p = &loaded->prepared[i];
        if (p->executable && n_symbols == sp_program_get_header(loaded->program)->n_symbols &&
            memcmp(p->symbols, symbols, n_symbols * sizeof *symbols) == 0) {
            p->last_use = ++actor->uses;
            *out = p->executable;
            return SP_OK;
        }
        bool free_to_go = !p->executable || !is_submitted(actor, p->executable);
        if (free_to_go && (!oldest || p->last_use < oldest->last_use)) {
            oldest = p;
        }
    }
    if (!oldest) {
        return sp_fail(err, SP_ERR_LIMIT, "too many different runs of one program in one step");
    }
    drop_one(actor, oldest);
    uint64_t start = sp_now_ns();
    sp_status status = prepare(actor, loaded, symbols, n_symbols, &oldest->executable, err);
    actor->stats.prepare_ns += sp_now_ns() - start;
    if (status != SP_OK) {
        return status;
    }
    memcpy(oldest->symbols, symbols, n_symbols * sizeof *symbols);
    oldest->last_use = ++actor->uses;
    oldest->bytes = sp_executable_bytes(oldest->executable);
    actor->prepared_bytes += oldest->bytes;
    status = make_room(actor, oldest, err);
    if (status != SP_OK) {
        drop_one(actor, oldest);
        return status;
    }
    *out = oldest->executable;
    return SP_OK;
}

static sp_status execute(sp_actor *actor, sp_executable *executable, sp_error *err) {
    if (actor->stats.device_ns / 1000000 >= actor->limits.device_ms) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_device_ms, actor->stats.device_ns / 1000000, err);
    }
    uint64_t start = sp_now_ns();
    sp_status status = sp_device_execute(executable, err);
    uint64_t took = sp_now_ns() - start;
    actor->stats.device_ns += took;
    actor->step_device_ns += took;
    actor->stats.runs++;
    return status;
}

int64_t sp_abi_program_run(sp_actor *actor, int32_t program, uint32_t symbols, uint32_t n_symbols, bool submit, sp_error *err) {
    sp_loaded *loaded = find(actor, program, err);
    if (!loaded) {
        return SP_ERR_NOT_FOUND;
    }
    uint64_t values[SP_PROGRAM_MAX_SYMBOLS];
    if (n_symbols > SP_PROGRAM_MAX_SYMBOLS) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%u symbol values; at most %d are possible", n_symbols, SP_PROGRAM_MAX_SYMBOLS);
    }
    const void *at = sp_guest_range(actor, symbols, n_symbols * sizeof *values, err);
    if (!at) {
        return SP_ERR_RANGE;
    }
    memcpy(values, at, n_symbols * sizeof *values);
    if (submit && actor->n_submitted == SP_MAX_SUBMITTED) {
        return sp_fail(err, SP_ERR_LIMIT, "%d runs were submitted in this step: that is the limit", SP_MAX_SUBMITTED);
    }
    sp_executable *executable = NULL;
    sp_status status = get_prepared(actor, loaded, values, n_symbols, &executable, err);
    if (status != SP_OK) {
        return status;
    }
    if (submit) {
        actor->submitted[actor->n_submitted++] = executable;
        return SP_OK;
    }
    return execute(actor, executable, err);
}

sp_status sp_abi_complete(sp_actor *actor, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < actor->n_submitted; i++) {
        status = execute(actor, actor->submitted[i], err);
    }
    actor->n_submitted = 0;
    return status;
}

void sp_abi_release(sp_actor *actor) {
    sp_abi_release_grammars(actor);
    for (uint32_t i = 0; actor->programs && i < actor->limits.programs; i++) {
        if (actor->programs[i].program) {
            unload(actor, &actor->programs[i]);
        }
    }
    sp_workspace_close(actor->workspace);
    for (uint32_t i = 0; actor->regions && i < actor->limits.regions; i++) {
        sp_device_memory_close(actor->regions[i].memory);
    }
    for (uint32_t i = 0; actor->weights && i < actor->n_models; i++) {
        sp_host_release_weights(actor->host, actor->weights[i]);
    }
    free(actor->programs);
    free(actor->regions);
    free(actor->weights);
}
