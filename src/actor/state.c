/* An actor at rest, less its memory, as bytes and back. What is read may come from anybody: every count and range is checked before it is used. */
#include <stdlib.h>
#include <string.h>

#include "abi/rewrite.h"
#include "actor/actor.h"
#include "base/checked.h"

enum { STATE_VERSION = 1, STATE_DONE = 1 };

typedef struct state_head {
    uint32_t version, flags, n_globals, n_regions, n_programs, n_messages;
    uint64_t clock_ns, device_ns, steps, runs;
    int32_t error_status;
    uint32_t error_bytes;
} state_head;
_Static_assert(sizeof(state_head) == 64, "no padding");

typedef struct state_global {
    uint32_t kind, zero; /* wasmtime_valkind_t: 0 i32, 1 i64, 2 f32, 3 f64, 4 v128 */
    uint8_t value[16];
} state_global;

typedef struct state_region {
    uint32_t handle, start, length, zero;
} state_region;

typedef struct state_program {
    uint32_t handle, n_slots; /* the slots follow */
    uint64_t at, size;        /* in the side */
} state_program;

typedef struct state_slot {
    int32_t region;
    uint32_t offset, length, zero;
} state_slot;

typedef struct state_message {
    uint32_t size, zero; /* the bytes follow, padded to 8 */
} state_message;

static uint64_t padded(uint64_t size) {
    return (size + 7) / 8 * 8;
}

static uint64_t in_pages(uint64_t size) {
    return (size + SP_LOG_PAGE - 1) / SP_LOG_PAGE * SP_LOG_PAGE;
}

void sp_state_free(sp_log_blobs *blobs) {
    free(blobs->meta);
    free(blobs->side);
    *blobs = (sp_log_blobs){0};
}

/* ---- globals ---- */

static bool get_global(const sp_actor *actor, uint32_t index, wasmtime_global_t *out) {
    char name[64];
    snprintf(name, sizeof name, SP_GLOBAL_EXPORT "%u", index);
    wasmtime_extern_t item;
    bool found = wasmtime_instance_export_get(actor->context, &actor->instance, name, strlen(name), &item) && item.kind == WASMTIME_EXTERN_GLOBAL;
    *out = item.of.global;
    return found;
}

static size_t kind_size(uint32_t kind) {
    return kind == WASMTIME_I32 || kind == WASMTIME_F32 ? 4 : kind == WASMTIME_I64 || kind == WASMTIME_F64 ? 8 : kind == WASMTIME_V128 ? 16 : 0;
}

static sp_status read_global(const sp_actor *actor, uint32_t index, state_global *out, sp_error *err) {
    wasmtime_global_t global;
    if (!get_global(actor, index, &global)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the module has no mutable global %u", index);
    }
    wasmtime_val_t value;
    wasmtime_global_get(actor->context, &global, &value);
    *out = (state_global){.kind = value.kind};
    memcpy(out->value, &value.of, kind_size(value.kind));
    return SP_OK;
}

static sp_status write_global(sp_actor *actor, uint32_t index, const state_global *from, sp_error *err) {
    wasmtime_global_t global;
    if (!get_global(actor, index, &global)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the module has no mutable global %u", index);
    }
    wasmtime_val_t value;
    wasmtime_global_get(actor->context, &global, &value);
    if (value.kind != from->kind || from->zero || !kind_size(from->kind)) {
        return sp_fail(err, SP_ERR_FORMAT, "global %u has type %u, not %u", index, value.kind, from->kind);
    }
    memcpy(&value.of, from->value, kind_size(from->kind));
    wasmtime_error_t *error = wasmtime_global_set(actor->context, &global, &value);
    if (error) {
        wasmtime_error_delete(error);
        return sp_fail(err, SP_ERR_UNSUPPORTED, "global %u can't be set", index);
    }
    return SP_OK;
}

/* ---- saving ---- */

static state_head count(const sp_actor *actor, uint64_t *meta_size, uint64_t *side_size) {
    state_head head = {.version = STATE_VERSION,
                       .flags = actor->done ? STATE_DONE : 0,
                       .n_globals = actor->module->n_globals,
                       .clock_ns = sp_now_ns() + actor->clock_offset,
                       .device_ns = actor->stats.device_ns,
                       .steps = actor->stats.steps,
                       .runs = actor->stats.runs,
                       .n_messages = actor->n_inbox,
                       .error_status = actor->last_error.status,
                       .error_bytes = (uint32_t)strnlen(actor->last_error.message, sizeof actor->last_error.message)};
    *side_size = 0;
    *meta_size = sizeof head + head.n_globals * sizeof(state_global);
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        head.n_regions += actor->regions[i].open;
    }
    *meta_size += head.n_regions * sizeof(state_region);
    for (uint32_t i = 0; i < actor->limits.programs; i++) {
        if (actor->programs[i].program) {
            const sp_program_header *h = sp_program_get_header(actor->programs[i].program);
            head.n_programs++;
            *meta_size += sizeof(state_program) + h->n_slots * sizeof(state_slot);
            *side_size += in_pages(h->size);
        }
    }
    for (const sp_message *m = actor->inbox; m; m = m->next) {
        *meta_size += sizeof(state_message) + padded(m->size);
    }
    *meta_size += padded(head.error_bytes);
    return head;
}

