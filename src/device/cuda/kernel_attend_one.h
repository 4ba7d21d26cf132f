/*
 * Attention of one token to a piece of a cache of halves, heads of 64 or 128, as decoding has it: what a warp does, on a card. All else waits for it,
 * and what it takes is how many instructions follow the queries: so this is what kernel_attend_few.h does, without whatever decoding has no use for,
 * and in as few of them as can be. Of scores heads are rows, of which most are idle, and positions columns: so keys come from the cache as a fragment
 * has them, and weights go from scores into the next product as they are. The sum of weights is one more row of values, of ones.
 *
 * It is for pieces of whole tiles, of one round at most, with a mask whose rows lie at multiples of 4 bytes, and neither soft cap nor ALiBi.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_ONE_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_ONE_H

#include "device/cuda/kernel_attend_few.h"

#ifdef __NVPTX__

enum { K_ONE_WIDEST = 128 };
#define K_ONE_TILES(wide) ((uint32_t)((wide) == 64 ? K_ONE_MOST : K_ONE_MOST_WIDE) / K_ONE_STRIDE) /* of a warp: registers have no room for more */
#define K_ONE_BLOCKS(wide) (K_ONE_TILES(wide) * 2)                                                 /* of 8 positions */
#define K_ONE_STEPS(wide) ((wide) / 16) /* of the products with keys; fragments of values */
/* Behind the queries: the newest key and value, as halves. */
#define K_ONE_NEWEST_AT(wide) (K_FEW_QUERIES_AT(wide) + K_HALVES_HEADS * K_FEW_QUERY(wide))
_Static_assert(K_ONE_NEWEST_AT(64) + 64 * 2 * 2 <= K_WORK && K_ONE_NEWEST_AT(128) + 128 * 2 * 2 <= K_WORK, "it fits");
_Static_assert(K_ONE_MOST / K_ONE_STRIDE <= K_FEW_NEAR(64) + 1 && K_ONE_MOST_WIDE / K_ONE_STRIDE <= K_FEW_NEAR(128) + 1, "a slot has one more");
#define K_ONE_HIDDEN 0xfc00fc00u /* minus infinity twice, as halves */

/* Keys by 8 positions and 32 elements; what is added to the lane's two scores of each 8, as halves. */
typedef struct k_one {
    k_words4 keys[K_ONE_BLOCKS(64)][K_ONE_STEPS(K_ONE_WIDEST) / 2];
    uint32_t masks[K_ONE_BLOCKS(64)];
} k_one;

K_INLINE k_words4 k_one_load16(const uint8_t *at) {
    k_words4 v;
    __asm__ volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(at));
    return v;
}
/* What follows from x is worked out where it is needed: worked out before, it would take registers that there aren't. */
K_INLINE uint32_t k_one_now(uint32_t x) {
    __asm__ volatile("" : "+r"(x)::"memory");
    return x;
}
K_INLINE uint32_t k_one_load4(const uint8_t *at) {
    uint32_t v;
    __asm__ volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}
K_INLINE const uint8_t *k_one_at(const uint8_t *base, uint32_t row, uint32_t step) {
    uint64_t at;
    __asm__("mad.wide.u32 %0, %1, %2, %3;" : "=l"(at) : "r"(row), "r"(step), "l"(base));
    return (const uint8_t *)(uintptr_t)at;
}

/* Tiles of the piece: those behind are left out. */
K_INLINE uint32_t k_one_tiles(const k_few *a) {
    return a->last / K_ONE_STRIDE + 1;
}

/* A tile of hidden zeros. */
K_INLINE void k_one_hide(const uint32_t wide, uint32_t i, k_one *o) {
    const k_words4 zeros = {{0, 0, 0, 0}};
    K_UNROLL_ALL
    for (uint32_t b = i * 2; b < i * 2 + 2; b++) {
        o->masks[b] = K_ONE_HIDDEN;
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_ONE_STEPS(wide) / 2; s++) {
            o->keys[b][s] = zeros;
        }
    }
}

/* Asks for the keys, values and masks of a tile. What of it lies behind the piece is hidden zeros: nothing is asked for, since that would take its
 * time. */
