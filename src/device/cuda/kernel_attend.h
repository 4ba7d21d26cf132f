/*
 * Attention of many tokens to a cache of halves, on tensor cores. A warp takes 16 tokens of one head; the warps of a block share keys and values,
 * which come into shared memory some positions at a time, the next while those before are computed with. Scores never leave the registers: the
 * largest so far and the sum are kept by row, and what was summed is shrunk where a larger score comes (FlashAttention-2, Dao 2023).
 *
 * Queries and weights are rounded to halves, as ggml's CPU backend rounds queries; sums are floats.
 *
 * A mask is looked through once for all heads and layers (K_OP_MASK_MAP): positions that all of 16 tokens have masked aren't looked at, and where
 * none is masked the mask isn't.
 *
 * params: 0 scale. scratch: the mask's map.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_H

#include "device/cuda/kernel_fragments.h"
#include "device/cuda/kernel_rows.h"

#ifdef __NVPTX__

/* 16 rows of 16 elements, from the rows of two lanes' quads. */
K_INLINE k_half_a k_query_piece(const k_f32 *const *rows, uint32_t at) {
    const k_f32 *one = rows[0] + at + k_lane() % 4 * 2, *two = rows[1] + at + k_lane() % 4 * 2;
    return (k_half_a){{k_two_halves(one[0], one[1]), k_two_halves(two[0], two[1]), k_two_halves(one[8], one[9]), k_two_halves(two[8], two[9])}};
}
/* The weights of 16 positions, out of two results. */
K_INLINE k_half_a k_weights_piece(const k_fragment_c *low, const k_fragment_c *high) {
    return (k_half_a){{k_two_halves(low->f[0], low->f[1]), k_two_halves(low->f[2], low->f[3]), k_two_halves(high->f[0], high->f[1]),
                       k_two_halves(high->f[2], high->f[3])}};
}
/* Keys of two times 8 positions, 16 elements. */
K_INLINE void k_keys_piece(const k_u16 *tile, uint32_t stride, uint32_t position, uint32_t at, k_half_b *b) {
    uint32_t m = k_lane() / 8, w[4];
    k_load_matrices(k_address_of(tile + (position + m / 2 * 8 + k_lane() % 8) * stride + at + m % 2 * 8), w);
    b[0] = (k_half_b){{w[0], w[1]}}, b[1] = (k_half_b){{w[2], w[3]}};
}
/* Values of 16 positions, two times 8 elements. */
K_INLINE void k_values_piece(const k_u16 *tile, uint32_t stride, uint32_t position, uint32_t at, k_half_b *b) {
    uint32_t m = k_lane() / 8, w[4];
    k_load_matrices_turned(k_address_of(tile + (position + m % 2 * 8 + k_lane() % 8) * stride + at + m / 2 * 8), w);
    b[0] = (k_half_b){{w[0], w[1]}}, b[1] = (k_half_b){{w[2], w[3]}};
}

#else

K_INLINE k_half_a k_query_piece(const k_f32 *const *rows, uint32_t at) {
    k_half_a a;
    for (uint32_t i = 0; i < 256; i++) {
        a.x[i / 16][i % 16] = k_from_half(k_to_half(rows[i / 16][at + i % 16]));
    }
    return a;
}
K_INLINE k_half_a k_weights_piece(const k_fragment_c *low, const k_fragment_c *high) {
    k_half_a a;
    for (uint32_t i = 0; i < 256; i++) {
        a.x[i / 16][i % 16] = k_from_half(k_to_half((i % 16 < 8 ? low : high)->f[i / 16 * 8 + i % 8]));
    }
    return a;
}
K_INLINE void k_keys_piece(const k_u16 *tile, uint32_t stride, uint32_t position, uint32_t at, k_half_b *b) {
    for (uint32_t i = 0; i < 256; i++) {
        b[i / 128].x[i / 16 % 8][i % 16] = k_from_half(tile[(position + i / 16) * stride + at + i % 16]);
    }
}
K_INLINE void k_values_piece(const k_u16 *tile, uint32_t stride, uint32_t position, uint32_t at, k_half_b *b) {
    for (uint32_t i = 0; i < 256; i++) {
        b[i / 128].x[i / 16 % 8][i % 16] = k_from_half(tile[(position + i % 16) * stride + at + i / 16]);
    }
}

