/*
 * The emulated card: blocks are threads, device memory is memory of the host.
 * Between blocks everything is as on a card: they meet at barriers alone, and
 * one that is missing is a data race, which ThreadSanitizer sees.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "device/cuda/driver.h"
#include "device/cuda/kernel_queue.h"
#include "device/cuda/resident.h"
#include "memory/os.h"

enum { BLOCKS = 3 }; /* odd, so that work rarely divides evenly */

/* A card has pieces of 2 MiB; these are as small as hosts allow, so that small models have many. */
#define PIECE 65536ull
#define MEMORY (64ull << 30)

enum { REGISTERED = 1024 }; /* ranges at most */

typedef struct emulated {
    sp_cuda_driver base;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t here, generation; /* the barrier */
    bool stopping, stopped;    /* asked for; what the last barrier agreed on */
    uint32_t n_threads;
    pthread_t threads[BLOCKS];
    k_block blocks[BLOCKS];
    uint8_t *shared[BLOCKS];
    uint64_t used;          /* bytes given out */
    int file;               /* that pieces are of; -1: none yet */
    uint64_t n_pieces;      /* ever made: where the file's next one begins */
    uint64_t *spare;        /* pieces that were given back */
    uint64_t n_spare, room; /* of spare */
    struct {
        const uint8_t *at;
        uint64_t size;
    } registered[REGISTERED];
    uint32_t n_registered;
} emulated;

/* In front of what is given out: how much it is. */
enum { BEFORE = 256 };

uint64_t k_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void k_relax(void) {
    sched_yield();
}

bool k_grid_barrier(k_block *b, uint32_t stop) {
    emulated *e = b->host;
    b->barriers++;
    pthread_mutex_lock(&e->lock);
    e->stopping |= stop;
    uint32_t generation = e->generation;
    if (++e->here == BLOCKS) {
        e->here = 0;
        e->generation++;
        e->stopped = e->stopping;
        pthread_cond_broadcast(&e->changed);
    }
    while (generation == e->generation) {
        pthread_cond_wait(&e->changed, &e->lock);
    }
    bool stopped = e->stopped;
    pthread_mutex_unlock(&e->lock);
    return stopped;
}

static void in_ns(uint64_t ns, struct timespec *out) {
    clock_gettime(CLOCK_REALTIME, out);
    ns += (uint64_t)out->tv_nsec;
    out->tv_sec += (time_t)(ns / 1000000000);
    out->tv_nsec = (long)(ns % 1000000000);
}

static bool take_command(const k_queue *queue, volatile k_command *c) {
    uint64_t words[K_COMMAND];
    bool whole = true;
    for (int i = 0; i < K_COMMAND; i++) {
        words[i] = __atomic_load_n(&queue->command[i], __ATOMIC_ACQUIRE);
        whole &= words[i] >> 32 == words[0] >> 32;
    }
    if (!whole || words[0] >> 32 == c->number) {
        return false;
    }
    for (int i = 0; i < K_COMMAND; i++) {
        c->words[i] = (uint32_t)words[i];
    }
    c->number = (uint32_t)(words[0] >> 32);
    return true;
}

void k_await_command(const k_block *b, volatile k_command *c) {
    emulated *e = b->host;
    struct timespec until;
    in_ns(b->queue->idle_ns, &until);
    pthread_mutex_lock(&e->lock);
    pthread_cond_broadcast(&e->changed); /* done was written */
    int timed_out = 0;
    while (!take_command(b->queue, c) && !timed_out) {
        timed_out = pthread_cond_timedwait(&e->changed, &e->lock, &until);
    }
    pthread_mutex_unlock(&e->lock);
}

