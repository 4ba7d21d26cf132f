/*
 * Tiles on Hopper. The fetching warp brings both sides in stages, for all tiles of a block one behind the other: columns as they lie (K_OP_HALVES),
 * weights by maps of their matrices. Those that compute wait for a stage, have it multiplied, and give back the one before. Columns are the
 * instruction's rows: so a thread has sums of neighbouring rows of the result, and a gated unit's of both matrices, and puts them out of its
 * registers, while the next tile is on its way.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_TILES_HOPPER_H
#define SP_DEVICE_CUDA_KERNEL_TILES_HOPPER_H

#include "device/cuda/kernel_stages_hopper.h"
#include "device/cuda/kernel_tile.h"

#ifdef K_WGMMA

/* A stage: the columns' lines; the weights, as halves or as quants: two blocks of each row, then eight scales of each, of four steps. Behind the
 * stages, of quants: the left sides of three steps. */
enum { K_SIDE = K_TILE_M * K_LINE, K_SCALES = K_TILE_M * 16, K_LEFTS = 3 };

K_INLINE uint32_t k_raw_bytes(uint32_t by) {
    return by == K_BY_F16 ? K_SIDE : K_TILE_M * K_TILE_K / (by == K_BY_Q4 ? 2 : 1) + K_SCALES;
}

K_INLINE uint8_t *k_tile_stage(uint32_t by, uint32_t stage) {
    return k_stages() + stage * (K_SIDE + k_raw_bytes(by));
}
/* ---- the fetching warp ---- */

/* One thread. The maps of a K_OP_TILES: of its matrices, then of their scales. */
K_INLINE void k_fetch_step(const k_tile *t, uint64_t maps, uint32_t step, const k_stage_place *at) {
    uint8_t *to = k_tile_stage(t->by, at->stage), *raw = to + K_SIDE;
    uint32_t lines = t->lines - t->column < K_TILE_N ? t->lines - t->column : K_TILE_N;
    uint32_t each = t->by == K_BY_F16 ? K_TILE_K : t->by == K_BY_Q4 ? K_TILE_K / 2 : K_TILE_K; /* elements, or bytes, of a row */
    uint32_t half = (t->by == K_BY_F16 ? K_SIDE : k_raw_bytes(t->by) - K_SCALES) / 2, other = t->row + (t->second ? 0 : K_TILE_M / 2);
    const uint64_t *full = k_take_stage(at, lines * K_LINE + k_raw_bytes(t->by));
    k_bulk_load(to, (uintptr_t)t->right + ((uint64_t)step * t->lines + t->column) * K_LINE, lines * K_LINE, full);
    k_bring_matrix(raw, maps, step * each, t->row, t->left_i2, t->left_i3, full);
    k_bring_matrix(raw + half, maps + (t->second ? K_MAP : 0), step * each, other, t->left_i2, t->left_i3, full);
    if (t->by != K_BY_F16) {
        uint32_t scales = t->n / (t->by == K_BY_Q4 ? 2 : 1) + step / 4 * 16;
        k_bring_matrix(raw + half * 2, maps + 2 * K_MAP, scales, t->row, t->left_i2, t->left_i3, full);
        k_bring_matrix(raw + half * 2 + K_SCALES / 2, maps + (t->second ? 3 : 2) * K_MAP, scales, other, t->left_i2, t->left_i3, full);
    }
}

/* One thread. A part of a K_OP_TILES. */
K_FN void k_fetch_tiles(const k_op *op, uint32_t part, k_stage_place *at) {
    uint64_t tasks = k_tiles_of(op), maps = op->src[K_SRC_MAPS].data;
    uint32_t parts = op->n_parts;
    for (uint32_t i = 0; i < (op->params[K_TILES_BY] == K_BY_F16 ? 2 : K_MAPS); i++) {
        if (i % 2 == 0 || op->after == K_AFTER_GLU) {
            k_see_map(maps + i * K_MAP);
        }
    }
    for (uint64_t task = part; task < tasks; task += parts) {
        const k_tile t = k_tile_of(op, task);
        for (uint32_t step = t.from; step < t.to; step++) {
            k_fetch_step(&t, maps, step, at);
            k_pass(at);
        }
    }
}

/* ---- those that compute ---- */

