/* What the fetching warp does on Hopper until the ring's memory is the ring's: it fills stages. */
#ifndef SP_DEVICE_CUDA_KERNEL_FETCH_HOPPER_H
#define SP_DEVICE_CUDA_KERNEL_FETCH_HOPPER_H

#include "device/cuda/kernel_attend_hopper.h"
#include "device/cuda/kernel_tiles_hopper.h"

#ifdef K_WGMMA

/* What it knows from one schedule to the next. */
typedef struct k_fetched {
    k_stage_place at;
    uint32_t jobs;
} k_fetched;

/* One thread. */
K_FN void k_serve_stages(k_fetched *f) {
    const k_control *c = k_control_at();
    for (;;) {
        if (k_bar_passed(&c->asked, f->jobs & 1)) {
            const k_job job = c->job;
            const k_op *op = (const k_op *)(uintptr_t)job.op;
            f->jobs++;
            if (op->op == K_OP_TILES) {
                k_fetch_tiles(op, job.part, &f->at);
            } else {
                k_fetch_positions(op, &job, &f->at);
            }
        } else if (*(const volatile uint32_t *)&c->open || *(const volatile uint32_t *)&c->stop) {
            return;
        }
    }
}

#endif

#endif
