/*
 * What the device needs of a driver: memory, copies, and a kernel that stays.
 * Two of them: the user's libcuda, and threads of the host (cuda-emulated).
 */
#ifndef SP_DEVICE_CUDA_DRIVER_H
#define SP_DEVICE_CUDA_DRIVER_H

#include <stddef.h>

#include "device/cuda/schedule.h"
#include "samepage.h"

typedef struct sp_cuda_driver sp_cuda_driver;

/* A matrix of which the card brings parts by itself: of so many rows, so many elements of 1 or 2 bytes, in the tensor cores' order or as they lie.
 * Element 0 and all strides but the first are at multiples of 16 bytes. */
typedef struct sp_cuda_matrix {
    uint64_t at, ne[4], nb[4];
    uint32_t element, each, rows;
    bool ordered;
} sp_cuda_matrix;

/* Every function but close may fail with SP_ERR_DEVICE or SP_ERR_NO_MEMORY.
 * Callers see to it that one thread calls at a time, and that the kernel does
 * not run while memory is given out or taken back (wait may be called from
 * any). */
typedef struct sp_cuda_driver_ops {
    void (*close)(sp_cuda_driver *driver);
    /* Memory of the device; its content is unspecified. */
    sp_status (*alloc)(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err);
    void (*release)(sp_cuda_driver *driver, uint64_t address);
    /* Bytes that nobody has taken, those of other programs on the card too. */
    uint64_t (*free_bytes)(sp_cuda_driver *driver);
    /* Pieces of memory without an address, and addresses without memory, of multiples of `piece` bytes; a piece may have several. Where `piece` is 0
     * these are NULL. */
    sp_status (*reserve)(sp_cuda_driver *driver, uint64_t size, uint64_t *out, sp_error *err);
    void (*unreserve)(sp_cuda_driver *driver, uint64_t address, uint64_t size);
    sp_status (*piece_make)(sp_cuda_driver *driver, uint64_t *out, sp_error *err);
    void (*piece_free)(sp_cuda_driver *driver, uint64_t piece);
    /* n pieces, one behind the other, at reserved addresses where nothing is; on failure none. */
    sp_status (*map)(sp_cuda_driver *driver, uint64_t address, const uint64_t *pieces, uint32_t n, sp_error *err);
    void (*unmap)(sp_cuda_driver *driver, uint64_t address, uint32_t n);
    /* Between addresses of the device. */
    sp_status (*copy)(sp_cuda_driver *driver, uint64_t to, uint64_t from, uint64_t size, sp_error *err);
    sp_status (*fill)(sp_cuda_driver *driver, uint64_t address, uint8_t value, uint64_t size, sp_error *err);
    /* May be called while the kernel runs. */
    sp_status (*upload)(sp_cuda_driver *driver, uint64_t to, const void *from, uint64_t size, sp_error *err);
    sp_status (*download)(sp_cuda_driver *driver, void *to, uint64_t from, uint64_t size, sp_error *err);
    /* Memory of the host that the device reads and writes at the same address;
     * zeroed. */
    sp_status (*host_alloc)(sp_cuda_driver *driver, uint64_t size, void **out, sp_error *err);
    void (*host_release)(sp_cuda_driver *driver, void *at);
    /* Lets the device read and write pages of the host. False: it can't. */
    bool (*host_register)(sp_cuda_driver *driver, void *at, uint64_t size);
    void (*host_unregister)(sp_cuda_driver *driver, void *at);
    /* What the card knows a matrix by: K_MAP bytes. NULL where driver->maps is false. */
    sp_status (*map_matrix)(sp_cuda_driver *driver, const sp_cuda_matrix *matrix, void *map, sp_error *err);
    /* Starts the kernel on all blocks; the one before has left. */
    sp_status (*launch)(sp_cuda_driver *driver, k_queue *queue, uint64_t state, sp_error *err);
    /* The doorbell was rung. */
    void (*ring)(sp_cuda_driver *driver);
    /* Waits until queue->done is number, or the kernel has left, or about a
     * millisecond. SP_ERR_DEVICE: the device has failed. */
    sp_status (*wait)(sp_cuda_driver *driver, const k_queue *queue, uint32_t number, sp_error *err);
    /* Waits for the end of a kernel that leaves. */
    sp_status (*join)(sp_cuda_driver *driver, sp_error *err);
    /* Tells a running kernel to leave at its next barrier. */
    void (*stop)(sp_cuda_driver *driver, uint64_t state);
} sp_cuda_driver_ops;

struct sp_cuda_driver {
    const sp_cuda_driver_ops *ops;
    uint32_t blocks; /* of the kernel */
    uint32_t shared; /* bytes of a block's shared memory: K_SHARED or K_SHARED_LEAST */
    bool ring;       /* blocks have one */
    bool maps;       /* tiles are brought by maps of matrices */
    uint64_t piece;  /* bytes; 0: the driver can't map memory at several addresses */
    bool hangs;      /* set by who gives up on a kernel that never ends: what gives memory back, and close, do nothing from then on */
    uint32_t slow;   /* how many times slower than a card a run may be before it is
                        stopped */
    char name[160];
    uint64_t memory_total, memory_free;
};

/* The driver of card number `index`. SP_ERR_NOT_FOUND: no libcuda.so.1, or no
 * such card, with what was found. SP_ERR_UNSUPPORTED: the card is too old. */
sp_status sp_cuda_driver_open(int index, sp_cuda_driver **out, sp_error *err);
/* How many cards there are; 0 without a driver. */
int sp_cuda_driver_count(void);
/* Describes a card without starting it. */
bool sp_cuda_driver_describe(int index, char *name, size_t capacity, uint64_t *total);

#define SP_CUDA_EMULATED_NAME "an NVIDIA GPU, emulated by threads (for tests)"
sp_status sp_cuda_emulated_open(sp_cuda_driver **out, sp_error *err);

#endif
