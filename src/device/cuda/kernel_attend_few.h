/*
 * Attention of few tokens to a cache of halves, on tensor cores: what one warp does. Positions are rows of 16, heads that share keys are 8 columns,
 * of which some may be idle. A warp takes tiles of 16 positions for itself, some of them at once: keys come from the cache into registers; values by
 * way of shared memory, which turns them. Tiles that are masked as a whole aren't read.
 *
 * Queries and weights are rounded to halves, sums are floats.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_FEW_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_FEW_H

#include "device/cuda/kernel_fragments.h"
#include "device/cuda/kernel_rows.h"

enum {
    K_FEW_POSITIONS = 16,                    /* of a tile */
    K_FEW_WIDEST = K_LANES == 1 ? 256 : 128, /* elements of values: of 256 a warp takes one half, its neighbour the other */
    K_FEW_AT = 1024,                         /* of shared memory: by warp its tiles' values, and in the end what it has: [heads][K_FEW_ROW] floats */
    K_FEW_SLOTS = K_LANES == 1 ? 8 : 2       /* heads that a lane has something of */
};

/* Tiles that a warp has under way; elements that it takes of the values; warps that take tiles of their own. */
#define K_FEW_TILES(wide) ((wide) == 64 ? 3u : 1u)
#define K_FEW_VALUES(wide) ((wide) < (uint32_t)K_FEW_WIDEST ? (uint32_t)(wide) : (uint32_t)K_FEW_WIDEST)
#define K_FEW_TAKERS(wide) ((uint32_t)K_WARPS * K_FEW_VALUES(wide) / (wide))
/* In shared memory rows lie so far apart that fragments' loads and stores meet no bank twice: of values, in halves; of results, in floats. */
#define K_FEW_APART(wide) (K_FEW_VALUES(wide) + 8)
#define K_FEW_ROW(wide) (K_FEW_VALUES(wide) + 4)
#define K_FEW_BYTES(wide) (K_FEW_TILES(wide) * K_FEW_POSITIONS * K_FEW_APART(wide) * 2)
_Static_assert(K_FEW_AT + K_WARPS * K_FEW_BYTES(64) <= K_WORK && K_FEW_AT + K_WARPS * K_FEW_BYTES(256) <= K_WORK, "it fits");
_Static_assert(K_FEW_BYTES(64) >= K_HALVES_HEADS * K_FEW_ROW(64) * 4 && K_FEW_BYTES(128) >= K_HALVES_HEADS * K_FEW_ROW(128) * 4 &&
                   K_FEW_BYTES(256) >= K_HALVES_HEADS * K_FEW_ROW(256) * 4,
               "it fits");

/* What a warp goes along: n positions of a head's keys and values, and what is added to their scores. */
typedef struct k_few {
    const uint8_t *keys, *values; /* values: the first element that the warp takes */
    const k_u16 *mask;            /* or NULL */
    uint32_t key_step, value_step, n;
    float scale, cap, slope[K_FEW_SLOTS];
} k_few;

/* What it has so far. Of values rows are elements, columns heads. */
typedef struct k_so_far {
    float most[K_FEW_SLOTS], weight[K_FEW_SLOTS];
    k_fragment_c values[K_FEW_WIDEST / 16];
} k_so_far;

#ifdef __NVPTX__