K_INLINE void k_one_ask(const uint32_t wide, const k_few *a, uint32_t i, k_one *o) {
    const uint32_t at = k_warp() * K_FEW_POSITIONS + i * K_ONE_STRIDE, lanes = wide / 8, rows = K_LANES / lanes;
    const k_words4 zeros = {{0, 0, 0, 0}};
    k_u16 *to = k_few_stage(wide, i) + k_lane() / lanes * K_FEW_APART(wide) + k_lane() % lanes * 8;
    if (at > a->last) {
        K_UNROLL_ALL
        for (uint32_t j = 0; j < K_FEW_POSITIONS / rows; j++) {
            *(k_words4 *)(void *)(to + j * rows * K_FEW_APART(wide)) = zeros;
        }
        return;
    }
    const uint8_t *value = k_one_at(a->values + k_lane() % lanes * 16, at + k_lane() / lanes, a->value_step);
    const uint8_t *key = k_one_at(a->keys + k_lane() % 4 * 16, at + k_lane() / 4, a->key_step);
    const uint8_t *mask = (const uint8_t *)a->mask + (at + k_lane() % 4 * 2) * 2;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < 2; b++) {
        o->masks[i * 2 + b] = k_one_load4(mask + b * 16);
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_ONE_STEPS(wide) / 2; s++) {
            o->keys[i * 2 + b][s] = k_one_load16(key + b * 8 * (uint64_t)a->key_step + s * 64);
        }
    }
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_FEW_POSITIONS / rows; j++) {
        k_copy_near(to + j * rows * K_FEW_APART(wide), value + j * rows * (uint64_t)a->value_step);
    }
}

/* Does any position count, of those that the warp has? */
K_INLINE bool k_one_counts(const uint32_t wide, const k_one *o) {
    bool any = false;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS(wide); b++) {
        any |= o->masks[b] != K_ONE_HIDDEN;
    }
    return k_warp_any(any);
}

/* In shared memory: the newest key or value, as halves, if the piece has them. */
K_INLINE k_u16 *k_one_newest(const uint32_t wide, uint32_t which) {
    return (k_u16 *)(void *)(k_shared() + K_ONE_NEWEST_AT(wide)) + which * wide;
}

/* What a warp has before queries are there. */
typedef struct k_one_warp {
    k_one o;
    bool live; /* does any of its positions count? */
} k_one_warp;

/* Four floats that a thread asks for, for all: of a query, or of the newest key or value. They are the first that is asked for: nobody else is waited
 * for as long. */
typedef struct k_one_asked {
    const uint8_t *from;
    k_u32 *to; /* where they go as halves */
    bool any;  /* it has some */
    k_stamp stamp;
    k_words4 w;
} k_one_asked;

K_INLINE void k_one_ask_again(k_one_asked *q) {
    q->w = (k_words4){{q->stamp.turn, q->stamp.turn, q->stamp.turn, q->stamp.turn}};
    k_load_relaxed4(q->from, q->any, &q->w);
}
/* Of heads of 128 a thread may have two. */
#define K_ONE_FOURS(wide) (((K_HALVES_HEADS + 2) * (wide) / 4 + K_THREADS - 1) / K_THREADS)
/* rows: of the heads' queries, `step` bytes from one to the next. */
K_INLINE void k_one_ask_first(const uint32_t wide, const k_few *a, const uint8_t *rows, uint32_t step, uint32_t heads, k_one_asked *q) {
    const uint32_t fours = wide / 4;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_FOURS(wide); i++) {
        const uint32_t thread = k_thread() + i * K_THREADS, row = thread / fours, four = thread % fours, which = row - K_HALVES_HEADS;
        const bool newest = row >= K_HALVES_HEADS;
        q[i] = (k_one_asked){.stamp = {.turn = a->stamp.turn, .bit = newest ? 1 : a->stamp.bit}};
        q[i].any = newest ? which < 2 && a->newest_key : row < heads;
        q[i].from = (newest ? which ? a->newest_value : a->newest_key : k_one_at(rows, row, step)) + four * 16;
        q[i].to = newest ? (k_u32 *)(void *)(k_one_newest(wide, which & 1) + four * 4) : (k_u32 *)(void *)(k_few_query(wide, row) + four * 8);
        k_one_ask_again(&q[i]);
    }
}

