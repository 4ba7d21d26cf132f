/*
 * Attention, split over tokens, heads and pieces of the cache. A block takes one token, the heads that share keys, and one piece: scores in shared
 * memory, their largest and their sum, then the weighted values. Pieces leave (largest, sum, values) in scratch memory; the block that is the last to
 * bring one combines them. Caches of halves have a faster way (K_OP_ATTEND_HALVES): their pieces are stamped (kernel_stamp.h), and each block that
 * made one waits for the others and combines its share of all. They lie in the schedule's own memory.
 *
 * params: 0 scale, 1 max_bias, 2 logit_softcap, 4 positions a piece, 5 heads that are computed together, which share keys and values, 6 how many such
 * groups there are; of K_OP_ATTEND_HALVES also 7 pairs of elements that a block combines, 8 tasks, and the inverses of 9 pieces, 10 groups, 11 groups
 * that share keys, 12 tokens, and 13 whether kernel_attend_one.h is for it. op->split: pieces; op->table: how many have been brought, by token and
 * heads.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTENTION_H
#define SP_DEVICE_CUDA_KERNEL_ATTENTION_H

#include "device/cuda/kernel_attend_few.h"
#include "device/cuda/kernel_attend_one.h"
#include "device/cuda/kernel_run.h"

/* What one task works on. */
typedef struct k_attention {
    uint32_t token, batch, head, heads, from, n; /* the first head and how many; positions */
    uint32_t dk, dv;
    k_f32 *q, *scores, *parts; /* shared: [heads][dk], [heads][n], [groups][heads][dv] */
} k_attention;

K_FN float k_softcap(float x, float cap) {
    return cap > 0 ? cap * k_tanh(x / cap) : x;
}

/* A score with the soft cap and the mask. */
K_FN float k_masked(const k_op *op, const k_attention *t, uint32_t h, uint32_t p, float score) {
    const k_tensor *mask = &op->src[3];
    float s = k_softcap(score, k_param(op, 2));
    if (mask->data) {
        uint32_t head = t->head + h;
        const uint8_t *m = k_row(mask, t->token, head % (uint32_t)mask->ne[2], t->batch % (uint32_t)mask->ne[3]);
        s += k_alibi_slope(k_param(op, 1), head, (uint32_t)op->src[0].ne[2]) * k_half(m + (t->from + p) * 2ull);
    }
    return s;
}

/* Each thread takes a position: its key is read once for all heads. */
K_APART void k_scores_of(const k_op *op, const k_attention *t, uint32_t heads) {
    const k_tensor *k = &op->src[1];
    uint32_t ratio = (uint32_t)op->src[0].ne[2] / (uint32_t)k->ne[2];
    for (uint32_t p = k_thread(); p < t->n; p += K_THREADS) {
        const uint8_t *row = k_row(k, t->from + p, t->head / ratio, t->batch);
        float acc[K_ATTENTION_HEADS] = {0};
        for (uint32_t d = 0; d < t->dk; d++) {
            float x = k_element(k->type, row, d, t->dk);
            for (uint32_t h = 0; h < heads; h++) {
                acc[h] += x * t->q[h * t->dk + d];
            }
        }
        for (uint32_t h = 0; h < heads; h++) {
            t->scores[h * t->n + p] = k_masked(op, t, h, p, acc[h]);
        }
    }
}

/* Scores become weights; largest and sum of each head go to stats. A warp takes
 * a head. */
K_FN void k_attention_weights(const k_attention *t, k_f32 *stats) {
    for (uint32_t h = k_warp(); h < t->heads; h += K_WARPS) {
        k_f32 *s = t->scores + h * t->n;
        float most = -k_infinity(), sum = 0;
        for (uint32_t p = k_lane(); p < t->n; p += K_LANES) {
            most = k_max(most, s[p]);
        }
        most = k_warp_max(most);
        for (uint32_t p = k_lane(); p < t->n; p += K_LANES) {
            float w = most == -k_infinity() ? 0 : k_exp(s[p] - most);
            s[p] = w;
            sum += w;
        }
        sum = k_warp_sum(sum);
        if (k_lane() == 0) {
            stats[h * 2] = most;
            stats[h * 2 + 1] = sum;
        }
    }
}

