/*
 * Attention of one token to a piece of a cache of halves, heads of 64, as decoding has it: what a warp does, on a card. All else waits for it, and
 * what it takes is how many instructions follow the queries: so this is what kernel_attend_few.h does, without whatever decoding has no use for, and
 * in as few of them as can be. Of scores heads are rows, of which most are idle, and positions columns: so keys come from the cache as a fragment has
 * them, and weights go from scores into the next product as they are. The sum of weights is one more row of values, of ones.
 *
 * It is for pieces of whole tiles, of one round at most, with a mask whose rows lie at multiples of 4 bytes, and neither soft cap nor ALiBi.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_ONE_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_ONE_H

#include "device/cuda/kernel_attend_few.h"

#ifdef __NVPTX__

enum {
    K_ONE_WIDE = 64,
    K_ONE_STEPS = K_ONE_WIDE / 16,  /* of the products with keys; fragments of values */
    K_ONE_BLOCKS = K_ONE_TILES * 2, /* of 8 positions */
    K_ONE_NEWEST_AT = K_FEW_QUERIES_AT(K_ONE_WIDE) + K_HALVES_HEADS * K_FEW_QUERY(K_ONE_WIDE),
    K_ONE_NEWEST = K_ONE_WIDE * 2 * 2 /* bytes: of halves, twice */
};
_Static_assert(K_ONE_NEWEST_AT + K_ONE_NEWEST <= K_WORK, "it fits");
#define K_ONE_HIDDEN 0xfc00fc00u /* minus infinity twice, as halves */

/* Keys by 8 positions and 16 elements; what is added to the lane's two scores of each 8, as halves. */
typedef struct k_one {
    k_words4 keys[K_ONE_BLOCKS][K_ONE_STEPS / 2];
    uint32_t masks[K_ONE_BLOCKS];
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
K_INLINE void k_one_hide(uint32_t i, k_one *o) {
    K_UNROLL_ALL
    for (uint32_t b = i * 2; b < i * 2 + 2; b++) {
        o->masks[b] = K_ONE_HIDDEN;
        o->keys[b][0] = o->keys[b][1] = (k_words4){{0, 0, 0, 0}};
    }
}

/* Asks for the keys, values and masks of a tile. What of it lies behind the piece is hidden zeros: nothing is asked for, since that would take its
 * time. */
K_INLINE void k_one_ask(const k_few *a, uint32_t i, k_u16 *stage, k_one *o) {
    const uint32_t at = k_warp() * K_FEW_POSITIONS + i * K_ONE_STRIDE;
    const k_words4 zeros = {{0, 0, 0, 0}};
    k_u16 *to = stage + (i * K_FEW_POSITIONS + k_lane() / 8) * K_FEW_APART(K_ONE_WIDE) + k_lane() % 8 * 8;
    if (at > a->last) {
        K_UNROLL_ALL
        for (uint32_t j = 0; j < K_FEW_POSITIONS / 4; j++) {
            *(k_words4 *)(void *)(to + j * 4 * K_FEW_APART(K_ONE_WIDE)) = zeros;
        }
        return;
    }
    const uint8_t *value = k_one_at(a->values + k_lane() % 8 * 16, at + k_lane() / 8, a->value_step);
    const uint8_t *key = k_one_at(a->keys + k_lane() % 4 * 16, at + k_lane() / 4, a->key_step);
    const uint8_t *mask = (const uint8_t *)a->mask + (at + k_lane() % 4 * 2) * 2;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < 2; b++) {
        o->masks[i * 2 + b] = k_one_load4(mask + b * 16);
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_ONE_STEPS / 2; s++) {
            o->keys[i * 2 + b][s] = k_one_load16(key + b * 8 * (uint64_t)a->key_step + s * 64);
        }
    }
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_FEW_POSITIONS / 4; j++) {
        k_copy_near(to + j * 4 * K_FEW_APART(K_ONE_WIDE), value + j * 4 * (uint64_t)a->value_step);
    }
}

/* Does any position count, of those that the warp has? */
K_INLINE bool k_one_counts(const k_one *o) {
    bool any = false;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS; b++) {
        any |= o->masks[b] != K_ONE_HIDDEN;
    }
    return k_warp_any(any);
}

