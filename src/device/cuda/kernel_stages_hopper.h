/*
 * Stages of shared memory on Hopper: the fetching warp fills them by bulk copies with what those that compute have asked for, and these give them
 * back, warp by warp.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STAGES_HOPPER_H
#define SP_DEVICE_CUDA_KERNEL_STAGES_HOPPER_H

#include "device/cuda/kernel_ring.h"
#include "device/cuda/kernel_wgmma.h"

#ifdef K_WGMMA

/* The stage that is next: stages are used again and again. */
typedef struct k_stage_place {
    uint32_t stage, round;
} k_stage_place;

K_INLINE void k_pass(k_stage_place *at) {
    at->stage = at->stage + 1 == K_TILE_STAGES ? 0 : at->stage + 1;
    at->round ^= at->stage == 0;
}
K_INLINE uint8_t *k_stages(void) {
    return k_shared() + 1024;
}
K_INLINE void k_await(const uint64_t *bar, uint32_t parity) {
    while (!k_bar_passed(bar, parity)) {
    }
}

/* ---- those that compute ---- */

/* All of the block. Has the fetching warp begin, if there is something to bring; where its first stage will be. */
K_INLINE k_stage_place k_ask(bool any, const k_job *job) {
    k_control *control = k_control_at();
    k_ring_memory_done(); /* what was written into the stages comes before what is brought there */
    k_block_sync();
    k_stage_place at = {control->stage, control->round};
    if (k_thread() == 0 && any) {
        control->job = *job;
        k_bar_arrive(&control->asked);
    }
    return at;
}
/* All of the block: they are done with what they asked for. */
K_INLINE void k_leave_stages(const k_stage_place *at) {
    k_control *control = k_control_at();
    k_block_sync();
    if (k_thread() == 0) {
        control->stage = at->stage, control->round = at->round;
    }
    k_ring_memory_done();
}
K_INLINE void k_await_stage(const k_stage_place *at) {
    k_await(&k_control_at()->stage_full[at->stage], at->round);
}
/* The warp is done with a stage. */
K_INLINE void k_give_stage(uint32_t stage) {
    __nvvm_bar_warp_sync(0xffffffffu);
    if (k_lane() == 0) {
        k_bar_arrive(&k_control_at()->stage_empty[stage]);
    }
}

/* Four warps and the other four take turns: each waits for its own, and gives the other's. */
K_INLINE void k_take_turn(uint32_t four) {
    __asm__ volatile("bar.sync %0, 256;" ::"r"(2 + four) : "memory");
}
K_INLINE void k_give_turn(uint32_t four) {
    __asm__ volatile("bar.arrive %0, 256;" ::"r"(2 + four) : "memory");
}
_Static_assert(K_THREADS == 256, "four warps and four");

/* ---- the fetching warp, one thread ---- */

/* Waits until the stage may be filled; says how much will come. Returns the barrier that counts it. */
K_INLINE const uint64_t *k_take_stage(const k_stage_place *at, uint32_t bytes) {
    k_control *control = k_control_at();
    k_await(&control->stage_empty[at->stage], at->round ^ 1);
    k_bar_expect(&control->stage_full[at->stage], bytes);
    return &control->stage_full[at->stage];
}

#endif

#endif