/* Each thread takes an element of the values and every so many positions. */
K_APART void k_values_of(const k_op *op, const k_attention *t, uint32_t groups, uint32_t heads) {
    const k_tensor *v = &op->src[2];
    uint32_t ratio = (uint32_t)op->src[0].ne[2] / (uint32_t)v->ne[2], total = groups * t->dv;
    for (uint32_t i = k_thread(); i < total; i += K_THREADS) {
        uint32_t d = i % t->dv, group = i / t->dv;
        float acc[K_ATTENTION_HEADS] = {0};
        const uint8_t *row = k_row(v, t->from + group, t->head / ratio, t->batch);
        for (uint32_t p = group; p < t->n; p += groups, row += (uint64_t)groups * (uint64_t)v->nb[1]) {
            float x = k_element(v->type, row, d, t->dv);
            for (uint32_t h = 0; h < heads; h++) {
                acc[h] += x * t->scores[h * t->n + p];
            }
        }
        for (uint32_t h = 0; h < heads; h++) {
            t->parts[(group * heads + h) * t->dv + d] = acc[h];
        }
    }
}

/* One head's sum over pieces: its scale is 1 over the sum of weights, the sink
 * among them. */
K_FN float k_attention_sink(const k_op *op, uint32_t head) {
    return op->src[4].data ? ((const k_f32 *)(uintptr_t)op->src[4].data)[head] : -k_infinity();
}

/* Floats of scratch memory a piece: the largest, the sum, the values. */
K_FN k_f32 *k_attention_piece(const k_op *op, uint64_t row, uint32_t piece) {
    return (k_f32 *)(uintptr_t)op->scratch + (row * op->split + piece) * ((uint32_t)op->dst.ne[0] + K_ATTEND_VALUES);
}

/* An element of a head: into its piece, or, where there is one piece alone, into the result. */
K_FN void k_attention_put(const k_op *op, const k_attention *t, uint32_t h, uint32_t d, uint32_t piece, float most, float weight, float sum) {
    uint32_t head = t->head + h;
    if (op->split > 1) {
        uint64_t row = ((uint64_t)t->batch * (uint32_t)op->dst.ne[2] + t->token) * (uint32_t)op->dst.ne[1] + head;
        k_f32 *out = k_attention_piece(op, row, piece);
        out[K_ATTEND_VALUES + d] = sum;
        if (d == 0) {
            out[0] = most;
            out[1] = weight;
        }
        return;
    }
    float sink = k_attention_sink(op, head);
    if (sink > most) {
        float shrink = most == -k_infinity() ? 0 : k_exp_fast(most - sink);
        sum *= shrink;
        weight = weight * shrink + 1.0f;
    } else if (sink != -k_infinity()) {
        weight += k_exp_fast(sink - most);
    }
    ((k_f32 *)k_row(&op->dst, head, t->token, t->batch))[d] = weight > 0 ? sum * k_reciprocal(weight) : 0;
}

K_FN void k_attention_finish(const k_op *op, const k_attention *t, const k_f32 *stats, uint32_t groups, uint32_t piece) {
    for (uint32_t i = k_thread(); i < t->heads * t->dv; i += K_THREADS) {
        uint32_t h = i / t->dv, d = i % t->dv;
        float sum = 0;
        for (uint32_t g = 0; g < groups; g++) {
            sum += t->parts[(g * t->heads + h) * t->dv + d];
        }
        k_attention_put(op, t, h, d, piece, stats[h * 2], stats[h * 2 + 1], sum);
    }
}

enum { K_PIECES_AT_ONCE = 8 };

/* A load that stands where it is: left to itself, the compiler looks at the first before it asks for the last. */
K_INLINE float k_load_now(const k_f32 *at) {
#ifdef __NVPTX__
    float x;
    __asm__ volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
    return x;
#else
    return *at;
#endif
}