/* Where the next bytes go. */
static uint8_t *put(uint8_t *at, const void *bytes, size_t size) {
    memcpy(at, bytes, size);
    return at + size;
}

static uint8_t *save_programs(const sp_actor *actor, uint8_t *at, uint8_t *side) {
    uint64_t side_at = 0;
    for (uint32_t i = 0; i < actor->limits.programs; i++) {
        const sp_loaded *loaded = &actor->programs[i];
        if (!loaded->program) {
            continue;
        }
        const sp_program_header *h = sp_program_get_header(loaded->program);
        at = put(at, &(state_program){.handle = i, .n_slots = h->n_slots, .at = side_at, .size = h->size}, sizeof(state_program));
        for (uint32_t k = 0; k < h->n_slots; k++) {
            const sp_bound_slot *s = &loaded->slots[k];
            at = put(at, &(state_slot){.region = s->region, .offset = s->offset, .length = s->length}, sizeof(state_slot));
        }
        memcpy(side + side_at, h, h->size);
        side_at += in_pages(h->size);
    }
    return at;
}

sp_status sp_state_save(sp_actor *actor, sp_log_blobs *out, sp_error *err) {
    *out = (sp_log_blobs){0};
    state_head head = count(actor, &out->meta_size, &out->side_size);
    out->meta = calloc(1, out->meta_size);
    out->side = calloc(1, out->side_size + 1);
    if (!out->meta || !out->side) {
        sp_state_free(out);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    uint8_t *at = put(out->meta, &head, sizeof head);
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < head.n_globals; i++) {
        state_global global = {0};
        status = read_global(actor, i, &global, err);
        at = put(at, &global, sizeof global);
    }
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        const sp_region *r = &actor->regions[i];
        if (r->open) {
            at = put(at, &(state_region){.handle = i, .start = r->start, .length = r->length}, sizeof(state_region));
        }
    }
    at = save_programs(actor, at, out->side);
    for (const sp_message *m = actor->inbox; m; m = m->next) {
        at = put(at, &(state_message){.size = m->size}, sizeof(state_message));
        memcpy(at, m->bytes, m->size);
        at += padded(m->size);
    }
    memcpy(at, actor->last_error.message, head.error_bytes);
    if (status) {
        sp_state_free(out);
    }
    return status;
}

/* ---- loading ---- */

/* Bytes that are left to read. */
typedef struct reader {
    const uint8_t *at;
    uint64_t left;
} reader;

/* Copies the next size bytes; false: there are not that many. */
static bool take(reader *r, void *out, uint64_t size) {
    if (size > r->left) {
        return false;
    }
    memcpy(out, r->at, size);
    r->at += size, r->left -= size;
    return true;
}

static const uint8_t *take_padded(reader *r, uint64_t size) {
    const uint8_t *at = r->at;
    if (padded(size) > r->left) {
        return NULL;
    }
    r->at += padded(size), r->left -= padded(size);
    return at;
}

static sp_status cut(sp_error *err) {
    return sp_fail(err, SP_ERR_FORMAT, "the commit's state is cut, or its counts are wrong");
}

static sp_status load_regions(sp_actor *actor, uint32_t n, reader *r, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < n; i++) {
        state_region region;
        status = take(r, &region, sizeof region) && !region.zero ? sp_abi_region_restore(actor, region.handle, region.start, region.length, err)
                                                                 : cut(err);
    }
    return status;
}

static sp_status load_program(sp_actor *actor, reader *r, const sp_log_blobs *blobs, sp_error *err) {
    state_program program;
    if (!take(r, &program, sizeof program) || program.n_slots > SP_PROGRAM_MAX_SLOTS ||
        !sp_range_within(program.at, program.size, blobs->side_size) || program.at % SP_LOG_PAGE) {
        return cut(err);
    }
    sp_bound_slot *slots = calloc(program.n_slots + 1, sizeof *slots);
    if (!slots) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < program.n_slots; i++) {
        state_slot slot;
        status = take(r, &slot, sizeof slot) && !slot.zero ? SP_OK : cut(err);
        if (!status) {
            slots[i] = (sp_bound_slot){.region = slot.region, .offset = slot.offset, .length = slot.length};
        }
    }
    status = status ? status : sp_abi_program_restore(actor, program.handle, blobs->side + program.at, program.size, slots, program.n_slots, err);
    free(slots);
    return status;
}

