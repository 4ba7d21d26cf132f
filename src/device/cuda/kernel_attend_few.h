/*
 * Attention of few tokens to a cache of halves, on tensor cores: what one warp does. Positions are rows of 16, heads that share keys are 8 columns,
 * of which some may be idle. A warp takes every so many tiles of 16 positions for itself: keys come from the cache into registers, one tile ahead;
 * values by way of shared memory, which turns them, some tiles ahead. The code is short and goes round in a loop: what runs once waits for its
 * instructions.
 *
 * Queries and weights are rounded to halves, sums are floats. Scores are counted in powers of two.
 *
 * The newest row of the cache may be one that products of the same run are writing meanwhile (plan_newest.c). It is not taken from the cache, where
 * it is there behind a barrier alone, but from columns that say by stamps that they are there (kernel_stamp.h), together with the queries. What was
 * read in its place from the cache, old or new, is thrown away; every other row was written in an earlier run, and runs end with a barrier.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_FEW_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_FEW_H

#include "device/cuda/kernel_fragments.h"
#include "device/cuda/kernel_ring.h"
#include "device/cuda/kernel_rows.h"
#include "device/cuda/kernel_stamp.h"

enum {
    K_FEW_POSITIONS = K_FEW_TILE,            /* of a tile */
    K_FEW_WIDEST = K_LANES == 1 ? 256 : 128, /* elements of values: of 256 a warp takes one half, its neighbour the other */
    K_FEW_AT = 1024,                         /* of shared memory: by warp its tiles' values, and in the end what it has: [heads][K_FEW_ROW] floats */
    K_FEW_SLOTS = K_LANES == 1 ? 8 : 2,      /* heads that a lane has something of */
    K_FEW_AHEAD = 3,                         /* so many tiles before it is wanted, one is brought near */
    K_FEW_NONE = 0xffffffff
};

/* In shared memory: by head the warps' largest, then their weights. */
enum { K_FEW_STATS_AT = 512, K_FEW_STATS = 16 };

/* Tiles whose values are under way, and how many of them are in the working memory: another is in a slot. Elements that a warp takes of them; warps
 * that take tiles of their own. */
#define K_FEW_STAGES(wide) ((wide) == 64 ? 3u : 1u)
#define K_FEW_NEAR(wide) ((wide) == 64 ? 2u : 1u)
#define K_FEW_VALUES(wide) ((wide) < (uint32_t)K_FEW_WIDEST ? (uint32_t)(wide) : (uint32_t)K_FEW_WIDEST)
#define K_FEW_TAKERS(wide) ((uint32_t)K_WARPS * K_FEW_VALUES(wide) / (wide))
/* In shared memory rows lie so far apart that fragments' loads and stores meet no bank twice: of values, in halves; of results, in floats. */
#define K_FEW_APART(wide) (K_FEW_VALUES(wide) + 8)
#define K_FEW_ROW(wide) (K_FEW_VALUES(wide) + 4)
#define K_FEW_STAGE(wide) (K_FEW_POSITIONS * K_FEW_APART(wide) * 2)
#define K_FEW_BYTES(wide) (K_FEW_NEAR(wide) * K_FEW_STAGE(wide))
/* Behind the stages: queries as halves, by head, so many bytes apart. */
#define K_FEW_QUERIES_AT(wide) (K_FEW_AT + K_WARPS * K_FEW_BYTES(wide))
#define K_FEW_QUERY(wide) ((wide)*2 + 16)
_Static_assert(K_FEW_QUERIES_AT(64) + K_HALVES_HEADS * K_FEW_QUERY(64) <= K_WORK &&
                   K_FEW_QUERIES_AT(256) + K_HALVES_HEADS * K_FEW_QUERY(256) <= K_WORK,
               "it fits");
_Static_assert(K_WARPS *K_FEW_STAGE(128) <= K_SLOT && K_WARPS * K_FEW_STAGE(64) <= K_SLOT, "it fits");
_Static_assert(K_FEW_BYTES(64) >= K_HALVES_HEADS * K_FEW_ROW(64) * 4 && K_FEW_BYTES(128) >= K_HALVES_HEADS * K_FEW_ROW(128) * 4 &&
                   K_FEW_BYTES(256) >= K_HALVES_HEADS * K_FEW_ROW(256) * 4,
               "it fits");

