/*
 * The user's NVIDIA driver, opened at run time: no toolkit is needed, to build
 * or to run. The few calls that are used are declared here, as the driver's
 * library has exported them since CUDA 9.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "device/cuda/driver.h"

typedef int cu_result; /* 0: success */
typedef int cu_device;
typedef uint64_t cu_pointer;
typedef struct cu_context_ *cu_context;
typedef struct cu_module_ *cu_module;
typedef struct cu_function_ *cu_function;
typedef struct cu_stream_ *cu_stream;
typedef unsigned long long cu_memory; /* a handle of memory without an address */

/* CUmemAllocationProp: what memory cuMemCreate makes. Type 1: pinned; location type 1: a device. */
typedef struct cu_allocation {
    int type, handle_types, location_type, location;
    void *windows;
    unsigned char flags[8];
} cu_allocation;

/* CUmemAccessDesc: who may do what with mapped memory. Flags 3: read and write. */
typedef struct cu_access {
    int location_type, location, flags;
} cu_access;

enum {
    CU_NOT_READY = 600,
    CU_OUT_OF_MEMORY = 2,
    CU_MULTIPROCESSORS = 16, /* device attributes */
    CU_MAJOR = 75,
    CU_MINOR = 76,
    CU_COOPERATIVE = 95,
    CU_VIRTUAL_MEMORY = 102,
    CU_SHARED_A_BLOCK = 97,
    CU_DYNAMIC_SHARED = 8, /* function attribute */
    CU_STREAM_NON_BLOCKING = 1,
    CU_HOST_PORTABLE_MAPPED = 3,
    CU_JIT_ERROR_LOG = 5, /* options of cuModuleLoadDataEx */
    CU_JIT_ERROR_LOG_SIZE = 6,
    OLDEST_MAJOR = 8, /* Ampere */
};

#define CU_CALLS(X)                                                                                                                                  \
    X(cuInit, (unsigned))                                                                                                                            \
    X(cuDeviceGetCount, (int *))                                                                                                                     \
    X(cuDeviceGet, (cu_device *, int))                                                                                                               \
    X(cuDeviceGetName, (char *, int, cu_device))                                                                                                     \
    X(cuDeviceTotalMem_v2, (size_t *, cu_device))                                                                                                    \
    X(cuDeviceGetAttribute, (int *, int, cu_device))                                                                                                 \
    X(cuDevicePrimaryCtxRetain, (cu_context *, cu_device))                                                                                           \
    X(cuDevicePrimaryCtxRelease_v2, (cu_device))                                                                                                     \
    X(cuCtxSetCurrent, (cu_context))                                                                                                                 \
    X(cuModuleLoadDataEx, (cu_module *, const void *, unsigned, int *, void **))                                                                     \
    X(cuModuleUnload, (cu_module))                                                                                                                   \
    X(cuModuleGetFunction, (cu_function *, cu_module, const char *))                                                                                 \
    X(cuFuncSetAttribute, (cu_function, int, int))                                                                                                   \
    X(cuLaunchCooperativeKernel, (cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, cu_stream, void **))            \
    X(cuMemAlloc_v2, (cu_pointer *, size_t))                                                                                                         \
    X(cuMemFree_v2, (cu_pointer))                                                                                                                    \
    X(cuMemsetD8Async, (cu_pointer, unsigned char, size_t, cu_stream))                                                                               \
    X(cuMemcpyHtoDAsync_v2, (cu_pointer, const void *, size_t, cu_stream))                                                                           \
    X(cuMemcpyDtoHAsync_v2, (void *, cu_pointer, size_t, cu_stream))                                                                                 \
    X(cuMemcpyDtoDAsync_v2, (cu_pointer, cu_pointer, size_t, cu_stream))                                                                             \
    X(cuMemHostAlloc, (void **, size_t, unsigned))                                                                                                   \
    X(cuMemFreeHost, (void *))                                                                                                                       \
    X(cuMemHostRegister_v2, (void *, size_t, unsigned))                                                                                              \
    X(cuMemHostUnregister, (void *))                                                                                                                 \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                                                         \
    X(cuStreamCreate, (cu_stream *, unsigned))                                                                                                       \
    X(cuStreamDestroy_v2, (cu_stream))                                                                                                               \
    X(cuStreamSynchronize, (cu_stream))                                                                                                              \
    X(cuStreamQuery, (cu_stream))                                                                                                                    \
    X(cuGetErrorString, (cu_result, const char **))

