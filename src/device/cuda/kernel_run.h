/*
 * What a block has in shared memory of the phase that runs and of those to come: works are brought two phases ahead, operations one, so that nothing
 * waits for them behind a barrier. Read by their place, operations are known to lie there, and read faster.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_RUN_H
#define SP_DEVICE_CUDA_KERNEL_RUN_H

#include "device/cuda/platform.h"

_Static_assert(sizeof(k_op) <= K_OPS / 2 && sizeof(k_op) % 16 == 0 && sizeof(k_schedule) % 16 == 0 && sizeof(k_phase) % 16 == 0,
               "two operations fit, aligned");
enum { K_HEAD = offsetof(k_schedule, first) };
_Static_assert(offsetof(k_run, works) == K_HEAD && offsetof(k_run, n) == offsetof(k_schedule, n_phases) &&
                   offsetof(k_run, answer) == offsetof(k_schedule, answer) && offsetof(k_run, turn) == offsetof(k_schedule, turn),
               "it is laid out alike");
_Static_assert(offsetof(k_schedule, turn) % 16 == 0 && offsetof(k_schedule, small) % 16 == 0, "what is read by 16 bytes");

K_INLINE volatile k_run *k_run_at(void) {
    return &k_control_anew()->run;
}
/* Where a phase's operation lies in shared memory, or will. */
K_INLINE uint32_t k_op_offset(uint32_t phase) {
    return K_CONTROL + (phase & 1) * (K_OPS / 2);
}
K_INLINE k_op *k_op_place(uint32_t phase) {
    return (k_op *)(void *)(k_shared_start() + k_op_offset(phase));
}
/* The phase that runs; its operation. The thread is asked for anew: where the phase lies would be kept over a phase's work, and spilled. */
K_INLINE uint32_t k_phase_at(void) {
    return k_run_at()->at[k_thread_anew() / K_LANES];
}
K_INLINE void k_go_to(uint32_t phase) {
    const uint32_t thread = k_thread_anew();
    if (thread % K_LANES == 0) {
        k_run_at()->at[thread / K_LANES] = phase;
    }
    k_warp_sync();
}
/* What the block does first in it. */
K_INLINE k_work k_work_of(uint32_t phase) {
    const k_words4 w = *(const k_words4 *)(const void *)&k_control_anew()->run.works[phase & 3];
    return (k_work){w.w[0], w.w[1], w.w[2], w.w[3]};
}
K_INLINE k_op *k_op_at(void) {
    return k_op_place(k_phase_at());
}

/* A phase's operation, and the work of the one behind it. */
K_INLINE void k_bring(uint32_t phase) {
    const uint32_t thread = k_thread_anew();
    k_run *r = &k_control_at()->run;
    const k_work work = r->works[phase & 3];
    const uint8_t *from = (const uint8_t *)&r->ops[work.op];
    for (uint32_t i = thread * 16; work.op != K_NO_WORK && i < sizeof(k_op); i += K_THREADS * 16) {
        k_copy_async((uint8_t *)k_op_place(phase) + i, from + i, true);
    }
    if (thread == 0) {
        k_copy_async(&r->works[(phase + 1) & 3], &r->list[(uint64_t)(phase + 1) * r->blocks], true);
    }
}

/* Once a phase, where what it waits for doesn't wait for this. */
K_INLINE void k_bring_next(void) {
    k_bring(k_phase_at() + 1);
}

#endif