/* What a warp goes along: positions up to the last of a head's keys and values, and what is added to their scores. */
typedef struct k_few {
    const uint8_t *keys, *values; /* values: the first element that the warp takes */
    const k_u16 *mask;            /* or NULL */
    uint32_t key_step, value_step, last;
    float scale, cap, slope[K_FEW_SLOTS];
    k_stamp stamp;
    const uint8_t *newest_key, *newest_value; /* stamped floats that take the place of the rows at: K_FEW_NONE: of none of the warp's */
    uint32_t newest_key_at, newest_value_at;
    uint32_t key_id, value_id, from; /* where that is found: the rows' numbers, the piece's first row */
} k_few;

/* Queries as fragments have them; four elements of the newest value. The newest key goes to shared memory, as halves: one warp has it, or two have
 * the same. */
typedef struct k_taken_few {
    k_half_b queries[256 / 16];
    uint32_t value[2];
} k_taken_few;

K_INLINE k_u16 *k_few_newest_key(void) {
    return (k_u16 *)(void *)k_shared();
}

/* What it has so far. Of values rows are elements, columns heads. */
typedef struct k_so_far {
    float most[K_FEW_SLOTS], weight[K_FEW_SLOTS];
    k_fragment_c values[K_FEW_WIDEST / 16];
} k_so_far;

/* Where a warp has what it found, and before that its first stages; where the values of its stage i are. */
K_INLINE uint8_t *k_few_own(const uint32_t wide, uint32_t warp) {
    return k_shared() + K_FEW_AT + warp * K_FEW_BYTES(wide);
}
K_INLINE k_u16 *k_few_stage(const uint32_t wide, uint32_t i) {
    return (k_u16 *)(void *)(i < K_FEW_NEAR(wide) ? k_few_own(wide, k_warp()) + i * K_FEW_STAGE(wide) : k_own_slot() + k_warp() * K_FEW_STAGE(wide));
}

K_INLINE uint32_t k_few_least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}
K_INLINE float k_few_most(float a, float b) {
    return __builtin_fmaxf(a, b);
}

/* Where the newest row is among the piece's positions, if it is one of those that the warp takes. */
K_INLINE uint32_t k_few_newest_at(const uint32_t wide, const k_few *a, uint32_t id) {
    uint32_t at = id - a->from;
    bool own = K_LANES == 1 || at / K_FEW_POSITIONS % K_FEW_TAKERS(wide) == k_warp() % K_FEW_TAKERS(wide);
    return at <= a->last && own ? at : K_FEW_NONE;
}
K_INLINE void k_few_find_newest(const uint32_t wide, k_few *a) {
    a->newest_key_at = a->newest_key ? k_few_newest_at(wide, a, a->key_id) : K_FEW_NONE;
    a->newest_value_at = a->newest_key ? k_few_newest_at(wide, a, a->value_id) : K_FEW_NONE;
}

#ifdef __NVPTX__

typedef const __attribute__((address_space(1))) k_words4 *k_global_words4;
typedef const __attribute__((address_space(1))) k_u16 *k_global_u16;

/* As k_copy_async, where the compiler sees that it goes to shared memory. */
K_INLINE void k_copy_near(void *to, const void *from) {
    __asm__ volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(k_address_of(to)), "l"(from) : "memory");
}
/* A tile's keys: 32 elements from `at` on, in two steps. A lane loads 8 neighbours of two rows, which are not those that a fragment's lane has: that
 * is all the same, as long as queries have the same order. Behind the last position comes the last again. */
