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

/* A program that was checked becomes this handle's, with no slot bound. False, and the program is gone: no memory. */
static bool take_program(sp_loaded *loaded, sp_program *program, sp_error *err) {
    uint32_t n = sp_program_get_header(program)->n_slots;
    *loaded = (sp_loaded){.program = program, .users = malloc(sizeof *loaded->users), .slots = calloc(n + 1, sizeof *loaded->slots)};
    if (!loaded->slots || !loaded->users) {
        free(loaded->slots);
        free(loaded->users);
        sp_program_free(program);
        *loaded = (sp_loaded){0};
        sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        return false;
    }
    atomic_init(loaded->users, 1);
    for (uint32_t i = 0; i < n; i++) {
        loaded->slots[i].region = -1;
    }
    return true;
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
    sp_program *program;
    sp_status status = sp_program_load(at, size, &weights, &program, err);
    if (status != SP_OK) {
        return status;
    }
    return take_program(loaded, program, err) ? (int64_t)slot : SP_ERR_NO_MEMORY;
}

static void drop_one(sp_actor *actor, sp_prepared *prepared) {
    actor->prepared_bytes -= prepared->bytes;
    sp_executable_close(prepared->executable);
    free(prepared->writes);
    *prepared = (sp_prepared){0};
}

static void drop_prepared(sp_actor *actor, sp_loaded *loaded) {
    for (int i = 0; loaded->prepared && i < SP_CACHED_EXECUTABLES; i++) {
        drop_one(actor, &loaded->prepared[i]);
    }
    free(loaded->prepared);
    loaded->prepared = NULL;
}

static void unload(sp_actor *actor, sp_loaded *loaded) {
    drop_prepared(actor, loaded);
    if (atomic_fetch_sub(loaded->users, 1) == 1) {
        sp_program_free(loaded->program);
        free(loaded->users);
    }
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
    if (region < 0 || (uint32_t)region >= actor->limits.regions || !actor->regions[region].open) {
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
        if (status == SP_OK) {
            sp_workspace_limit_time(actor->workspace, actor->limits.run_ms);
        }
    }
    return status;
}

static sp_status prepare(sp_actor *actor, sp_loaded *loaded, const uint64_t *symbols, uint32_t n_symbols, sp_prepared *out, sp_error *err) {
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
    sp_slot_binding *bindings = calloc(spec->n_slots + 1, sizeof *bindings);
    sp_device_weights **weights = calloc(actor->n_models + 1, sizeof *weights);
    if (!bindings || !weights) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; status == SP_OK && i < spec->n_slots; i++) {
        const sp_bound_slot *s = &loaded->slots[i];
        if (s->region >= 0) {
            status = sp_abi_region_need(actor, (uint32_t)s->region, err);
            bindings[i] = (sp_slot_binding){.memory = actor->regions[s->region].memory, .offset = s->offset, .length = s->length};
        }
    }
    for (uint32_t i = 0; status == SP_OK && i < actor->n_models; i++) {
        weights[i] = actor->weights[i]->weights;
    }
    if (status == SP_OK) {
        status = sp_device_prepare(actor->workspace, spec, bindings, weights, actor->n_models, &out->executable, err);
    }
    if (status == SP_OK && !sp_device_get_info(actor->device)->unified) {
        status = sp_spec_get_writes(spec, &out->writes, &out->n_writes, err);
    }
    free(bindings);
    free(weights);
    sp_spec_free(spec);
    return status;
}

