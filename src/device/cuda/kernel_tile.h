/* What both ways to compute a tile share (kernel_tiles.h): where its sides lie, quants made halves. */
#ifndef SP_DEVICE_CUDA_KERNEL_TILE_H
#define SP_DEVICE_CUDA_KERNEL_TILE_H

#include "device/cuda/kernel_halves.h"

enum {
    K_LINE = K_TILE_K * 2,            /* bytes of a row of a side in a stage */
    K_FRAGMENTS = K_TILE_N / K_WARPS, /* of a warp's sums: 16 rows, 8 columns each */
};

/* A tile of the result: where its sides lie. */
typedef struct k_tile {
    const uint8_t *left, *right;      /* of its plane */
    const uint8_t *second;            /* a gated unit's other matrix, whose rows are the tile's second half; NULL: there is none */
    uint64_t stride;                  /* of rows of the left side */
    uint32_t row, rows;               /* the first; of the matrix */
    uint32_t column, columns, i2, i3; /* likewise, in its plane */
    uint32_t left_i2, left_i3;        /* the left side's plane */
    uint32_t lines;                   /* K_OP_HALVES' rows of the right side, padded */
    uint32_t n, by;
    uint32_t from, to;               /* steps */
    uint32_t number, piece, split;   /* of the tiles that blocks share; of this one; how many it has */
    const k_f32 *by_row, *by_column; /* what sums are multiplied with; NULL: nothing */
} k_tile;

/* ---- quants ---- */

#ifdef __NVPTX__

