/*
 * Products of many columns, on tensor cores. A block takes a tile of the result and goes along the rows, K_TILE_K elements at a time, in stages of
 * shared memory: columns come as K_OP_HALVES has put them, weights as they are; quants are made halves while what came before is multiplied. Several
 * blocks may share a tile, each a piece of the rows' length: the last adds up what the others found, always in the same order. Sums are floats.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_TILES_H
#define SP_DEVICE_CUDA_KERNEL_TILES_H

#include "device/cuda/kernel_tiles_sync.h"

/* ---- the result: sums go through shared memory, so that what is done to them is a short loop, and rows are written side by side ---- */

enum { K_DOWN = K_TILE_M + 4 /* floats of a column there: fragments meet no bank twice */ };

K_FN k_f32 *k_placed_sums(void) {
    return (k_f32 *)(void *)(k_shared() + 1024);
}

K_INLINE void k_put_sums(const k_fragment_c *c) {
    k_f32 *sums = k_placed_sums();
    k_block_sync(); /* stages are done with */
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FRAGMENTS * K_OF_C; i++) {
        uint32_t f = i / K_OF_C, e = i % K_OF_C;
        sums[(k_column_of_fragment(f) + k_column_in_c(e)) * K_DOWN + k_row_of_fragment(f) + k_row_in_c(e)] = c[f].f[e];
    }
    k_block_sync();
}

/* Four rows' sums: their place in shared memory, and among a piece's in scratch memory. */
enum { K_FOURS = K_TILE_M * K_TILE_N / 4 };
K_INLINE k_floats4 *k_four_sums(uint32_t i) {
    return (k_floats4 *)(void *)(k_placed_sums() + i / (K_TILE_M / 4) * K_DOWN + i % (K_TILE_M / 4) * 4);
}

/* Of several blocks that share a tile, the last has the sums of all pieces, added in their order; false: another will. */
K_FN bool k_gather_pieces(const k_op *op, const k_tile *t) {
    uint32_t *arrived = (uint32_t *)(uintptr_t)op->table + t->number * 2ull, *seen = (uint32_t *)(void *)k_shared(), split = op->split;
    k_floats4 *all = (k_floats4 *)(uintptr_t)op->scratch + (uint64_t)t->number * split * K_FOURS;
    if (k_thread() == 0) {
        *seen = k_count_up(arrived);
    }
    k_block_sync();
    bool last = *seen == split - 1;
    if (!last) {
        K_UNROLL_BY(4)
        for (uint32_t i = k_thread(); i < K_FOURS; i += K_THREADS) {
            all[t->piece * K_FOURS + i] = *k_four_sums(i);
        }
        k_block_sync();
        if (k_thread() == 0) {
            k_count_up(arrived + 1);
        }
        return false;
    }
    if (k_thread() == 0) {
        while (k_load_acquire(arrived + 1) < split - 1) {
        }
        arrived[0] = arrived[1] = 0;
    }
    k_block_sync();
    K_UNROLL_BY(4)
    for (uint32_t i = k_thread(); i < K_FOURS; i += K_THREADS) {
        k_floats4 sum = {{0, 0, 0, 0}};
        for (uint32_t piece = 0; piece < split; piece++) {
            k_floats4 one = piece == t->piece ? *k_four_sums(i) : all[piece * K_FOURS + i];
            for (int e = 0; e < 4; e++) {
                sum.f[e] += one.f[e];
            }
        }
        *k_four_sums(i) = sum;
    }
    k_block_sync();
    return true;
}

/* Where a tile's results go. */
typedef struct k_tile_out {
    uint8_t *to;
    const uint8_t *residual;
    uint64_t stride, residual_stride;
    bool wide; /* by four */
} k_tile_out;

K_FN k_tile_out k_tile_out_of(const k_op *op, const k_tile *t) {
    k_tile_out o = {.to = k_row(&op->dst, 0, t->i2, t->i3), .stride = (uint64_t)op->dst.nb[1], .residual_stride = (uint64_t)op->extra[2].nb[1]};
    o.residual = op->after == K_AFTER_ADD ? k_row(&op->extra[2], 0, t->i2, t->i3) : NULL;
    o.wide = (((uintptr_t)o.to | o.stride | (uintptr_t)o.residual | (o.residual ? o.residual_stride : 0)) & 15) == 0;
    return o;
}