static bool is_submitted(const sp_actor *actor, const sp_prepared *prepared) {
    for (uint32_t i = 0; i < actor->n_submitted; i++) {
        if (actor->submitted[i].prepared == prepared) {
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
            for (int j = 0; actor->programs[i].prepared && j < SP_CACHED_EXECUTABLES; j++) {
                sp_prepared *p = &actor->programs[i].prepared[j];
                bool free_to_go = p != keep && p->executable && !is_submitted(actor, p);
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
static sp_status get_prepared(sp_actor *actor, sp_loaded *loaded, const uint64_t *symbols, uint32_t n_symbols, sp_prepared **out, sp_error *err) {
    sp_prepared *oldest = NULL;
    if (!loaded->prepared) {
        loaded->prepared = calloc(SP_CACHED_EXECUTABLES, sizeof *loaded->prepared);
        if (!loaded->prepared) {
            return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        }
    }
    for (int i = 0; i < SP_CACHED_EXECUTABLES; i++) {
        sp_prepared *p = &loaded->prepared[i];
        if (p->executable && n_symbols == sp_program_get_header(loaded->program)->n_symbols &&
            memcmp(p->symbols, symbols, n_symbols * sizeof *symbols) == 0) {
            p->last_use = ++actor->uses;
            *out = p;
            return SP_OK;
        }
        bool free_to_go = !p->executable || !is_submitted(actor, p);
        if (free_to_go && (!oldest || p->last_use < oldest->last_use)) {
            oldest = p;
        }
    }
    if (!oldest) {
        return sp_fail(err, SP_ERR_LIMIT, "too many different runs of one program in one step");
    }
    drop_one(actor, oldest);
    uint64_t start = sp_now_ns();
    sp_status status = prepare(actor, loaded, symbols, n_symbols, oldest, err);
    actor->stats.prepare_ns += sp_now_ns() - start;
    if (status != SP_OK) {
        drop_one(actor, oldest);
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
    *out = oldest;
    return SP_OK;
}

/* The slot that a run wrote, while its ranges are marked. */
typedef struct marking {
    sp_actor *actor;
    const sp_loaded *loaded;
    const sp_prepared *prepared;
    sp_region *region;
    const sp_bound_slot *slot;
    sp_status status;
    sp_error why;
} marking;

/* Whole granules, but nothing outside of the slot, where the guest's pages may be ahead; and not too many apart. */
static void mark_range(void *user, uint64_t from, uint64_t to) {
    enum { GRANULE = 4096, MOST_SPANS = 2048 };
    marking *m = user;
    uint64_t start = m->slot->offset, end = start + m->slot->length;
    from = (start + from) / GRANULE * GRANULE;
    to = (start + to + GRANULE - 1) / GRANULE * GRANULE;
    bool many = m->region->n_ahead >= MOST_SPANS;
    from = from < start || many ? start : from;
    to = to > end || many ? end : to;
    m->status = m->status ? m->status : sp_abi_mark_ahead(m->region, (uint32_t)from, (uint32_t)to, &m->why);
}

/* A device with memory of its own is ahead of the guest's pages where the program may have written. Row ids lie in the guest's pages, and the run
 * has checked them. */
static void note_writes(void *user) {
    marking *m = user;
    for (uint32_t i = 0; m->status == SP_OK && i < m->prepared->n_writes; i++) {
        const sp_spec_write *w = &m->prepared->writes[i];
        const sp_bound_slot *ids = w->row_bytes ? &m->loaded->slots[w->ids_slot] : NULL;
        const uint8_t *at = ids ? sp_memory_base(m->actor->memory) + m->actor->regions[ids->region].start + ids->offset + w->ids_offset : NULL;
        m->slot = &m->loaded->slots[w->slot];
        m->region = &m->actor->regions[m->slot->region];
        sp_spec_each_write(w, at, mark_range, m);
    }
}

static sp_status execute(sp_actor *actor, const sp_loaded *loaded, const sp_prepared *prepared, sp_error *err) {
    if (actor->stats.device_ns / 1000000 >= actor->limits.device_ms) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_device_ms, actor->stats.device_ns / 1000000, err);
    }
    uint64_t start = sp_now_ns();
    marking m = {.actor = actor, .loaded = loaded, .prepared = prepared};
    sp_status status = sp_device_execute_and(prepared->executable, note_writes, &m, err);
    if (!status && m.status) {
        *err = m.why;
        status = m.status;
    }
    uint64_t took = sp_now_ns() - start;
    actor->stats.device_ns += took;
    actor->step_device_ns += took;
    actor->stats.runs++;
    /* A device that can't be stopped, or an operation of a CPU that takes that long: the guest may not go on with such runs. */
    actor->overran = took / 2000000 > actor->limits.run_ms;
    return actor->overran ? sp_limit_reached(&actor->limits, SP_LIMIT_run_ms, took / 1000000, err) : status;
}

int64_t sp_abi_program_run(sp_actor *actor, int32_t program, uint32_t symbols, uint32_t n_symbols, bool submit, sp_error *err) {
    if (submit && actor->module->kind == SP_MODULE_COMMAND) {
        return sp_fail(err, SP_ERR_STATE, "a command has no next step before which a submitted run would be complete: use sp_program_run");
    }
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
    sp_prepared *prepared = NULL;
    sp_status status = get_prepared(actor, loaded, values, n_symbols, &prepared, err);
    if (status != SP_OK) {
        return status;
    }
    if (submit) {
        actor->submitted[actor->n_submitted].program = loaded;
        actor->submitted[actor->n_submitted++].prepared = prepared;
        return SP_OK;
    }
    return execute(actor, loaded, prepared, err);
}

/* ---- thawing and forking ---- */

static sp_status check_restored(const sp_actor *actor, uint32_t handle, const sp_program *program, const sp_bound_slot *slots, uint32_t n_slots,
                                sp_error *err) {
    if (n_slots != sp_program_get_header(program)->n_slots) {
        return sp_fail(err, SP_ERR_FORMAT, "program %u has %u slots, not %u", handle, sp_program_get_header(program)->n_slots, n_slots);
    }
    for (uint32_t i = 0; i < n_slots; i++) {
        const sp_bound_slot *s = &slots[i];
        bool bound = s->region >= 0 && (uint32_t)s->region < actor->limits.regions && actor->regions[s->region].open &&
                     sp_range_within(s->offset, s->length, actor->regions[s->region].length);
        if (s->region != -1 && !bound) {
            return sp_fail(err, SP_ERR_FORMAT, "slot %u of program %u is bound to [%u, +%u) of region %d, which can't be", i, handle, s->offset,
                           s->length, s->region);
        }
    }
    return SP_OK;
}

sp_status sp_abi_program_restore(sp_actor *actor, uint32_t handle, const void *bytes, uint64_t size, const sp_bound_slot *slots, uint32_t n_slots,
                                 sp_error *err) {
    if (handle >= actor->limits.programs) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_programs, handle + 1, err);
    }
    if (size > actor->limits.program_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_program_bytes, size, err);
    }
    if (actor->programs[handle].program) {
        return sp_fail(err, SP_ERR_FORMAT, "program %u is there twice", handle);
    }
    sp_weight_source weights = {.find = find_weight, .context = actor};
    sp_program *program;
    sp_status status = sp_program_load(bytes, size, &weights, &program, err);
    if (status) {
        return status;
    }
    status = check_restored(actor, handle, program, slots, n_slots, err);
    if (status) {
        sp_program_free(program);
        return status;
    }
    if (!take_program(&actor->programs[handle], program, err)) {
        return SP_ERR_NO_MEMORY;
    }
    memcpy(actor->programs[handle].slots, slots, n_slots * sizeof *slots);
    return SP_OK;
}

sp_status sp_abi_program_share(sp_actor *actor, uint32_t handle, const sp_loaded *from, sp_error *err) {
    uint32_t n = sp_program_get_header(from->program)->n_slots;
    if (handle >= actor->limits.programs) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_programs, handle + 1, err);
    }
    sp_status status = check_restored(actor, handle, from->program, from->slots, n, err);
    if (status) {
        return status;
    }
    sp_bound_slot *slots = malloc((n + 1) * sizeof *slots);
    if (!slots) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(slots, from->slots, n * sizeof *slots);
    atomic_fetch_add(from->users, 1);
    actor->programs[handle] = (sp_loaded){.program = from->program, .users = from->users, .slots = slots};
    return SP_OK;
}

sp_status sp_abi_complete(sp_actor *actor, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < actor->n_submitted; i++) {
        status = execute(actor, actor->submitted[i].program, actor->submitted[i].prepared, err);
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
        free(actor->regions[i].ahead);
    }
    for (uint32_t i = 0; actor->weights && i < actor->n_models; i++) {
        sp_host_release_weights(actor->host, actor->weights[i]);
    }
    free(actor->programs);
    free(actor->regions);
    free(actor->weights);
}