/* One element of the result from its pieces, some of them under way at once. */
K_FN float k_attention_combined(const k_op *op, uint64_t row, uint32_t d) {
    uint64_t rest = row;
    float most = op->src[4].data ? k_attention_sink(op, k_divide(&rest, (uint32_t)op->dst.ne[1])) : -k_infinity();
    float sum = 0, weight = most == -k_infinity() ? 0 : 1;
    uint32_t size = (uint32_t)op->dst.ne[0] + K_ATTEND_VALUES;
    const k_f32 *piece = k_attention_piece(op, row, 0);
    for (uint32_t first = 0; first < op->split; first += K_PIECES_AT_ONCE) {
        float own[K_PIECES_AT_ONCE], total[K_PIECES_AT_ONCE], value[K_PIECES_AT_ONCE], before = most;
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_PIECES_AT_ONCE; s++) {
            uint32_t at = (first + s < op->split ? first + s : first) * size;
            own[s] = k_load_now(piece + at), total[s] = k_load_now(piece + at + 1), value[s] = k_load_now(piece + at + K_ATTEND_VALUES + d);
        }
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_PIECES_AT_ONCE; s++) {
            most = k_max(most, own[s]);
        }
        float by = before == -k_infinity() ? 0 : k_exp_fast(before - most);
        sum *= by, weight *= by;
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_PIECES_AT_ONCE; s++) {
            float scale = own[s] == -k_infinity() || first + s >= op->split ? 0 : k_exp_fast(own[s] - most);
            sum += scale * value[s];
            weight += scale * total[s];
        }
    }
    return weight > 0 ? sum * k_reciprocal(weight) : 0;
}

/* Pieces of one token and its heads: the last to arrive combines all. */
K_INLINE void k_attention_arrive(const k_op *op, const k_attention *t, uint64_t counter) {
    uint32_t *arrived = (uint32_t *)(uintptr_t)op->table + counter;
    k_block_sync();
    if (k_thread() == 0) {
        *(volatile uint32_t *)(void *)k_shared() = k_count_up(arrived);
    }
    k_block_sync();
    if (*(volatile uint32_t *)(void *)k_shared() + 1 < op->split) {
        return;
    }
    for (uint32_t i = k_thread(); i < t->heads * t->dv; i += K_THREADS) {
        uint32_t head = t->head + i / t->dv, d = i % t->dv;
        uint64_t row = ((uint64_t)t->batch * (uint32_t)op->dst.ne[2] + t->token) * (uint32_t)op->dst.ne[1] + head;
        ((k_f32 *)k_row(&op->dst, head, t->token, t->batch))[d] = k_attention_combined(op, row, d);
    }
    if (k_thread() == 0) {
        *arrived = 0;
    }
}

/* One piece by way of shared memory: any types, any sizes. */
K_APART void k_attend_any(const k_op *op, k_attention *t, k_f32 *stats, uint32_t piece) {
    const k_tensor *q = &op->src[0];
    t->scores = t->q + t->heads * t->dk;
    t->parts = t->scores + t->heads * t->n;
    uint32_t groups = t->dv && t->dv < (uint32_t)K_THREADS ? (uint32_t)K_THREADS / t->dv : 1u;
    for (uint32_t i = k_thread(); i < t->heads * t->dk; i += K_THREADS) {
        float x = ((const k_f32 *)k_row(q, t->token, t->head + i / t->dk, t->batch))[i % t->dk];
        t->q[i] = x * k_param(op, 0);
    }
    k_block_sync();
    k_scores_of(op, t, t->heads);
    k_block_sync();
    k_attention_weights(t, stats);
    k_block_sync();
    k_values_of(op, t, groups, t->heads);
    k_block_sync();
    k_attention_finish(op, t, stats, groups, piece);
}