K_INLINE void k_warp_sync(void) {
    __nvvm_bar_warp_sync(0xffffffffu);
}
/* As k_copy_async, where the compiler sees that it goes to shared memory. */
K_INLINE void k_copy_near(void *to, const void *from, bool there) {
    __asm__ volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(k_address_of(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
K_INLINE bool k_warp_any(bool x) {
    return __nvvm_vote_any_sync(0xffffffffu, x);
}
/* 16 bytes; zeros, where there are none. */
K_INLINE k_words4 k_load16_if(const void *at, bool there) {
    k_words4 v;
    __asm__ volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; mov.u32 %3, 0;"
                     "@p ld.global.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                     : "=&r"(v.w[0]), "=&r"(v.w[1]), "=&r"(v.w[2]), "=&r"(v.w[3])
                     : "l"(at), "r"((uint32_t)there)
                     : "memory");
    return v;
}
/* A tile's keys: 32 elements from `at` on, in two steps. A lane loads 8 neighbours of two rows, which are not those that a fragment's lane has: that
 * is all the same, as long as queries have the same order. */
K_INLINE void k_few_keys(const k_few *a, uint32_t first, uint32_t at, bool live, k_half_a *keys) {
    k_words4 w[2];
    K_UNROLL_ALL
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t position = first + k_lane() / 4 + r * 8;
        w[r] = k_load16_if(a->keys + (uint64_t)position * a->key_step + at * 2 + k_lane() % 4 * 16, live && position < a->n);
    }
    keys[0] = (k_half_a){{w[0].w[0], w[1].w[0], w[0].w[1], w[1].w[1]}};
    keys[1] = (k_half_a){{w[0].w[2], w[1].w[2], w[0].w[3], w[1].w[3]}};
}
/* Likewise of the queries of heads that lie `step` bytes apart. */
K_INLINE void k_few_queries(const uint8_t *rows, uint32_t step, uint32_t heads, uint32_t at, k_half_b *q) {
    uint32_t head = k_lane() / 4 < heads ? k_lane() / 4 : heads - 1;
    const k_floats4 *from = (const k_floats4 *)(const void *)(rows + (uint64_t)head * step + at * 4 + k_lane() % 4 * 32);
    const k_floats4 x = from[0], y = from[1];
    q[0] = (k_half_b){{k_two_halves(x.f[0], x.f[1]), k_two_halves(x.f[2], x.f[3])}};
    q[1] = (k_half_b){{k_two_halves(y.f[0], y.f[1]), k_two_halves(y.f[2], y.f[3])}};
}
/* Weights as halves; positions, which were rows, become columns. */
K_INLINE k_half_b k_few_weights(const k_fragment_c *c) {
    k_half_b b;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < 2; i++) {
        __asm__ volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(b.w[i]) : "r"(k_two_halves(c->f[i * 2], c->f[i * 2 + 1])));
    }
    return b;
}
/* 16 elements of a tile's values from `at` on, turned. */
K_INLINE k_half_a k_few_values(const k_u16 *tile, uint32_t apart, uint32_t at) {
    k_half_a a;
    uint32_t m = k_lane() / 8;
    k_load_matrices_turned(k_address_of(tile + (m / 2 * 8 + k_lane() % 8) * apart + at + m % 2 * 8), a.w);
    return a;
}
/* Over the lanes that have something of the same heads. */
K_INLINE float k_heads_max(float x) {
    x = k_max(x, k_exchange(x, 4));
    x = k_max(x, k_exchange(x, 8));
    return k_max(x, k_exchange(x, 16));
}
K_INLINE float k_heads_sum(float x) {
    x += k_exchange(x, 4);
    x += k_exchange(x, 8);
    return x + k_exchange(x, 16);
}

#else