#endif

/* Over the lanes that have elements of the same rows. */
K_INLINE float k_row_max(float x) {
    x = k_max(x, k_exchange(x, 1));
    return k_max(x, k_exchange(x, 2));
}
K_INLINE float k_row_sum(float x) {
    if (K_LANES > 1) {
        x += k_exchange(x, 1);
        x += k_exchange(x, 2);
    }
    return x;
}

/* ---- the map of a mask: by 16 tokens (all batches' of the mask, one behind the other) and K_MAP_POSITIONS ---- */

enum { K_MAP_NONE = 0, K_MAP_ALL = 1 /* none of them is masked */, K_MAP_SOME = 2 };

K_FN uint32_t k_map_columns(uint32_t positions) {
    return (positions + K_MAP_POSITIONS - 1) / K_MAP_POSITIONS;
}

/* A warp takes a field. */
K_APART void k_do_mask_map(const k_op *op, uint32_t part) {
    const k_tensor *m = &op->src[0];
    uint32_t positions = (uint32_t)m->ne[0], tokens = op->params[K_MAP_TOKENS], columns = k_map_columns(positions), rows = (tokens + 15) / 16;
    uint64_t n = (uint64_t)columns * rows * (uint32_t)m->ne[3], step = (uint64_t)op->n_parts * K_WARPS;
    for (uint64_t i = (uint64_t)part * K_WARPS + k_warp(); i < n; i += step) {
        uint64_t rest = i;
        uint32_t first = k_divide(&rest, columns) * K_MAP_POSITIONS, token = k_divide(&rest, rows) * 16;
        float masked = 0, open = 0, other = 0;
        for (uint32_t e = k_lane(); e < 16 * K_MAP_POSITIONS; e += K_LANES) {
            uint32_t position = first + e % K_MAP_POSITIONS, t = token + e / K_MAP_POSITIONS;
            if (position < positions && t < tokens) {
                uint16_t x = ((const k_u16 *)(const void *)k_row(m, t, 0, (uint32_t)rest))[position];
                masked = x == 0xfc00u ? 1 : masked; /* -infinity */
                open = (x & 0x7fffu) == 0 ? 1 : open;
                other = x != 0xfc00u && (x & 0x7fffu) ? 1 : other;
            }
        }
        masked = k_warp_max(masked), open = k_warp_max(open), other = k_warp_max(other);
        if (k_lane() == 0) {
            ((uint8_t *)(uintptr_t)op->dst.data)[i] = open + other == 0 ? K_MAP_NONE : masked + other == 0 ? K_MAP_ALL : K_MAP_SOME;
        }
    }
}

/* ---- attention ---- */

/* What a warp computes, and what its block goes along. */
typedef struct k_attend {
    uint32_t head, kv_head, batch, token, tokens, positions; /* token: the first of 16 */
    const uint8_t *map;                                      /* of its tokens; NULL: nothing is masked */
    uint32_t from, to;                                       /* positions that some token of the block looks at */
    bool idle;                                               /* the block has no work for this warp */
} k_attend;

enum { K_ATTEND_WIDEST = 128, K_ATTEND_MOST = 64, K_ATTEND_STAGES = 3 }; /* elements of a head; positions of a stage; stages */
enum { K_ATTEND_SCORES = K_MAP_POSITIONS / 8 };                          /* fragments of a warp's scores: those of a field of the map at once */

/* By 64 elements of heads: 64 positions at once; by 128, 32. */
#define K_POSITIONS(wide) (K_ATTEND_MOST * 64 / (wide))

