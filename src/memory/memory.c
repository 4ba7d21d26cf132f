/* One reservation per linear memory, grown in place. */
#include "memory/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/fault.h"
#include "memory/os.h"

struct sp_memory {
    uint8_t *base;
    uint64_t size;        /* usable bytes, a multiple of the page size */
    uint64_t reservation; /* bytes that size may grow to */
    uint64_t mapped;      /* reservation and guard */
    sp_fault_watch *watch;
};

sp_status sp_memory_create(uint64_t size, uint64_t reservation, uint64_t guard, sp_memory **out, sp_error *err) {
    *out = NULL;
    uint64_t page = sp_os_page_size(), mapped;
    if (!sp_align_up_u64(size, page, &size) || !sp_align_up_u64(reservation, page, &reservation) || !sp_align_up_u64(guard, page, &guard) ||
        !sp_add_u64(reservation, guard, &mapped) || size > reservation || mapped == 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a linear memory of %llu bytes does not fit a reservation of %llu", (unsigned long long)size,
                       (unsigned long long)reservation);
    }
    sp_memory *memory = calloc(1, sizeof *memory);
    if (!memory) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *memory = (sp_memory){.base = sp_os_reserve(mapped), .size = size, .reservation = reservation, .mapped = mapped};
    if (!memory->base || !sp_os_commit(memory->base, size)) {
        int error = errno;
        sp_memory_destroy(memory);
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't reserve %llu MiB of address space: %s (a limit on virtual memory, ulimit -v?)",
                       (unsigned long long)(mapped >> 20), strerror(error));
    }
    memory->watch = sp_fault_watch_open(memory->base, size);
    if (!memory->watch) {
        sp_memory_destroy(memory);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *out = memory;
    return SP_OK;
}

void sp_memory_destroy(sp_memory *memory) {
    if (!memory) {
        return;
    }
    sp_fault_watch_close(memory->watch);
    if (memory->base) {
        sp_os_release(memory->base, memory->mapped);
    }
    free(memory);
}

uint8_t *sp_memory_base(const sp_memory *memory) {
    return memory->base;
}

uint64_t sp_memory_size(const sp_memory *memory) {
    return memory->size;
}

uint64_t sp_memory_reservation(const sp_memory *memory) {
    return memory->reservation;
}

sp_status sp_memory_grow(sp_memory *memory, uint64_t new_size, sp_error *err) {
    if (!sp_align_up_u64(new_size, sp_os_page_size(), &new_size) || new_size > memory->reservation) {
        return sp_fail(err, SP_ERR_LIMIT, "linear memory can't grow beyond its reservation of %llu bytes", (unsigned long long)memory->reservation);
    }
    if (new_size < memory->size) {
        return sp_fail(err, SP_ERR_ARGUMENT, "linear memory never shrinks");
    }
    if (!sp_os_commit(memory->base + memory->size, new_size - memory->size)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't grow linear memory to %llu bytes: %s", (unsigned long long)new_size, strerror(errno));
    }
    memory->size = new_size;
    sp_fault_watch_resize(memory->watch, new_size);
    return SP_OK;
}

bool sp_memory_is_lost(const sp_memory *memory) {
    return sp_fault_watch_lost(memory->watch);
}

sp_status sp_memory_written_pages(const sp_memory *memory, uint64_t at, uint64_t length, uint64_t *bitmap, sp_error *err) {
    uint64_t page = sp_os_page_size();
    if (at % page || length % page || !sp_range_within(at, length, memory->size)) {
        return sp_fail(err, SP_ERR_RANGE, "the range is not whole pages of the linear memory");
    }
    if (!sp_os_written_pages(memory->base + at, length, bitmap)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the system can't tell which pages were written: %s", strerror(errno));
    }
    return SP_OK;
}