/* Tasks: by pieces, heads that are computed together, tokens, batches. */
K_APART void k_do_attention(const k_op *op, uint32_t part) {
    const k_tensor *q = &op->src[0];
    uint32_t heads = op->params[5], head_groups = op->params[6], positions = (uint32_t)op->src[1].ne[1];
    uint64_t tasks = (uint64_t)(uint32_t)q->ne[1] * (uint32_t)q->ne[3] * head_groups * op->split;
    k_f32 *stats = (k_f32 *)(void *)(k_shared() + 256);
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        uint64_t rest = task;
        uint32_t piece = k_divide(&rest, op->split);
        uint64_t counter = rest;
        k_attention t = {.head = k_divide(&rest, head_groups) * heads, .dk = (uint32_t)q->ne[0], .dv = (uint32_t)op->dst.ne[0]};
        t.token = k_divide(&rest, (uint32_t)q->ne[1]);
        t.batch = (uint32_t)rest;
        t.heads = heads;
        t.from = piece * op->params[4];
        t.n = positions - t.from < op->params[4] ? positions - t.from : op->params[4];
        t.q = stats + 2 * K_ATTENTION_HEADS;
        k_attend_any(op, &t, stats, piece);
        if (op->split > 1) {
            k_attention_arrive(op, &t, counter);
        }
        k_block_sync();
    }
}

/* ---- caches of halves: dk == dv ---- */

_Static_assert(K_FEW_STATS_AT + K_HALVES_HEADS * K_FEW_STATS * 4 <= K_FEW_AT, "it fits");

K_INLINE k_f32 *k_few_stats(uint32_t head) {
    return (k_f32 *)(void *)(k_shared() + K_FEW_STATS_AT) + head * K_FEW_STATS;
}

/* What the warp has, to where the block's is. */
K_INLINE void k_few_put(const uint32_t wide, uint32_t heads, const k_so_far *s) {
    k_f32 *values = (k_f32 *)(void *)k_few_own(wide, k_warp());
    k_warp_sync();
    K_UNROLL_ALL
    for (uint32_t e = 0; e < K_OF_C; e++) {
        uint32_t head = k_column_in_c(e);
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_VALUES(wide) / 16; i++) {
            if (head < heads) {
                values[head * K_FEW_ROW(wide) + i * 16 + k_row_in_c(e)] = s->values[i].f[e];
            }
        }
        if (e < K_FEW_SLOTS && k_row_in_c(e) == 0) {
            k_f32 *stats = k_few_stats(head) + k_warp() % K_FEW_TAKERS(wide);
            stats[0] = s->most[e], stats[K_FEW_STATS / 2] = s->weight[e];
        }
    }
}

/* n divided by what a parameter is the inverse of: exact, since both are less than K_HALVES_TASKS. */
K_INLINE uint32_t k_quotient(uint32_t n, const k_op *op, int inverse) {
    return (uint32_t)(((float)n + 0.5f) * k_param(op, inverse));
}
K_INLINE uint32_t k_log2(uint32_t n) {
    return 31 - (uint32_t)__builtin_clz(n);
}

/* Four of a head's elements, of all that there is: sinks join it. Here largest scores are powers of two. row: the token's and head's. */
K_INLINE void k_few_result(const k_op *op, uint32_t row, uint32_t log2_wide, uint32_t d, float most, float weight, float *sum) {
    float by = 1;
    if (op->src[4].data) {
        float sink = k_attention_sink(op, row % (uint32_t)op->dst.ne[1]) * K_LOG2_E, all = k_few_most(most, sink);
        by = most == -k_infinity() ? 0 : k_exp2_fast(most - all);
        weight = weight * by + (sink == -k_infinity() ? 0 : k_exp2_fast(sink - all));
    }
    by = weight > 0 ? by * k_reciprocal(weight) : 0;
    K_UNROLL_ALL
    for (int i = 0; i < 4; i++) {
        sum[i] *= by;
    }
    k_give_four(k_stamp_of(&op->dst), (k_f32 *)(uintptr_t)op->dst.data + ((uint64_t)row << log2_wide) + d, sum);
}

