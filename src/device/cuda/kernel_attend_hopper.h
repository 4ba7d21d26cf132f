/*
 * Attention by the tensor cores of Hopper. The fetching warp brings keys and values; four warps multiply their 64 tokens' queries by some keys at
 * once, and while that and what comes of those before is under way, make weights of the scores (FlashAttention-3, Shah et al. 2024).
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_HOPPER_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_HOPPER_H

#include "device/cuda/kernel_attend_rows.h"
#include "device/cuda/kernel_stages_hopper.h"

#ifdef K_WGMMA

/* A stage: K_ATTEND_MOST keys, or values, by 64 elements in lines of 128 bytes. Bytes of 64 elements of all of them: */
enum { K_PART = K_ATTEND_MOST * 128 };

K_INLINE uint8_t *k_attend_stage(const uint32_t wide, uint32_t stage) {
    return k_stages() + stage * (wide / 64) * K_PART;
}

/* Behind the stages lie queries of heads of 128, for which registers have no room: of four warps, by 64 elements. */
K_INLINE uint8_t *k_attend_queries(const uint32_t wide, uint32_t four, uint32_t part) {
    return k_attend_stage(wide, K_TILE_STAGES) + (four * (wide / 64) + part) * 64 * 128;
}

/* One thread of the fetching warp. The maps of a K_OP_ATTEND: of keys, of values. */
K_FN void k_fetch_positions(const k_op *op, const k_job *job, k_stage_place *at) {
    uint64_t maps = op->src[K_SRC_MAPS].data;
    uint32_t wide = (uint32_t)op->src[1].ne[0], parts = wide / 64;
    k_see_map(maps);
    k_see_map(maps + K_MAP);
    for (uint32_t first = job->from; first < job->to; first += K_ATTEND_MOST) {
        for (uint32_t i = 0; i < 2; i++) {
            const uint64_t *full = k_take_stage(at, parts * K_PART);
            for (uint32_t j = 0; j < parts; j++) {
                k_bring_matrix(k_attend_stage(wide, at->stage) + j * K_PART, maps + i * K_MAP, j * 64, first, job->part, job->plane, full);
            }
            k_pass(at);
        }
    }
}

/* A lane's queries, where the tensor cores take them from. */
K_INLINE void k_place_queries(const uint32_t wide, const k_half_a *queries) {
    uint32_t row = k_warp() % 4 * 16 + k_lane() / 4;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        uint8_t *line = k_attend_queries(wide, k_warp() / 4, i / 4) + row * 128 + k_lane() % 4 * 4;
        K_UNROLL_ALL
        for (uint32_t e = 0; e < 4; e++) { /* eight rows further on, eight elements further on */
            *(k_u32 *)(void *)(line + e % 2 * 8 * 128 + (((i % 4 * 2 + e / 2) ^ row) & 7) * 16) = queries[i].w[e];
        }
    }
}

/* Begins with scores. */
K_INLINE void k_multiply_keys(const uint32_t wide, const k_half_a *queries, const uint8_t *keys, k_fragment_c *scores) {
    uint64_t matrix = k_matrix(keys), placed = k_matrix(k_attend_queries(wide, k_warp() / 4, 0));
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        if (wide == 64) {
            k_multiply_held(&queries[i], matrix + i * 2, scores);
        } else {
            k_multiply_lines(placed + i / 4 * (64 * 128 >> 4) + i % 4 * 2, matrix + i / 4 * (K_PART >> 4) + i % 4 * 2, scores);
        }
    }
    k_multiply_group();
}

/* Begins with sums of values. */
K_INLINE void k_multiply_values(const uint32_t wide, const k_half_a *weights, const uint8_t *values, k_attended *a) {
    uint64_t matrix = k_matrix_turned(values, K_PART);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_MOST / 16; i++) {
        k_multiply_held_turned(wide, &weights[i], matrix + i * (16 * 128 >> 4), a->values);
    }
    k_multiply_group();
}

