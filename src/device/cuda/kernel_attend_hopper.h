/*
 * Attention by the tensor cores of Hopper. The fetching warp brings keys and values; four warps multiply their 64 tokens' queries by some keys at
 * once, and while that and what comes of those before is under way, make weights of the scores (FlashAttention-3, Shah et al. 2024).
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTEND_HOPPER_H
#define SP_DEVICE_CUDA_KERNEL_ATTEND_HOPPER_H

#include "device/cuda/kernel_attend_rows.h"
#include "device/cuda/kernel_stages_hopper.h"

#ifdef K_WGMMA

/* A stage: K_POSITIONS keys, by 64 elements in lines of 128 bytes; then the values, likewise. Bytes of 64 elements of all of them, and of a stage: */
#define K_PART(wide) (K_ATTEND_POSITIONS(wide) * 128)
enum { K_ATTEND_STAGE = 2 * K_ATTEND_MOST * 128 };

K_INLINE uint8_t *k_attend_stage(uint32_t stage) {
    return k_stages() + stage * K_ATTEND_STAGE;
}

/* One thread of the fetching warp. The maps of a K_OP_ATTEND: of keys, of values. */
K_FN void k_fetch_positions(const k_op *op, const k_job *job, k_stage_place *at) {
    uint64_t maps = op->src[K_SRC_MAPS].data;
    uint32_t wide = (uint32_t)op->src[1].ne[0], parts = wide / 64;
    k_see_map(maps);
    k_see_map(maps + K_MAP);
    for (uint32_t first = job->from; first < job->to; first += K_ATTEND_POSITIONS(wide)) {
        const uint64_t *full = k_take_stage(at, K_ATTEND_STAGE);
        for (uint32_t i = 0; i < parts * 2; i++) {
            k_bring_matrix(k_attend_stage(at->stage) + i * K_PART(wide), maps + i / parts * K_MAP, i % parts * 64, first, job->part, job->plane,
                           full);
        }
        k_pass(at);
    }
}

/* Begins with scores. */
K_INLINE void k_multiply_keys(const uint32_t wide, const k_half_a *queries, const uint8_t *keys, k_fragment_c *scores) {
    uint64_t matrix = k_matrix(keys);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < wide / 16; i++) {
        k_multiply_held(K_ATTEND_POSITIONS(wide), &queries[i], matrix + i / 4 * (K_PART(wide) >> 4) + i % 4 * 2, scores);
    }
    k_multiply_group();
}

/* Begins with sums of values. */
K_INLINE void k_multiply_values(const uint32_t wide, const k_half_a *weights, const uint8_t *stage, k_attended *a) {
    uint64_t matrix = k_matrix_turned(stage + K_ATTEND_STAGE / 2, K_PART(wide));
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_POSITIONS(wide) / 16; i++) {
        k_multiply_held_turned(wide, &weights[i], matrix + i * (16 * 128 >> 4), a->values);
    }
    k_multiply_group();
}

/* Has any of a stage's positions a mask for the warp's tokens, or is it behind the last? */
K_INLINE bool k_is_masked(const uint32_t wide, const k_attend *t, uint32_t first) {
    bool masked = first + K_ATTEND_POSITIONS(wide) > t->positions;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ATTEND_POSITIONS(wide); i += K_MAP_POSITIONS) {
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
    k_stage_place at = k_ask(t->from < t->to, &(k_job){.op = (uintptr_t)op, .part = t->kv_head, .plane = t->batch, .from = t->from, .to = t->to});
    uint32_t before = at.stage, four = k_warp() / 4;
    bool masked = k_is_masked(wide, t, t->from);
    if (four == 1) {
        k_give_turn(0);
    }
    for (uint32_t first = t->from; first < t->to; first += K_ATTEND_POSITIONS(wide)) {
        k_fragment_c scores[K_ATTEND_MOST / 8] = {0};
        k_await_stage(&at);
        k_take_turn(four); /* one four's weights are made while the other's products run */
        k_multiply_start();
        k_multiply_keys(wide, queries, k_attend_stage(at.stage), scores);
        k_multiply_values(wide, weights, k_attend_stage(before), &a); /* at first weights are nothing */
        k_give_turn(four ^ 1);
        bool masked_next = k_is_masked(wide, t, first + K_ATTEND_POSITIONS(wide)); /* what it reads comes while products are under way */
        k_multiply_wait();
        k_sums_there(scores, K_ATTEND_POSITIONS(wide) / 8);
        if (masked) {
            k_add_mask(op, t, &rows, first, K_ATTEND_POSITIONS(wide) / 8, scores);
        }
        k_weigh(scale, K_ATTEND_POSITIONS(wide) / 8, scores, &a, by);
        k_multiply_wait_all();
        k_sums_there(a.values, wide / 8);
        if (first > t->from) {
            k_give_stage(before);
        }
        if (!__nvvm_vote_all_sync(0xffffffffu, by[0] == 1 && by[1] == 1)) { /* most times all are: see K_LEEWAY */
            k_shrink(wide, by, &a);
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_ATTEND_POSITIONS(wide) / 16; i++) {
            weights[i] = k_weights_piece(&scores[i * 2], &scores[i * 2 + 1]);
        }
        before = at.stage, masked = masked_next;
        k_pass(&at);
    }
    if (four == 0) {
        k_take_turn(0);
    }
    if (t->from < t->to) {
        k_multiply_start();
        k_multiply_values(wide, weights, k_attend_stage(before), &a);
        k_multiply_wait_all();
        k_sums_there(a.values, wide / 8);
        k_give_stage(before);
    }
    k_leave_stages(&at);
    if (!t->idle) {
        k_put_attended(wide, op, t, &a);
    }
}

#endif

#endif