K_INLINE void k_warp_sync(void) {
}
K_INLINE void k_copy_near(void *to, const void *from, bool there) {
    k_copy_async(to, from, there);
}
K_INLINE bool k_warp_any(bool x) {
    return x;
}
K_INLINE void k_few_keys(const k_few *a, uint32_t first, uint32_t at, bool live, k_half_a *keys) {
    for (uint32_t i = 0; i < 512; i++) {
        uint32_t row = i / 32, d = i % 32;
        bool there = live && first + row < a->n;
        keys[d / 16].x[row][d % 16] = there ? k_half(a->keys + (uint64_t)(first + row) * a->key_step + (at + d) * 2ull) : 0;
    }
}
K_INLINE void k_few_queries(const uint8_t *rows, uint32_t step, uint32_t heads, uint32_t at, k_half_b *q) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t head = i / 32 < heads ? i / 32 : heads - 1, d = i % 32;
        q[d / 16].x[i / 32][d % 16] = k_from_half(k_to_half(((const k_f32 *)(const void *)(rows + (uint64_t)head * step))[at + d]));
    }
}
K_INLINE k_half_b k_few_weights(const k_fragment_c *c) {
    k_half_b b;
    for (uint32_t i = 0; i < 128; i++) {
        b.x[i % 8][i / 8] = k_from_half(k_to_half(c->f[i]));
    }
    return b;
}
K_INLINE k_half_a k_few_values(const k_u16 *tile, uint32_t apart, uint32_t at) {
    k_half_a a;
    for (uint32_t i = 0; i < 256; i++) {
        a.x[i / 16][i % 16] = k_from_half(tile[i % 16 * apart + at + i / 16]);
    }
    return a;
}
K_INLINE float k_heads_max(float x) {
    return x;
}
K_INLINE float k_heads_sum(float x) {
    return x;
}

#endif

K_INLINE uint32_t k_few_row(uint32_t slot) {
    return K_LANES == 1 ? slot : k_lane() / 4 + slot * 8;
}
/* Which of the lane's heads an element of a result belongs to. */
K_INLINE uint32_t k_few_slot(uint32_t e) {
    return e % K_FEW_SLOTS;
}

/* Of two floats that are less than infinity. */
K_INLINE float k_soft_cap(float x, float cap) {
    float e = k_exp_fast(2 * x * k_reciprocal(cap));
    return cap - 2 * cap * k_reciprocal(e + 1);
}

/* What is added to the scores of a tile's positions: minus infinity behind the last. Does any of them count? */
K_INLINE bool k_few_mask(const k_few *a, uint32_t first, float *mask) {
    float most = -k_infinity();
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        uint32_t position = first + k_few_row(r), last = a->n - 1;
        float x = a->mask ? k_from_half(a->mask[position < last ? position : last]) : 0;
        mask[r] = position > last ? -k_infinity() : x;
        most = k_max(most, mask[r]);
    }
    return k_warp_any(most > -k_infinity());
}

/* Asks for a tile's values; zeros, where there are none or nobody looks. */
K_INLINE void k_few_bring(const uint32_t wide, const k_few *a, uint32_t first, bool live, k_u16 *to) {
    const uint32_t pieces = K_FEW_VALUES(wide) / 8;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_POSITIONS * pieces / K_LANES; i++) {
        uint32_t at = (i * K_LANES + k_lane()) % pieces * 8, row = (i * K_LANES + k_lane()) / pieces;
        k_copy_near(to + row * K_FEW_APART(wide) + at, a->values + (uint64_t)(first + row) * a->value_step + at * 2, live && first + row < a->n);
    }
}

/* Products of keys and queries become scores. */
K_INLINE void k_few_scores(const k_few *a, const uint32_t n, const float (*mask)[K_C_ROWS], k_fragment_c *scores) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        scores[i / K_OF_C].f[i % K_OF_C] *= a->scale;
    }
    if (a->cap > 0) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < n * K_OF_C; i++) {
            scores[i / K_OF_C].f[i % K_OF_C] = k_soft_cap(scores[i / K_OF_C].f[i % K_OF_C], a->cap);
        }
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        float add = mask[i / K_OF_C][k_slot_in_c(i % K_OF_C)];
        k_f32 *score = &scores[i / K_OF_C].f[i % K_OF_C];
        *score = add == -k_infinity() ? add : *score + a->slope[k_few_slot(i)] * add;
    }
}