/* Asks for all that the warp needs of the cache. */
K_INLINE void k_one_begin(const uint32_t wide, const k_few *a, k_one_warp *w) {
    const uint32_t tiles = k_one_tiles(a);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_TILES(wide); i++) {
        k_one_hide(wide, i, &w->o);
        if (i < tiles) {
            k_one_ask(wide, a, i, &w->o);
        }
    }
}

K_INLINE uint32_t k_one_lacks(const uint32_t wide, const k_one_asked *q) {
    uint32_t lacks = 0;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_FOURS(wide); i++) {
        lacks |= k_lacking4(q[i].stamp, &q[i].w);
    }
    return lacks;
}

/* What was asked for first comes to shared memory, for all threads. What masks and ids say is worked out meanwhile. */
K_INLINE void k_one_take(const uint32_t wide, k_few *a, k_one_asked *q, k_one_warp *w) {
    uint32_t polls = k_polls();
    w->live = k_one_counts(wide, &w->o);
    k_few_find_newest(wide, a);
    while (k_warp_any(k_one_lacks(wide, q)) && !k_warp_any(k_waits_in_vain(&polls))) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_ONE_FOURS(wide); i++) {
            k_one_ask_again(&q[i]);
        }
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_FOURS(wide); i++) {
        if (q[i].any) {
            k_few_four_halves(q[i].stamp, &q[i].w, q[i].to);
        }
    }
    k_block_sync();
}

/* The newest key takes its place. */
K_INLINE void k_one_renew(const uint32_t wide, const k_few *a, k_one *o) {
    uint32_t behind = k_one_now(a->newest_key_at) - k_warp() * K_FEW_POSITIONS, from = k_address_of(k_one_newest(wide, 0) + k_lane() % 4 * 8);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_TILES(wide); i++) {
        uint32_t row = behind - i * K_ONE_STRIDE;
        if (row < K_FEW_POSITIONS) {
            K_UNROLL_ALL
            for (uint32_t b = 0; b < 2; b++) {
                K_UNROLL_ALL
                for (uint32_t s = 0; s < K_ONE_STEPS(wide) / 2; s++) {
                    uint32_t *w = o->keys[i * 2 + b][s].w;
                    __asm__ volatile("{ .reg .pred p; setp.eq.u32 p, %5, 0; @p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                                     : "+r"(w[0]), "+r"(w[1]), "+r"(w[2]), "+r"(w[3])
                                     : "r"(from + s * 64), "r"(row ^ (b * 8 + k_lane() / 4)));
                }
            }
        }
    }
}

/* Scores become weights; returns the largest of the lane's head, as a power of two. */
K_INLINE float k_one_weights(const uint32_t wide, const k_few *a, uint32_t tiles, uint32_t heads, const k_one *o, k_half_b *weights) {
    k_fragment_c scores[K_ONE_BLOCKS(64)];
    float most = -k_infinity();
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_BLOCKS(wide) * 4; i++) {
        scores[i / 4].f[i % 4] = 0;
    }
    K_UNROLL_ALL
    for (uint32_t t = 0; t < K_ONE_TILES(wide); t++) {
        if (t < tiles) {
            K_UNROLL_ALL
            for (uint32_t s = 0; s < K_ONE_STEPS(wide) / 2; s++) {
                const k_words4 q = k_few_take_query(wide, heads, s);
                const k_half_a queries[2] = {{{q.w[0], 0, q.w[1], 0}}, {{q.w[2], 0, q.w[3], 0}}};
                K_UNROLL_ALL
                for (uint32_t i = 0; i < 4; i++) {
                    const uint32_t b = t * 2 + i % 2;
                    const k_half_b keys = {{o->keys[b][s].w[i / 2 * 2], o->keys[b][s].w[i / 2 * 2 + 1]}};
                    k_multiply_halves(&scores[b], &queries[i / 2], &keys);
                }
            }
        }
    }
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS(wide); b++) {
        const uint32_t mask = k_one_now(o->masks[b]);
        scores[b].f[0] = scores[b].f[0] * a->scale + k_from_half((uint16_t)mask);
        scores[b].f[1] = scores[b].f[1] * a->scale + k_from_half((uint16_t)(mask >> 16));
        most = k_few_most(most, k_few_most(scores[b].f[0], scores[b].f[1]));
    }
    most = k_few_most(most, k_exchange(most, 1));
    most = k_few_most(most, k_exchange(most, 2)) * K_LOG2_E;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS(wide); b++) {
        weights[b / 2].w[b % 2] = k_two_halves(k_exp2_fast(scores[b].f[0] * K_LOG2_E - most), k_exp2_fast(scores[b].f[1] * K_LOG2_E - most));
    }
    return most;
}

