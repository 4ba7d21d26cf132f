/* What both ways to attend with many tokens share (kernel_attend.h): maps of masks; a warp's 16 tokens, their scores, weights and results. */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_ROWS_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_ROWS_H

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

#endif

/* Over the lanes that have elements of the same rows. */
K_INLINE float k_row_max(float x) {
    x = k_larger(x, k_exchange(x, 1));
    return k_larger(x, k_exchange(x, 2));
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
        uint16_t x[16 * K_MAP_POSITIONS / K_LANES];
        K_UNROLL_ALL
        for (uint32_t j = 0; j < 16 * K_MAP_POSITIONS / K_LANES; j++) { /* all of them under way at once; what is not there counts as its neighbour */
            uint32_t e = k_lane() + j * K_LANES, position = first + e % K_MAP_POSITIONS, t = token + e / K_MAP_POSITIONS;
            position = position < positions ? position : positions - 1, t = t < tokens ? t : tokens - 1;
            x[j] = ((const k_u16 *)(const void *)k_row(m, t, 0, (uint32_t)rest))[position];
        }
        K_UNROLL_ALL
        for (uint32_t j = 0; j < 16 * K_MAP_POSITIONS / K_LANES; j++) {
            masked = x[j] == 0xfc00u ? 1 : masked; /* -infinity */
            open = (x[j] & 0x7fffu) == 0 ? 1 : open;
            other = x[j] != 0xfc00u && (x[j] & 0x7fffu) ? 1 : other;
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

enum { K_ATTEND_WIDEST = 128 }; /* elements of a head */

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

/* Scores are multiplied with it when they become weights, and counted in powers of two. */
K_INLINE float k_attend_scale(const k_op *op) {
    return k_param(op, 0) * 1.44269504f;
}

/* Adds the mask to n fragments of scores, of positions [first, ...), which are not multiplied with the scale yet. */
K_INLINE void k_add_mask(const k_op *op, const k_attend *t, const k_attend_rows *rows, uint32_t first, const uint32_t n, k_fragment_c *scores) {
    float by = 1.0f / k_param(op, 0);
    uint32_t last = t->positions - 1;
    K_UNROLL_ALL
    for (uint32_t s = 0; s < 2; s++) { /* half of them at once: all loads are under way together, and what they bring finds room */
        uint16_t mask[K_ATTEND_MOST / 16 * K_OF_C];
        K_UNROLL_ALL
        for (uint32_t i = 0; i < n / 2 * K_OF_C; i++) {
            uint32_t position = first + (s * n / 2 + i / K_OF_C) * 8 + k_column_in_c(i % K_OF_C);
            mask[i] = t->map ? rows->mask[k_slot_in_c(i % K_OF_C)][position < last ? position : last] : 0;
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < n / 2 * K_OF_C; i++) {
            uint32_t position = first + (s * n / 2 + i / K_OF_C) * 8 + k_column_in_c(i % K_OF_C);
            scores[s * n / 2 + i / K_OF_C].f[i % K_OF_C] += position > last ? -k_infinity() : k_from_half(mask[i]) * by;
        }
    }
}

/* What a warp has so far: by row the largest score, or nearly that, and (each lane its own part of) the sum of weights; the weighted values. */
typedef struct k_attended {
    float most[K_C_ROWS], sum[K_C_ROWS];
    k_fragment_c values[K_ATTEND_WIDEST / 8];
} k_attended;

/* Weights may be as large as two to the power of this: so what was summed need seldom shrink. Halves and floats have room for it. */
#define K_LEEWAY 8.0f

/* n fragments of scores become weights; by row, what was summed before is to be multiplied with. */
K_INLINE void k_weigh(float scale, const uint32_t n, k_fragment_c *scores, k_attended *a, float *by) {
    float most[K_C_ROWS], mosts[K_C_ROWS][2], sums[K_C_ROWS][2] = {{0}}; /* two of each row, so that they need not wait for each other */
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        mosts[r][0] = mosts[r][1] = a->most[r];
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        k_f32 *m = &mosts[k_slot_in_c(i % K_OF_C)][i % 2];
        *m = k_larger(*m, scores[i / K_OF_C].f[i % K_OF_C]);
    }
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        float before = a->most[r], now = k_row_max(k_larger(mosts[r][0], mosts[r][1]));
        a->most[r] = (now - before) * scale > K_LEEWAY ? now : before;
        most[r] = a->most[r] == -k_infinity() ? 0 : a->most[r] * scale; /* all of them masked, ever: weights of nothing */
        by[r] = k_exp2_fast(before * scale - most[r]);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n * K_OF_C; i++) {
        uint32_t r = k_slot_in_c(i % K_OF_C);
        k_f32 *s = &scores[i / K_OF_C].f[i % K_OF_C];
        *s = k_exp2_fast(__builtin_fmaf(*s, scale, -most[r]));
        sums[r][i % 2] += *s;
    }
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        a->sum[r] = __builtin_fmaf(a->sum[r], by[r], sums[r][0] + sums[r][1]);
    }
}

K_INLINE void k_shrink(const uint32_t wide, const float *by, k_attended *a) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 8 * K_OF_C; i++) {
        a->values[i / K_OF_C].f[i % K_OF_C] *= by[k_slot_in_c(i % K_OF_C)];
    }
}

/* A warp that has looked at nothing yet, with its queries. */
K_INLINE void k_attend_begin(const uint32_t wide, const k_attend_rows *rows, k_half_a *queries, k_attended *a) {
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        a->most[r] = -k_infinity();
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        queries[i] = k_query_piece(rows->query, i * 16);
    }
}

/* What sums are multiplied with. */
K_INLINE void k_end_sums(k_attended *a) {
    K_UNROLL_ALL
    for (uint32_t r = 0; r < K_C_ROWS; r++) {
        float sum = k_row_sum(a->sum[r]);
        a->sum[r] = sum > 0 ? 1.0f / sum : 0;
    }
}

/* As halves, in lines of 64 elements, where tiles bring them from: they lie between values that are halves, so that no scale is needed. */
K_INLINE void k_put_attended_halves(const uint32_t wide, const k_op *op, const k_attend *t, const k_attended *a) {
    uint32_t lines = op->params[K_ATTEND_LINES];
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e += 2) {
        uint32_t token = t->token + k_row_in_c(e), column = k_column_in_c(e), r = k_slot_in_c(e);
        uint8_t *to = (uint8_t *)(uintptr_t)op->dst.data + ((uint64_t)t->head * (wide / 64) * lines + token) * (K_TILE_K * 2) + column * 2;
        if (token >= t->tokens) {
            continue;
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < wide / 8; i++) {
            *(k_u32 *)(void *)(to + (uint64_t)(i / 8) * lines * (K_TILE_K * 2) + ((i ^ token) & 7) * 16) =
                k_two_halves(a->values[i].f[e] * a->sum[r], a->values[i].f[e + 1] * a->sum[r]);
        }
        if (t->head == 0 && column == 0) {
            ((k_f32 *)(uintptr_t)op->extra[1].data)[token] = 1;
        }
    }
}

K_INLINE void k_put_attended(const uint32_t wide, const k_op *op, const k_attend *t, k_attended *a) {
    k_end_sums(a);
    if (op->params[K_ATTEND_LINES]) {
        k_put_attended_halves(wide, op, t, a);
        return;
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

#endif