/* Memory and addresses apart: since CUDA 10.2. Without them forks copy. */
#define CU_MAPPING_CALLS(X)                                                                                                                          \
    X(cuMemGetAllocationGranularity, (size_t *, const cu_allocation *, int))                                                                         \
    X(cuMemAddressReserve, (cu_pointer *, size_t, size_t, cu_pointer, unsigned long long))                                                           \
    X(cuMemAddressFree, (cu_pointer, size_t))                                                                                                        \
    X(cuMemCreate, (cu_memory *, size_t, const cu_allocation *, unsigned long long))                                                                 \
    X(cuMemRelease, (cu_memory))                                                                                                                     \
    X(cuMemMap, (cu_pointer, size_t, size_t, cu_memory, unsigned long long))                                                                         \
    X(cuMemUnmap, (cu_pointer, size_t))                                                                                                              \
    X(cuMemSetAccess, (cu_pointer, size_t, const cu_access *, size_t))

static struct {
#define X(name, parameters) cu_result(*name) parameters;
    CU_CALLS(X) CU_MAPPING_CALLS(X)
#undef X
} cu;

/* Hopper's maps of matrices (since CUDA 12.0): type, rank, address, sizes, strides, box, steps, interleaving, order, promotion, what is outside. */
static cu_result (*cu_encode)(void *, int, unsigned, void *, const uint64_t *, const uint64_t *, const uint32_t *, const uint32_t *, int, int, int,
                              int);

/* Does the driver have all of CU_MAPPING_CALLS? */
static bool cu_maps;

/* Why the driver can't be used; empty: it can. */
static char cu_problem[200];
static pthread_once_t cu_once = PTHREAD_ONCE_INIT;

typedef struct card {
    sp_cuda_driver base;
    cu_device device;
    cu_context context;
    cu_module module;
    cu_function kernel;
    cu_stream work, copies; /* the kernel's, and the one beside it */
    cu_allocation piece;    /* what a piece is */
    cu_access access;       /* this card's */
} card;

/* The kernels as text, one for each generation of cards. */
extern const char sp_cuda_ptx_80[], sp_cuda_ptx_90[], sp_cuda_ptx_90a[];

static const char *words(cu_result r) {
    const char *text = NULL;
    return cu.cuGetErrorString && cu.cuGetErrorString(r, &text) == 0 && text ? text : "unknown error";
}

static void open_library(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(cu_problem, sizeof cu_problem, "there is no NVIDIA driver here (libcuda.so.1 was not found)");
        return;
    }
