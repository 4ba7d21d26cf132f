/*
 * A driver's library for driver_cuda.c, in place of libcuda.so.1: its calls go to the emulated card. Any call can be told to fail, once or with all
 * behind it, as after a fault of a card; and its kernel can be one that never ends, so that who waits for it would wait for ever.
 * The executable is linked with --wrap=dlopen and --wrap=dlsym.
 */
#ifndef SP_TESTS_FAKE_CUDA_H
#define SP_TESTS_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "device/cuda/driver.h"

enum { FAKE_OUT_OF_MEMORY = 2, FAKE_NOT_READY = 600, FAKE_ILLEGAL_ADDRESS = 700, FAKE_NEVER = -1 };

static struct {
    /* What is asked of it. */
    bool missing;                                /* there is no library */
    const char *lacks;                           /* a function that it does not have */
    int fail_at, fail_with;                      /* the call that fails, counted from 0 */
    bool for_good;                               /* and all behind it */
    bool hangs;                                  /* the kernel is started, and never does anything */
    int major, cards;                            /* of the compute capability; how many */
    bool cant_map;                               /* memory at several addresses */
    void (*instead)(const k_schedule *schedule); /* called in place of running it: then the card is a large one, with a ring if it is a Hopper */
    /* What was done. */
    int maps;                        /* of matrices, made */
    int calls, waits_for_ever, held; /* held: contexts, modules, streams, memory, pieces, addresses, registered ranges */
    const char *failed;              /* the call that did */
    sp_cuda_driver *card;
    k_queue *queue;
    uint32_t command; /* the last one's number */
    bool running, streams[2];
    uint64_t mapped[256], given[64]; /* addresses of pieces, and of other memory; 0: none */
} fake = {.fail_at = FAKE_NEVER, .major = 8, .cards = 2};

static bool fake_computes(void) {
    return !fake.hangs && !fake.instead;
}
static uint32_t fake_blocks(void) {
    return fake.instead ? 132 : fake.card->blocks;
}
static uint32_t fake_shared(void) {
    return fake.instead ? K_SHARED : fake.card->shared;
}

static void fake_leave(void) {
    if (fake.running && fake_computes()) {
        fake.card->ops->join(fake.card, NULL); /* it leaves when nothing has come for a while */
        fake.running = false;
    }
}

/* Counts a call; what it is to say. */
static int fake_call(const char *name) {
    const int number = fake.calls++;
    const bool now = fake.fail_at != FAKE_NEVER && (number == fake.fail_at || (fake.for_good && number > fake.fail_at));
    if (now) {
        fake.failed = fake.failed ? fake.failed : name;
        fake_leave(); /* a fault ends the kernel */
    }
    return now ? fake.fail_with : 0;
}
/* One that takes back: it does so in any case, and fails only with all others. */
static int fake_back(const char *name) {
    fake.held--;
    return fake.for_good ? fake_call(name) : 0;
}
/* One that waits for the kernel, whether it wants to or not. */
static void fake_waits(void) {
    fake.waits_for_ever += fake.hangs && fake.running;
}
static int fake_take(int r) {
    fake.held += r == 0;
    return r;
}

/* Of n entries the one with this address, or a free one for 0. */
static uint64_t *fake_entry(uint64_t *entries, size_t n, uint64_t address) {
    for (size_t i = 0; i < n; i++) {
        if (entries[i] == address) {
            return &entries[i];
        }
    }
    return NULL;
}
#define FAKE_ENTRY(entries, address) fake_entry(entries, sizeof(entries) / sizeof *(entries), address)

/* What was not given back, and who began is gone. */
static inline void fake_reset(void) {
    for (size_t i = 0; i < sizeof fake.given / sizeof *fake.given; i++) {
        if (fake.given[i]) {
            fake.card->ops->release(fake.card, fake.given[i]);
            fake.given[i] = 0;
        }
    }
    memset(fake.mapped, 0, sizeof fake.mapped);
    memset(fake.streams, 0, sizeof fake.streams);
    fake.running = fake.hangs = false;
    fake.held = fake.waits_for_ever = 0;
}