K_INLINE void k_few_keys(const uint32_t wide, const k_few *a, uint32_t first, k_half_a *keys) {
    const uint8_t *rows[2];
    K_UNROLL_ALL
    for (uint32_t r = 0; r < 2; r++) {
        rows[r] = a->keys + (uint64_t)k_few_least(first + k_lane() / 4 + r * 8, a->last) * a->key_step + k_lane() % 4 * 16;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 32; i++) {
        const k_words4 x = *(k_global_words4)(uintptr_t)(rows[0] + i * 64), y = *(k_global_words4)(uintptr_t)(rows[1] + i * 64);
        keys[i * 2] = (k_half_a){{x.w[0], y.w[0], x.w[1], y.w[1]}};
        keys[i * 2 + 1] = (k_half_a){{x.w[2], y.w[2], x.w[3], y.w[3]}};
    }
}
/* Brings a tile near that is wanted some tiles later: its keys, and its values where they aren't under way as long. */
K_INLINE void k_few_ahead(const uint32_t wide, const k_few *a, uint32_t first) {
    uint64_t row = k_few_least(first + k_lane() % K_FEW_POSITIONS, a->last);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide * 2; i += 256) {
        __asm__ volatile("prefetch.global.L2 [%0];" ::"l"(a->keys + row * a->key_step + i + k_lane() / K_FEW_POSITIONS * 128 % (wide * 2))
                         : "memory");
    }
    if (K_FEW_STAGES(wide) == 1) {
        __asm__ volatile("prefetch.global.L2 [%0];" ::"l"(a->values + row * a->value_step + k_lane() / K_FEW_POSITIONS * 128) : "memory");
    }
}
/* Rounded already: nothing is lost. */
K_INLINE void k_few_four_halves(k_stamp s, const k_words4 *w, k_u32 *to) {
    to[0] = k_two_halves(k_taken(s, w->w[0]), k_taken(s, w->w[1])), to[1] = k_two_halves(k_taken(s, w->w[2]), k_taken(s, w->w[3]));
}
/* Queries of all heads, `step` bytes apart, are asked for by the block's threads together, four elements each, and given to all as halves in shared
 * memory: were each warp to ask for all of them, these questions would delay the answers. */