/* Where a piece of a token's head lies: stamped as it is, whoever reads it waits for it. */
K_INLINE k_f32 *k_few_piece(const k_op *op, uint32_t row, uint32_t piece, uint32_t wide) {
    return (k_f32 *)(uintptr_t)op->scratch + (uint64_t)(row * op->split + piece) * (wide + K_ATTEND_VALUES);
}

/* What warps have is merged and put where it belongs, a thread four elements. row: the first of those of the token and its heads. */
K_INLINE void k_few_end(const uint32_t wide, const k_op *op, uint32_t row, uint32_t heads, uint32_t piece) {
    const uint32_t takers = K_FEW_TAKERS(wide);
    for (uint32_t i = k_thread() * 4; i < heads * wide; i += K_THREADS * 4) {
        uint32_t h = i / wide, d = i % wide, from = d / K_FEW_VALUES(wide) * takers;
        const k_f32 *values = (const k_f32 *)(const void *)k_few_own(wide, from) + h * K_FEW_ROW(wide) + d % K_FEW_VALUES(wide);
        float stats[K_FEW_STATS], largest = -k_infinity(), sum[4] = {0, 0, 0, 0}, all = 0;
        K_UNROLL_ALL
        for (uint32_t w = 0; w < K_FEW_STATS; w += 4) {
            if (w % (K_FEW_STATS / 2) < takers) {
                *(k_floats4 *)&stats[w] = *(const k_floats4 *)(const void *)(k_few_stats(h) + w);
            }
        }
        K_UNROLL_ALL
        for (uint32_t w = 0; w < takers; w++) {
            largest = k_few_most(largest, stats[w]);
        }
        float base = largest == -k_infinity() ? 0 : k_bits_float(k_float_bits(largest) & ~1u); /* nothing is lost when it is stamped */
        K_UNROLL_ALL
        for (uint32_t w = 0; w < takers; w++) {
            const k_floats4 four = *(const k_floats4 *)(const void *)(values + w * (K_FEW_BYTES(wide) / 4));
            float by = k_exp2_fast(stats[w] - base);
            K_UNROLL_ALL
            for (int j = 0; j < 4; j++) {
                sum[j] += four.f[j] * by;
            }
            all += stats[K_FEW_STATS / 2 + w] * by;
        }
        base = largest == -k_infinity() ? largest : base;
        if (op->split == 1) {
            k_few_result(op, row + h, k_log2(wide), d, base, all, sum);
            continue;
        }
        k_f32 *out = k_few_piece(op, row + h, piece, wide);
        k_give_four(k_stamp_always(), out + K_ATTEND_VALUES + d, sum);
        if (d == 0) {
            k_give_two(k_stamp_always(), out, base, all);
        }
    }
}

/* Lanes that share the pieces of four elements; those beside each other have other elements of the same piece, so that whole sectors are asked for.
 * And how many pieces a lane asks for at once. */
enum { K_FEW_SHARERS = K_LANES == 1 ? 1 : 8, K_FEW_FOURS = K_LANES / K_FEW_SHARERS, K_FEW_ONCE = 2 };

/* What there is of four elements. */
typedef struct k_few_sum {
    float most, weight, values[4];
} k_few_sum;

