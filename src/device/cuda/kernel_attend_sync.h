/* Attention by the tensor cores of Ampere (mma.sync): a warp's fragments of keys and values come out of shared memory by ldmatrix. And what the host
 * does in their place. */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_SYNC_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_SYNC_H

#include "device/cuda/kernel_attend_rows.h"

#ifdef __NVPTX__

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

/* Positions that are brought together: by heads of 64 elements 64, of 128 32. */
#define K_ATTEND_POSITIONS(wide) ((uint32_t)(4096 / (wide)))
enum { K_ATTEND_STAGES = 3, K_ATTEND_SCORES = K_MAP_POSITIONS / 8 /* fragments: of a field of the map at once */ };

/* A stage of shared memory: keys, then values. Rows are apart by 16 bytes more than they have, so that fragments' loads meet no bank twice. */
K_INLINE k_u16 *k_attend_stage(const uint32_t wide, uint32_t stage) {
    return (k_u16 *)(void *)(k_shared() + 1024) + (uint64_t)stage * 2 * K_ATTEND_POSITIONS(wide) * (wide + 8);
}

/* Those behind the last are zeros; nothing, where no token looks. */
K_INLINE void k_bring_positions(const uint32_t wide, const k_op *op, const k_attend *t, uint32_t first, uint32_t stage) {
    const k_tensor *k = &op->src[1], *v = &op->src[2];
    const uint8_t *keys = k_row(k, 0, t->kv_head, t->batch), *values = k_row(v, 0, t->kv_head, t->batch);
    k_u16 *to = k_attend_stage(wide, stage), *to_values = to + K_ATTEND_POSITIONS(wide) * (wide + 8);
    for (uint32_t i = k_thread(); first < t->to && i < K_ATTEND_POSITIONS(wide) * wide / 8; i += K_THREADS) {
        uint32_t row = i / (wide / 8), at = i % (wide / 8), position = first + row;
        bool there = position < t->positions;
        uint64_t from = there ? position : 0;
        k_copy_async(to + row * (wide + 8) + at * 8, keys + from * (uint64_t)k->nb[1] + at * 16, there);
        k_copy_async(to_values + row * (wide + 8) + at * 8, values + from * (uint64_t)v->nb[1] + at * 16, there);
    }
    k_copies_end();
}

/* K_MAP_POSITIONS positions from `first` on, which are the at-th of the stage. */
K_INLINE void k_attend_some_of(const uint32_t wide, const k_op *op, const k_attend *t, const k_attend_rows *rows, const k_half_a *queries,
                               uint32_t first, const k_u16 *stage, uint32_t at, k_attended *a) {
    const k_u16 *keys = stage + at * (wide + 8), *values = keys + K_ATTEND_POSITIONS(wide) * (wide + 8);
    k_fragment_c scores[K_ATTEND_SCORES] = {0};
    k_half_b b[2];
    float by[K_C_ROWS];
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
    if (map == K_MAP_SOME) {
        k_add_mask(op, t, rows, first, K_ATTEND_SCORES, scores);
    }
    k_weigh(k_attend_scale(op), K_ATTEND_SCORES, scores, a, by);
    k_shrink(wide, by, a);
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

K_INLINE void k_attend_along(const uint32_t wide, const k_op *op, const k_attend *t) {
    k_attended a = {0};
    k_half_a queries[K_ATTEND_WIDEST / 16];
    const k_attend_rows rows = k_rows_of_lane(op, t);
    k_attend_begin(wide, &rows, queries, &a);
    k_block_sync();
    for (uint32_t i = 0; i < K_ATTEND_STAGES - 1; i++) {
        k_bring_positions(wide, op, t, t->from + i * K_ATTEND_POSITIONS(wide), i);
    }
    for (uint32_t first = t->from, stage = 0; first < t->to;
         first += K_ATTEND_POSITIONS(wide), stage = stage + 1 == K_ATTEND_STAGES ? 0 : stage + 1) {
        k_copies_wait_but(1);
        k_block_sync(); /* the stage is there, and the one before it is done with */
        k_bring_positions(wide, op, t, first + (K_ATTEND_STAGES - 1) * K_ATTEND_POSITIONS(wide), stage == 0 ? K_ATTEND_STAGES - 1 : stage - 1);
        for (uint32_t at = 0; at < K_ATTEND_POSITIONS(wide) && first + at < t->to && !t->idle; at += K_MAP_POSITIONS) {
            k_attend_some_of(wide, op, t, &rows, queries, first + at, k_attend_stage(wide, stage), at, &a);
        }
    }
    k_copies_wait_but(0);
    if (!t->idle) {
        k_put_attended(wide, op, t, &a);
    }
}

#endif