#define X(name, parameters)                                                                                                                          \
    *(void **)(void *)&cu.name = dlsym(library, #name);                                                                                              \
    if (!cu.name && !*cu_problem) {                                                                                                                  \
        snprintf(cu_problem, sizeof cu_problem, "the NVIDIA driver is too old: it lacks " #name);                                                    \
    }
    CU_CALLS(X)
#undef X
    cu_maps = true;
#define X(name, parameters)                                                                                                                          \
    *(void **)(void *)&cu.name = dlsym(library, #name);                                                                                              \
    cu_maps &= cu.name != NULL;
    CU_MAPPING_CALLS(X)
#undef X
    *(void **)(void *)&cu_encode = dlsym(library, "cuTensorMapEncodeTiled");
    if (!*cu_problem) {
        cu_result r = cu.cuInit(0);
        if (r) {
            snprintf(cu_problem, sizeof cu_problem, "the NVIDIA driver does not start: %.100s", words(r));
        }
    }
}

int sp_cuda_driver_count(void) {
    int n = 0;
    pthread_once(&cu_once, open_library);
    return *cu_problem || cu.cuDeviceGetCount(&n) ? 0 : n;
}

bool sp_cuda_driver_describe(int index, char *name, size_t capacity, uint64_t *total) {
    cu_device device;
    size_t bytes = 0;
    if (index >= sp_cuda_driver_count() || cu.cuDeviceGet(&device, index) || cu.cuDeviceGetName(name, (int)capacity, device)) {
        return false;
    }
    cu.cuDeviceTotalMem_v2(&bytes, device);
    *total = bytes;
    return true;
}

static sp_status failed(cu_result r, const char *what, sp_error *err) {
    return sp_fail(err, r == CU_OUT_OF_MEMORY ? SP_ERR_NO_MEMORY : SP_ERR_DEVICE, "%s: %s (%d)", what, words(r), r);
}

/* The driver works for one context at a time in each thread. */
static card *enter(sp_cuda_driver *driver) {
    card *c = (card *)(void *)driver;
    cu.cuCtxSetCurrent(c->context);
    return c;
}

/* For what is given back: the driver waits for the kernel first, and where that never ends it isn't asked. */
static bool enter_to_give_back(sp_cuda_driver *driver) {
    return !driver->hangs && enter(driver);
}

static sp_status card_alloc(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err) {
    enter(driver);
    cu_result r = cu.cuMemAlloc_v2(out, size ? size : 1);
    return r ? sp_fail(err, SP_ERR_NO_MEMORY, "no memory for %llu bytes on %s: %s", (unsigned long long)size, driver->name, words(r)) : SP_OK;
}

static void card_release(sp_cuda_driver *driver, uint64_t address) {
    if (enter_to_give_back(driver)) {
        cu.cuMemFree_v2(address);
    }
}

static uint64_t card_free_bytes(sp_cuda_driver *driver) {
    size_t free_bytes = 0, total = 0;
    enter(driver);
    cu.cuMemGetInfo_v2(&free_bytes, &total);
    return free_bytes;
}

static sp_status card_reserve(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err) {
    enter(driver);
    cu_result r = cu.cuMemAddressReserve(out, size, driver->piece, 0, 0);
    return r ? failed(r, "can't reserve addresses of the card", err) : SP_OK;
}

static void card_unreserve(sp_cuda_driver *driver, uint64_t address, uint64_t size) {
    if (enter_to_give_back(driver)) {
        cu.cuMemAddressFree(address, size);
    }
}

static sp_status card_piece_make(sp_cuda_driver *driver, uint64_t *out, sp_error *err) {
    card *c = enter(driver);
    cu_memory piece = 0;
    cu_result r = cu.cuMemCreate(&piece, driver->piece, &c->piece, 0);
    *out = piece;
    return r ? sp_fail(err, SP_ERR_NO_MEMORY, "no memory for %llu bytes on %s: %s", (unsigned long long)driver->piece, driver->name, words(r))
             : SP_OK;
}

static void card_piece_free(sp_cuda_driver *driver, uint64_t piece) {
    if (enter_to_give_back(driver)) {
        cu.cuMemRelease(piece);
    }
}

static void card_unmap(sp_cuda_driver *driver, uint64_t address, uint32_t n) {
    const bool given = enter_to_give_back(driver);
    for (uint32_t i = 0; given && i < n; i++) {
        cu.cuMemUnmap(address + i * driver->piece, driver->piece);
    }
}

static sp_status card_map(sp_cuda_driver *driver, uint64_t address, const uint64_t *pieces, uint32_t n, sp_error *err) {
    card *c = enter(driver);
    cu_result r = 0;
    uint32_t done = 0;
    while (!r && done < n) {
        r = cu.cuMemMap(address + done * driver->piece, driver->piece, 0, pieces[done], 0);
        done += !r;
    }
    r = r ? r : cu.cuMemSetAccess(address, n * driver->piece, &c->access, 1);
    if (r) {
        card_unmap(driver, address, done);
        return failed(r, "can't map memory of the card", err);
    }
    return SP_OK;
}

static sp_status card_copy(sp_cuda_driver *driver, uint64_t to, uint64_t from, uint64_t size, sp_error *err) {
    card *c = enter(driver);
    cu_result r = cu.cuMemcpyDtoDAsync_v2(to, from, size, c->copies);
    r = r ? r : cu.cuStreamSynchronize(c->copies);
    return r ? failed(r, "can't copy within the card", err) : SP_OK;
}

static sp_status card_fill(sp_cuda_driver *driver, uint64_t address, uint8_t value, uint64_t size, sp_error *err) {
    card *c = enter(driver);
    cu_result r = cu.cuMemsetD8Async(address, value, size, c->copies);
    r = r ? r : cu.cuStreamSynchronize(c->copies);
    return r ? failed(r, "can't fill memory of the card", err) : SP_OK;
}

static sp_status card_upload(sp_cuda_driver *driver, uint64_t to, const void *from, uint64_t size, sp_error *err) {
    card *c = enter(driver);
    cu_result r = cu.cuMemcpyHtoDAsync_v2(to, from, size, c->copies);
    r = r ? r : cu.cuStreamSynchronize(c->copies);
    return r ? failed(r, "can't copy to the card", err) : SP_OK;
}

static sp_status card_download(sp_cuda_driver *driver, void *to, uint64_t from, uint64_t size, sp_error *err) {
    card *c = enter(driver);
    cu_result r = cu.cuMemcpyDtoHAsync_v2(to, from, size, c->copies);
    r = r ? r : cu.cuStreamSynchronize(c->copies);
    return r ? failed(r, "can't copy from the card", err) : SP_OK;
}

static sp_status card_host_alloc(sp_cuda_driver *driver, uint64_t size, void **out, sp_error *err) {
    enter(driver);
    cu_result r = cu.cuMemHostAlloc(out, size, CU_HOST_PORTABLE_MAPPED);
    if (r) {
        return failed(r, "can't get memory that the card reads", err);
    }
    memset(*out, 0, size);
    return SP_OK;
}

static void card_host_release(sp_cuda_driver *driver, void *at) {
    if (enter_to_give_back(driver)) {
        cu.cuMemFreeHost(at);
    }
}

static bool card_register(sp_cuda_driver *driver, void *at, uint64_t size) {
    enter(driver);
    return cu.cuMemHostRegister_v2(at, size, CU_HOST_PORTABLE_MAPPED) == 0;
}

static void card_unregister(sp_cuda_driver *driver, void *at) {
    if (enter_to_give_back(driver)) {
        cu.cuMemHostUnregister(at);
    }
}

static sp_status card_map_matrix(sp_cuda_driver *driver, const sp_cuda_matrix *m, void *map, sp_error *err) {
    enum { BYTES = 0, HALVES = 6, AS_THEY_LIE = 0, ORDERED = 3, LINES = 2 /* of 128 bytes come into the second cache as a whole */ };
    const uint32_t box[4] = {m->each, m->rows, 1, 1}, steps[4] = {1, 1, 1, 1};
    uint64_t strides[3];
    _Alignas(64) uint8_t made[K_MAP];
    enter(driver);
    for (int i = 0; i < 3; i++) { /* of one row or plane it says nothing, but must be there */
        strides[i] = m->ne[i + 1] > 1 ? m->nb[i + 1] : i ? strides[i - 1] : (m->ne[0] * m->element + 15) / 16 * 16;
    }
    cu_result r = cu_encode(made, m->element == 1 ? BYTES : HALVES, 4, (void *)(uintptr_t)m->at, m->ne, strides, box, steps, 0,
                            m->ordered ? ORDERED : AS_THEY_LIE, LINES, 0);
    memcpy(map, made, sizeof made);
    return r ? failed(r, "can't describe a matrix to the card", err) : SP_OK;
}

static sp_status card_launch(sp_cuda_driver *driver, k_queue *queue, uint64_t state, sp_error *err) {
    card *c = enter(driver);
    uint32_t ring = driver->ring;
    void *arguments[] = {&queue, &state, &ring};
    cu_result r = cu.cuMemsetD8Async(state, 0, sizeof(k_state), c->work);
    r = r ? r : cu.cuLaunchCooperativeKernel(c->kernel, driver->blocks, 1, 1, K_CARD_LAUNCHED, 1, 1, driver->shared, c->work, arguments);
    return r ? failed(r, "can't start the kernel", err) : SP_OK;
}

static void card_ring(sp_cuda_driver *driver) {
    (void)driver; /* the kernel polls */
}

static sp_status card_wait(sp_cuda_driver *driver, const k_queue *queue, uint32_t number, sp_error *err) {
    uint32_t left = __atomic_load_n(&queue->left, __ATOMIC_ACQUIRE);
    for (int i = 0; i < 20000; i++) {
        if (__atomic_load_n(&queue->done, __ATOMIC_ACQUIRE) == number || __atomic_load_n(&queue->left, __ATOMIC_ACQUIRE) != left) {
            return SP_OK;
        }
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    card *c = enter(driver);
    cu_result r = cu.cuStreamQuery(c->work);
    return r && r != CU_NOT_READY ? failed(r, "the kernel has failed", err) : SP_OK;
}

static sp_status card_join(sp_cuda_driver *driver, sp_error *err) {
    card *c = enter(driver);
    cu_result r = cu.cuStreamSynchronize(c->work);
    return r ? failed(r, "the kernel has failed", err) : SP_OK;
}

static void card_stop(sp_cuda_driver *driver, uint64_t state) {
    static const uint32_t one = 1;
    sp_error ignored;
    card_upload(driver, state + offsetof(k_state, stop), &one, sizeof one, &ignored);
}

static void card_close(sp_cuda_driver *driver) {
    card *c = (card *)(void *)driver;
    if (c->context && enter_to_give_back(driver)) {
        if (c->work) {
            cu.cuStreamDestroy_v2(c->work);
        }
        if (c->copies) {
            cu.cuStreamDestroy_v2(c->copies);
        }
        if (c->module) {
            cu.cuModuleUnload(c->module);
        }
        cu.cuCtxSetCurrent(NULL);
        cu.cuDevicePrimaryCtxRelease_v2(c->device);
    }
    free(c);
}

static const sp_cuda_driver_ops card_ops = {
    .close = card_close,
    .alloc = card_alloc,
    .release = card_release,
    .free_bytes = card_free_bytes,
    .reserve = card_reserve,
    .unreserve = card_unreserve,
    .piece_make = card_piece_make,
    .piece_free = card_piece_free,
    .map = card_map,
    .unmap = card_unmap,
    .copy = card_copy,
    .fill = card_fill,
    .upload = card_upload,
    .download = card_download,
    .host_alloc = card_host_alloc,
    .host_release = card_host_release,
    .host_register = card_register,
    .host_unregister = card_unregister,
    .map_matrix = card_map_matrix,
    .launch = card_launch,
    .ring = card_ring,
    .wait = card_wait,
    .join = card_join,
    .stop = card_stop,
};

/* The driver compiles the kernels for this card. */
static sp_status load_kernels(card *c, int major, int minor, sp_error *err) {
    static char log[2000];
    int options[] = {CU_JIT_ERROR_LOG, CU_JIT_ERROR_LOG_SIZE};
    void *values[] = {log, (void *)(uintptr_t)sizeof log};
    c->base.maps = major == 9 && minor == 0 && c->base.ring && cu_encode; /* Hopper: its tensor cores have instructions of their own */
    cu_result r = c->base.maps ? cu.cuModuleLoadDataEx(&c->module, sp_cuda_ptx_90a, 2, options, values) : 0;
    if (r || !c->base.maps) { /* drivers before CUDA 12.3 don't know all of them */
        c->base.maps = false;
        r = cu.cuModuleLoadDataEx(&c->module, major >= 9 ? sp_cuda_ptx_90 : sp_cuda_ptx_80, 2, options, values);
    }
    if (r) {
        return sp_fail(err, SP_ERR_DEVICE, "%s does not take the kernels: %s: %.300s", c->base.name, words(r), log);
    }
    r = cu.cuModuleGetFunction(&c->kernel, c->module, "sp_cuda_resident");
    r = r ? r : cu.cuFuncSetAttribute(c->kernel, CU_DYNAMIC_SHARED, (int)c->base.shared);
    r = r ? r : cu.cuStreamCreate(&c->work, CU_STREAM_NON_BLOCKING);
    r = r ? r : cu.cuStreamCreate(&c->copies, CU_STREAM_NON_BLOCKING);
    return r ? failed(r, "can't set up the kernel", err) : SP_OK;
}

/* Finds out whether, and in which pieces, memory can be mapped at addresses of its own: by doing it, since some drivers say that they can and refuse.
 */
static void find_pieces(card *c) {
    int able = 0;
    size_t piece = 0;
    uint64_t at = 0, handle = 0;
    sp_cuda_driver *driver = &c->base;
    c->piece = (cu_allocation){.type = 1, .location_type = 1, .location = c->device};
    c->access = (cu_access){.location_type = 1, .location = c->device, .flags = 3};
    if (!cu_maps || cu.cuDeviceGetAttribute(&able, CU_VIRTUAL_MEMORY, c->device) || !able || cu.cuMemGetAllocationGranularity(&piece, &c->piece, 0)) {
        return;
    }
    driver->piece = piece;
    bool made = card_piece_make(driver, &handle, NULL) == SP_OK, reserved = card_reserve(driver, piece, &at, NULL) == SP_OK;
    bool mapped = made && reserved && card_map(driver, at, &handle, 1, NULL) == SP_OK;
    if (mapped) {
        card_unmap(driver, at, 1);
    }
    if (reserved) {
        card_unreserve(driver, at, piece);
    }
    if (made) {
        card_piece_free(driver, handle);
    }
    driver->piece = mapped ? piece : 0;
}

static sp_status start(card *c, int index, sp_error *err) {
    int major = 0, minor = 0, blocks = 0, cooperative = 0, shared = 0;
    size_t free_bytes = 0, total = 0;
    cu_result r = cu.cuDeviceGet(&c->device, index);
    r = r ? r : cu.cuDeviceGetName(c->base.name, sizeof c->base.name, c->device);
    r = r ? r : cu.cuDeviceGetAttribute(&major, CU_MAJOR, c->device);
    r = r ? r : cu.cuDeviceGetAttribute(&minor, CU_MINOR, c->device);
    r = r ? r : cu.cuDeviceGetAttribute(&blocks, CU_MULTIPROCESSORS, c->device);
    r = r ? r : cu.cuDeviceGetAttribute(&cooperative, CU_COOPERATIVE, c->device);
    r = r ? r : cu.cuDeviceGetAttribute(&shared, CU_SHARED_A_BLOCK, c->device);
    if (r) {
        return failed(r, "can't ask the card what it is", err);
    }
    if (major < OLDEST_MAJOR || !cooperative) {
        return sp_fail(err, SP_ERR_UNSUPPORTED,
                       "%s has compute capability %d.%d; samepage needs %d.0 "
                       "(Ampere) or later",
                       c->base.name, major, minor, OLDEST_MAJOR);
    }
    c->base.ring = major >= 9 && shared >= K_SHARED; /* copies by the bulk came with 9.0 */
    c->base.shared = c->base.ring ? K_SHARED : K_SHARED_LEAST;
    r = cu.cuDevicePrimaryCtxRetain(&c->context, c->device);
    if (r) {
        c->context = NULL;
        return failed(r, "can't use the card", err);
    }
    enter(&c->base);
    cu.cuMemGetInfo_v2(&free_bytes, &total);
    c->base.memory_free = free_bytes;
    c->base.memory_total = total;
    c->base.blocks = (uint32_t)blocks;
    find_pieces(c);
    return load_kernels(c, major, minor, err);
}

sp_status sp_cuda_driver_open(int index, sp_cuda_driver **out, sp_error *err) {
    int n = 0;
    *out = NULL;
    pthread_once(&cu_once, open_library);
    if (*cu_problem) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "no device \"cuda:%d\": %s", index, cu_problem);
    }
    cu_result r = cu.cuDeviceGetCount(&n);
    if (r) {
        return failed(r, "can't count the cards", err);
    }
    if (index >= n) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "no device \"cuda:%d\": the driver knows %d card%s", index, n, n == 1 ? "" : "s");
    }
    card *c = calloc(1, sizeof *c);
    if (!c) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    c->base.ops = &card_ops;
    c->base.slow = 1;
    sp_status status = start(c, index, err);
    if (status != SP_OK) {
        card_close(&c->base);
        return status;
    }
    *out = &c->base;
    return SP_OK;
}