/* A lane's share of four elements' pieces, so many of them, of which n are apart by `step` floats from `at` on. */
K_INLINE void k_few_sum_pieces(const k_f32 *at, uint32_t d, uint32_t step, uint32_t n, k_few_sum *s) {
    const k_stamp stamp = k_stamp_always();
    for (uint32_t first = k_lane() / K_FEW_FOURS; first - k_lane() / K_FEW_FOURS < n; first += K_FEW_SHARERS * K_FEW_ONCE) {
        uint32_t stats[K_FEW_ONCE][2], polls = k_polls(), lacks;
        k_words4 values[K_FEW_ONCE];
        float own[K_FEW_ONCE], before = s->most;
        do {
            lacks = 0;
            K_UNROLL_ALL
            for (uint32_t i = 0; i < K_FEW_ONCE; i++) {
                const k_f32 *piece = at + k_few_least(first + i * K_FEW_SHARERS, n - 1) * step;
                k_load_relaxed2(piece, stats[i]);
                k_load_relaxed4(piece + K_ATTEND_VALUES + d, true, &values[i]);
            }
            K_UNROLL_ALL
            for (uint32_t i = 0; i < K_FEW_ONCE; i++) {
                lacks |= k_lacking2(stamp, stats[i]) | k_lacking4(stamp, &values[i]);
            }
        } while (k_warp_any(lacks) && !k_warp_any(k_waits_in_vain(&polls)));
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_ONCE; i++) {
            own[i] = first + i * K_FEW_SHARERS < n ? k_taken(stamp, stats[i][0]) : -k_infinity();
            s->most = k_few_most(s->most, own[i]);
        }
        float base = s->most == -k_infinity() ? 0 : s->most, by = k_exp2_fast(before - base);
        s->weight *= by;
        K_UNROLL_ALL
        for (uint32_t j = 0; j < 4; j++) {
            s->values[j] *= by;
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_ONCE; i++) {
            by = k_exp2_fast(own[i] - base);
            s->weight += k_taken(stamp, stats[i][1]) * by;
            K_UNROLL_ALL
            for (uint32_t j = 0; j < 4; j++) {
                s->values[j] += k_taken(stamp, values[i].w[j]) * by;
            }
        }
    }
}

/* Sharers add up what they have. */
K_INLINE void k_few_share_sums(k_few_sum *s) {
    float most = s->most;
    K_UNROLL_ALL
    for (int m = K_FEW_SHARERS / 2; m; m /= 2) {
        s->most = k_few_most(s->most, k_exchange(s->most, m * K_FEW_FOURS));
    }
    float by = s->most == -k_infinity() ? 0 : k_exp2_fast(most - s->most);
    s->weight *= by;
    K_UNROLL_ALL
    for (uint32_t j = 0; j < 4; j++) {
        s->values[j] *= by;
    }
    K_UNROLL_ALL
    for (int m = K_FEW_SHARERS / 2; m; m /= 2) {
        s->weight += k_exchange(s->weight, m * K_FEW_FOURS);
        K_UNROLL_ALL
        for (uint32_t j = 0; j < 4; j++) {
            s->values[j] += k_exchange(s->values[j], m * K_FEW_FOURS);
        }
    }
}

/* The block's share of a result that lies in pieces: each block that made one combines all pieces of some elements, so that all of them are busy, and
 * read little. at: the operation, in shared memory. */
K_INLINE void k_few_combine(uint32_t at, uint32_t task) {
    const k_op *op = (const k_op *)(const void *)(k_shared_start() + at);
    uint32_t counter = k_quotient(task, op, 9), piece = task - counter * op->split, wide = (uint32_t)op->dst.ne[0], log2_wide = k_log2(wide);
    uint32_t first = counter * op->params[5], fours = op->params[5] * wide / 4, each = op->params[7], to = k_few_least((piece + 1) * each, fours);
    for (uint32_t from = piece * each + k_warp() * K_FEW_FOURS; from < to; from += K_WARPS * K_FEW_FOURS) {
        uint32_t own = from + k_lane() % K_FEW_FOURS, i = k_few_least(own, to - 1) * 4, row = first + (i >> log2_wide), d = i & (wide - 1);
        k_few_sum s = {.most = -k_infinity()};
        k_few_sum_pieces(k_few_piece(op, row, 0, wide), d, wide + K_ATTEND_VALUES, op->split, &s);
        k_few_share_sums(&s);
        if (own < to && k_lane() < K_FEW_FOURS) {
            k_few_result(op, row, log2_wide, d, s.most, s.weight, s.values);
        }
    }
}