/* What the warp has of its tiles, to where k_few_end wants it: [heads][K_FEW_ROW] floats at its stage, and stats. */
K_INLINE void k_one_put(const uint32_t wide, const k_fragment_c *values, float most, k_f32 *to, k_f32 *stats) {
    k_f32 *own = to + k_lane() % 4 * 2 * K_FEW_ROW(wide) + k_lane() / 4;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_STEPS(wide) * 4; i++) {
        own[i % 2 * K_FEW_ROW(wide) + i / 4 * 16 + i / 2 % 2 * 8] = values[i / 4].f[i % 4];
    }
    if (k_lane() % 4 == 0) {
        stats[k_lane() / 4 * K_FEW_STATS + k_warp()] = most;
    }
    if (k_lane() < 4) {
        stats[k_lane() * 2 * K_FEW_STATS + K_FEW_STATS / 2 + k_warp()] = values[K_ONE_STEPS(wide)].f[0];
        stats[(k_lane() * 2 + 1) * K_FEW_STATS + K_FEW_STATS / 2 + k_warp()] = values[K_ONE_STEPS(wide)].f[1];
    }
}

/* The newest value takes its place. */
K_INLINE void k_one_renew_value(const uint32_t wide, const k_few *a) {
    const uint32_t at = k_one_now(a->newest_value_at), behind = at - k_warp() * K_FEW_POSITIONS;
    if (at != K_FEW_NONE) {
        k_u16 *row = k_few_stage(wide, behind / K_ONE_STRIDE) + behind % K_ONE_STRIDE * K_FEW_APART(wide);
        if (k_lane() < wide / 4) {
            *(k_floats2 *)(void *)(row + k_lane() * 4) = *(const k_floats2 *)(void *)(k_one_newest(wide, 1) + k_lane() * 4);
        }
        k_warp_sync();
    }
}

/* A tile's values times weights. */
K_INLINE void k_one_add_values(const uint32_t wide, uint32_t t, const k_half_b *weights, k_fragment_c *values) {
    const k_half_a ones = {{0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00}};
    const k_u16 *stage = k_few_stage(wide, t);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_STEPS(wide); i++) {
        const k_half_a turned = k_few_values(stage, K_FEW_APART(wide), i * 16);
        k_multiply_halves(&values[i], &turned, weights);
    }
    k_multiply_halves(&values[K_ONE_STEPS(wide)], &ones, weights);
}

/* stats: the block's. */
K_INLINE void k_one_along(const uint32_t wide, k_few *a, k_one_warp *w, k_one_asked *q, uint32_t heads, k_f32 *stats) {
    const uint32_t tiles = k_one_tiles(a);
    k_half_b weights[K_ONE_TILES(64)];
    k_fragment_c values[K_ONE_STEPS(K_ONE_WIDEST) + 1];
    float most = -k_infinity();
    k_one_take(wide, a, q, w);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < (K_ONE_STEPS(wide) + 1) * 4; i++) {
        values[i / 4].f[i % 4] = 0;
    }
    if (w->live) {
        k_one_renew(wide, a, &w->o);
        most = k_one_weights(wide, a, tiles, heads, &w->o, weights);
        k_copies_wait_all();
        k_warp_sync();
        k_one_renew_value(wide, a);
        K_UNROLL_ALL
        for (uint32_t t = 0; t < K_ONE_TILES(wide); t++) {
            if (t < tiles) {
                k_one_add_values(wide, t, &weights[t], values);
            }
        }
    }
    k_copies_wait_all(); /* where nobody looked at them, too, before results take their place */
    k_warp_sync();
    k_one_put(wide, values, most, (k_f32 *)(void *)k_few_own(wide, k_warp()), stats);
}

#endif

#endif
