/* Regions: ranges of linear memory that the guest shares with its device. */
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "abi/limits.h"
#include "base/checked.h"
#include "memory/os.h"

static bool is_open(const sp_actor *actor, int32_t region) {
    return region >= 0 && (uint32_t)region < actor->limits.regions && actor->regions[region].open;
}

static sp_region *find(sp_actor *actor, int32_t region, sp_error *err) {
    if (!is_open(actor, region)) {
        sp_fail(err, SP_ERR_NOT_FOUND, "there is no region %d", region);
        return NULL;
    }
    return &actor->regions[region];
}

static bool overlaps(const sp_region *r, uint32_t start, uint32_t length) {
    return r->open && start < (uint64_t)r->start + r->length && r->start < (uint64_t)start + length;
}

int64_t sp_abi_region_open(sp_actor *actor, uint32_t start, uint32_t length, sp_error *err) {
    void *at = sp_guest_range(actor, start, length, err);
    if (!at) {
        return SP_ERR_RANGE;
    }
    uint32_t slot = UINT32_MAX;
    uint64_t shared = length;
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        const sp_region *r = &actor->regions[i];
        shared += r->length;
        if (!r->open) {
            slot = i < slot ? i : slot;
        } else if (overlaps(r, start, length)) {
            return sp_fail(err, SP_ERR_RANGE, "the region [%u, +%u) overlaps region %u", start, length, i);
        }
    }
    if (slot == UINT32_MAX) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_regions, actor->limits.regions + 1, err);
    }
    if (shared > actor->limits.shared_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_shared_bytes, shared, err);
    }
    sp_region *region = &actor->regions[slot];
    sp_status status = sp_device_memory_open(actor->device, at, length, &region->memory, err);
    if (status != SP_OK) {
        return status;
    }
    region->start = start, region->length = length, region->open = true;
    return slot;
}

int64_t sp_abi_region_close(sp_actor *actor, int32_t region, sp_error *err) {
    sp_region *r = find(actor, region, err);
    if (!r) {
        return SP_ERR_NOT_FOUND;
    }
    for (uint32_t i = 0; i < actor->limits.programs; i++) {
        const sp_loaded *p = &actor->programs[i];
        for (uint32_t s = 0; p->program && s < sp_program_get_header(p->program)->n_slots; s++) {
            if (p->slots[s].region == region) {
                return sp_fail(err, SP_ERR_STATE, "region %d is bound to program %u", region, i);
            }
        }
    }
    sp_device_memory_close(r->memory);
    free(r->ahead);
    *r = (sp_region){0};
    return 0;
}

/* ---- devices with memory of their own: what they have that the guest's pages don't ---- */

/* Room for one more, which is what marking can need: a part that is taken out of a span leaves two. */
static sp_status make_room(sp_region *r, sp_error *err) {
    if (r->n_ahead < r->room) {
        return SP_OK;
    }
    uint32_t room = 2 * r->room + 8;
    sp_span *spans = realloc(r->ahead, room * sizeof *spans);
    if (!spans) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    r->ahead = spans;
    r->room = room;
    return SP_OK;
}

static void add_span(sp_region *r, uint32_t at, sp_span span) {
    memmove(r->ahead + at + 1, r->ahead + at, (r->n_ahead - at) * sizeof *r->ahead);
    r->ahead[at] = span;
    r->n_ahead++;
}

static void remove_span(sp_region *r, uint32_t at) {
    r->n_ahead--;
    memmove(r->ahead + at, r->ahead + at + 1, (r->n_ahead - at) * sizeof *r->ahead);
}

sp_status sp_abi_mark_ahead(sp_region *r, uint32_t from, uint32_t to, sp_error *err) {
    uint32_t at = 0;
    sp_status status = make_room(r, err);
    if (status) {
        return status;
    }
    while (at < r->n_ahead && r->ahead[at].to < from) {
        at++;
    }
    if (at < r->n_ahead && r->ahead[at].from <= from && to <= r->ahead[at].to) {
        return SP_OK; /* as with most tokens: their rows join those before them */
    }
    while (at < r->n_ahead && r->ahead[at].from <= to) {
        from = r->ahead[at].from < from ? r->ahead[at].from : from;
        to = r->ahead[at].to > to ? r->ahead[at].to : to;
        remove_span(r, at);
    }
    if (from < to) {
        add_span(r, at, (sp_span){from, to});
    }
    return SP_OK;
}