/* As k_row, of strides that fit into 32 bits. */
K_INLINE const uint8_t *k_few_place(const k_tensor *t, uint32_t i1, uint32_t i2, uint32_t i3) {
    return (const uint8_t *)(uintptr_t)(t->data + (uint64_t)i1 * (uint32_t)t->nb[1] + (uint64_t)i2 * (uint32_t)t->nb[2] +
                                        (uint64_t)i3 * (uint32_t)t->nb[3]);
}

/* One task of a cache of halves. at: the operation, in shared memory: what is known to lie there is nearer. */
K_INLINE void k_attend_few(const uint32_t wide, uint32_t at, uint32_t task) {
    const k_op *op = (const k_op *)(const void *)(k_shared_start() + at);
    const k_tensor *q = &op->src[0], *k = &op->src[1], *v = &op->src[2], *m = &op->src[3];
    uint32_t counter = k_quotient(task, op, 9), piece = task - counter * op->split, heads = op->params[5], from = piece * op->params[4];
    uint32_t row = k_quotient(counter, op, 10), group = counter - row * op->params[6], kv_head = k_quotient(group, op, 11);
    uint32_t batch = k_quotient(row, op, 12), token = row - batch * (uint32_t)q->ne[1], half = k_warp() / K_FEW_TAKERS(wide) * K_FEW_VALUES(wide);
    k_few a = {.key_step = (uint32_t)k->nb[1], .value_step = (uint32_t)v->nb[1], .scale = k_param(op, 0), .cap = k_param(op, 2), .from = from};
    a.stamp = k_stamp_of(q);
    a.last = k_few_least((uint32_t)k->ne[1] - from, op->params[4]) - 1;
    a.keys = k_few_place(k, from, kv_head, batch);
    a.values = k_few_place(v, from, kv_head, batch) + half * 2;
    a.mask = m->data ? (const k_u16 *)(const void *)k_few_place(m, token, 0, batch) + from : NULL;
    if (op->extra[0].data) { /* ids are less than 2^32 */
        a.key_id = k_load_relaxed((const void *)(uintptr_t)op->src[K_SRC_KEY_ID].data);
        a.value_id = k_load_relaxed((const void *)(uintptr_t)op->src[K_SRC_VALUE_ID].data);
        a.newest_key = (const uint8_t *)(uintptr_t)op->extra[0].data + kv_head * wide * 4;
        a.newest_value = (const uint8_t *)(uintptr_t)op->extra[1].data + (kv_head * wide + half) * 4;
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
        a.slope[i] = K_LOG2_E;
    }
    if (k_param(op, 1) > 0) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_FEW_SLOTS; i++) {
            a.slope[i] *= k_alibi_slope(k_param(op, 1), group * heads + k_column_in_c(i), (uint32_t)q->ne[2]);
        }
    }
    k_so_far s;
    k_few_along(wide, &a, k_few_place(q, token, group * heads, batch), (uint32_t)q->nb[2], heads, &s);
    k_few_put(wide, heads, &s);
    k_block_sync();
    k_few_end(wide, op, counter * heads, heads, piece);
}

/* Apart, so that each keeps registers to itself. */
K_APART void k_attend_few_64(uint32_t at, uint32_t task) {
    k_attend_few(64, at, task);
}
K_APART void k_attend_few_128(uint32_t at, uint32_t task) {
    k_attend_few(128, at, task);
}
K_APART void k_attend_few_256(uint32_t at, uint32_t task) {
    k_attend_few(256, at, task);
}