/* Has any of K_ATTEND_MOST positions a mask for the warp's tokens, or is it behind the last? */
K_INLINE bool k_is_masked(const k_attend *t, uint32_t first) {
    bool masked = first + K_ATTEND_MOST > t->positions;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_MOST; i += K_MAP_POSITIONS) {
        uint32_t at = (first + i) / K_MAP_POSITIONS, last = (t->positions - 1) / K_MAP_POSITIONS;
        masked |= t->map && t->map[at < last ? at : last] != K_MAP_ALL;
    }
    return masked;
}

K_INLINE void k_attend_along(const uint32_t wide, const k_op *op, const k_attend *t) {
    k_attended a = {0};
    k_half_a queries[K_ATTEND_WIDEST / 16], weights[K_ATTEND_MOST / 16] = {0};
    const k_attend_rows rows = k_rows_of_lane(op, t);
    const float scale = k_attend_scale(op);
    float by[K_C_ROWS];
    k_attend_begin(wide, &rows, queries, &a);
    if (wide > 64) {
        k_place_queries(wide, queries);
    }
    k_stage_place at = k_ask(t->from < t->to, &(k_job){.op = (uintptr_t)op, .part = t->kv_head, .plane = t->batch, .from = t->from, .to = t->to});
    k_stage_place values = at; /* of the positions before: keys' and values' stages take turns */
    uint32_t four = k_warp() / 4;
    bool masked = k_is_masked(t, t->from);
    if (four == 1) {
        k_give_turn(0);
    }
    for (uint32_t first = t->from; first < t->to; first += K_ATTEND_MOST) {
        k_fragment_c scores[K_ATTEND_MOST / 8] = {0};
        k_await_stage(&at);
        k_await_stage(&values);
        k_take_turn(four); /* one four's weights are made while the other's products run */
        k_multiply_start();
        k_multiply_keys(wide, queries, k_attend_stage(wide, at.stage), scores);
        k_multiply_values(wide, weights, k_attend_stage(wide, values.stage), &a); /* at first weights are nothing */
        k_give_turn(four ^ 1);
        bool masked_next = k_is_masked(t, first + K_ATTEND_MOST); /* what it reads comes while products are under way */
        k_multiply_wait();
        k_sums_there(scores, K_ATTEND_MOST / 8);
        if (masked) {
            k_add_mask(op, t, &rows, first, K_ATTEND_MOST / 8, scores);
        }
        k_weigh(scale, K_ATTEND_MOST / 8, scores, &a, by);
        /* Most times all are 1 (K_LEEWAY); sums are never below 0, but to ask for them keeps what makes weights in front of the waiting. */
        if (__nvvm_vote_all_sync(0xffffffffu, by[0] == 1 && by[1] == 1 && a.sum[0] >= 0 && a.sum[1] >= 0)) {
            k_multiply_wait_all();
            k_sums_there(a.values, wide / 8);
        } else {
            k_multiply_wait_here();
            k_sums_there(a.values, wide / 8);
            k_shrink(wide, by, &a);
        }
        if (first > t->from) {
            k_give_stage(values.stage);
        }
        k_give_stage(at.stage);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_ATTEND_MOST / 16; i++) {
            weights[i] = k_weights_piece(&scores[i * 2], &scores[i * 2 + 1]);
        }
        masked = masked_next;
        k_pass(&at);
        values = at;
        k_pass(&at);
    }
    if (four == 0) {
        k_take_turn(0);
    }
    if (t->from < t->to) {
        k_await_stage(&values);
        k_multiply_start();
        k_multiply_values(wide, weights, k_attend_stage(wide, values.stage), &a);
        k_multiply_wait_all();
        k_sums_there(a.values, wide / 8);
        k_give_stage(values.stage);
    }
    k_leave_stages(&at);
    if (!t->idle) {
        k_put_attended(wide, op, t, &a);
    }
}

#endif

#endif
