/*
 * What a block has in shared memory of itself, of the run, and of the command: written by one thread or copied there, read by all. Shared by both
 * sides of platform.h.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_CONTROL_H
#define SP_DEVICE_CUDA_KERNEL_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "device/cuda/schedule.h"

typedef uint16_t __attribute__((may_alias)) k_u16;
typedef uint32_t __attribute__((may_alias)) k_u32;
typedef int32_t __attribute__((may_alias)) k_i32;
typedef int64_t __attribute__((may_alias)) k_i64;
typedef float __attribute__((may_alias)) k_f32;
typedef struct k_floats2 {
    float f[2];
} __attribute__((may_alias, aligned(8))) k_floats2;
typedef struct k_floats4 {
    float f[4];
} __attribute__((may_alias, aligned(16))) k_floats4;
typedef struct k_words4 {
    uint32_t w[4];
} __attribute__((may_alias, aligned(16))) k_words4;

typedef struct k_words2 {
    uint32_t w[2];
} __attribute__((may_alias, aligned(8))) k_words2;

/* What a block knows of itself: in shared memory on a card, since what threads keep in their own is brought anew behind each barrier. */
typedef struct k_block {
    uint32_t block, blocks;
    k_queue *queue;
    k_state *state;
    uint32_t barriers;            /* passed since the launch */
    bool ring;                    /* weights come through it */
    uint32_t taken[K_CARD_WARPS]; /* the next tile out of it, by warp */
    uint64_t packet;              /* the queue's */
    void *host;                   /* the emulated device's */
} k_block;

/* The schedule that runs. What a k_schedule begins with comes as it is. */
typedef struct k_run {
    const k_phase *phases;
    const k_op *ops;
    uint64_t streams;
    uint32_t n, n_ops, n_streams; /* n: phases */
    uint32_t ring_from;
    uint32_t reserved[2], turn, answer_bytes;
    uint64_t answer;
    k_work works[4]; /* by phase */
    uint32_t stop[4];
    const k_work *list; /* the block's works: every so many blocks one */
    volatile uint64_t *marks;
    uint32_t blocks;
    uint32_t at[K_CARD_WARPS]; /* the phase that runs, by warp: so none waits for another to have it read */
    const uint32_t *halt;      /* the host's: is the run stopped? */
} __attribute__((aligned(16))) k_run;

/* What the fetching warp shall bring: a part of a K_OP_TILES; positions [from, to) of head `part` and batch `plane` of a K_OP_ATTEND. */
typedef struct k_job {
    uint64_t op;
    uint32_t part, plane, from, to;
} k_job;

/* The last command: its number, its words (block 0), what the block was told, and how many there were with K_LATER. */
typedef struct k_command {
    uint32_t number, words[K_COMMAND];
    uint64_t go;
    uint32_t later;
    bool idle; /* none came for a while */
} k_command;

/* In K_CONTROL: what the fetching warp is to do, and the ring's barriers. */
typedef struct k_control {
    uint64_t schedule; /* 0: leave */
    uint32_t stop;
    uint32_t open; /* the ring's memory is the ring's */
    uint32_t seen; /* what arrived at the grid's barrier */
    uint64_t full[K_SLOTS * K_PIECES], empty[K_SLOTS];
    /* The same for stages (kernel_stages_hopper.h): what it was asked for; where those that compute are. */
    k_job job;
    uint64_t asked, stage_full[K_TILE_STAGES], stage_empty[K_TILE_STAGES];
    uint32_t stage, round;
    k_block block;
    k_run run;
    k_command command;
} k_control;
_Static_assert(sizeof(k_control) <= K_CONTROL, "it fits");

#endif