/* In shared memory: the newest key and value, each as halves, if the piece has them. */
K_INLINE k_u16 *k_one_newest(uint32_t which) {
    return (k_u16 *)(void *)(k_shared() + K_ONE_NEWEST_AT) + which * (K_ONE_NEWEST / 4);
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
/* rows: of the heads' queries, `step` bytes from one to the next. */
K_INLINE k_one_asked k_one_ask_first(const k_few *a, const uint8_t *rows, uint32_t step, uint32_t heads) {
    enum { FOURS = K_ONE_WIDE / 4, QUERIES = K_HALVES_HEADS * FOURS };
    const uint32_t thread = k_thread(), four = thread % FOURS, which = (thread - QUERIES) / FOURS;
    const bool newest = thread >= QUERIES;
    k_one_asked q = {.stamp = {.turn = a->stamp.turn, .bit = newest ? 1 : a->stamp.bit}};
    q.any = newest ? which < 2 && a->newest_key : thread / FOURS < heads;
    q.from = (newest ? which ? a->newest_value : a->newest_key : k_one_at(rows, thread / FOURS, step)) + four * 16;
    q.to = newest ? (k_u32 *)(void *)(k_one_newest(which & 1) + four * 4) : (k_u32 *)(void *)(k_few_query(K_ONE_WIDE, thread / FOURS) + four * 8);
    k_one_ask_again(&q);
    return q;
}

/* Asks for all that the warp needs of the cache. */
K_INLINE void k_one_begin(const k_few *a, k_u16 *stage, k_one_warp *w) {
    const uint32_t tiles = k_one_tiles(a);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_TILES; i++) {
        k_one_hide(i, &w->o);
        if (i < tiles) {
            k_one_ask(a, i, stage, &w->o);
        }
    }
}

/* What was asked for first comes to shared memory, for all threads. What masks and ids say is worked out meanwhile. */
K_INLINE void k_one_take(k_few *a, k_one_asked *q, k_one_warp *w) {
    uint32_t polls = k_polls();
    w->live = k_one_counts(&w->o);
    k_few_find_newest(K_ONE_WIDE, a);
    while (k_warp_any(k_lacking4(q->stamp, &q->w)) && !k_warp_any(k_waits_in_vain(&polls))) {
        k_one_ask_again(q);
    }
    if (q->any) {
        k_few_four_halves(q->stamp, &q->w, q->to);
    }
    k_block_sync();
}

