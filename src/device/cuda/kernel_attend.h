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

#ifdef K_WGMMA
#include "device/cuda/kernel_attend_hopper.h"
#define K_BY_MATRICES                                                                                                                                \
    K_INLINE /* instructions that are under way may not pass a function's end: in functions that are called they wait for each other */
#else
#include "device/cuda/kernel_attend_sync.h"
#define K_BY_MATRICES K_APART
#endif

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
K_BY_MATRICES void k_do_attend(const k_op *op, uint32_t part) {
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