#define K_FEW_FOURS_EACH(wide) ((wide)*K_HALVES_HEADS / 4 > (uint32_t)K_THREADS ? 2u : 1u)
K_INLINE bool k_few_has_four(const uint32_t wide, uint32_t i, uint32_t heads) {
    return (k_thread() + i * K_THREADS) / (wide / 4) < heads;
}
K_INLINE void k_few_ask_queries(const uint32_t wide, k_stamp stamp, const uint8_t *rows, uint32_t step, uint32_t heads, k_words4 *q) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_FOURS_EACH(wide); i++) {
        const uint32_t four = k_thread() + i * K_THREADS;
        q[i] = (k_words4){{stamp.turn, stamp.turn, stamp.turn, stamp.turn}};
        k_load_relaxed4(rows + four / (wide / 4) * (uint64_t)step + four % (wide / 4) * 16, k_few_has_four(wide, i, heads), &q[i]);
    }
}
K_INLINE uint32_t k_few_lack_queries(const uint32_t wide, k_stamp stamp, const k_words4 *q) {
    uint32_t lacks = 0;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_FOURS_EACH(wide); i++) {
        lacks |= k_lacking4(stamp, &q[i]);
    }
    return lacks;
}
K_INLINE uint8_t *k_few_query(const uint32_t wide, uint32_t head) {
    return k_shared() + K_FEW_QUERIES_AT(wide) + head * K_FEW_QUERY(wide);
}
K_INLINE void k_few_give_queries(const uint32_t wide, k_stamp stamp, uint32_t heads, const k_words4 *q) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_FOURS_EACH(wide); i++) {
        const uint32_t four = k_thread() + i * K_THREADS;
        if (k_few_has_four(wide, i, heads)) {
            k_few_four_halves(stamp, &q[i], (k_u32 *)(void *)(k_few_query(wide, four / (wide / 4)) + four % (wide / 4) * 8));
        }
    }
    k_block_sync();
}
/* Of elements 32 i and on, the lane's eight. Heads behind the last are the last again. */
K_INLINE k_words4 k_few_take_query(const uint32_t wide, uint32_t heads, uint32_t i) {
    return *(const k_words4 *)(const void *)(k_few_query(wide, k_few_least(k_lane() / 4, heads - 1)) + i * 64 + k_lane() % 4 * 16);
}
/* As k_few_keys has keys, the queries; and the newest row. All are asked for before one is looked at. */
K_INLINE void k_few_take(const uint32_t wide, const k_few *a, const uint8_t *rows, uint32_t step, uint32_t heads, k_taken_few *t) {
    const k_stamp always = {.turn = a->stamp.turn, .bit = 1};
    const k_words4 none = {{always.turn, always.turn, always.turn, always.turn}};
    bool has_key = a->newest_key_at != K_FEW_NONE && k_lane() * 4 < wide;
    bool has_value = a->newest_value_at != K_FEW_NONE && k_lane() * 4 < K_FEW_VALUES(wide);
    k_words4 q[2], k[2], v;
    uint32_t polls = 0, lacks;
    do {
        k_few_ask_queries(wide, a->stamp, rows, step, heads, q);
        k[0] = k[1] = v = none;
        k_load_relaxed4(a->newest_key + k_lane() * 16, has_key, &k[0]);
        if (wide > 128) {
            k_load_relaxed4(a->newest_key + k_lane() * 16 + 512, has_key, &k[1]);
        }
        k_load_relaxed4(a->newest_value + k_lane() * 16, has_value, &v);
        lacks = k_lacking4(always, &k[0]) | k_lacking4(always, &k[1]) | k_lacking4(always, &v) | k_few_lack_queries(wide, a->stamp, q);
    } while (k_warp_any(lacks) && !k_warp_any(k_waits_in_vain(&polls)));
    k_few_four_halves(always, &v, t->value);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < (wide + 127) / 128; i++) {
        if (has_key) {
            k_few_four_halves(always, &k[i], (k_u32 *)(void *)(k_few_newest_key() + i * 128 + k_lane() * 4));
        }
    }
    k_few_give_queries(wide, a->stamp, heads, q);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 32; i++) {
        const k_words4 w = k_few_take_query(wide, heads, i);
        t->queries[i * 2] = (k_half_b){{w.w[0], w.w[1]}}, t->queries[i * 2 + 1] = (k_half_b){{w.w[2], w.w[3]}};
    }
}
/* Where a tile has the newest row, it gets it. The tile's values are there. */
K_INLINE void k_few_renew_keys(const uint32_t wide, const k_few *a, uint32_t first, k_half_a *keys) {
    uint32_t row = a->newest_key_at - first;
    if (row < K_FEW_POSITIONS && row % 8 == k_lane() / 4) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 32; i++) {
            const k_words4 x = *(const k_words4 *)(const void *)(k_few_newest_key() + i * 32 + k_lane() % 4 * 8);
            K_UNROLL_ALL
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t *w = &keys[i * 2 + j / 2].w[j % 2 * 2];
                w[0] = row < 8 ? x.w[j] : w[0], w[1] = row < 8 ? w[1] : x.w[j];
            }
        }
    }
}
K_INLINE void k_few_renew_values(const uint32_t wide, const k_few *a, uint32_t first, const k_taken_few *t, k_u16 *stage) {
    uint32_t row = a->newest_value_at - first;
    if (row < K_FEW_POSITIONS) {
        if (k_lane() * 4 < K_FEW_VALUES(wide)) {
            k_u32 *at = (k_u32 *)(void *)(stage + row * K_FEW_APART(wide) + k_lane() * 4);
            at[0] = t->value[0], at[1] = t->value[1];
        }
        k_warp_sync();
    }
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
    x = k_few_most(x, k_exchange(x, 4));
    x = k_few_most(x, k_exchange(x, 8));
    return k_few_most(x, k_exchange(x, 16));
}
K_INLINE float k_heads_sum(float x) {
    x += k_exchange(x, 4);
    x += k_exchange(x, 8);
    return x + k_exchange(x, 16);
}

#else

typedef const k_u16 *k_global_u16;