/* A stage of shared memory: keys, then values. Rows are apart by 16 bytes more than they have, so that fragments' loads meet no bank twice. */
K_INLINE k_u16 *k_attend_stage(const uint32_t wide, uint32_t stage) {
    return (k_u16 *)(void *)(k_shared() + 1024) + (uint64_t)stage * 2 * K_POSITIONS(wide) * (wide + 8);
}

/* Those behind the last are zeros; nothing, where no token looks. */
K_INLINE void k_bring_positions(const uint32_t wide, const k_op *op, const k_attend *t, uint32_t first, uint32_t stage) {
    const k_tensor *k = &op->src[1], *v = &op->src[2];
    const uint8_t *keys = k_row(k, 0, t->kv_head, t->batch), *values = k_row(v, 0, t->kv_head, t->batch);
    k_u16 *to = k_attend_stage(wide, stage), *to_values = to + K_POSITIONS(wide) * (wide + 8);
    for (uint32_t i = k_thread(); first < t->to && i < K_POSITIONS(wide) * wide / 8; i += K_THREADS) {
        uint32_t row = i / (wide / 8), at = i % (wide / 8), position = first + row;
        bool there = position < t->positions;
        uint64_t from = there ? position : 0;
        k_copy_async(to + row * (wide + 8) + at * 8, keys + from * (uint64_t)k->nb[1] + at * 16, there);
        k_copy_async(to_values + row * (wide + 8) + at * 8, values + from * (uint64_t)v->nb[1] + at * 16, there);
    }
    k_copies_end();
}

/* A lane's rows: of queries, of the mask. */
typedef struct k_attend_rows {
    const k_f32 *query[K_C_ROWS];
    const k_u16 *mask[K_C_ROWS];
} k_attend_rows;

K_INLINE k_attend_rows k_rows_of_lane(const k_op *op, const k_attend *t) {
    const k_tensor *m = &op->src[3];
    k_attend_rows rows;
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        uint32_t token = t->token + (K_LANES == 1 ? r : k_lane() / 4 + r * 8);
        token = token < t->tokens ? token : t->tokens - 1;
        rows.query[r] = (const k_f32 *)k_row(&op->src[0], token, t->head, t->batch);
        rows.mask[r] = t->map ? (const k_u16 *)(const void *)k_row(m, token, 0, t->batch % (uint32_t)m->ne[3]) : NULL;
    }
    return rows;
}

/* What the map says of K_MAP_POSITIONS positions. */
K_INLINE uint32_t k_map_at(const k_attend *t, uint32_t first) {
    uint32_t map = t->map ? t->map[first / K_MAP_POSITIONS] : K_MAP_ALL;
    return map == K_MAP_ALL && first + K_MAP_POSITIONS > t->positions ? K_MAP_SOME : map;
}

/* Scores are counted in powers of two. */
#define K_LOG2_E 1.44269504f

/* Adds the mask to the scores of positions [first, ...). */
K_INLINE void k_add_mask(const k_attend *t, const k_attend_rows *rows, uint32_t first, k_fragment_c *scores) {
    k_fragment_c mask[K_ATTEND_SCORES];
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_SCORES * K_OF_C; i++) { /* without branches, so that all loads are under way at once */
        uint32_t e = i % K_OF_C, position = first + i / K_OF_C * 8 + k_column_in_c(e), last = t->positions - 1;
        float x = t->map ? k_from_half(rows->mask[k_slot_in_c(e)][position < last ? position : last]) : 0;
        mask[i / K_OF_C].f[e] = position > last ? -k_infinity() : x * K_LOG2_E;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_SCORES * K_OF_C; i++) {
        scores[i / K_OF_C].f[i % K_OF_C] += mask[i / K_OF_C].f[i % K_OF_C];
    }
}

/* What a warp has so far: by row the largest score and (each lane its own part of) the sum of weights; the weighted values. */
typedef struct k_attended {
    float most[K_C_ROWS], sum[K_C_ROWS];
    k_fragment_c values[K_ATTEND_WIDEST / 8];
} k_attended;