/* Begins with a step: 64 columns of each four warps, by all rows. */
K_INLINE void k_multiply_step(const uint8_t *columns, const uint8_t *rows, k_fragment_c *c) {
    uint64_t one = k_matrix(columns + k_warp() / 4 * 64 * K_LINE), other = k_matrix(rows);
    k_multiply_start();
    K_UNROLL_ALL
    for (uint32_t k = 0; k < K_TILE_K / 16; k++) {
        k_multiply_matrices(one + k * 2, other + k * 2, c);
    }
    k_multiply_group();
}

K_INLINE void k_along_halves(const k_tile *t, k_stage_place *at, k_fragment_c *c) {
    uint32_t before = K_TILE_STAGES;
    for (uint32_t step = t->from; step < t->to; step++) {
        const uint8_t *stage = k_tile_stage(K_BY_F16, at->stage);
        k_await_stage(at);
        k_multiply_step(stage, stage + K_SIDE, c);
        k_multiply_wait();
        if (before < K_TILE_STAGES) {
            k_give_stage(before);
        }
        before = at->stage;
        k_pass(at);
    }
    k_multiply_wait_all();
    k_sums_there(c, K_FRAGMENTS);
    k_give_stage(before);
}

/* A thread's block of quants becomes halves of a left side. */
K_INLINE void k_take_quants(uint32_t by, uint32_t step, const k_stage_place *at, uint8_t *left) {
    const uint8_t *raw = k_tile_stage(by, at->stage) + K_SIDE;
    uint32_t i = k_thread(), size = by == K_BY_Q4 ? 16 : 32;
    k_await_stage(at);
    k_words4 x[2];
    x[0] = *(const k_words4 *)(const void *)(raw + i * size);
    x[1] = *(const k_words4 *)(const void *)(raw + i * size + size - 16);
    k_put_block(by, i, x, *(const k_u16 *)(const void *)(raw + K_TILE_M * 2 * size + i / 2 * 16 + step % 4 * 4 + i % 2 * 2), left);
}
_Static_assert(K_TILE_M * 2 == K_THREADS, "a thread has a block");

K_INLINE void k_along_quants(const k_tile *t, k_stage_place *at, k_fragment_c *c) {
    uint8_t *lefts = k_tile_stage(t->by, K_TILE_STAGES);
    uint32_t before = K_TILE_STAGES, left = 0;
    k_block_sync(); /* all are done with the tile before */
    k_take_quants(t->by, t->from, at, lefts);
    for (uint32_t step = t->from; step < t->to; step++) {
        uint32_t stage = at->stage, next = left + 1 == K_LEFTS ? 0 : left + 1;
        k_show_matrices();
        k_block_sync();
        k_multiply_step(k_tile_stage(t->by, stage), lefts + left * K_SIDE, c);
        k_pass(at);
        if (step + 1 < t->to) {
            k_take_quants(t->by, step + 1, at, lefts + next * K_SIDE);
        }
        k_multiply_wait();
        if (before < K_TILE_STAGES) {
            k_give_stage(before);
        }
        before = stage, left = next;
    }
    k_multiply_wait_all();
    k_sums_there(c, K_FRAGMENTS);
    k_give_stage(before);
}

/* ---- the result ---- */

enum { K_FOURS = K_TILE_M * K_TILE_N / 4, K_AT_A_TIME = 8 /* fragments */ };

/* Of several blocks that share a tile, the last has the sums of all pieces, added in their order; false: another will. */
K_INLINE bool k_gather_pieces(const k_op *op, const k_tile *t, k_fragment_c *c) {
    uint32_t split = t->split;
    k_floats4 *all = (k_floats4 *)(uintptr_t)op->scratch + (uint64_t)t->number * split * K_FOURS + k_thread();
    if (!k_tile_comes_last(op, t)) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FRAGMENTS; i++) {
            all[t->piece * K_FOURS + i * K_THREADS] = (k_floats4){{c[i].f[0], c[i].f[1], c[i].f[2], c[i].f[3]}};
        }
        k_piece_left(op, t);
        return false;
    }
    k_await_pieces(op, t);
    K_UNROLL_ALL
    for (uint32_t first = 0; first < K_FRAGMENTS; first += K_AT_A_TIME) {
        k_fragment_c sums[K_AT_A_TIME] = {0};
        for (uint32_t piece = 0; piece < split; piece++) {
            K_UNROLL_ALL
            for (uint32_t i = 0; i < K_AT_A_TIME; i++) {
                k_floats4 one = {{c[first + i].f[0], c[first + i].f[1], c[first + i].f[2], c[first + i].f[3]}};
                if (piece != t->piece) {
                    one = all[piece * K_FOURS + (first + i) * K_THREADS];
                }
                K_UNROLL_ALL
                for (uint32_t e = 0; e < 4; e++) {
                    sums[i].f[e] += one.f[e];
                }
            }
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_AT_A_TIME; i++) {
            c[first + i] = sums[i];
        }
    }
    return true;
}