/* The same of one token, as decoding has it. */
#ifdef __NVPTX__
K_INLINE void k_attend_one(const uint32_t wide, uint32_t at, uint32_t task) {
    const k_op *op = (const k_op *)(const void *)(k_shared_start() + at);
    const k_tensor *q = &op->src[0], *k = &op->src[1], *v = &op->src[2];
    uint32_t group = k_quotient(task, op, 9), piece = task - group * op->split, heads = op->params[5], from = piece * op->params[4];
    uint32_t kv_head = k_quotient(group, op, 11);
    k_few a = {.key_step = (uint32_t)k->nb[1], .value_step = (uint32_t)v->nb[1], .from = from, .stamp = k_stamp_of(q)};
    const uint8_t *rows = k_one_at((const uint8_t *)(uintptr_t)q->data, group * heads, (uint32_t)q->nb[2]);
    if (op->extra[0].data) { /* ids are less than 2^32 */
        a.newest_key = (const uint8_t *)(uintptr_t)op->extra[0].data + kv_head * wide * 4;
        a.newest_value = (const uint8_t *)(uintptr_t)op->extra[1].data + kv_head * wide * 4;
    }
    k_one_asked asked[K_ONE_FOURS(K_ONE_WIDEST)];
    k_one_ask_first(wide, &a, rows, (uint32_t)q->nb[2], heads, asked);
    if (op->extra[0].data) {
        a.key_id = k_load_relaxed((const void *)(uintptr_t)op->src[K_SRC_KEY_ID].data);
        a.value_id = k_load_relaxed((const void *)(uintptr_t)op->src[K_SRC_VALUE_ID].data);
    }
    a.last = k_few_least((uint32_t)k->ne[1] - from, op->params[4]) - 1;
    a.keys = k_one_at(k_one_at((const uint8_t *)(uintptr_t)k->data, from, a.key_step), kv_head, (uint32_t)k->nb[2]);
    a.values = k_one_at(k_one_at((const uint8_t *)(uintptr_t)v->data, from, a.value_step), kv_head, (uint32_t)v->nb[2]);
    a.mask = (const k_u16 *)(uintptr_t)op->src[3].data + from;
    a.scale = k_param(op, 0);
    k_one_warp w;
    k_one_begin(wide, &a, &w);
    k_bring_next();
    k_one_along(wide, &a, &w, asked, heads, k_few_stats(0));
    k_block_sync();
    k_few_end(wide, op, group * heads, heads, piece);
    if (op->split > 1) {
        k_few_combine(at, task);
    }
}
#else
K_INLINE void k_attend_one(const uint32_t wide, uint32_t at, uint32_t task) {
    k_bring_next();
    k_attend_few(wide, at, task);
    if (((const k_op *)(const void *)(k_shared_start() + at))->split > 1) {
        k_few_combine(at, task);
    }
}
#endif
K_APART void k_attend_one_64(uint32_t at, uint32_t task) {
    k_attend_one(64, at, task);
}
K_APART void k_attend_one_128(uint32_t at, uint32_t task) {
    k_attend_one(128, at, task);
}

/* All tasks of a part. All of its pieces come before any of them is combined with others': these may wait for it. Parts of an operation are in other
 * blocks each, and a block does its parts in their order, so none waits for what comes behind it. */
K_APART void k_attend_tasks(uint32_t at, uint32_t part) {
    const k_op *op = (const k_op *)(const void *)(k_shared_start() + at);
    for (uint32_t task = part; task < op->params[8]; task += op->n_parts) {
        if (task != part) { /* what the last one left there is read */
            k_block_sync();
        }
        if (op->src[0].ne[0] == 64) {
            k_attend_few_64(at, task);
        } else if (op->src[0].ne[0] == 128) {
            k_attend_few_128(at, task);
        } else {
            k_attend_few_256(at, task);
        }
    }
    for (uint32_t task = part; op->split > 1 && task < op->params[8]; task += op->n_parts) {
        k_few_combine(at, task);
    }
}

/* Of the phase's operation, at its place; and what is behind it is brought. */
K_INLINE void k_do_attend_halves(uint32_t part) {
    const uint32_t at = k_op_offset(k_phase_at());
    const k_op *op = k_op_at();
    if (op->params[13] && op->n_parts >= op->params[8]) { /* the part's only task */
        if (op->src[0].ne[0] == 64) {
            k_attend_one_64(at, part);
        } else {
            k_attend_one_128(at, part);
        }
    } else {
        k_bring_next();
        k_attend_tasks(at, part);
    }
}

#endif