/* Scores become weights; what was summed before shrinks. */
K_INLINE void k_weigh(const uint32_t wide, k_fragment_c *scores, k_attended *a) {
    float most[K_C_ROWS], by[K_C_ROWS];
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        most[r] = a->most[r];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_SCORES * K_OF_C; i++) {
        uint32_t r = k_slot_in_c(i % K_OF_C);
        most[r] = k_max(most[r], scores[i / K_OF_C].f[i % K_OF_C]);
    }
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        float before = a->most[r];
        a->most[r] = k_row_max(most[r]);
        most[r] = a->most[r] == -k_infinity() ? 0 : a->most[r]; /* all of them masked, ever: weights of nothing */
        by[r] = k_exp2_fast(before - most[r]);
        a->sum[r] *= by[r];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_SCORES * K_OF_C; i++) {
        uint32_t r = k_slot_in_c(i % K_OF_C);
        k_f32 *s = &scores[i / K_OF_C].f[i % K_OF_C];
        *s = k_exp2_fast(*s - most[r]);
        a->sum[r] += *s;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 8 * K_OF_C; i++) {
        a->values[i / K_OF_C].f[i % K_OF_C] *= by[k_slot_in_c(i % K_OF_C)];
    }
}

/* K_MAP_POSITIONS positions from `first` on, which are the at-th of the stage. */
K_INLINE void k_attend_some_of(const uint32_t wide, const k_op *op, const k_attend *t, const k_attend_rows *rows, const k_half_a *queries,
                               uint32_t first, const k_u16 *stage, uint32_t at, k_attended *a) {
    const k_u16 *keys = stage + at * (wide + 8), *values = keys + K_POSITIONS(wide) * (wide + 8);
    k_fragment_c scores[K_ATTEND_SCORES] = {0};
    k_half_b b[2];
    uint32_t map = k_map_at(t, first);
    if (map == K_MAP_NONE) {
        return;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        K_UNROLL_ALL
        for (uint32_t j = 0; j < K_ATTEND_SCORES; j += 2) {
            k_keys_piece(keys, wide + 8, j * 8, i * 16, b);
            k_multiply_halves(&scores[j], &queries[i], &b[0]);
            k_multiply_halves(&scores[j + 1], &queries[i], &b[1]);
        }
    }
    float scale = k_param(op, 0) * K_LOG2_E;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_SCORES * K_OF_C; i++) {
        scores[i / K_OF_C].f[i % K_OF_C] *= scale;
    }
    if (map == K_MAP_SOME) {
        k_add_mask(t, rows, first, scores);
    }
    k_weigh(wide, scores, a);
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_ATTEND_SCORES; j += 2) {
        const k_half_a weights = k_weights_piece(&scores[j], &scores[j + 1]);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 16; i++) {
            k_values_piece(values, wide + 8, j * 8, i * 16, b);
            k_multiply_halves(&a->values[i * 2], &weights, &b[0]);
            k_multiply_halves(&a->values[i * 2 + 1], &weights, &b[1]);
        }
    }
}

K_INLINE void k_put_attended(const uint32_t wide, const k_op *op, const k_attend *t, k_attended *a) {
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        float sum = k_row_sum(a->sum[r]);
        a->sum[r] = sum > 0 ? 1.0f / sum : 0;
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        uint32_t token = t->token + k_row_in_c(e);
        k_f32 *row = (k_f32 *)k_row(&op->dst, t->head, token < t->tokens ? token : 0, t->batch);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 8; i++) {
            if (token < t->tokens) {
                row[i * 8 + k_column_in_c(e)] = a->values[i].f[e] * a->sum[k_slot_in_c(e)];
            }
        }
    }
}

