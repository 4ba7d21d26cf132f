/*
 * Regions. The device's bytes lie in pieces, which forks share until one of them writes: a kernel's write can't be noticed, so what a command will
 * write is known before it. Of the guest's pages those that are moved again and again are registered with the driver, and the kernel moves them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "device/cuda/cuda_impl.h"
#include "memory/os.h"

/* What regions hold before anything was synced: as floats, not a number; as
 * ids, negative. */
#define POISON 0xff

/* Ranges up to this long are registered; the driver moves longer ones as well, and registered pages can't be shared. */
#define PIN_LARGEST (16 << 20)

/* What comes from the device is moved by the kernel up to this length: its stores reach the host at less than 5 GB/s, the card's copying engine,
 * which takes longer to begin, at ten times that. */
#define STORE_LARGEST (64 << 10)

static cuda_memory *of(sp_device_memory *memory) {
    return (cuda_memory *)(void *)memory;
}

static const sp_cuda_driver_ops *driver_of(const cuda_memory *m) {
    return m->device->driver->ops;
}

/* ---- pages of the host ---- */

/* With the lock held, and the kernel away. */
static void unpin(cuda_memory *m, uint32_t i) {
    driver_of(m)->host_unregister(m->device->driver, m->base + m->pins[i].from);
    m->pins[i] = m->pins[--m->n_pins];
}

static void unpin_all(cuda_memory *m) {
    sp_error ignored;
    if (m->n_pins) {
        sp_cuda_quiet(m->device, &ignored);
    }
    while (m->n_pins) {
        unpin(m, m->n_pins - 1);
    }
}

static bool is_pinned(const cuda_memory *m, uint64_t from, uint64_t to) {
    for (uint32_t i = 0; i < m->n_pins; i++) {
        if (m->pins[i].from <= from && to <= m->pins[i].to) {
            return true;
        }
    }
    return false;
}

static bool meet(const cuda_pin *pin, uint64_t from, uint64_t to) {
    return pin->from < to && from < pin->to;
}

/* Are some of the range's pages registered? */
static bool meets_pin(const cuda_memory *m, uint64_t from, uint64_t to) {
    for (uint32_t i = 0; i < m->n_pins; i++) {
        if (meet(&m->pins[i], from, to)) {
            return true;
        }
    }
    return false;
}

/* Was a range that begins here moved before? From now on it was. */
static bool was_seen(cuda_memory *m, uint64_t from) {
    for (int i = 0; i < CUDA_MAX_SEEN; i++) {
        if (m->seen[i] == from + 1) {
            return true;
        }
    }
    m->seen[m->next_seen++ % CUDA_MAX_SEEN] = from + 1;
    return false;
}

/* Registers the pages of a range, with those of ranges that it meets. */
static bool pin(cuda_memory *m, uint64_t from, uint64_t to) {
    sp_error ignored;
    uint64_t page = sp_os_page_size();
    from = from / page * page;
    to = (to + page - 1) / page * page;
    if (m->cant_pin || to - from > PIN_LARGEST || sp_cuda_quiet(m->device, &ignored) != SP_OK) {
        return false;
    }
    for (uint32_t i = m->n_pins; i-- > 0;) {
        if (meet(&m->pins[i], from, to)) {
            from = m->pins[i].from < from ? m->pins[i].from : from;
            to = m->pins[i].to > to ? m->pins[i].to : to;
            unpin(m, i);
        }
    }
    if (m->n_pins == CUDA_MAX_PINS) {
        unpin(m, 0);
    }
    m->cant_pin = !driver_of(m)->host_register(m->device->driver, m->base + from, to - from);
    if (m->cant_pin) {
        return false;
    }
    m->pins[m->n_pins++] = (cuda_pin){from, to};
    return true;
}

void sp_cuda_memory_let_go(sp_device_memory *memory) {
    cuda_memory *m = of(memory);
    pthread_mutex_lock(&m->device->lock);
    unpin_all(m);
    pthread_mutex_unlock(&m->device->lock);
}