static int fake_cuInit(unsigned flags) {
    (void)flags;
    return fake_call("cuInit");
}
static int fake_cuGetErrorString(int r, const char **out) {
    static char text[40];
    snprintf(text, sizeof text, "made to fail with %d", r);
    *out = text;
    return 0;
}
static int fake_cuDeviceGetCount(int *n) {
    *n = fake.cards;
    return fake_call("cuDeviceGetCount");
}
static int fake_cuDeviceGet(int *device, int index) {
    *device = index;
    return fake_call("cuDeviceGet");
}
static int fake_cuDeviceGetName(char *name, int capacity, int device) {
    snprintf(name, (size_t)capacity, "a card that is faked, %d", device);
    return fake_call("cuDeviceGetName");
}
static int fake_cuDeviceTotalMem(size_t *bytes, int device) {
    (void)device;
    *bytes = 1ull << 36;
    return fake_call("cuDeviceTotalMem_v2");
}
static int fake_cuDeviceGetAttribute(int *out, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 16: /* multiprocessors */
        *out = (int)fake_blocks();
        break;
    case 75: /* of the compute capability */
        *out = fake.major;
        break;
    case 95: /* kernels whose blocks all run at once */
        *out = 1;
        break;
    case 97: /* shared memory of a block */
        *out = (int)fake_shared();
        break;
    case 102: /* memory and addresses apart */
        *out = !fake.cant_map;
        break;
    default:
        *out = 0;
    }
    return fake_call("cuDeviceGetAttribute");
}
static int fake_cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    *context = &fake;
    return fake_take(fake_call("cuDevicePrimaryCtxRetain"));
}
static int fake_cuDevicePrimaryCtxRelease(int device) {
    (void)device;
    fake_waits();
    return fake_back("cuDevicePrimaryCtxRelease_v2");
}
static int fake_cuCtxSetCurrent(void *context) {
    (void)context;
    return 0;
}
static int fake_cuModuleLoadDataEx(void **module, const void *text, unsigned n, int *options, void **values) {
    (void)n, (void)options, (void)values;
    if (!strstr(text, ".entry sp_cuda_resident(")) {
        abort();
    }
    const int r = fake_take(fake_call("cuModuleLoadDataEx"));
    *module = r ? *module : &fake;
    return r;
}
static int fake_cuModuleUnload(void *module) {
    (void)module;
    fake_waits();
    return fake_back("cuModuleUnload");
}
static int fake_cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    *function = &fake;
    if (strcmp(name, "sp_cuda_resident") != 0) {
        abort();
    }
    return fake_call("cuModuleGetFunction");
}
static int fake_cuFuncSetAttribute(void *function, int attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return fake_call("cuFuncSetAttribute");
}
static int fake_cuLaunchCooperativeKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                          unsigned shared, void *stream, void **arguments) {
    (void)function, (void)stream;
    if (gx != fake_blocks() || bx != K_CARD_LAUNCHED || shared != fake_shared() || gy * gz * by * bz != 1) {
        abort();
    }
    const int r = fake_call("cuLaunchCooperativeKernel");
    if (r) {
        return r;
    }
    fake.running = true;
    fake.queue = *(k_queue **)arguments[0];
    return !fake_computes() ? 0 : fake.card->ops->launch(fake.card, fake.queue, *(uint64_t *)arguments[1], NULL);
}
static int fake_cuMemAlloc(uint64_t *out, size_t size) {
    fake_waits();
    int r = fake_call("cuMemAlloc_v2");
    r = r ? r : fake.card->ops->alloc(fake.card, size, out, NULL) ? FAKE_OUT_OF_MEMORY : 0;
    if (!r) {
        *FAKE_ENTRY(fake.given, 0) = *out;
    }
    return fake_take(r);
}
static int fake_cuMemFree(uint64_t address) {
    fake_waits();
    *FAKE_ENTRY(fake.given, address) = 0;
    fake.card->ops->release(fake.card, address);
    return fake_back("cuMemFree_v2");
}
static int fake_cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void *stream) {
    (void)stream;
    const int r = fake_call("cuMemsetD8Async");
    return r ? r : (int)fake.card->ops->fill(fake.card, to, value, size, NULL);
}
static int fake_cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t size, void *stream) {
    (void)stream;
    const int r = fake_call("cuMemcpyHtoDAsync_v2");
    return r ? r : (int)fake.card->ops->upload(fake.card, to, from, size, NULL);
}
static int fake_cuMemcpyDtoHAsync(void *to, uint64_t from, size_t size, void *stream) {
    (void)stream;
    const int r = fake_call("cuMemcpyDtoHAsync_v2");
    return r ? r : (int)fake.card->ops->download(fake.card, to, from, size, NULL);
}
static int fake_cuMemcpyDtoDAsync(uint64_t to, uint64_t from, size_t size, void *stream) {
    (void)stream;
    const int r = fake_call("cuMemcpyDtoDAsync_v2");
    return r ? r : (int)fake.card->ops->copy(fake.card, to, from, size, NULL);
}
static int fake_cuMemHostAlloc(void **out, size_t size, unsigned flags) {
    (void)flags;
    fake_waits();
    int r = fake_call("cuMemHostAlloc");
    r = r ? r : fake.card->ops->host_alloc(fake.card, size, out, NULL) ? FAKE_OUT_OF_MEMORY : 0;
    if (!r) {
        *FAKE_ENTRY(fake.given, 0) = (uint64_t)(uintptr_t)*out;
    }
    return fake_take(r);
}
static int fake_cuMemFreeHost(void *at) {
    fake_waits();
    *FAKE_ENTRY(fake.given, (uint64_t)(uintptr_t)at) = 0;
    fake.card->ops->host_release(fake.card, at);
    return fake_back("cuMemFreeHost");
}
static int fake_cuMemHostRegister(void *at, size_t size, unsigned flags) {
    (void)flags;
    fake_waits();
    const int r = fake_call("cuMemHostRegister_v2");
    return fake_take(r ? r : !fake.card->ops->host_register(fake.card, at, size));
}
static int fake_cuMemHostUnregister(void *at) {
    fake_waits();
    fake.card->ops->host_unregister(fake.card, at);
    return fake_back("cuMemHostUnregister");
}
static int fake_cuMemGetInfo(size_t *free_bytes, size_t *total) {
    *free_bytes = fake.card->ops->free_bytes(fake.card), *total = fake.card->memory_total;
    return fake_call("cuMemGetInfo_v2");
}
/* The first one is the kernel's; the other never has anything left to do. */
static int fake_cuStreamCreate(void **stream, unsigned flags) {
    const int r = fake_take(fake_call("cuStreamCreate")), i = fake.streams[0];
    (void)flags;
    if (!r) {
        fake.streams[i] = true;
        *stream = &fake.streams[i];
    }
    return r;
}
static int fake_cuStreamDestroy(void *stream) {
    *(bool *)stream = false;
    return fake_back("cuStreamDestroy_v2");
}
static int fake_cuStreamSynchronize(void *stream) {
    const int r = fake_call("cuStreamSynchronize");
    if (!r && stream == &fake.streams[0]) {
        fake_waits();
        fake_leave();
    }
    return r;
}
/* What a kernel would do with the command that waits, but for its copies and its work. */
static void fake_take_command(void) {
    k_queue *queue = fake.queue;
    const uint32_t number = (uint32_t)(queue->command[0] >> 32), low = (uint32_t)queue->command[0];
    if (number != fake.command) {
        const uint64_t schedule = (low & ~(uint32_t)K_FLAGS) | (uint64_t)(uint32_t)queue->command[1] << 32;
        fake.command = number;
        if (schedule) {
            fake.instead((const k_schedule *)(uintptr_t)schedule);
        }
        queue->left += (low & K_LEAVE) != 0;
        __atomic_store_n(&queue->done, number, __ATOMIC_RELEASE);
    }
}
static int fake_cuStreamQuery(void *stream) {
    (void)stream;
    const int r = fake_call("cuStreamQuery");
    if (!r && fake.instead) {
        fake_take_command();
    } else if (!r && !fake.hangs) {
        fake.card->ops->ring(fake.card); /* a card polls; the emulated one wants to be woken */
    }
    return r ? r : FAKE_NOT_READY;
}
static int fake_cuMemGetAllocationGranularity(size_t *out, const void *what, int option) {
    (void)what, (void)option;
    *out = fake.card->piece;
    return fake_call("cuMemGetAllocationGranularity");
}
static int fake_cuMemAddressReserve(uint64_t *out, size_t size, size_t alignment, uint64_t address, unsigned long long flags) {
    (void)alignment, (void)address, (void)flags;
    const int r = fake_call("cuMemAddressReserve");
    return fake_take(r ? r : (int)fake.card->ops->reserve(fake.card, size, out, NULL));
}
static int fake_cuMemAddressFree(uint64_t address, size_t size) {
    fake.card->ops->unreserve(fake.card, address, size);
    return fake_back("cuMemAddressFree");
}
static int fake_cuMemCreate(unsigned long long *out, size_t size, const void *what, unsigned long long flags) {
    uint64_t piece = 0;
    (void)size, (void)what, (void)flags;
    int r = fake_call("cuMemCreate");
    r = r ? r : fake.card->ops->piece_make(fake.card, &piece, NULL) ? FAKE_OUT_OF_MEMORY : 0;
    *out = piece;
    return fake_take(r);
}
static int fake_cuMemRelease(unsigned long long piece) {
    fake.card->ops->piece_free(fake.card, piece);
    return fake_back("cuMemRelease");
}
static int fake_cuMemMap(uint64_t address, size_t size, size_t offset, unsigned long long handle, unsigned long long flags) {
    const uint64_t piece = handle;
    (void)size, (void)offset, (void)flags;
    int r = fake_call("cuMemMap");
    r = r ? r : (int)fake.card->ops->map(fake.card, address, &piece, 1, NULL);
    if (!r) {
        *FAKE_ENTRY(fake.mapped, 0) = address;
    }
    return fake_take(r);
}
static int fake_cuMemUnmap(uint64_t address, size_t size) {
    (void)size;
    fake_waits();
    uint64_t *entry = FAKE_ENTRY(fake.mapped, address);
    if (!entry) {
        return 1; /* nothing is there */
    }
    *entry = 0;
    fake.card->ops->unmap(fake.card, address, 1);
    return fake_back("cuMemUnmap");
}
static int fake_cuMemSetAccess(uint64_t address, size_t size, const void *access, size_t n) {
    (void)address, (void)size, (void)access, (void)n;
    return fake_call("cuMemSetAccess");
}