/* Of a column: two neighbouring rows' results of each fragment, from row `row` on; n fragments. */
K_INLINE void k_put_column(const k_tile *t, const k_tile_out *o, bool wide, uint32_t column, uint32_t row, uint32_t n, const k_floats2 *x) {
    const k_f32 *residual = o->residual ? (const k_f32 *)(const void *)(o->residual + column * o->residual_stride) + row : NULL;
    k_f32 *to = (k_f32 *)(void *)(o->to + column * o->stride) + row;
    k_floats2 add[K_FRAGMENTS] = {0};
    if (wide) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FRAGMENTS; i++) {
            if (residual && i < n) {
                add[i] = *(const k_floats2 *)(const void *)(residual + i * 8);
            }
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FRAGMENTS; i++) {
            if (i < n) {
                *(k_floats2 *)(void *)(to + i * 8) = (k_floats2){{x[i].f[0] + add[i].f[0], x[i].f[1] + add[i].f[1]}};
            }
        }
        return;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FRAGMENTS * 2; i++) {
        uint32_t e = i / 2 * 8 + i % 2;
        if (i / 2 < n && row + e < t->rows) {
            to[e] = x[i / 2].f[i % 2] * (t->by_row ? t->by_row[row + e] : 1.0f) + (residual ? residual[e] : 0);
        }
    }
}

/* by: what sums of the thread's two columns are multiplied with. */
K_INLINE void k_put_tile(const k_op *op, const k_tile *t, const float *by, const k_fragment_c *c) {
    const k_tile_out o = k_tile_out_of(op, t);
    uint32_t n = t->second ? K_FRAGMENTS / 2 : K_FRAGMENTS, first = t->column + k_warp() * 16 + k_lane() / 4;
    bool wide = k_tile_out_at(&o, 8) && t->row + n * 8 <= t->rows && !t->by_row;
    K_UNROLL_ALL
    for (uint32_t r = 0; r < 2; r++) {
        k_floats2 x[K_FRAGMENTS];
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FRAGMENTS * 2; i++) {
            float value = c[i / 2].f[r * 2 + i % 2] * by[r];
            if (t->second && i < K_FRAGMENTS) {
                value = k_silu_fast(value) * (c[i / 2 + K_FRAGMENTS / 2].f[r * 2 + i % 2] * by[r]);
            }
            x[i / 2].f[i % 2] = value;
        }
        if (first + r * 8 < t->columns) {
            k_put_column(t, &o, wide, first + r * 8, t->row + k_lane() % 4 * 2, n, x);
        }
    }
}

/* Instructions that are under way may not pass a function's end: in functions that are called they wait for each other. */
K_INLINE void k_do_tiles(const k_op *op, uint32_t part) {
    uint64_t tasks = k_tiles_of(op);
    k_stage_place at = k_ask(part < tasks, &(k_job){.op = (uintptr_t)op, .part = part});
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        const k_tile t = k_tile_of(op, task);
        k_fragment_c c[K_FRAGMENTS] = {0};
        float by[2];
        K_UNROLL_ALL
        for (uint32_t r = 0; r < 2; r++) {
            uint32_t column = t.column + k_warp() * 16 + k_lane() / 4 + r * 8;
            by[r] = t.by_column[column < t.columns ? column : 0];
        }
        if (t.by == K_BY_F16) {
            k_along_halves(&t, &at, c);
        } else {
            k_along_quants(&t, &at, c);
        }
        if (t.split == 1 || k_gather_pieces(op, &t, c)) {
            k_put_tile(op, &t, by, c);
        }
    }
    k_leave_stages(&at);
}

#endif

#endif