K_INLINE void k_attend_along(const uint32_t wide, const k_op *op, const k_attend *t) {
    k_attended a = {0};
    k_half_a queries[K_ATTEND_WIDEST / 16];
    const k_attend_rows rows = k_rows_of_lane(op, t);
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        a.most[r] = -k_infinity();
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        queries[i] = k_query_piece(rows.query, i * 16);
    }
    k_block_sync();
    for (uint32_t i = 0; i < K_ATTEND_STAGES - 1; i++) {
        k_bring_positions(wide, op, t, t->from + i * K_POSITIONS(wide), i);
    }
    for (uint32_t first = t->from, stage = 0; first < t->to; first += K_POSITIONS(wide), stage = stage + 1 == K_ATTEND_STAGES ? 0 : stage + 1) {
        k_copies_wait_but(1);
        k_block_sync(); /* the stage is there, and the one before it is done with */
        k_bring_positions(wide, op, t, first + (K_ATTEND_STAGES - 1) * K_POSITIONS(wide), stage == 0 ? K_ATTEND_STAGES - 1 : stage - 1);
        for (uint32_t at = 0; at < K_POSITIONS(wide) && first + at < t->to && !t->idle; at += K_MAP_POSITIONS) {
            k_attend_some_of(wide, op, t, &rows, queries, first + at, k_attend_stage(wide, stage), at, &a);
        }
    }
    k_copies_wait_but(0);
    if (!t->idle) {
        k_put_attended(wide, op, t, &a);
    }
}

/* The positions that some token of [token, to) looks at, by K_ATTEND_MOST. map: of the first. */
K_FN void k_positions_of(k_attend *t, const uint8_t *map, uint32_t rows) {
    uint32_t columns = k_map_columns(t->positions);
    float first = -(float)columns, last = 0; /* one behind */
    for (uint32_t i = k_thread(); i < rows * columns; i += K_THREADS) {
        uint32_t at = i % columns;
        if (map[i] != K_MAP_NONE) {
            first = k_max(first, -(float)at);
            last = k_max(last, (float)(at + 1));
        }
    }
    first = k_block_reduce(first, true), last = k_block_reduce(last, true);
    t->from = (uint32_t)-first * K_MAP_POSITIONS / K_ATTEND_MOST * K_ATTEND_MOST;
    t->to = (uint32_t)last * K_MAP_POSITIONS < t->positions ? (uint32_t)last * K_MAP_POSITIONS : t->positions;
}

/* Warps' work: by batch and heads of the cache, tokens by 16, heads that share keys. A block takes what shares keys. */
K_APART void k_do_attend(const k_op *op, uint32_t part) {
    const k_tensor *q = &op->src[0], *k = &op->src[1];
    uint32_t kv_heads = (uint32_t)k->ne[2], shared = (uint32_t)q->ne[2] / kv_heads, tokens = (uint32_t)q->ne[1], map_rows = (tokens + 15) / 16;
    uint32_t units = map_rows * shared, blocks = (units + K_WARPS - 1) / K_WARPS;
    uint64_t tasks = (uint64_t)blocks * kv_heads * (uint32_t)q->ne[3];
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        uint64_t rest = task;
        uint32_t begin = k_divide(&rest, blocks) * K_WARPS, end = begin + K_WARPS < units ? begin + K_WARPS : units, unit = begin + k_warp();
        k_attend t = {.tokens = tokens, .positions = (uint32_t)k->ne[1], .to = (uint32_t)k->ne[1], .idle = unit >= units};
        t.kv_head = k_divide(&rest, kv_heads), t.batch = (uint32_t)rest;
        unit = t.idle ? begin : unit;
        t.head = t.kv_head * shared + unit % shared, t.token = unit / shared * 16;
        if (op->src[3].data) {
            uint32_t columns = k_map_columns(t.positions);
            const uint8_t *map = (const uint8_t *)(uintptr_t)op->scratch + (uint64_t)(t.batch % (uint32_t)op->src[3].ne[3]) * map_rows * columns;
            k_positions_of(&t, map + begin / shared * columns, (end - 1) / shared + 1 - begin / shared);
            t.map = map + unit / shared * columns;
        }
        if (q->ne[0] == 64) {
            k_attend_along(64, op, &t);
        } else {
            k_attend_along(128, op, &t);
        }
    }
}

#endif
