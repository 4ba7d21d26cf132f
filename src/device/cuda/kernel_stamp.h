/*
 * Values that say by themselves that they are there. A column that one operation hands to another (k_tensor.stamped) has memory of its own in the
 * schedule; the lowest bit of each of its floats is the turn, 0 or 1, in which it was written, and turns change with each run. So who reads it
 * waits for the values themselves, and not for a barrier of the grid: that spares two trips to the second cache and a fence. What is taken has the
 * bit cleared, so that results are the same in every turn. Nothing else is ordered by a stamp.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STAMP_H
#define SP_DEVICE_CUDA_KERNEL_STAMP_H

#include "device/cuda/numbers.h"

/* What is looked for, and what is kept of it. */
typedef struct k_stamp {
    uint32_t turn, bit; /* bit: 1, or 0 where nothing is stamped: everything is there */
} k_stamp;

K_INLINE k_stamp k_stamp_of(const k_tensor *t) {
    return (k_stamp){.turn = *(volatile uint32_t *)&k_control_at()->run.turn, .bit = t->stamped};
}
/* Of what is stamped in any case. */
K_INLINE k_stamp k_stamp_always(void) {
    return (k_stamp){.turn = *(volatile uint32_t *)&k_control_at()->run.turn, .bit = 1};
}
/* Read anew. */
K_INLINE k_stamp k_stamp_again(k_stamp s) {
    return (k_stamp){.turn = *(volatile uint32_t *)&k_control_at()->run.turn, .bit = s.bit};
}
K_INLINE bool k_is_there(k_stamp s, uint32_t word) {
    return !((word ^ s.turn) & s.bit);
}
/* 0: all words are there. */
K_INLINE uint32_t k_lacking2(k_stamp s, const uint32_t *w) {
    return ((w[0] ^ s.turn) | (w[1] ^ s.turn)) & s.bit;
}
K_INLINE uint32_t k_lacking4(k_stamp s, const k_words4 *w) {
    return ((w->w[0] ^ s.turn) | (w->w[1] ^ s.turn) | (w->w[2] ^ s.turn) | (w->w[3] ^ s.turn)) & s.bit;
}
K_INLINE float k_taken(k_stamp s, uint32_t word) {
    return k_bits_float(word & ~s.bit);
}

/* Is it in vain to wait on? In a run that is stopped, yes: it goes on with whatever there is, and ends at its next barrier. */
enum { K_POLLS = 256 };
K_INLINE bool k_waits_in_vain(uint32_t *polls) {
    k_relax();
    return ++*polls % K_POLLS == 0 && k_load_relaxed(k_control_at()->run.halt);
}

/* None yet. The compiler doesn't know that, and makes no code of its own for the first. */
K_INLINE uint32_t k_polls(void) {
    uint32_t polls = 0;
    __asm__ volatile("" : "+r"(polls));
    return polls;
}

/* `word` is what was there a while ago. */
K_INLINE float k_stamp_await(k_stamp s, uint32_t word, const void *at) {
    uint32_t polls = 0;
    while (!k_is_there(s, word) && !k_waits_in_vain(&polls)) {
        word = k_load_relaxed(at);
    }
    return k_taken(s, word);
}

K_INLINE uint32_t k_stamped(k_stamp s, float x) {
    return (k_float_bits(x) & ~s.bit) | (s.turn & s.bit);
}
K_INLINE void k_give_float(k_stamp s, void *at, float x) {
    k_store_relaxed(at, k_stamped(s, x));
}
K_INLINE void k_give_two(k_stamp s, void *at, float x, float y) {
    k_store_relaxed2(at, k_stamped(s, x), k_stamped(s, y));
}

K_INLINE void k_give_four(k_stamp s, void *at, const float *x) {
    k_store_relaxed4(at, (k_words4){{k_stamped(s, x[0]), k_stamped(s, x[1]), k_stamped(s, x[2]), k_stamped(s, x[3])}});
}

#endif
