/* Regions: the guest's pages as the device sees them. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "device/device_impl.h"
#include "memory/os.h"

/* What a device's own bytes hold before anything was synced: as floats, not a number; as ids, negative. A missing sync shows at once. */
#define POISON 0xff

static sp_status open_beside(sp_device_memory *memory, sp_error *err) {
    memory->beside = sp_os_reserve(memory->length);
    if (!memory->beside || !sp_os_commit(memory->beside, memory->length)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a region of %llu bytes on %s", (unsigned long long)memory->length,
                       memory->device->info.name);
    }
    memset(memory->beside, POISON, memory->length);
    memory->buffer = ggml_backend_cpu_buffer_from_ptr(memory->beside, memory->length);
    return SP_OK;
}

static sp_status open_shared(sp_device_memory *memory, sp_error *err) {
    char why[200] = "";
    uint64_t most = ggml_backend_buft_get_max_size(ggml_backend_dev_buffer_type(memory->device->dev));
    if (memory->length > most) {
        return sp_fail(err, SP_ERR_LIMIT, "%s imports at most %llu bytes at once; the region has %llu: open it in pieces", memory->device->info.name,
                       (unsigned long long)most, (unsigned long long)memory->length);
    }
    memory->buffer = sp_shim_import(memory->device->dev, memory->base, memory->length, why, sizeof why);
    return memory->buffer
               ? SP_OK
               : sp_fail(err, SP_ERR_DEVICE, "%s can't share %llu bytes: %s", memory->device->info.name, (unsigned long long)memory->length, why);
}

sp_status sp_ggml_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err) {
    *out = NULL;
    uint64_t alignment = device->info.import_alignment;
    if ((uintptr_t)base % alignment || length % alignment || length == 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a region starts and ends on multiples of %llu bytes on %s", (unsigned long long)alignment,
                       device->info.name);
    }
    sp_device_memory *memory = calloc(1, sizeof *memory);
    if (!memory) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *memory = (sp_device_memory){.ops = device->ops, .device = device, .base = base, .length = length};
    sp_status status = device->separate ? open_beside(memory, err) : open_shared(memory, err);
    if (status != SP_OK) {
        sp_ggml_memory_close(memory);
        return status;
    }
    *out = memory;
    return SP_OK;
}

void sp_ggml_memory_close(sp_device_memory *memory) {
    if (!memory) {
        return;
    }
    ggml_backend_buffer_free(memory->buffer);
    if (memory->beside) {
        sp_os_release(memory->beside, memory->length);
    }
    free(memory);
}

uint64_t sp_ggml_memory_address(const sp_device_memory *memory) {
    /* ggml-vulkan's buffers have a made-up base; an imported one is the guest's pages. */
    return (uint64_t)(uintptr_t)(memory->beside ? memory->beside : memory->base);
}

sp_status sp_ggml_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err) {
    if (!sp_range_within(offset, length, memory->length)) {
        return sp_fail(err, SP_ERR_RANGE, "sync of [%llu, +%llu) of a region of %llu bytes", (unsigned long long)offset, (unsigned long long)length,
                       (unsigned long long)memory->length);
    }
    if (memory->beside && direction == SP_SYNC_TO_DEVICE) {
        memcpy(memory->beside + offset, memory->base + offset, length);
    } else if (memory->beside) {
        memcpy(memory->base + offset, memory->beside + offset, length);
    }
    return SP_OK;
}

bool sp_ggml_pins_pages(const sp_device *device) {
    return !device->separate && !device->pool;
}
