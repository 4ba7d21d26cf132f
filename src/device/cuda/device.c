/* The device: its kernel, its memory, temporaries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/error.h"
#include "device/cuda/cuda.h"
#include "device/cuda/cuda_impl.h"
#include "memory/os.h"

/* Writes up to this long are taken as they are and wait for the next command: the mask of a token at 8,192 positions is one. */
#define TAKEN_LARGEST (16 * 1024)

/* The kernel leaves the card alone after this long without work. */
#define IDLE_NS 2000000

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint32_t load(const uint32_t *at) {
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

sp_status sp_cuda_lose(cuda_device *d, const sp_error *cause, const char *text, sp_error *err) {
    d->lost = true;
    snprintf(d->why, sizeof d->why, "%.190s", cause ? cause->message : text);
    return sp_fail(err, SP_ERR_DEVICE, "%s has failed: %s", d->info.name, d->why);
}

/* Every call on a device that has failed says why. */
static sp_status check_lost(const cuda_device *d, sp_error *err) {
    return d->lost ? sp_fail(err, SP_ERR_DEVICE, "%s has failed before: %s", d->info.name, d->why) : SP_OK;
}

static bool kernel_runs(const cuda_device *d) {
    return load(&d->queue->left) != d->launches;
}

static sp_status start_kernel(cuda_device *d, sp_error *err) {
    sp_error cause = {0};
    if (kernel_runs(d)) {
        return SP_OK;
    }
    sp_status status = d->driver->ops->join(d->driver, &cause);
    if (status == SP_OK) {
        d->launches++;
        status = d->driver->ops->launch(d->driver, d->queue, d->state, &cause);
    }
    return status == SP_OK ? SP_OK : sp_cuda_lose(d, &cause, NULL, err);
}

/* Waits for a command; ends it at a barrier when its time is over. */
static sp_status finish(cuda_device *d, uint32_t number, uint64_t allowed_ns, sp_error *err) {
    uint64_t start = now_ns();
    bool stopping = false;
    while (load(&d->queue->done) != number) {
        sp_error cause = {0};
        if (d->driver->ops->wait(d->driver, d->queue, number, &cause) != SP_OK) {
            return sp_cuda_lose(d, &cause, NULL, err);
        }
        if (load(&d->queue->done) == number) {
            break;
        }
        if (!kernel_runs(d)) { /* it left for idleness just when the bell rang */
            sp_status status = start_kernel(d, err);
            if (status != SP_OK) {
                return status;
            }
        }
        uint64_t spent = now_ns() - start;
        if (spent > allowed_ns && !stopping) {
            d->driver->ops->stop(d->driver, d->state);
            stopping = true;
        } else if (spent > 2 * allowed_ns + 2000000000) {
            d->driver->hangs = true;
            return sp_cuda_lose(d, NULL, "a program does not end and can't be stopped", err);
        }
    }
    if (stopping && load(&d->queue->stopped) != number) { /* it ended just then: the next command must not
                                                             be stopped for it */
        return sp_cuda_quiet(d, err);
    }
    if (load(&d->queue->stopped) == number) {
        return sp_fail(err, SP_ERR_LIMIT,
                       "%s: the program was stopped after %llu ms, longer than its "
                       "work can take",
                       d->info.name, (unsigned long long)(allowed_ns / 1000000));
    }
    return SP_OK;
}

/* flags: K_*; packet: bytes of it that go along; c: the command that it is, or NULL. */
static sp_status command(cuda_device *d, const cuda_command *c, uint32_t flags, uint64_t packet, uint64_t allowed_ns, sp_error *err) {
    uint64_t schedule = c ? c->schedule : 0;
    if (check_lost(d, err) != SP_OK) {
        return SP_ERR_DEVICE;
    }
    const uint32_t words[K_COMMAND] = {(uint32_t)schedule | flags, (uint32_t)(schedule >> 32), (uint32_t)packet};
    d->number = d->number == UINT32_MAX ? 1 : d->number + 1;
    for (int i = 0; i < K_COMMAND; i++) {
        __atomic_store_n(&d->queue->command[i], (uint64_t)d->number << 32 | words[i], __ATOMIC_RELEASE);
    }
    d->driver->ops->ring(d->driver);
    sp_status status = start_kernel(d, err);
    if (status == SP_OK && c && c->meanwhile) {
        c->meanwhile(c->user);
    }
    return status == SP_OK ? finish(d, d->number, allowed_ns, err) : status;
}

/* What waits goes along with a command, or with none (NULL). */
static sp_status command_with_packet(cuda_device *d, const cuda_command *c, uint64_t allowed_ns, sp_error *err) {
    uint64_t bytes = d->packet_bytes;
    bool program = c && c->schedule;
    uint32_t flags = d->for_all ? K_ALL : program && !c->alone ? 0 : K_ALONE;
    flags |= program && c->small && !bytes && !d->marks ? K_SMALL : 0;
    flags |= d->to_host || d->marks ? K_TO_HOST : 0;
    d->n_pending = 0;
    d->packet_bytes = 0;
    d->for_all = d->to_host = false;
    return command(d, c, flags, bytes, allowed_ns, err);
}

sp_status sp_cuda_flush(cuda_device *d, sp_error *err) {
    return d->n_pending ? command_with_packet(d, NULL, d->limit_ns, err) : check_lost(d, err);
}

static bool touch(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

/* Does a copy read or write what one that waits writes? The copies of a command have no order among them. */
static bool meets_pending(const cuda_device *d, const k_copy *copy) {
    for (uint32_t i = 0; i < d->n_pending; i++) {
        const k_copy *p = &d->pending[i];
        if (touch(copy->to, copy->bytes, p->to, p->bytes) || touch(copy->from, copy->bytes, p->to, p->bytes)) {
            return true;
        }
    }
    return false;
}

/* Puts a copy into the packet, of bytes as they are now (take) or when it is made. Where there is no room, what waits goes first. */
static sp_status add_copy(cuda_device *d, const k_copy *copy, bool take, sp_error *err) {
    uint64_t bytes = sizeof(k_entry) + (take ? (copy->bytes + 15) / 16 * 16 : 0);
    sp_status status = SP_OK;
    if (d->n_pending == K_MAX_COPIES || d->packet_bytes + bytes > K_PACKET || meets_pending(d, copy)) {
        status = sp_cuda_flush(d, err);
    }
    const k_entry entry = {.to = copy->to, .from = take ? 0 : copy->from, .bytes = copy->bytes};
    memcpy(d->packet + d->packet_bytes, &entry, sizeof entry);
    if (take) {
        memcpy(d->packet + d->packet_bytes + sizeof entry, (const void *)(uintptr_t)copy->from, copy->bytes);
    }
    d->pending[d->n_pending++] = *copy;
    d->packet_bytes += bytes;
    d->to_host |= !take;
    d->for_all |= !take && copy->bytes > K_COPY_ALONE;
    return status;
}

bool sp_cuda_put_off(cuda_device *d, uint64_t to, const void *from, uint64_t size, sp_status *status, sp_error *err) {
    const k_copy copy = {to, (uint64_t)(uintptr_t)from, size};
    if (size > TAKEN_LARGEST) {
        return false;
    }
    *status = add_copy(d, &copy, true, err);
    return true;
}

/* Its words come with the command's end, in no order. */
static sp_status take_answer(cuda_device *d, const cuda_command *c, sp_error *err) {
    uint64_t until = now_ns() + 1000000000;
    for (uint32_t i = 0; i < c->answer_bytes / 4; i++) {
        uint64_t word = 0;
        while ((word = __atomic_load_n(&d->queue->answer[i], __ATOMIC_RELAXED)) >> 32 != d->number) {
            if (now_ns() > until) {
                return sp_cuda_lose(d, NULL, "a program's answer does not come", err);
            }
        }
        const uint32_t low = (uint32_t)word;
        memcpy((uint8_t *)c->answer + (size_t)i * 4, &low, sizeof low);
    }
    return SP_OK;
}

sp_status sp_cuda_command(cuda_device *d, const cuda_command *c, sp_error *err) {
    sp_status status = SP_OK;
    /* A card does at least 10 thousand operations in a microsecond, whatever they
     * are. */
    uint64_t allowed = d->limit_ns + c->work / 10 * (d->driver->slow ? d->driver->slow : 1);
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < c->n_copies && status == SP_OK; i++) {
        status = add_copy(d, &c->copies[i], c->take && c->copies[i].bytes <= TAKEN_LARGEST, err);
    }
    status = status == SP_OK ? command_with_packet(d, c, allowed, err) : status;
    if (status == SP_OK && c->answer_bytes) {
        status = take_answer(d, c, err);
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

sp_status sp_cuda_quiet(cuda_device *d, sp_error *err) {
    if (d->lost || !kernel_runs(d)) {
        return check_lost(d, err);
    }
    sp_error cause = {0};
    sp_status status = command(d, NULL, K_LEAVE, 0, 1000000000, err);
    if (status == SP_OK && d->driver->ops->join(d->driver, &cause) != SP_OK) {
        status = sp_cuda_lose(d, &cause, NULL, err);
    }
    return status;
}

sp_status sp_cuda_alloc(cuda_device *d, uint64_t size, uint64_t *out, sp_error *err) {
    *out = 0;
    pthread_mutex_lock(&d->lock);
    sp_status status = sp_cuda_quiet(d, err);
    if (status == SP_OK) {
        status = d->driver->ops->alloc(d->driver, size, out, err);
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

void sp_cuda_release(cuda_device *d, uint64_t address) {
    if (address) {
        sp_error ignored;
        pthread_mutex_lock(&d->lock);
        sp_cuda_quiet(d, &ignored);
        d->driver->ops->release(d->driver, address);
        pthread_mutex_unlock(&d->lock);
    }
}

sp_status sp_cuda_upload(cuda_device *d, uint64_t to, const void *from, uint64_t size, sp_error *err) {
    pthread_mutex_lock(&d->lock);
    sp_status status = check_lost(d, err);
    status = status == SP_OK ? d->driver->ops->upload(d->driver, to, from, size, err) : status;
    pthread_mutex_unlock(&d->lock);
    return status;
}

sp_status sp_cuda_host_alloc(cuda_device *d, uint64_t size, void **out, sp_error *err) {
    *out = NULL;
    pthread_mutex_lock(&d->lock);
    sp_status status = sp_cuda_quiet(d, err);
    if (status == SP_OK) {
        status = d->driver->ops->host_alloc(d->driver, size, out, err);
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

void sp_cuda_host_release(cuda_device *d, void *at) {
    if (at) {
        sp_error ignored;
        pthread_mutex_lock(&d->lock);
        sp_cuda_quiet(d, &ignored);
        d->driver->ops->host_release(d->driver, at);
        pthread_mutex_unlock(&d->lock);
    }
}

/* ---- temporaries ---- */

static sp_status workspace_open(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err) {
    cuda_workspace *w = calloc(1, sizeof *w);
    *out = (sp_workspace *)(void *)w;
    if (!w) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *w = (cuda_workspace){.device = (cuda_device *)(void *)device, .limit = limit_bytes};
    w->ops = w->device->ops;
    return SP_OK;
}

static void workspace_close(sp_workspace *workspace) {
    cuda_workspace *w = (cuda_workspace *)(void *)workspace;
    sp_cuda_release(w->device, w->at);
    sp_cuda_host_release(w->device, w->staging);
    free(w);
}

static uint64_t workspace_bytes(const sp_workspace *workspace) {
    return ((const cuda_workspace *)(const void *)workspace)->bytes;
}

/* ---- the device ---- */

static void device_close(sp_device *device) {
    cuda_device *d = (cuda_device *)(void *)device;
    sp_error ignored;
    if (d->queue) {
        sp_cuda_quiet(d, &ignored);
        if (!d->driver->hangs) {
            d->driver->ops->join(d->driver, &ignored);
        }
        if (d->state) {
            d->driver->ops->release(d->driver, d->state);
        }
        if (d->packet) {
            d->driver->ops->host_release(d->driver, d->packet);
        }
        if (d->marks) {
            d->driver->ops->host_release(d->driver, d->marks);
        }
        d->driver->ops->host_release(d->driver, d->queue);
    }
    d->driver->ops->close(d->driver);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static uint64_t free_bytes(const sp_device *device) {
    cuda_device *d = (cuda_device *)(uintptr_t)device;
    pthread_mutex_lock(&d->lock);
    uint64_t bytes = d->driver->ops->free_bytes(d->driver);
    pthread_mutex_unlock(&d->lock);
    return bytes;
}

sp_status sp_cuda_copy_bandwidth(sp_device *device, uint64_t bytes, double *rate, sp_error *err) {
    enum { PASSES = 6 };
    cuda_device *d = (cuda_device *)(void *)device;
    uint64_t at = 0;
    *rate = 0;
    sp_status status = sp_cuda_alloc(d, bytes, &at, err);
    pthread_mutex_lock(&d->lock);
    for (int i = 0; status == SP_OK && i < PASSES; i++) {
        uint64_t start = now_ns();
        status = d->driver->ops->copy(d->driver, at, at + bytes / 2, bytes / 2, err);
        double passed = (double)bytes / ((double)(now_ns() - start) * 1e-9);
        *rate = passed > *rate ? passed : *rate;
    }
    pthread_mutex_unlock(&d->lock);
    sp_cuda_release(d, at);
    return status;
}

static const sp_device_ops cuda_ops = {
    .close = device_close,
    .weights_open = sp_cuda_weights_open,
    .weights_close = sp_cuda_weights_close,
    .free_bytes = free_bytes,
    .memory_open = sp_cuda_memory_open,
    .memory_fork = sp_cuda_memory_fork,
    .memory_close = sp_cuda_memory_close,
    .memory_address = sp_cuda_memory_address,
    .memory_sync = sp_cuda_memory_sync,
    .memory_let_go = sp_cuda_memory_let_go,
    .workspace_open = workspace_open,
    .workspace_close = workspace_close,
    .workspace_bytes = workspace_bytes,
    .prepare = sp_cuda_prepare,
    .execute = sp_cuda_execute,
    .executable_close = sp_cuda_executable_close,
};

sp_status sp_cuda_open(sp_cuda_driver *driver, const char *name, sp_device **out, sp_error *err) {
    *out = NULL;
    cuda_device *d = calloc(1, sizeof *d);
    if (!d) {
        driver->ops->close(driver);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    d->ops = &cuda_ops;
    d->driver = driver;
    d->limit_ns = 10000000000;
    d->info = (sp_device_info){
        .unified = false, .import_alignment = sp_os_page_size(), .memory_total = driver->memory_total, .memory_free = driver->memory_free};
    snprintf(d->info.name, sizeof d->info.name, "%s", name);
    snprintf(d->info.description, sizeof d->info.description, "%.120s", driver->name);
    pthread_mutex_init(&d->lock, NULL);
    void *queue = NULL, *packet = NULL;
    sp_status status = driver->ops->host_alloc(driver, sizeof(k_queue), &queue, err);
    d->queue = queue;
    if (status == SP_OK) {
        d->queue->idle_ns = IDLE_NS;
        status = driver->ops->alloc(driver, sizeof(k_state), &d->state, err);
    }
    if (status == SP_OK) {
        status = driver->ops->host_alloc(driver, K_PACKET, &packet, err);
        d->packet = packet;
        d->queue->packet = (uint64_t)(uintptr_t)packet;
    }
    status = status == SP_OK ? sp_cuda_phases_open(d, err) : status;
    if (status != SP_OK) {
        device_close((sp_device *)(void *)d);
        return status;
    }
    *out = (sp_device *)(void *)d;
    return SP_OK;
}

sp_status sp_cuda_device_open(const char *name, sp_device **out, sp_error *err) {
    sp_cuda_driver *driver = NULL;
    sp_status status;
    *out = NULL;
    if (strcmp(name, "cuda-emulated") == 0) {
        status = sp_cuda_emulated_open(&driver, err);
    } else {
        char *end = NULL;
        long index = strncmp(name, "cuda:", 5) == 0 && name[5] ? strtol(name + 5, &end, 10) : -1;
        if (index < 0 || index > 255 || *end) {
            return sp_fail(err, SP_ERR_NOT_FOUND,
                           "\"%s\" is no device: cuda:0 is the first card, "
                           "cuda-emulated the one for tests",
                           name);
        }
        status = sp_cuda_driver_open((int)index, &driver, err);
    }
    return status == SP_OK ? sp_cuda_open(driver, name, out, err) : status;
}

size_t sp_cuda_device_list(sp_device_info *infos, size_t capacity) {
    size_t n = 0;
    int cards = sp_cuda_driver_count();
    sp_device_info info = {.import_alignment = sp_os_page_size()};
    snprintf(info.name, sizeof info.name, "cuda-emulated");
    snprintf(info.description, sizeof info.description, "%s", SP_CUDA_EMULATED_NAME);
    if (n < capacity) {
        infos[n] = info;
    }
    n++;
    for (int i = 0; i < cards; i++) { /* described without being started */
        snprintf(info.name, sizeof info.name, "cuda:%d", i);
        sp_cuda_driver_describe(i, info.description, sizeof info.description, &info.memory_total);
        if (n < capacity) {
            infos[n] = info;
        }
        n++;
    }
    return n;
}