K_INLINE void k_copy_near(void *to, const void *from) {
    k_copy_async(to, from, true);
}
K_INLINE void k_few_ahead(const uint32_t wide, const k_few *a, uint32_t first) {
    (void)wide, (void)a, (void)first;
}
K_INLINE void k_few_keys(const uint32_t wide, const k_few *a, uint32_t first, k_half_a *keys) {
    for (uint32_t i = 0; i < K_FEW_POSITIONS * wide; i++) {
        uint32_t row = k_few_least(first + i / wide, a->last), d = i % wide;
        keys[d / 16].x[i / wide][d % 16] = row == a->newest_key_at ? 0 : k_half(a->keys + (uint64_t)row * a->key_step + d * 2ull);
    }
}
K_INLINE float k_few_await(k_stamp stamp, const uint8_t *row, uint32_t d) {
    const k_u32 *at = (const k_u32 *)(const void *)row + d;
    return k_from_half(k_to_half(k_stamp_await(stamp, k_load_relaxed(at), at)));
}
K_INLINE void k_few_take(const uint32_t wide, const k_few *a, const uint8_t *rows, uint32_t step, uint32_t heads, k_taken_few *t) {
    for (uint32_t i = 0; i < 8 * wide; i++) {
        uint32_t head = i / wide, d = i % wide;
        t->queries[d / 16].x[head][d % 16] = k_few_await(a->stamp, rows + (uint64_t)(head < heads ? head : heads - 1) * step, d);
    }
}
K_INLINE void k_few_renew_keys(const uint32_t wide, const k_few *a, uint32_t first, k_half_a *keys) {
    for (uint32_t d = 0; a->newest_key_at - first < K_FEW_POSITIONS && d < wide; d++) {
        keys[d / 16].x[a->newest_key_at - first][d % 16] = k_few_await((k_stamp){a->stamp.turn, 1}, a->newest_key, d);
    }
}
K_INLINE void k_few_renew_values(const uint32_t wide, const k_few *a, uint32_t first, const k_taken_few *t, k_u16 *stage) {
    (void)t;
    for (uint32_t d = 0; a->newest_value_at - first < K_FEW_POSITIONS && d < wide; d++) {
        stage[(a->newest_value_at - first) * K_FEW_APART(wide) + d] = k_to_half(k_few_await((k_stamp){a->stamp.turn, 1}, a->newest_value, d));
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

#define K_LOG2_E 1.44269504f
#define K_LN_2 0.69314718f

K_INLINE float k_soft_cap(float x, float cap) {
    float e = k_exp_fast(2 * x * k_reciprocal(cap));
    return cap - 2 * cap * k_reciprocal(e + 1);
}

/* Asks for what is added to a tile's scores, as halves. */
K_INLINE void k_few_masks(const k_few *a, uint32_t first, uint16_t *mask) {
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        mask[r] = 0;
        if (a->mask) {
            mask[r] = ((k_global_u16)(uintptr_t)a->mask)[k_few_least(first + k_few_row(r), a->last)];
        }
    }
}

/* Asks for a tile's values. */
K_INLINE void k_few_bring(const uint32_t wide, const k_few *a, uint32_t first, k_u16 *stage) {
    const uint32_t pieces = K_FEW_VALUES(wide) / 8;
    if (first <= a->last) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_POSITIONS * pieces / K_LANES; i++) {
            uint32_t at = (i * K_LANES + k_lane()) % pieces * 8, row = (i * K_LANES + k_lane()) / pieces;
            if (K_LANES > 1 || first + row != a->newest_value_at) { /* on the host it would be a race */
                k_copy_near(stage + row * K_FEW_APART(wide) + at, a->values + (uint64_t)k_few_least(first + row, a->last) * a->value_step + at * 2);
            }
        }
    }
    k_copies_end();
}

/* Products of a tile's keys and queries become scores. Does any of them count? */
K_INLINE bool k_few_scores(const k_few *a, uint32_t first, const uint16_t *masks, k_fragment_c *scores) {
    float mask[K_C_ROWS], most = -k_infinity();
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        mask[r] = first + k_few_row(r) > a->last ? -k_infinity() : k_from_half(masks[r]);
        most = k_few_most(most, mask[r]);
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        scores->f[e] *= a->scale;
    }
    if (a->cap > 0) {
        K_UNROLL_ALL
        for (uint32_t e = 0; e < K_OF_C; e++) {
            scores->f[e] = k_soft_cap(scores->f[e], a->cap);
        }
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        float add = mask[k_slot_in_c(e)];
        scores->f[e] = add == -k_infinity() ? add : scores->f[e] * K_LOG2_E + a->slope[k_few_slot(e)] * add;
    }
    return k_warp_any(most > -k_infinity());
}

/* A tile's scores become weights; what was summed before shrinks. */
K_INLINE void k_few_weigh(const uint32_t wide, k_fragment_c *scores, k_so_far *s) {
    float by[K_FEW_SLOTS], before[K_FEW_SLOTS];
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        before[i] = s->most[i];
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        s->most[k_few_slot(e)] = k_few_most(s->most[k_few_slot(e)], scores->f[e]);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) { /* more than minus infinity, since some position counts */
        s->most[i] = k_heads_max(s->most[i]);
        by[i] = k_exp2_fast(before[i] - s->most[i]);
        s->weight[i] *= by[i];
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        scores->f[e] = k_exp2_fast(scores->f[e] - s->most[k_few_slot(e)]);
        s->weight[k_few_slot(e)] += scores->f[e];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16 * K_OF_C; i++) {
        s->values[i / K_OF_C].f[i % K_OF_C] *= by[k_few_slot(i)];
    }
}