/* ---- pieces ---- */

/* Up to this many are made anew at once. */
enum { MOST_AT_ONCE = 64 };

static void drop_piece(cuda_memory *m, cuda_piece *piece) {
    if (piece && --piece->users == 0) {
        driver_of(m)->piece_free(m->device->driver, piece->handle);
        free(piece);
    }
}

static cuda_piece *make_piece(cuda_memory *m, sp_error *err) {
    cuda_piece *piece = malloc(sizeof *piece);
    if (!piece) {
        sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        return NULL;
    }
    piece->users = 1;
    if (driver_of(m)->piece_make(m->device->driver, &piece->handle, err) != SP_OK) {
        free(piece);
        return NULL;
    }
    return piece;
}

void sp_cuda_wants(cuda_memory *m, uint64_t from, uint64_t to) {
    uint64_t size = m->device->driver->piece;
    for (uint64_t i = from / (size ? size : 1); m->shares && i * size < to; i++) {
        if (m->pieces[i]->users > 1 && !m->wanted[i]) {
            m->wanted[i] = true;
            m->n_wanted++;
        }
    }
}

/* n pieces of its own in place of those numbered in `at`, with what these hold. The region is as it was on failure, or the device has failed. */
static sp_status replace(cuda_memory *m, const uint32_t *at, uint32_t n, sp_error *err) {
    const sp_cuda_driver_ops *ops = driver_of(m);
    sp_cuda_driver *driver = m->device->driver;
    cuda_piece *made[MOST_AT_ONCE];
    uint64_t handles[MOST_AT_ONCE], window = 0, size = driver->piece;
    uint32_t n_made = 0, replaced = 0;
    sp_status status = SP_OK;
    while (n_made < n && (made[n_made] = make_piece(m, err))) {
        handles[n_made] = made[n_made]->handle;
        n_made++;
    }
    status = n_made == n ? ops->reserve(driver, n * size, &window, err) : SP_ERR_NO_MEMORY;
    bool mapped = status == SP_OK && (status = ops->map(driver, window, handles, n, err)) == SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < n; i++) {
        status = ops->copy(driver, window + i * size, m->beside + at[i] * size, size, err);
    }
    if (mapped) {
        ops->unmap(driver, window, n);
    }
    if (window) {
        ops->unreserve(driver, window, n * size);
    }
    for (; status == SP_OK && replaced < n; replaced++) {
        sp_error cause = {0};
        uint32_t i = at[replaced];
        ops->unmap(driver, m->beside + i * size, 1);
        if (ops->map(driver, m->beside + i * size, &handles[replaced], 1, &cause) != SP_OK) {
            status = sp_cuda_lose(m->device, &cause, NULL, err);
            break;
        }
        drop_piece(m, m->pieces[i]);
        m->pieces[i] = made[replaced];
    }
    for (uint32_t i = replaced; i < n_made; i++) {
        drop_piece(m, made[i]);
    }
    return status;
}

sp_status sp_cuda_own(cuda_memory *m, sp_error *err) {
    uint32_t at[MOST_AT_ONCE], n = 0;
    if (!m->n_wanted) {
        return SP_OK;
    }
    sp_status status = sp_cuda_quiet(m->device, err);
    for (uint32_t i = 0; i < m->n_pieces; i++) {
        if (m->wanted[i]) {
            m->wanted[i] = false;
            at[n++] = i;
        }
        if (n == MOST_AT_ONCE || (n && i + 1 == m->n_pieces)) {
            status = status == SP_OK ? replace(m, at, n, err) : status;
            n = 0;
        }
    }
    m->n_wanted = 0;
    return status;
}