/* Two halves: a - b, a * b, a * b + c. */
K_INLINE uint32_t k_halves_less(uint32_t a, uint32_t b) {
    uint32_t d;
    __asm__("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
K_INLINE uint32_t k_halves_times(uint32_t a, uint32_t b) {
    uint32_t d;
    __asm__("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
K_INLINE uint32_t k_halves_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    __asm__("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
K_INLINE uint32_t k_bytes_of(uint32_t a, uint32_t b, uint32_t which) {
    uint32_t d;
    __asm__("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(which));
    return d;
}

/* Quants become halves by their bits: 0x6400 is 1024, whose last bit counts one. Four bytes are four elements, and the four 16 further on. */
K_INLINE void k_halves_of_q4(uint32_t bytes, uint32_t scale, uint32_t *low, uint32_t *high) {
    uint32_t x = k_bytes_of(bytes, bytes, 0x3120); /* the bytes of two neighbours are 16 bits apart */
    K_UNROLL_ALL
    for (int i = 0; i < 2; i++, x >>= 8) {
        low[i] = k_halves_times(k_halves_less((x & 0x000f000fu) | 0x64006400u, 0x64086408u), scale);
        high[i] = k_halves_times(k_halves_fma((x & 0x00f000f0u) | 0x64006400u, 0x2c002c00u, 0xd480d480u), scale); /* / 16 - 72 */
    }
}
K_INLINE void k_halves_of_q8(uint32_t bytes, uint32_t scale, uint32_t *out) {
    uint32_t x = bytes ^ 0x80808080u;
    out[0] = k_halves_times(k_halves_less(k_bytes_of(x, 0x64646464u, 0x4140), 0x64806480u), scale);
    out[1] = k_halves_times(k_halves_less(k_bytes_of(x, 0x64646464u, 0x4342), 0x64806480u), scale);
}

#else

K_INLINE uint32_t k_scaled(float low, float high, uint32_t scale) {
    float d = k_from_half((uint16_t)scale);
    return k_two_halves(low * d, high * d);
}
K_INLINE void k_halves_of_q4(uint32_t bytes, uint32_t scale, uint32_t *low, uint32_t *high) {
    for (uint32_t i = 0; i < 2; i++, bytes >>= 16) {
        low[i] = k_scaled((float)(bytes & 15) - 8, (float)(bytes >> 8 & 15) - 8, scale);
        high[i] = k_scaled((float)(bytes >> 4 & 15) - 8, (float)(bytes >> 12 & 15) - 8, scale);
    }
}
K_INLINE void k_halves_of_q8(uint32_t bytes, uint32_t scale, uint32_t *out) {
    for (uint32_t i = 0; i < 2; i++, bytes >>= 16) {
        out[i] = k_scaled((float)(int8_t)bytes, (float)(int8_t)(bytes >> 8), scale);
    }
}

#endif

/* Block i % 2 of row i / 2 of a step: 16 bytes of x (q4_0), or 32, become halves in the left side. */
K_INLINE void k_put_block(uint32_t by, uint32_t i, const k_words4 *x, uint32_t scale, uint8_t *left) {
    uint32_t r = i / 2, b = i % 2, w[16];
    scale |= scale << 16;
    if (by == K_BY_Q4) {
        K_UNROLL_ALL
        for (int j = 0; j < 4; j++) {
            k_halves_of_q4(x[0].w[j], scale, w + j * 2, w + 8 + j * 2);
        }
    } else {
        K_UNROLL_ALL
        for (int j = 0; j < 4; j++) {
            k_halves_of_q8(x[0].w[j], scale, w + j * 2);
            k_halves_of_q8(x[1].w[j], scale, w + 8 + j * 2);
        }
    }
    K_UNROLL_ALL
    for (uint32_t j = 0; j < 4; j++) {
        *(k_words4 *)(void *)(left + r * K_LINE + ((b * 4 + j) ^ (r & 7)) * 16) = (k_words4){{w[j * 4], w[j * 4 + 1], w[j * 4 + 2], w[j * 4 + 3]}};
    }
}

/* ---- tiles by number ---- */

K_FN uint32_t k_tile_count(const k_op *op) {
    uint32_t each = k_tile_rows(op);
    return ((uint32_t)op->dst.ne[1] + K_TILE_N - 1) / K_TILE_N * (((uint32_t)op->dst.ne[0] + each - 1) / each) * (uint32_t)op->dst.ne[2] *
           (uint32_t)op->dst.ne[3];
}

/* Of so many tiles, the first go to a block each, as often as there are enough for all; blocks share the rest. */
K_FN uint32_t k_tiles_alone(const k_op *op, uint32_t tiles) {
    return op->split == 1 ? tiles : tiles / op->n_parts * op->n_parts;
}

/* Tiles of the result, and pieces of those that are shared. */
K_FN uint64_t k_tiles_of(const k_op *op) {
    uint32_t tiles = k_tile_count(op), alone = k_tiles_alone(op, tiles);
    return alone + (uint64_t)(tiles - alone) * op->split;
}

K_FN k_tile k_tile_of(const k_op *op, uint64_t task) {
    const k_tensor *a = &op->src[0], *b = &op->src[1], *d = &op->dst;
    uint32_t n = (uint32_t)a->ne[0], steps = k_halves_steps(n), each = k_tile_rows(op);
    k_tile t = {.rows = (uint32_t)d->ne[0], .columns = (uint32_t)d->ne[1], .n = n, .by = op->params[K_TILES_BY], .stride = (uint64_t)a->nb[1]};
    t.split = 1;
    if (op->split > 1) {
        uint32_t tiles = k_tile_count(op), alone = k_tiles_alone(op, tiles);
        if (task >= alone) {
            task -= alone;
            t.number = k_divide(&task, tiles - alone);
            t.piece = (uint32_t)task, t.split = op->split;
            task = alone + t.number;
        }
    }
    uint32_t columns = (t.columns + K_TILE_N - 1) / K_TILE_N;
    t.column = k_divide(&task, columns) * K_TILE_N; /* neighbours share their weights */
    t.row = k_divide(&task, (t.rows + each - 1) / each) * each;
    t.i2 = k_divide(&task, (uint32_t)d->ne[2]);
    t.i3 = (uint32_t)task;
    t.from = k_share(steps, t.piece, t.split), t.to = k_share(steps, t.piece + 1, t.split);
    t.lines = k_halves_rows(t.columns);
    uint32_t a2 = t.i2 / ((uint32_t)d->ne[2] / (uint32_t)a->ne[2]), a3 = t.i3 / ((uint32_t)d->ne[3] / (uint32_t)a->ne[3]);
    uint64_t left = a2 + a3 * (uint64_t)(uint32_t)a->ne[2], right = t.i2 + t.i3 * (uint64_t)(uint32_t)d->ne[2]; /* planes */
    t.left_i2 = a2, t.left_i3 = a3;
    t.left = k_row(a, 0, a2, a3);
    t.second = op->after == K_AFTER_GLU ? k_row(&op->src[2], 0, a2, a3) : NULL;
    t.right = (const uint8_t *)(uintptr_t)b->data + right * steps * t.lines * K_LINE;
    t.by_row = op->extra[0].data ? (const k_f32 *)(uintptr_t)op->extra[0].data + left * k_halves_rows(t.rows) : NULL;
    t.by_column = (const k_f32 *)(uintptr_t)op->extra[1].data + right * t.lines;
    return t;
}

/* Where a tile's results go. */
typedef struct k_tile_out {
    uint8_t *to;
    const uint8_t *residual; /* NULL: none */
    uint64_t stride, residual_stride;
} k_tile_out;

K_FN k_tile_out k_tile_out_of(const k_op *op, const k_tile *t) {
    k_tile_out o = {.to = k_row(&op->dst, 0, t->i2, t->i3), .stride = (uint64_t)op->dst.nb[1], .residual_stride = (uint64_t)op->extra[2].nb[1]};
    o.residual = op->after == K_AFTER_ADD ? k_row(&op->extra[2], 0, t->i2, t->i3) : NULL;
    return o;
}

/* Are all columns' results, and what is added to them, at multiples of so many bytes? */
K_FN bool k_tile_out_at(const k_tile_out *o, uint32_t bytes) {
    return (((uintptr_t)o->to | o->stride | (uintptr_t)o->residual | (o->residual ? o->residual_stride : 0)) & (bytes - 1)) == 0;
}

/* Of several blocks that share a tile, is this the last to come? The others leave their pieces and say so; it waits until all have. */
K_INLINE uint32_t *k_tile_arrived(const k_op *op, const k_tile *t) {
    return (uint32_t *)(uintptr_t)op->table + t->number * 2ull;
}
K_INLINE bool k_tile_comes_last(const k_op *op, const k_tile *t) {
    uint32_t *seen = (uint32_t *)(void *)k_shared();
    if (k_thread() == 0) {
        *seen = k_count_up(k_tile_arrived(op, t));
    }
    k_block_sync();
    return *seen == t->split - 1;
}
K_INLINE void k_piece_left(const k_op *op, const k_tile *t) {
    k_block_sync();
    if (k_thread() == 0) {
        k_count_up(k_tile_arrived(op, t) + 1);
    }
}
K_INLINE void k_await_pieces(const k_op *op, const k_tile *t) {
    uint32_t *arrived = k_tile_arrived(op, t);
    if (k_thread() == 0) {
        while (k_load_acquire(arrived + 1) < t->split - 1) {
        }
        arrived[0] = arrived[1] = 0;
    }
    k_block_sync();
}

/* Row r of the tile; rows behind the last are the last. */
K_INLINE const uint8_t *k_left_row(const k_tile *t, uint32_t r) {
    bool other = t->second && r >= K_TILE_M / 2;
    uint32_t row = t->row + (other ? r - K_TILE_M / 2 : r);
    return (other ? t->second : t->left) + (row < t->rows ? row : t->rows - 1) * t->stride;
}

#endif
