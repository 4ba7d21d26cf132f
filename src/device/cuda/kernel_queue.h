/*
 * The queue and what blocks tell each other of it: block 0 waits for commands, the others for block 0. Like platform.h it has two sides; the host's
 * is in driver_emulated.c.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_QUEUE_H
#define SP_DEVICE_CUDA_KERNEL_QUEUE_H

#include "device/cuda/platform.h"

#ifdef __NVPTX__

/* Waits for a command: c->number changes, unless there is none for a while. One warp calls this, a lane for each word. */
K_FN void k_await_command(const k_block *b, volatile k_command *c) {
    uint32_t last = c->number, lane = k_lane() < K_COMMAND ? k_lane() : 0, polls = 0;
    uint64_t since = k_now_ns();
    for (;;) {
        uint64_t word;
        __asm__ volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(word) : "l"(&b->queue->command[lane]) : "memory");
        uint32_t number = (uint32_t)(word >> 32), first = (uint32_t)__nvvm_shfl_sync_idx_i32(0xffffffffu, (int)number, 0, 31);
        if (__nvvm_vote_all_sync(0xffffffffu, number == first && number != last)) {
            c->words[lane] = (uint32_t)word;
            c->number = number;
            return;
        }
        if (++polls % 64 == 0 && __nvvm_vote_any_sync(0xffffffffu, k_now_ns() - since > b->queue->idle_ns)) {
            return;
        }
    }
}

/* Block 0 tells the others, and they wait for it. One thread calls these. */
K_FN void k_tell(k_block *b, uint64_t go) {
    __asm__ volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(&b->state->go), "l"(go) : "memory");
}
K_FN uint64_t k_await_told(k_block *b, uint64_t turn) {
    uint64_t go;
    do {
        __asm__ volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(go) : "l"(&b->state->go) : "memory");
    } while ((go & K_TURN) == turn);
    return go;
}

/* Block 0 says that so many commands have their copies, and the others wait for that. One thread calls these. */
K_FN void k_tell_ready(k_block *b, uint32_t n) {
    __asm__ volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(&b->state->ready), "r"(n) : "memory");
}
K_FN void k_await_ready(k_block *b, uint32_t n) {
    while (k_load_acquire(&b->state->ready) != n) {
    }
}

/* 16 bytes of the host's memory, or another's, past all caches that are this block's. */
K_FN k_words4 k_host16(const void *at) {
    k_words4 v;
    __asm__ volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(at));
    return v;
}

/* A word that the host reads, by itself: whole, and in no order with others. */
K_FN void k_store_word(uint64_t *at, uint64_t v) {
    __asm__ volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory");
}
/* The command is done. What it wrote is in the second cache: blocks read it there, and so does the card's copying engine. The host's memory isn't. */
K_FN void k_store_done(uint32_t *at, uint32_t v) {
    __asm__ volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
/* What this thread, and those that it met, wrote is there for all blocks. */
K_FN void k_show(void) {
    __asm__ volatile("fence.acq_rel.gpu;" ::: "memory");
}

#else

void k_await_command(const k_block *b, volatile k_command *c);
void k_tell(k_block *b, uint64_t go);
uint64_t k_await_told(k_block *b, uint64_t turn);
void k_tell_ready(k_block *b, uint32_t n);
void k_await_ready(k_block *b, uint32_t n);
K_FN k_words4 k_host16(const void *at) {
    return *(const k_words4 *)at;
}
K_FN void k_store_word(uint64_t *at, uint64_t v) {
    __atomic_store_n(at, v, __ATOMIC_RELAXED);
}
K_FN void k_store_done(uint32_t *at, uint32_t v) {
    k_store_system(at, v);
}
K_FN void k_show(void) {
}

#endif

#endif