void k_tell(k_block *b, uint64_t go) {
    emulated *e = b->host;
    pthread_mutex_lock(&e->lock);
    b->state->go = go;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

uint64_t k_await_told(k_block *b, uint64_t turn) {
    emulated *e = b->host;
    pthread_mutex_lock(&e->lock);
    while ((b->state->go & K_TURN) == turn) {
        pthread_cond_wait(&e->changed, &e->lock);
    }
    uint64_t go = b->state->go;
    pthread_mutex_unlock(&e->lock);
    return go;
}

_Thread_local uint8_t *k_shared_memory;

void k_tell_ready(k_block *b, uint32_t n) {
    emulated *e = b->host;
    pthread_mutex_lock(&e->lock);
    b->state->ready = n;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void k_await_ready(k_block *b, uint32_t n) {
    emulated *e = b->host;
    pthread_mutex_lock(&e->lock);
    while (b->state->ready != n) {
        pthread_cond_wait(&e->changed, &e->lock);
    }
    pthread_mutex_unlock(&e->lock);
}

static void *run_block(void *block) {
    k_block *b = block;
    emulated *e = b->host;
    k_shared_memory = e->shared[b->block];
    pthread_mutex_lock(&e->lock); /* until all are started, or can't be */
    const bool all = e->n_threads == BLOCKS;
    pthread_mutex_unlock(&e->lock);
    if (all) {
        k_resident(b);
    }
    pthread_mutex_lock(&e->lock);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

static sp_status join_threads(sp_cuda_driver *driver, sp_error *err) {
    (void)err;
    emulated *e = (emulated *)driver;
    for (uint32_t i = 0; i < e->n_threads; i++) {
        pthread_join(e->threads[i], NULL);
    }
    e->n_threads = 0;
    return SP_OK;
}

static sp_status launch(sp_cuda_driver *driver, k_queue *queue, uint64_t state, sp_error *err) {
    emulated *e = (emulated *)driver;
    join_threads(driver, err);
    e->here = 0;
    e->stopping = e->stopped = false;
    memset((void *)(uintptr_t)state, 0, sizeof(k_state));
    pthread_mutex_lock(&e->lock);
    bool all = true;
    for (uint32_t i = 0; i < BLOCKS && all; i++) {
        e->blocks[i] = (k_block){.block = i, .blocks = BLOCKS, .queue = queue, .state = (k_state *)(uintptr_t)state, .host = e};
        all = pthread_create(&e->threads[i], NULL, run_block, &e->blocks[i]) == 0;
        e->n_threads += all;
    }
    pthread_mutex_unlock(&e->lock);
    if (!all) {
        join_threads(driver, err);
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't start the threads of the emulated device");
    }
    return SP_OK;
}

static void ring(sp_cuda_driver *driver) {
    emulated *e = (emulated *)driver;
    pthread_mutex_lock(&e->lock);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

static sp_status wait_for(sp_cuda_driver *driver, const k_queue *queue, uint32_t number, sp_error *err) {
    (void)err;
    emulated *e = (emulated *)driver;
    struct timespec until;
    uint32_t left = k_load_system(&queue->left);
    in_ns(1000000, &until);
    pthread_mutex_lock(&e->lock);
    int timed_out = 0;
    while (k_load_system(&queue->done) != number && k_load_system(&queue->left) == left && !timed_out) {
        timed_out = pthread_cond_timedwait(&e->changed, &e->lock, &until);
    }
    pthread_mutex_unlock(&e->lock);
    return SP_OK;
}

static void stop(sp_cuda_driver *driver, uint64_t state) {
    (void)driver;
    k_store_system(&((k_state *)(uintptr_t)state)->stop, 1);
}

static sp_status emulated_alloc(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err) {
    emulated *e = (emulated *)driver;
    void *at = NULL;
    if (size > MEMORY - e->used || posix_memalign(&at, BEFORE, size + BEFORE)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for %llu bytes of the emulated device", (unsigned long long)size);
    }
    *(uint64_t *)at = size;
    e->used += size;
    *out = (uint64_t)(uintptr_t)at + BEFORE;
    return SP_OK;
}

static void emulated_release(sp_cuda_driver *driver, uint64_t address) {
    uint64_t *at = (uint64_t *)(uintptr_t)(address - BEFORE);
    ((emulated *)driver)->used -= *at;
    free(at);
}

static uint64_t emulated_free_bytes(sp_cuda_driver *driver) {
    return MEMORY - ((emulated *)driver)->used;
}

static sp_status emulated_reserve(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err) {
    (void)driver;
    void *at = sp_os_reserve(size);
    *out = (uint64_t)(uintptr_t)at;
    return at ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "no addresses for %llu bytes of the emulated device", (unsigned long long)size);
}

static void emulated_unreserve(sp_cuda_driver *driver, uint64_t address, uint64_t size) {
    (void)driver;
    sp_os_release((void *)(uintptr_t)address, size);
}

static sp_status emulated_piece_make(sp_cuda_driver *driver, uint64_t *out, sp_error *err) {
    emulated *e = (emulated *)driver;
    e->file = e->file < 0 ? sp_os_anonymous_file("samepage-cuda-emulated", MEMORY) : e->file;
    if (e->file < 0 || MEMORY - e->used < PIECE) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a piece of the emulated device");
    }
    *out = e->n_spare ? e->spare[--e->n_spare] : e->n_pieces++;
    e->used += PIECE;
    return SP_OK;
}

static void emulated_piece_free(sp_cuda_driver *driver, uint64_t piece) {
    emulated *e = (emulated *)driver;
    e->used -= PIECE;
    if (e->n_spare == e->room) {
        uint64_t room = e->room ? 2 * e->room : 64, *grown = realloc(e->spare, room * sizeof *grown);
        if (!grown) {
            return; /* its place in the file stays unused */
        }
        e->spare = grown;
        e->room = room;
    }
    e->spare[e->n_spare++] = piece;
}

static void emulated_unmap(sp_cuda_driver *driver, uint64_t address, uint32_t n) {
    (void)driver;
    sp_os_map_zeros((void *)(uintptr_t)address, n * PIECE);
}

static sp_status emulated_map(sp_cuda_driver *driver, uint64_t address, const uint64_t *pieces, uint32_t n, sp_error *err) {
    emulated *e = (emulated *)driver;
    for (uint32_t i = 0; i < n; i++) {
        if (!sp_os_map_shared((void *)(uintptr_t)(address + i * PIECE), PIECE, e->file, pieces[i] * PIECE)) {
            emulated_unmap(driver, address, i);
            return sp_fail(err, SP_ERR_NO_MEMORY, "can't map a piece of the emulated device");
        }
    }
    return SP_OK;
}

static sp_status emulated_copy(sp_cuda_driver *driver, uint64_t to, uint64_t from, uint64_t size, sp_error *err) {
    (void)driver, (void)err;
    memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, size);
    return SP_OK;
}

static sp_status emulated_fill(sp_cuda_driver *driver, uint64_t address, uint8_t value, uint64_t size, sp_error *err) {
    (void)driver, (void)err;
    memset((void *)(uintptr_t)address, value, size);
    return SP_OK;
}

/* A card's driver copies no range of which a part is registered. */
static sp_status check_registered(const emulated *e, const void *at, uint64_t size, sp_error *err) {
    const uint8_t *from = at;
    for (uint32_t i = 0; i < e->n_registered; i++) {
        const uint8_t *first = e->registered[i].at, *end = first + e->registered[i].size;
        bool meets = from < end && first < from + size, within = first <= from && from + size <= end;
        if (meets && !within) {
            return sp_fail(err, SP_ERR_DEVICE, "a part of the host's range is registered, and a part is not");
        }
    }
    return SP_OK;
}

static sp_status emulated_upload(sp_cuda_driver *driver, uint64_t to, const void *from, uint64_t size, sp_error *err) {
    sp_status status = check_registered((const emulated *)driver, from, size, err);
    if (status == SP_OK) {
        memcpy((void *)(uintptr_t)to, from, size);
    }
    return status;
}

static sp_status emulated_download(sp_cuda_driver *driver, void *to, uint64_t from, uint64_t size, sp_error *err) {
    sp_status status = check_registered((const emulated *)driver, to, size, err);
    if (status == SP_OK) {
        memcpy(to, (const void *)(uintptr_t)from, size);
    }
    return status;
}

static sp_status emulated_host_alloc(sp_cuda_driver *driver, uint64_t size, void **out, sp_error *err) {
    uint64_t address = 0;
    sp_status status = emulated_alloc(driver, size, &address, err);
    if (status == SP_OK) {
        *out = memset((void *)(uintptr_t)address, 0, size);
    }
    return status;
}

static void emulated_host_release(sp_cuda_driver *driver, void *at) {
    emulated_release(driver, (uint64_t)(uintptr_t)at);
}

static bool emulated_register(sp_cuda_driver *driver, void *at, uint64_t size) {
    emulated *e = (emulated *)driver;
    if (e->n_registered == REGISTERED) {
        return false;
    }
    e->registered[e->n_registered].at = at;
    e->registered[e->n_registered++].size = size;
    return true;
}

static void emulated_unregister(sp_cuda_driver *driver, void *at) {
    emulated *e = (emulated *)driver;
    for (uint32_t i = 0; i < e->n_registered; i++) {
        if (e->registered[i].at == at) {
            e->registered[i] = e->registered[--e->n_registered];
            return;
        }
    }
}

static void emulated_close(sp_cuda_driver *driver) {
    emulated *e = (emulated *)driver;
    join_threads(driver, NULL);
    for (int i = 0; i < BLOCKS; i++) {
        if (e->shared[i]) {
            emulated_release(driver, (uint64_t)(uintptr_t)e->shared[i]);
        }
    }
    if (e->file >= 0) {
        close(e->file);
    }
    free(e->spare);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static const sp_cuda_driver_ops emulated_ops = {
    .close = emulated_close,
    .alloc = emulated_alloc,
    .release = emulated_release,
    .free_bytes = emulated_free_bytes,
    .reserve = emulated_reserve,
    .unreserve = emulated_unreserve,
    .piece_make = emulated_piece_make,
    .piece_free = emulated_piece_free,
    .map = emulated_map,
    .unmap = emulated_unmap,
    .copy = emulated_copy,
    .fill = emulated_fill,
    .upload = emulated_upload,
    .download = emulated_download,
    .host_alloc = emulated_host_alloc,
    .host_release = emulated_host_release,
    .host_register = emulated_register,
    .host_unregister = emulated_unregister,
    .launch = launch,
    .ring = ring,
    .wait = wait_for,
    .join = join_threads,
    .stop = stop,
};

sp_status sp_cuda_emulated_open(sp_cuda_driver **out, sp_error *err) {
    *out = NULL;
    emulated *e = calloc(1, sizeof *e);
    if (!e) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    e->base = (sp_cuda_driver){.ops = &emulated_ops,
                               .blocks = BLOCKS,
                               .shared = K_SHARED_LEAST,
                               .piece = PIECE,
                               .slow = 20000,
                               .name = SP_CUDA_EMULATED_NAME,
                               .memory_total = MEMORY,
                               .memory_free = MEMORY};
    e->file = -1;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t at = 0;
        if (emulated_alloc(&e->base, K_SHARED_LEAST, &at, err) != SP_OK) {
            emulated_close(&e->base);
            return SP_ERR_NO_MEMORY;
        }
        e->shared[i] = (uint8_t *)(uintptr_t)at;
    }
    *out = &e->base;
    return SP_OK;
}
