/*
 * Products of many columns, on tensor cores. A block takes a tile of the result and goes along the rows, K_TILE_K elements at a time, in stages of
 * shared memory: columns come as K_OP_HALVES has put them, weights as they are; quants are made halves while what came before is multiplied. Several
 * blocks may share a tile, each a piece of the rows' length: the last adds up what the others found, always in the same order. Sums are floats.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_TILES_H
#define SP_DEVICE_CUDA_KERNEL_TILES_H

#include "device/cuda/kernel_ring.h"
#ifdef K_WGMMA
#include "device/cuda/kernel_tiles_hopper.h"
#else
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
    uint32_t split = t->split;
    k_floats4 *all = (k_floats4 *)(uintptr_t)op->scratch + (uint64_t)t->number * split * K_FOURS;
    if (!k_tile_comes_last(op, t)) {
        K_UNROLL_BY(4)
        for (uint32_t i = k_thread(); i < K_FOURS; i += K_THREADS) {
            all[t->piece * K_FOURS + i] = *k_four_sums(i);
        }
        k_piece_left(op, t);
        return false;
    }
    k_await_pieces(op, t);
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

/* Four results, of which `within` lie in the matrix. */
K_INLINE void k_put_four(const k_tile *t, const k_tile_out *o, bool wide, uint32_t row, uint32_t column, uint32_t within, k_floats4 x) {
    const k_f32 *residual = o->residual ? (const k_f32 *)(const void *)(o->residual + column * o->residual_stride) + row : NULL;
    k_f32 *to = (k_f32 *)(void *)(o->to + column * o->stride) + row;
    if (wide && within == 4 && !t->by_row) {
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
    const bool wide = k_tile_out_at(&o, 16);
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
        k_put_four(t, &o, wide, row, column, t->rows - row < 4 ? t->rows - row : 4, x);
    }
}

K_APART void k_do_tiles(const k_op *op, uint32_t part) {
    uint64_t tasks = k_tiles_of(op);
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        const k_tile t = k_tile_of(op, task);
        k_fragment_c c[K_FRAGMENTS] = {0};
        k_go_along(op, &t, c);
        k_put_sums(c);
        if (t.split == 1 || k_gather_pieces(op, &t)) {
            k_put_tile(op, &t);
        }
    }
    k_ring_memory_done();
}

#ifdef __NVPTX__

/* The fetching warp has no part in these tiles: it waits until the ring's memory is the ring's. */
typedef struct k_fetched {
    uint32_t none;
} k_fetched;

K_FN void k_serve_stages(k_fetched *f) {
    const volatile k_control *c = k_control_at();
    (void)f;
    while (!c->open && !c->stop) {
    }
}

#endif

#endif

#endif