K_INLINE void k_few_add_values(const uint32_t wide, const k_u16 *stage, const k_fragment_c *scores, k_so_far *s) {
    const k_half_b weights = k_few_weights(scores);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16; i++) {
        const k_half_a values = k_few_values(stage, K_FEW_APART(wide), i * 16);
        k_multiply_halves(&s->values[i], &values, &weights);
    }
}

/* All of the warp's tiles; rows: of the heads' queries, `apart` bytes from one to the next. Keys of two tiles are under way, where registers are
 * there for them. */
K_INLINE void k_few_along(const uint32_t wide, k_few *a, const uint8_t *rows, uint32_t apart, uint32_t heads, k_so_far *s) {
    const uint32_t step = K_FEW_TAKERS(wide) * K_FEW_POSITIONS, two = wide == 64;
    uint32_t first = k_warp() % K_FEW_TAKERS(wide) * K_FEW_POSITIONS;
    k_half_a keys[256 / 16], next[256 / 16];
    k_taken_few taken;
    uint16_t masks[K_C_ROWS], next_masks[K_C_ROWS];
    if (K_LANES == 1) { /* a card asks for all else first */
        k_few_find_newest(wide, a);
    }
    k_few_keys(wide, a, first, keys);
    if (two) {
        k_few_keys(wide, a, first + step, next);
    }
    for (uint32_t i = 0; i < K_FEW_STAGES(wide); i++) {
        k_few_bring(wide, a, first + i * step, k_few_stage(wide, i));
    }
    k_few_masks(a, first, masks);
    k_few_masks(a, first + step, next_masks);
    for (uint32_t i = 1 + two; i < K_FEW_AHEAD && first + i * step <= a->last; i++) {
        k_few_ahead(wide, a, first + i * step);
    }
    k_few_find_newest(wide, a);
    k_few_take(wide, a, rows, apart, heads, &taken);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        s->most[i] = -k_infinity(), s->weight[i] = 0;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16 * K_OF_C; i++) { /* one by one: a whole fragment's zeros would take the way over memory */
        s->values[i / K_OF_C].f[i % K_OF_C] = 0;
    }
    for (uint32_t at = 0; first <= a->last; first += step, at = at + 1 == K_FEW_STAGES(wide) ? 0 : at + 1) {
        k_fragment_c scores;
        K_UNROLL_ALL
        for (uint32_t e = 0; e < K_OF_C; e++) {
            scores.f[e] = 0;
        }
        k_few_renew_keys(wide, a, first, keys);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 16; i++) {
            k_multiply_halves(&scores, &keys[i], &taken.queries[i]);
        }
        bool live = k_few_scores(a, first, masks, &scores), more = first + step <= a->last;
        K_UNROLL_ALL
        for (uint32_t r = 0; r < K_C_ROWS; r++) {
            masks[r] = next_masks[r];
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; two && i < wide / 16; i++) {
            keys[i] = next[i];
        }
        if (more) {
            k_few_keys(wide, a, first + (1 + two) * step, two ? next : keys);
            k_few_masks(a, first + 2 * step, next_masks);
        }
        if (live) {
            k_few_weigh(wide, &scores, s);
            k_copies_wait_but(K_FEW_STAGES(wide) - 1);
            k_warp_sync();
            k_few_renew_values(wide, a, first, &taken, k_few_stage(wide, at));
            k_few_add_values(wide, k_few_stage(wide, at), &scores, s);
        }
        if (more) {
            k_warp_sync();
            k_few_bring(wide, a, first + K_FEW_STAGES(wide) * step, k_few_stage(wide, at));
            if (first + K_FEW_AHEAD * step <= a->last) {
                k_few_ahead(wide, a, first + K_FEW_AHEAD * step);
            }
        }
    }
    k_copies_wait_all(); /* of tiles that nobody looked at, too, before others take their place */
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        s->weight[i] = k_heads_sum(s->weight[i]);
    }
}

#endif