static sp_status load_messages(sp_actor *actor, uint32_t n, reader *r, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < n; i++) {
        state_message message;
        const uint8_t *bytes = take(r, &message, sizeof message) && !message.zero ? take_padded(r, message.size) : NULL;
        status = bytes ? sp_actor_send(actor, bytes, message.size, err) : cut(err);
    }
    return status;
}

sp_status sp_state_load(sp_actor *actor, const sp_log_blobs *blobs, sp_error *err) {
    state_head head;
    reader r = {blobs->meta, blobs->meta_size};
    if (!take(&r, &head, sizeof head)) {
        return cut(err);
    }
    if (head.version != STATE_VERSION || head.flags > STATE_DONE) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "version %u of a commit's state; this build reads version %d", head.version, STATE_VERSION);
    }
    if (head.n_globals != actor->module->n_globals) {
        return sp_fail(err, SP_ERR_FORMAT, "%u globals; the module has %u", head.n_globals, actor->module->n_globals);
    }
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < head.n_globals; i++) {
        state_global global;
        status = take(&r, &global, sizeof global) ? write_global(actor, i, &global, err) : cut(err);
    }
    status = status ? status : load_regions(actor, head.n_regions, &r, err);
    for (uint32_t i = 0; !status && i < head.n_programs; i++) {
        status = load_program(actor, &r, blobs, err);
    }
    status = status ? status : load_messages(actor, head.n_messages, &r, err);
    const uint8_t *text = status || head.error_bytes >= sizeof actor->last_error.message ? NULL : take_padded(&r, head.error_bytes);
    if (status || !text || r.left) {
        return status ? status : cut(err);
    }
    memcpy(actor->last_error.message, text, head.error_bytes);
    actor->last_error.status = (sp_status)head.error_status;
    actor->done = head.flags & STATE_DONE;
    actor->clock_offset = head.clock_ns - sp_now_ns();
    actor->stats.device_ns = head.device_ns;
    actor->stats.steps = head.steps;
    actor->stats.runs = head.runs;
    return SP_OK;
}

sp_status sp_state_grow(sp_actor *actor, uint64_t size, sp_error *err) {
    enum { WASM_PAGE = 65536 };
    uint64_t now = sp_memory_size(actor->memory), before;
    wasmtime_extern_t item;
    if (size % WASM_PAGE || size < now || !wasmtime_instance_export_get(actor->context, &actor->instance, "memory", 6, &item) ||
        item.kind != WASMTIME_EXTERN_MEMORY) {
        return sp_fail(err, SP_ERR_FORMAT, "a memory of %llu bytes; the module begins with %llu", (unsigned long long)size, (unsigned long long)now);
    }
    wasmtime_error_t *error = size > now ? wasmtime_memory_grow(actor->context, &item.of.memory, (size - now) / WASM_PAGE, &before) : NULL;
    if (error) {
        wasmtime_error_delete(error);
        return sp_fail(err, SP_ERR_LIMIT, "its memory has %llu bytes, which the limit of %llu, or the module's own, does not allow",
                       (unsigned long long)size, (unsigned long long)actor->limits.memory_bytes);
    }
    return SP_OK;
}

/* ---- copying ---- */

sp_status sp_state_copy(const sp_actor *from, sp_actor *to, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < from->module->n_globals; i++) {
        state_global global;
        status = read_global(from, i, &global, err);
        status = status ? status : write_global(to, i, &global, err);
    }
    for (uint32_t i = 0; !status && i < from->limits.regions; i++) {
        status = from->regions[i].open ? sp_abi_region_share(to, i, from, err) : SP_OK;
    }
    for (uint32_t i = 0; !status && i < from->limits.programs; i++) {
        status = from->programs[i].program ? sp_abi_program_share(to, i, &from->programs[i], err) : SP_OK;
    }
    for (const sp_message *m = from->inbox; !status && m; m = m->next) {
        status = sp_actor_send(to, m->bytes, m->size, err);
    }
    to->last_error = from->last_error;
    to->done = from->done;
    to->clock_offset = from->clock_offset;
    to->stats.device_ns = from->stats.device_ns;
    to->stats.steps = from->stats.steps;
    to->stats.runs = from->stats.runs;
    return status;
}
