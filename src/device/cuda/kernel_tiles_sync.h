/*
 * A tile by the tensor cores of Ampere (mma.sync), whose fragments come out of shared memory by ldmatrix; both sides lie there as halves. And what
 * the host does in their place.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_TILES_SYNC_H
#define SP_DEVICE_CUDA_KERNEL_TILES_SYNC_H

#include "device/cuda/kernel_tile.h"

/* ---- a step ---- */

#ifdef __NVPTX__

/* What fragment f of a warp begins with, in the tile: two times four warps, 64 rows each. */
K_INLINE uint32_t k_row_of_fragment(uint32_t f) {
    return k_warp() / 4 * 64 + f / (K_TILE_N / 32) * 16;
}
K_INLINE uint32_t k_column_of_fragment(uint32_t f) {
    return k_warp() % 4 * (K_TILE_N / 4) + f % (K_TILE_N / 32) * 8;
}

K_INLINE void k_multiply_step(const k_tile *t, const uint8_t *left, const uint8_t *right, k_fragment_c *c) {
    (void)t;
    uint32_t lane = k_lane(), rows = k_address_of(left) + (k_row_of_fragment(0) + lane % 16) * K_LINE,
             columns = k_address_of(right) + (k_column_of_fragment(0) + lane / 16 * 8 + lane % 8) * K_LINE,
             row_piece = ((lane / 16) ^ (lane & 7)) * 16, column_piece = ((lane / 8 & 1) ^ (lane & 7)) * 16;
    K_UNROLL_ALL
    for (uint32_t k = 0; k < K_TILE_K / 16; k++) {
        k_half_a a[4];
        K_UNROLL_ALL
        for (uint32_t i = 0; i < 4; i++) {
            k_load_matrices(rows + i * 16 * K_LINE + (row_piece ^ k * 32), a[i].w);
        }
        K_UNROLL_ALL
        for (uint32_t j = 0; j < K_TILE_N / 32; j += 2) {
            uint32_t w[4];
            k_load_matrices(columns + j * 8 * K_LINE + (column_piece ^ k * 32), w);
            const k_half_b b[2] = {{{w[0], w[1]}}, {{w[2], w[3]}}};
            K_UNROLL_ALL
            for (uint32_t i = 0; i < 4; i++) {
                k_multiply_halves(&c[i * (K_TILE_N / 32) + j], &a[i], &b[0]);
                k_multiply_halves(&c[i * (K_TILE_N / 32) + j + 1], &a[i], &b[1]);
            }
        }
    }
}

#else

K_INLINE uint32_t k_row_of_fragment(uint32_t f) {
    return f / (K_TILE_N / 8) * 16;
}
K_INLINE uint32_t k_column_of_fragment(uint32_t f) {
    return f % (K_TILE_N / 8) * 8;
}

K_FN void k_line_floats(const uint8_t *side, uint32_t row, float *x) {
    for (uint32_t i = 0; i < K_TILE_K; i++) {
        x[i] = k_from_half(*(const k_u16 *)(const void *)(side + row * K_LINE + ((i / 8 ^ row) & 7) * 16 + i % 8 * 2));
    }
}

/* What lies within the result. */
K_INLINE void k_multiply_step(const k_tile *t, const uint8_t *left, const uint8_t *right, k_fragment_c *c) {
    float a[K_TILE_M][K_TILE_K], b[K_TILE_K];
    uint32_t rows = !t->second && t->rows - t->row < K_TILE_M ? t->rows - t->row : K_TILE_M,
             columns = t->columns - t->column < K_TILE_N ? t->columns - t->column : K_TILE_N;
    for (uint32_t i = 0; i < rows; i++) {
        k_line_floats(left, i, a[i]);
    }
    for (uint32_t j = 0; j < columns; j++) {
        k_line_floats(right, j, b);
        for (uint32_t i = 0; i < rows; i++) {
            float *sum = &c[i / 16 * (K_TILE_N / 8) + j / 8].f[i % 16 * 8 + j % 8];
            for (uint32_t k = 0; k < K_TILE_K; k++) {
                *sum += a[i][k] * b[k];
            }
        }
    }
}

#endif

/* ---- what is brought ---- */

/* Columns' lines, one behind the other in memory as in the stage. */
K_INLINE void k_bring_lines(const k_tile *t, uint32_t step, uint8_t *to) {
    const uint8_t *from = t->right + ((uint64_t)step * t->lines + t->column) * K_LINE + k_thread() * 16;
    uint32_t pieces = (t->lines - t->column) * (K_LINE / 16) / K_THREADS; /* a thread's */
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_TILE_N * (K_LINE / 16) / K_THREADS; j++) {
        if (j < pieces) {
            k_copy_async(to + k_thread() * 16 + j * K_THREADS * 16, from + j * K_THREADS * 16, true);
        }
    }
}

K_INLINE void k_bring_rows(const k_tile *t, uint32_t step, uint8_t *to) {
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_TILE_M * 8 / K_THREADS; j++) {
        uint32_t i = k_thread() + j * K_THREADS, r = i / 8, piece = i % 8;
        bool there = step * K_TILE_K + piece * 8 < t->n;
        k_copy_async(to + r * K_LINE + ((piece ^ r) & 7) * 16, k_left_row(t, r) + (there ? step * (uint64_t)K_LINE + piece * 16 : 0), there);
    }
}