/* The newest key takes its place. */
K_INLINE void k_one_renew(const k_few *a, k_one *o) {
    uint32_t behind = k_one_now(a->newest_key_at) - k_warp() * K_FEW_POSITIONS, from = k_address_of(k_one_newest(0) + k_lane() % 4 * 8);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_TILES; i++) {
        uint32_t row = behind - i * K_ONE_STRIDE;
        if (row < K_FEW_POSITIONS) {
            K_UNROLL_ALL
            for (uint32_t b = 0; b < 2; b++) {
                K_UNROLL_ALL
                for (uint32_t s = 0; s < K_ONE_STEPS / 2; s++) {
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
K_INLINE float k_one_weights(const k_few *a, uint32_t tiles, const k_one *o, const k_half_a *queries, k_half_b *weights) {
    k_fragment_c scores[K_ONE_BLOCKS];
    float most = -k_infinity();
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_BLOCKS * 4; i++) {
        scores[i / 4].f[i % 4] = 0;
    }
    K_UNROLL_ALL
    for (uint32_t t = 0; t < K_ONE_TILES; t++) {
        if (t < tiles) {
            K_UNROLL_ALL
            for (uint32_t i = 0; i < K_ONE_STEPS * 2; i++) {
                const uint32_t b = t * 2 + i % 2, s = i / 2;
                const k_half_b keys = {{o->keys[b][s / 2].w[s % 2 * 2], o->keys[b][s / 2].w[s % 2 * 2 + 1]}};
                k_multiply_halves(&scores[b], &queries[s], &keys);
            }
        }
    }
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS; b++) {
        const uint32_t mask = k_one_now(o->masks[b]);
        scores[b].f[0] = scores[b].f[0] * a->scale + k_from_half((uint16_t)mask);
        scores[b].f[1] = scores[b].f[1] * a->scale + k_from_half((uint16_t)(mask >> 16));
        most = k_few_most(most, k_few_most(scores[b].f[0], scores[b].f[1]));
    }
    most = k_few_most(most, k_exchange(most, 1));
    most = k_few_most(most, k_exchange(most, 2)) * K_LOG2_E;
    K_UNROLL_ALL
    for (uint32_t b = 0; b < K_ONE_BLOCKS; b++) {
        weights[b / 2].w[b % 2] = k_two_halves(k_exp2_fast(scores[b].f[0] * K_LOG2_E - most), k_exp2_fast(scores[b].f[1] * K_LOG2_E - most));
    }
    return most;
}

/* What the warp has of its tiles, to where k_few_end wants it: [heads][K_FEW_ROW] floats at its stage, and stats. */
K_INLINE void k_one_put(const k_fragment_c *values, float most, k_f32 *to, k_f32 *stats) {
    k_f32 *own = to + k_lane() % 4 * 2 * K_FEW_ROW(K_ONE_WIDE) + k_lane() / 4;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ONE_STEPS * 4; i++) {
        own[i % 2 * K_FEW_ROW(K_ONE_WIDE) + i / 4 * 16 + i / 2 % 2 * 8] = values[i / 4].f[i % 4];
    }
    if (k_lane() % 4 == 0) {
        stats[k_lane() / 4 * K_FEW_STATS + k_warp()] = most;
    }
    if (k_lane() < 4) {
        stats[k_lane() * 2 * K_FEW_STATS + K_FEW_STATS / 2 + k_warp()] = values[K_ONE_STEPS].f[0];
        stats[(k_lane() * 2 + 1) * K_FEW_STATS + K_FEW_STATS / 2 + k_warp()] = values[K_ONE_STEPS].f[1];
    }
}

/* The newest value takes its place in the stage. */
K_INLINE void k_one_renew_value(const k_few *a, k_u16 *stage) {
    const uint32_t at = k_one_now(a->newest_value_at), behind = at - k_warp() * K_FEW_POSITIONS;
    if (at != K_FEW_NONE) {
        const uint32_t row = behind / K_ONE_STRIDE * K_FEW_POSITIONS + behind % K_ONE_STRIDE;
        if (k_lane() < K_ONE_WIDE / 4) {
            *(k_floats2 *)(void *)(stage + row * K_FEW_APART(K_ONE_WIDE) + k_lane() * 4) =
                *(const k_floats2 *)(void *)(k_one_newest(1) + k_lane() * 4);
        }
        k_warp_sync();
    }
}

/* stage, stats: the warp's, the block's. */
K_INLINE void k_one_along(k_few *a, k_one_warp *w, k_one_asked *q, uint32_t heads, k_u16 *stage, k_f32 *stats) {
    const uint32_t ones = 0x3c003c00, tiles = k_one_tiles(a);
    k_half_a queries[K_ONE_STEPS];
    k_half_b weights[K_ONE_TILES];
    k_fragment_c values[K_ONE_STEPS + 1];
    float most = -k_infinity();
    K_UNROLL_ALL
    for (uint32_t i = 0; i < (K_ONE_STEPS + 1) * 4; i++) {
        values[i / 4].f[i % 4] = 0;
    }
    k_one_take(a, q, w);
    if (w->live) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_ONE_STEPS / 2; i++) {
            const k_words4 eight = k_few_take_query(K_ONE_WIDE, heads, i);
            queries[i * 2] = (k_half_a){{eight.w[0], 0, eight.w[1], 0}}, queries[i * 2 + 1] = (k_half_a){{eight.w[2], 0, eight.w[3], 0}};
        }
        k_one_renew(a, &w->o);
        most = k_one_weights(a, tiles, &w->o, queries, weights);
        k_copies_wait_all();
        k_warp_sync();
        k_one_renew_value(a, stage);
        K_UNROLL_ALL
        for (uint32_t t = 0; t < K_ONE_TILES; t++) {
            const k_half_a all = {{ones, ones, ones, ones}};
            if (t >= tiles) {
                break;
            }
            K_UNROLL_ALL
            for (uint32_t i = 0; i < K_ONE_STEPS; i++) {
                const k_half_a turned = k_few_values(stage + t * K_FEW_POSITIONS * K_FEW_APART(K_ONE_WIDE), K_FEW_APART(K_ONE_WIDE), i * 16);
                k_multiply_halves(&values[i], &turned, &weights[t]);
            }
            k_multiply_halves(&values[K_ONE_STEPS], &all, &weights[t]);
        }
    }
    k_copies_wait_all(); /* where nobody looked at them, too, before results take their place */
    k_warp_sync();
    k_one_put(values, most, (k_f32 *)(void *)stage, stats);
}

#endif

#endif
