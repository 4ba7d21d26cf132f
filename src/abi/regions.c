/* Regions: ranges of linear memory that the guest shares with its device. */
#include "abi/abi.h"
#include "abi/limits.h"
#include "base/checked.h"
#include "memory/os.h"

static sp_region *find(sp_actor *actor, int32_t region, sp_error *err) {
    if (region < 0 || (uint32_t)region >= actor->limits.regions || !actor->regions[region].memory) {
        sp_fail(err, SP_ERR_NOT_FOUND, "there is no region %d", region);
        return NULL;
    }
    return &actor->regions[region];
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
        if (!r->memory) {
            slot = i < slot ? i : slot;
        } else if (start < (uint64_t)r->start + r->length && r->start < (uint64_t)start + length) {
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
    region->start = start, region->length = length;
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
    *r = (sp_region){0};
    return 0;
}

int64_t sp_abi_region_sync(sp_actor *actor, int32_t region, uint32_t offset, uint32_t length, int32_t direction, sp_error *err) {
    sp_region *r = find(actor, region, err);
    if (!r) {
        return SP_ERR_NOT_FOUND;
    }
    if (direction != SP_SYNC_TO_DEVICE && direction != SP_SYNC_FROM_DEVICE) {
        return sp_fail(err, SP_ERR_ARGUMENT, "sync goes in direction 0 or 1, not %d", direction);
    }
    return sp_device_memory_sync(r->memory, offset, length, (sp_sync_direction)direction, err);
}