/* Addresses, and at them the pieces of another region, or new ones. With the lock held, and the kernel away. */
static sp_status map_pieces(cuda_memory *m, const cuda_memory *like, sp_error *err) {
    uint64_t size = m->device->driver->piece;
    uint32_t n = (uint32_t)((m->length + size - 1) / size);
    uint64_t *handles = calloc(n, sizeof *handles);
    m->pieces = calloc(n, sizeof(cuda_piece *));
    m->wanted = calloc(n, sizeof *m->wanted);
    m->shares = like != NULL;
    sp_status status = handles && m->pieces && m->wanted ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    for (; status == SP_OK && m->n_pieces < n; m->n_pieces++) {
        cuda_piece *piece = like ? like->pieces[m->n_pieces] : make_piece(m, err);
        if (!piece) {
            status = SP_ERR_NO_MEMORY;
            break;
        }
        piece->users += like != NULL;
        m->pieces[m->n_pieces] = piece;
        handles[m->n_pieces] = piece->handle;
    }
    status = status == SP_OK ? driver_of(m)->reserve(m->device->driver, n * size, &m->beside, err) : status;
    if (status == SP_OK) {
        status = driver_of(m)->map(m->device->driver, m->beside, handles, n, err);
        if (status != SP_OK) {
            driver_of(m)->unreserve(m->device->driver, m->beside, n * size);
            m->beside = 0;
        }
    }
    free(handles);
    return status;
}

static void unmap_pieces(cuda_memory *m) {
    uint64_t size = m->device->driver->piece;
    if (m->beside) {
        driver_of(m)->unmap(m->device->driver, m->beside, m->n_pieces);
        driver_of(m)->unreserve(m->device->driver, m->beside, m->n_pieces * size);
        m->beside = 0;
    }
    for (uint32_t i = 0; i < m->n_pieces; i++) {
        drop_piece(m, m->pieces[i]);
    }
}

/* ---- regions ---- */

void sp_cuda_memory_close(sp_device_memory *memory) {
    cuda_memory *m = of(memory);
    sp_error ignored;
    pthread_mutex_lock(&m->device->lock);
    sp_cuda_flush(m->device, &ignored); /* what waits may be for this region */
    unpin_all(m);
    if (m->pieces) {
        sp_cuda_quiet(m->device, &ignored);
        unmap_pieces(m);
    }
    pthread_mutex_unlock(&m->device->lock);
    sp_cuda_release(m->device, m->beside);
    free(m->pieces);
    free(m->wanted);
    free(m);
}

static sp_status check_place(const cuda_device *d, const void *base, uint64_t length, sp_error *err) {
    uint64_t unit = d->info.import_alignment;
    return (uintptr_t)base % unit || length % unit || length == 0
               ? sp_fail(err, SP_ERR_ARGUMENT, "a region starts and ends on multiples of %llu bytes on %s", (unsigned long long)unit, d->info.name)
               : SP_OK;
}

/* With the lock held: the device's bytes, filled with poison or those of another region, which has written all that waits. */
static sp_status get_bytes(cuda_memory *m, cuda_memory *like, sp_error *err) {
    const sp_cuda_driver_ops *ops = driver_of(m);
    sp_cuda_driver *driver = m->device->driver;
    sp_status status = sp_cuda_quiet(m->device, err);
    bool whole = driver->piece && m->length >= 2 * driver->piece; /* less would waste more than it can share */
    if (status == SP_OK) {
        status = whole ? map_pieces(m, like, err) : ops->alloc(driver, m->length, &m->beside, err);
    }
    if (status == SP_OK && like && whole) {
        like->shares = true;
    } else if (status == SP_OK) {
        status = like ? ops->copy(driver, m->beside, like->beside, m->length, err) : ops->fill(driver, m->beside, POISON, m->length, err);
    }
    return status;
}

static sp_status open_like(cuda_device *d, void *base, uint64_t length, cuda_memory *like, sp_device_memory **out, sp_error *err) {
    *out = NULL;
    cuda_memory *m = calloc(1, sizeof *m);
    if (!m) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *m = (cuda_memory){.ops = d->ops, .device = d, .base = base, .length = length};
    pthread_mutex_lock(&d->lock);
    sp_status status = like ? sp_cuda_flush(d, err) : SP_OK;
    status = status == SP_OK ? get_bytes(m, like, err) : status;
    pthread_mutex_unlock(&d->lock);
    if (status != SP_OK) {
        sp_cuda_memory_close((sp_device_memory *)(void *)m);
        return status;
    }
    *out = (sp_device_memory *)(void *)m;
    return SP_OK;
}