/* Checks what the driver's manual asks of a map. */
static int fake_cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address, const uint64_t *ne, const uint64_t *strides,
                                       const uint32_t *box, const uint32_t *steps, int interleaved, int ordered, int promoted, int outside) {
    const uint32_t element = type == 0 ? 1 : type == 6 ? 2 : 0;
    bool right = (uintptr_t)map % 64 == 0 && rank == 4 && (uintptr_t)address % 16 == 0 && element && !interleaved && !outside && promoted <= 3;
    for (unsigned i = 0; i < rank; i++) {
        right &= ne[i] > 0 && ne[i] <= 1ull << 32 && box[i] > 0 && box[i] <= 256 && steps[i] == 1;
        right &= i + 1 == rank || (strides[i] > 0 && strides[i] % 16 == 0 && strides[i] < 1ull << 40);
    }
    right &= box[0] * element % 16 == 0 && (ordered != 3 || box[0] * element <= 128);
    fake.maps += right;
    return fake_call("cuTensorMapEncodeTiled") || !right;
}

#define FAKE(name, suffix)                                                                                                                           \
    { #name suffix, (void *)fake_##name }
static const struct {
    const char *name;
    void *function;
} fake_functions[] = {
    FAKE(cuInit, ""),
    FAKE(cuGetErrorString, ""),
    FAKE(cuDeviceGetCount, ""),
    FAKE(cuDeviceGet, ""),
    FAKE(cuDeviceGetName, ""),
    FAKE(cuDeviceTotalMem, "_v2"),
    FAKE(cuDeviceGetAttribute, ""),
    FAKE(cuDevicePrimaryCtxRetain, ""),
    FAKE(cuDevicePrimaryCtxRelease, "_v2"),
    FAKE(cuCtxSetCurrent, ""),
    FAKE(cuModuleLoadDataEx, ""),
    FAKE(cuModuleUnload, ""),
    FAKE(cuModuleGetFunction, ""),
    FAKE(cuFuncSetAttribute, ""),
    FAKE(cuLaunchCooperativeKernel, ""),
    FAKE(cuMemAlloc, "_v2"),
    FAKE(cuMemFree, "_v2"),
    FAKE(cuMemsetD8Async, ""),
    FAKE(cuMemcpyHtoDAsync, "_v2"),
    FAKE(cuMemcpyDtoHAsync, "_v2"),
    FAKE(cuMemcpyDtoDAsync, "_v2"),
    FAKE(cuMemHostAlloc, ""),
    FAKE(cuMemFreeHost, ""),
    FAKE(cuMemHostRegister, "_v2"),
    FAKE(cuMemHostUnregister, ""),
    FAKE(cuMemGetInfo, "_v2"),
    FAKE(cuStreamCreate, ""),
    FAKE(cuStreamDestroy, "_v2"),
    FAKE(cuStreamSynchronize, ""),
    FAKE(cuStreamQuery, ""),
    FAKE(cuMemGetAllocationGranularity, ""),
    FAKE(cuMemAddressReserve, ""),
    FAKE(cuMemAddressFree, ""),
    FAKE(cuMemCreate, ""),
    FAKE(cuMemRelease, ""),
    FAKE(cuMemMap, ""),
    FAKE(cuMemUnmap, ""),
    FAKE(cuMemSetAccess, ""),
    FAKE(cuTensorMapEncodeTiled, ""),
};
#undef FAKE

void *__real_dlopen(const char *name, int flags);
void *__real_dlsym(void *library, const char *name);
void *__wrap_dlopen(const char *name, int flags);
void *__wrap_dlsym(void *library, const char *name);

void *__wrap_dlopen(const char *name, int flags) {
    return !name || strcmp(name, "libcuda.so.1") != 0 ? __real_dlopen(name, flags) : fake.missing ? NULL : (void *)&fake;
}
void *__wrap_dlsym(void *library, const char *name) {
    if (library != (void *)&fake) {
        return __real_dlsym(library, name);
    }
    for (size_t i = 0; i < sizeof fake_functions / sizeof fake_functions[0]; i++) {
        if (strcmp(fake_functions[i].name, name) == 0 && !(fake.lacks && strcmp(fake.lacks, name) == 0)) {
            return fake_functions[i].function;
        }
    }
    return NULL;
}

#endif