/* Bytes [from, to) are the same on both sides now. There is room for one more span. */
static void mark_equal(sp_region *r, uint32_t from, uint32_t to) {
    for (uint32_t i = 0; i < r->n_ahead;) {
        sp_span s = r->ahead[i];
        if (s.to <= from || s.from >= to) {
            i++;
            continue;
        }
        remove_span(r, i);
        if (s.to > to) {
            add_span(r, i, (sp_span){to, s.to});
        }
        if (s.from < from) {
            add_span(r, i, (sp_span){s.from, from});
        }
        i += (s.from < from) + (s.to > to);
    }
}

int64_t sp_abi_region_sync(sp_actor *actor, int32_t region, uint32_t offset, uint32_t length, int32_t direction, sp_error *err) {
    sp_region *r = find(actor, region, err);
    if (!r) {
        return SP_ERR_NOT_FOUND;
    }
    if (direction != SP_SYNC_TO_DEVICE && direction != SP_SYNC_FROM_DEVICE) {
        return sp_fail(err, SP_ERR_ARGUMENT, "sync goes in direction 0 or 1, not %d", direction);
    }
    sp_status status = sp_abi_region_need(actor, (uint32_t)region, err);
    status = status ? status : make_room(r, err);
    status = status ? status : sp_device_memory_sync(r->memory, offset, length, (sp_sync_direction)direction, err);
    if (!status) {
        mark_equal(r, offset, offset + length);
    }
    return status;
}

sp_status sp_abi_region_need(sp_actor *actor, uint32_t region, sp_error *err) {
    sp_region *r = &actor->regions[region];
    if (r->memory) {
        return SP_OK;
    }
    sp_status status = sp_device_memory_open(actor->device, sp_memory_base(actor->memory) + r->start, r->length, &r->memory, err);
    status = status ? status : sp_device_memory_sync(r->memory, 0, r->length, SP_SYNC_TO_DEVICE, err);
    if (status) {
        sp_device_memory_close(r->memory); /* half filled, it must not be taken for the region's */
        r->memory = NULL;
    }
    return status;
}

sp_status sp_abi_bring_back(sp_actor *actor, sp_error *err) {
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        sp_region *r = &actor->regions[i];
        while (r->n_ahead) {
            const sp_span *s = &r->ahead[r->n_ahead - 1];
            sp_status status = sp_device_memory_sync(r->memory, s->from, s->to - s->from, SP_SYNC_FROM_DEVICE, err);
            if (status) {
                return status;
            }
            r->n_ahead--;
        }
    }
    return SP_OK;
}

void sp_abi_let_go(sp_actor *actor) {
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        if (actor->regions[i].memory) {
            sp_device_memory_let_go(actor->regions[i].memory);
        }
    }
}

sp_status sp_abi_region_share(sp_actor *actor, uint32_t handle, const sp_actor *from, sp_error *err) {
    const sp_region *r = &from->regions[handle];
    sp_status status = sp_abi_region_restore(actor, handle, r->start, r->length, err);
    if (status || !r->memory || from->device != actor->device) {
        return status;
    }
    /* Without that it is filled from the pages when it is first needed. */
    status = sp_device_memory_fork(r->memory, sp_memory_base(actor->memory) + r->start, &actor->regions[handle].memory, err);
    return status == SP_ERR_UNSUPPORTED ? SP_OK : status;
}

sp_status sp_abi_region_restore(sp_actor *actor, uint32_t handle, uint32_t start, uint32_t length, sp_error *err) {
    const sp_device_info *info = sp_device_get_info(actor->device);
    if (handle >= actor->limits.regions) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_regions, handle + 1, err);
    }
    if (actor->regions[handle].open || !length || !sp_guest_range(actor, start, length, NULL)) {
        return sp_fail(err, SP_ERR_FORMAT, "region %u, [%u, +%u), can't be", handle, start, length);
    }
    if (start % info->import_alignment || length % info->import_alignment) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "region %u, [%u, +%u), does not start and end at a multiple of the %llu bytes that %s wants", handle,
                       start, length, (unsigned long long)info->import_alignment, info->name);
    }
    uint64_t shared = length;
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        shared += actor->regions[i].length;
        if (overlaps(&actor->regions[i], start, length)) {
            return sp_fail(err, SP_ERR_FORMAT, "regions %u and %u overlap", handle, i);
        }
    }
    if (shared > actor->limits.shared_bytes) {
        return sp_limit_reached(&actor->limits, SP_LIMIT_shared_bytes, shared, err);
    }
    actor->regions[handle] = (sp_region){.open = true, .start = start, .length = length};
    return SP_OK;
}