/* Scores of n tiles become weights; what was summed before shrinks. */
K_INLINE void k_few_weigh(const uint32_t wide, const uint32_t n, k_fragment_c *scores, k_so_far *s) {
    float most[K_FEW_SLOTS], by[K_FEW_SLOTS];
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        most[i] = s->most[i];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        most[k_few_slot(i)] = k_max(most[k_few_slot(i)], scores[i / K_OF_C].f[i % K_OF_C]);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        most[i] = k_heads_max(most[i]);
        by[i] = s->most[i] == -k_infinity() ? 0 : k_exp_fast(s->most[i] - most[i]);
        s->most[i] = most[i]; /* of some position, since the caller saw that one counts */
        s->weight[i] *= by[i];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        k_f32 *weight = &scores[i / K_OF_C].f[i % K_OF_C];
        *weight = k_exp_fast(*weight - most[k_few_slot(i)]);
        s->weight[k_few_slot(i)] += *weight;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16 * K_OF_C; i++) {
        s->values[i / K_OF_C].f[i % K_OF_C] *= by[k_few_slot(i)];
    }
}

/* The warp's K_FEW_TILES tiles from position `first` on, `step` positions apart. */
K_INLINE void k_few_pass(const uint32_t wide, const k_few *a, uint32_t first, uint32_t step, const k_half_b *queries, k_u16 *stage, k_so_far *s) {
    const uint32_t tiles = K_FEW_TILES(wide), apart = K_FEW_APART(wide);
    float mask[K_FEW_TILES(64)][K_C_ROWS];
    k_half_a keys[K_FEW_TILES(64)][256 / 16];
    k_fragment_c scores[K_FEW_TILES(64)];
    bool live[K_FEW_TILES(64)], any = false;
    K_UNROLL_ALL
    for (uint32_t t = 0; t < tiles; t++) {
        live[t] = k_few_mask(a, first + t * step, mask[t]);
        any |= live[t];
        K_UNROLL_ALL
        for (uint32_t e = 0; e < K_OF_C; e++) {
            scores[t].f[e] = 0;
        }
    }
    if (!any) {
        return;
    }
    K_UNROLL_ALL
    for (uint32_t t = 0; t < tiles; t++) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 16; i += 2) {
            k_few_keys(a, first + t * step, i * 16, live[t], &keys[t][i]);
        }
        k_few_bring(wide, a, first + t * step, live[t], stage + t * K_FEW_POSITIONS * apart);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        K_UNROLL_ALL
        for (uint32_t t = 0; t < tiles; t++) {
            k_multiply_halves(&scores[t], &keys[t][i], &queries[i]);
        }
    }
    k_few_scores(a, tiles, mask, scores);
    k_few_weigh(wide, tiles, scores, s);
    k_copies_wait_all();
    k_warp_sync();
    K_UNROLL_ALL
    for (uint32_t t = 0; t < tiles; t++) {
        const k_half_b weights = k_few_weights(&scores[t]);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16; i++) {
            const k_half_a values = k_few_values(stage + t * K_FEW_POSITIONS * apart, apart, i * 16);
            k_multiply_halves(&s->values[i], &values, &weights);
        }
    }
    k_warp_sync();
}

/* All of the warp's tiles; rows: of the heads' queries, `apart` bytes from one to the next. */
K_INLINE void k_few_along(const uint32_t wide, const k_few *a, const uint8_t *rows, uint32_t apart, uint32_t heads, k_u16 *stage, k_so_far *s) {
    k_half_b queries[256 / 16];
    const uint32_t step = K_FEW_TAKERS(wide) * K_FEW_POSITIONS;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i += 2) {
        k_few_queries(rows, apart, heads, i * 16, &queries[i]);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        s->most[i] = -k_infinity(), s->weight[i] = 0;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16 * K_OF_C; i++) { /* one by one: a whole fragment's zeros would take the way over memory */
        s->values[i / K_OF_C].f[i % K_OF_C] = 0;
    }
    for (uint32_t first = k_warp() % K_FEW_TAKERS(wide) * K_FEW_POSITIONS; first < a->n; first += K_FEW_TILES(wide) * step) {
        k_few_pass(wide, a, first, step, queries, stage, s);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        s->weight[i] = k_heads_sum(s->weight[i]);
    }
}

#endif
