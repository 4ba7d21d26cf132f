/*
 * What the host hands to the kernel: a schedule of phases, each a row of
 * operations that depend on nothing new, and the queue by which it is told to
 * run one. Shared by the host's C and the kernels' C; every field has the same
 * size on both sides.
 */
#ifndef SP_DEVICE_CUDA_SCHEDULE_H
#define SP_DEVICE_CUDA_SCHEDULE_H

#include <stdint.h>

enum {
    K_MAX_SRC = 7,
    K_MAX_PARAMS = 16,
    K_CARD_THREADS = 256,    /* of a block on a card */
    K_COLUMNS = 8,           /* columns of a product that a warp computes at once */
    K_SHARED = 160 * 1024,   /* bytes of shared memory a block */
    K_ATTENTION_CHUNK = 256, /* positions of a cache that a block attends to at once */
    K_ATTENTION_HEADS = 16,  /* heads that share keys and are computed together at most */
};

/* Layouts of weights that only this device has: a row's quants first, 16-byte
 * aligned, then its scales. */
enum { K_SHARED_OPS = 2048, K_SHARED_WORK = K_SHARED - K_SHARED_OPS };

enum { K_TYPE_Q4_0_SPLIT = 1002, K_TYPE_Q8_0_SPLIT = 1008 };

/* Operations beside those of programs, numbered on behind them. */
enum { K_OP_ATTENTION_COMBINE = 1000, K_OP_COPY_BYTES, K_OP_ATTENTION_SPLIT };

typedef struct k_tensor {
    uint64_t data; /* the device's address */
    int64_t nb[4];
    int32_t ne[4];
    uint32_t type, reserved;
} k_tensor;

/* What is done to a product's right side while it is read into shared memory,
 * and to its result. */
enum { K_BEFORE_NONE = 0, K_BEFORE_RMS_NORM = 1, K_BEFORE_GLU = 2, K_BEFORE_COMBINE = 3 };
enum { K_AFTER_NONE = 0, K_AFTER_ADD = 1 };

typedef struct k_op {
    uint32_t op;      /* SP_OP_* or K_OP_* */
    uint32_t n_parts; /* blocks' worth of work that it is cut into */
    uint32_t before, after;
    uint32_t n_src, split; /* split: pieces of the cache (attention) */
    uint32_t params[K_MAX_PARAMS];
    uint64_t scratch, table; /* device addresses: partial results; numbers that
                                the host worked out */
    k_tensor dst, src[K_MAX_SRC];
    k_tensor extra[3]; /* of what is fused before (the norm's weight, the gate)
                          and after (the residual) */
} k_op;

typedef struct k_phase {
    uint32_t first_op, n_ops, n_parts, reserved;
} k_phase;

/* What a block does first in a phase: this part of this operation. K_NO_WORK:
 * nothing. */
typedef struct k_work {
    uint32_t op, part;
} k_work;

enum { K_NO_WORK = 0x7fffffff };

typedef struct k_schedule {
    uint64_t phases, ops, works; /* device addresses; works: [n_phases][blocks] */
    uint32_t n_phases, n_ops;
} k_schedule;

/* Bytes that are copied before the schedule runs, between memory of the host
 * and the device's. */
typedef struct k_copy {
    uint64_t to, from, bytes;
} k_copy;

enum { K_MAX_COPIES = 32 };

/*
 * The queue lies in memory of the host that the device reads. The host writes
 * the command, then doorbell; the kernel copies, runs the schedule (0: none)
 * and sets done to the doorbell's value. leave: it leaves then. idle_ns: it
 * leaves after that long without work.
 */
typedef struct k_queue {
    uint32_t doorbell, n_copies;
    uint64_t schedule;
    uint32_t leave, reserved;
    uint64_t idle_ns;
    k_copy copies[K_MAX_COPIES];
    uint8_t apart[128];
    uint32_t done, stopped; /* written by the kernel alone */
    uint32_t left;          /* counts the kernel's exits */
    uint32_t reserved2[29];
} k_queue;

/* The kernel's own memory on the device. */
typedef struct k_state {
    uint32_t arrived; /* blocks at the barrier, ever; the upper bit: stopped */
    uint32_t apart[31];
    uint32_t stop; /* written by the host: leave at the next barrier; the run in
                      progress is lost */
    uint32_t apart2[31];
    /* what block 0 read from the queue, for all */
    uint32_t command, n_copies, leave, reserved;
    uint64_t schedule;
    k_copy copies[K_MAX_COPIES];
} k_state;

#endif