sp_status sp_cuda_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err) {
    cuda_device *d = (cuda_device *)(void *)device;
    *out = NULL;
    sp_status status = check_place(d, base, length, err);
    return status == SP_OK ? open_like(d, base, length, NULL, out, err) : status;
}

sp_status sp_cuda_memory_fork(sp_device_memory *from, void *base, sp_device_memory **out, sp_error *err) {
    cuda_device *d = of(from)->device;
    *out = NULL;
    sp_status status = check_place(d, base, of(from)->length, err);
    return status == SP_OK ? open_like(d, base, of(from)->length, of(from), out, err) : status;
}

uint64_t sp_cuda_memory_address(const sp_device_memory *memory) {
    return ((const cuda_memory *)(const void *)memory)->beside;
}

/* ---- moving bytes ---- */

/* With the lock held: by the driver, which can reach pages that are not registered. */
static sp_status move_by_driver(cuda_memory *m, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err) {
    const sp_cuda_driver_ops *ops = driver_of(m);
    sp_status status = sp_cuda_flush(m->device, err);
    return status != SP_OK                  ? status
           : direction == SP_SYNC_TO_DEVICE ? ops->upload(m->device->driver, m->beside + offset, m->base + offset, length, err)
                                            : ops->download(m->device->driver, m->base + offset, m->beside + offset, length, err);
}

/* With the lock held. True: done, with *status; false: the pages are registered, and the kernel is to move them. */
static bool move(cuda_memory *m, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_status *status, sp_error *err) {
    if (direction == SP_SYNC_FROM_DEVICE && m->echo_from <= offset && offset + length <= m->echo_to) {
        memcpy(m->base + offset, m->echo + (offset - m->echo_from), length);
        return true;
    }
    if (direction == SP_SYNC_TO_DEVICE) {
        m->echo_from = m->echo_to = 0;
        sp_cuda_wants(m, offset, offset + length);
        *status = sp_cuda_own(m, err);
        if (*status != SP_OK || sp_cuda_put_off(m->device, m->beside + offset, m->base + offset, length, status, err)) {
            return true;
        }
    }
    const bool part = meets_pin(m, offset, offset + length), again = was_seen(m, offset);
    const bool pinned = is_pinned(m, offset, offset + length) || ((part || again) && pin(m, offset, offset + length));
    if (pinned && (direction == SP_SYNC_TO_DEVICE || length <= STORE_LARGEST)) {
        return false;
    }
    if (part && !pinned) { /* the driver copies no range of which a part is registered */
        unpin_all(m);
    }
    *status = move_by_driver(m, offset, length, direction, err);
    return true;
}

sp_status sp_cuda_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err) {
    cuda_memory *m = of(memory);
    if (!sp_range_within(offset, length, m->length)) {
        return sp_fail(err, SP_ERR_RANGE, "sync of [%llu, +%llu) of a region of %llu bytes", (unsigned long long)offset, (unsigned long long)length,
                       (unsigned long long)m->length);
    }
    if (!length) {
        return SP_OK;
    }
    sp_status status = SP_OK;
    pthread_mutex_lock(&m->device->lock);
    bool done = move(m, offset, length, direction, &status, err);
    pthread_mutex_unlock(&m->device->lock);
    if (done) {
        return status;
    }
    uint64_t host = (uint64_t)(uintptr_t)m->base + offset, device = m->beside + offset;
    k_copy copy = direction == SP_SYNC_TO_DEVICE ? (k_copy){device, host, length} : (k_copy){host, device, length};
    return sp_cuda_command(m->device, &(cuda_command){.copies = &copy, .n_copies = 1, .work = length}, err);
}