/* Two blocks of each row as they are, in pieces of 16 bytes, q8's second halves behind; then the scales of both. Rows have a multiple of 256. */
K_INLINE void k_bring_quants(const k_tile *t, uint32_t step, uint8_t *to) {
    uint32_t size = t->by == K_BY_Q4 ? 16 : 32;
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_TILE_M * 2 / K_THREADS; j++) {
        uint32_t i = k_thread() + j * K_THREADS;
        const uint8_t *row = k_left_row(t, i / 2), *from = row + (step * 2 + i % 2) * size;
        k_copy_async(to + i * 16, from, true);
        if (size == 32) {
            k_copy_async(to + K_TILE_M * 32 + i * 16, from + 16, true);
        }
        if (i % 2 == 0) {
            k_copy_async_word(to + K_TILE_M * 2 * size + i / 2 * 4, row + t->n / 32 * size + step * 4);
        }
    }
}

/* A thread's block of quants out of what was brought. */
K_INLINE void k_take_block(const k_tile *t, uint32_t i, const uint8_t *raw, uint8_t *left) {
    uint32_t size = t->by == K_BY_Q4 ? 16 : 32;
    k_words4 x[2];
    x[0] = *(const k_words4 *)(const void *)(raw + i * 16);
    x[1] = *(const k_words4 *)(const void *)(raw + (size == 32 ? K_TILE_M * 32 : 0) + i * 16);
    k_put_block(t->by, i, x, *(const k_u16 *)(const void *)(raw + K_TILE_M * 2 * size + i * 2), left);
}

/* ---- along the rows ---- */

/* The stages of a tile: its left side, its right side, quants on their way. */
typedef struct k_stages {
    uint8_t *first;
    uint32_t n, bytes, raw; /* raw: where quants begin */
} k_stages;

/* The stage `ahead` (n at most) of the at-th. */
K_INLINE uint8_t *k_stage_at(const k_stages *s, uint32_t at, uint32_t ahead) {
    at += ahead;
    return s->first + (at < s->n ? at : at - s->n) * s->bytes;
}

/* Step `step` of both sides, of quants the one behind it: those are made halves before the step. */
K_INLINE void k_bring_step(const k_tile *t, uint32_t step, uint8_t *to, uint8_t *to_quants) {
    if (step < t->to) {
        k_bring_lines(t, step, to + K_TILE_M * K_LINE);
        if (t->by == K_BY_F16) {
            k_bring_rows(t, step, to);
        }
    }
    if (t->by != K_BY_F16 && step + 1 < t->to) {
        k_bring_quants(t, step + 1, to_quants);
    }
    k_copies_end();
}

/* Quants become the left side of a step. */
K_INLINE void k_put_left(const k_tile *t, uint32_t step, uint32_t raw, uint8_t *stage) {
    if (t->by != K_BY_F16 && step < t->to) {
        for (uint32_t j = 0; j < K_TILE_M * 2 / K_THREADS; j++) {
            k_take_block(t, k_thread() + j * K_THREADS, stage + raw, stage);
        }
    }
}

K_INLINE void k_go_along(const k_op *op, const k_tile *t, k_fragment_c *c) {
    const k_stages s = {
        .first = k_shared() + 1024, .n = op->params[K_TILES_STAGES], .bytes = k_tile_stage_bytes(t->by), .raw = (K_TILE_M + K_TILE_N) * K_LINE};
    const uint32_t ahead = s.n - 1;
    const bool early = k_warp() * 2 < K_WARPS; /* while one half of the warps makes halves, the other multiplies */
    k_block_sync();
    if (t->by != K_BY_F16) {
        k_bring_quants(t, t->from, k_stage_at(&s, 0, 0) + s.raw);
    }
    for (uint32_t i = 0; i < ahead; i++) {
        k_bring_step(t, t->from + i, k_stage_at(&s, i, 0), k_stage_at(&s, i, 1) + s.raw);
    }
    k_copies_wait_but(ahead - 1);
    k_block_sync();
    k_put_left(t, t->from, s.raw, k_stage_at(&s, 0, 0));
    for (uint32_t step = t->from, at = 0; step < t->to; step++, at = at + 1 == s.n ? 0 : at + 1) {
        uint8_t *stage = k_stage_at(&s, at, 0), *next = k_stage_at(&s, at, 1);
        k_copies_wait_but(ahead - 1); /* both sides are there, and the stage that was done with before may be filled again */
        k_block_sync();
        k_bring_step(t, step + ahead, k_stage_at(&s, at, ahead), k_stage_at(&s, at, ahead + 1) + s.raw);
        if (early) {
            k_put_left(t, step + 1, s.raw, next);
        }
        k_multiply_step(t, stage, stage + K_TILE_M * K_LINE, c);
        if (!early) {
            k_put_left(t, step + 1, s.raw, next);
        }
    }
    k_copies_wait_but(0);
}

#endif