/* Four results, of which `within` lie in the matrix. */
K_INLINE void k_put_four(const k_tile *t, const k_tile_out *o, uint32_t row, uint32_t column, uint32_t within, k_floats4 x) {
    const k_f32 *residual = o->residual ? (const k_f32 *)(const void *)(o->residual + column * o->residual_stride) + row : NULL;
    k_f32 *to = (k_f32 *)(void *)(o->to + column * o->stride) + row;
    if (o->wide && within == 4 && !t->by_row) {
        k_floats4 add = residual ? *(const k_floats4 *)(const void *)residual : (k_floats4){{0, 0, 0, 0}};
        *(k_floats4 *)(void *)to = (k_floats4){{x.f[0] + add.f[0], x.f[1] + add.f[1], x.f[2] + add.f[2], x.f[3] + add.f[3]}};
        return;
    }
    K_UNROLL_ALL
    for (uint32_t e = 0; e < 4; e++) {
        if (e < within) {
            to[e] = x.f[e] * (t->by_row ? t->by_row[row + e] : 1.0f) + (residual ? residual[e] : 0);
        }
    }
}

K_FN void k_put_tile(const k_op *op, const k_tile *t) {
    const k_tile_out o = k_tile_out_of(op, t);
    uint32_t fours = (t->second ? K_TILE_M / 2 : K_TILE_M) / 4; /* of a column */
    K_UNROLL_BY(4)
    for (uint32_t i = k_thread(); i < fours * K_TILE_N; i += K_THREADS) {
        uint32_t down = i % fours * 4, across = i / fours, row = t->row + down, column = t->column + across;
        if (row >= t->rows || column >= t->columns) {
            continue;
        }
        const k_f32 *sums = k_placed_sums() + across * K_DOWN + down;
        k_floats4 x = *(const k_floats4 *)(const void *)sums;
        float by = t->by_column[column];
        k_floats4 gate = t->second ? *(const k_floats4 *)(const void *)(sums + K_TILE_M / 2) : x;
        K_UNROLL_ALL
        for (int e = 0; e < 4; e++) {
            x.f[e] = t->second ? k_silu_fast(x.f[e] * by) * (gate.f[e] * by) : x.f[e] * by;
        }
        k_put_four(t, &o, row, column, t->rows - row < 4 ? t->rows - row : 4, x);
    }
}

K_FN k_tile k_tile_of(const k_op *op, uint64_t task) {
    const k_tensor *a = &op->src[0], *b = &op->src[1], *d = &op->dst;
    uint32_t split = op->split, n = (uint32_t)a->ne[0], steps = k_halves_steps(n), each = k_tile_rows(op);
    k_tile t = {.rows = (uint32_t)d->ne[0], .columns = (uint32_t)d->ne[1], .n = n, .by = op->params[K_TILES_BY], .stride = (uint64_t)a->nb[1]};
    uint32_t columns = (t.columns + K_TILE_N - 1) / K_TILE_N, column = k_divide(&task, columns); /* neighbours share their weights */
    t.piece = k_divide(&task, split);
    t.number = (uint32_t)task * columns + column;
    t.column = column * K_TILE_N;
    t.row = k_divide(&task, (t.rows + each - 1) / each) * each;
    t.i2 = k_divide(&task, (uint32_t)d->ne[2]);
    t.i3 = (uint32_t)task;
    t.from = k_share(steps, t.piece, split), t.to = k_share(steps, t.piece + 1, split);
    t.lines = k_halves_rows(t.columns);
    uint32_t a2 = t.i2 / ((uint32_t)d->ne[2] / (uint32_t)a->ne[2]), a3 = t.i3 / ((uint32_t)d->ne[3] / (uint32_t)a->ne[3]);
    uint64_t left = a2 + a3 * (uint64_t)(uint32_t)a->ne[2], right = t.i2 + t.i3 * (uint64_t)(uint32_t)d->ne[2]; /* planes */
    t.left = k_row(a, 0, a2, a3);
    t.second = op->after == K_AFTER_GLU ? k_row(&op->src[2], 0, a2, a3) : NULL;
    t.right = (const uint8_t *)(uintptr_t)b->data + right * steps * t.lines * K_LINE;
    t.by_row = op->extra[0].data ? (const k_f32 *)(uintptr_t)op->extra[0].data + left * k_halves_rows(t.rows) : NULL;
    t.by_column = (const k_f32 *)(uintptr_t)op->extra[1].data + right * t.lines;
    return t;
}

#ifdef K_WGMMA /* instructions that are under way may not pass a function's end: in functions that are called they wait for each other */
K_INLINE
#else
K_APART
#endif
void k_do_tiles(const k_op *op, uint32_t part) {
    uint32_t each = k_tile_rows(op);
    uint64_t tasks = (uint64_t)(((uint32_t)op->dst.ne[1] + K_TILE_N - 1) / K_TILE_N) * (((uint32_t)op->dst.ne[0] + each - 1) / each) *
                     (uint32_t)op->dst.ne[2] * (uint32_t)op->dst.ne[3] * op->split;
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        const k_tile t = k_tile_of(op, task);
        k_fragment_c c[K_FRAGMENTS] = {0};
        k_go_along(op, &t, c);
        k_put_sums(c);
        if (op->split == 1 || k_gather_pieces(op, &t)) {
            k_put_tile(op, &t);
        }
    }
    k_ring_memory_done();
}

#endif
