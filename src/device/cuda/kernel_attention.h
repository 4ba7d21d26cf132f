/*
 * Attention, split over tokens, heads and pieces of the cache. A block takes
 * one token, the heads that share keys, and one piece: scores in shared memory,
 * their largest and their sum, then the weighted values. Pieces leave (largest,
 * sum, values) in scratch memory; whoever reads the result combines them.
 *
 * params: 0 scale, 1 max_bias, 2 logit_softcap, 4 positions a piece, 5 heads
 * that share keys and values (computed together). op->split: pieces.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_ATTENTION_H
#define SP_DEVICE_CUDA_KERNEL_ATTENTION_H

#include "device/cuda/kernel_rows.h"

/* What one task works on. */
typedef struct k_attention {
    uint32_t token, batch, head, heads, from, n; /* the first head and how many; positions */
    uint32_t dk, dv;
    k_f32 *q, *scores, *parts; /* shared: [heads][dk], [heads][n], [groups][heads][dv] */
} k_attention;

K_FN float k_softcap(float x, float cap) {
    return cap > 0 ? cap * k_tanh(x / cap) : x;
}

/* heads is a constant where it counts. Each thread takes a position: its key is
 * read once for all heads. */
static inline __attribute__((always_inline)) void k_scores_of(const k_op *op, const k_attention *t, const uint32_t heads) {
    const k_tensor *k = &op->src[1], *mask = op->src[3].data ? &op->src[3] : NULL;
    uint32_t ratio = (uint32_t)op->src[0].ne[2] / (uint32_t)k->ne[2];
    for (uint32_t p = k_thread(); p < t->n; p += K_THREADS) {
        const uint8_t *row = k_row(k, t->from + p, t->head / ratio, t->batch);
        float acc[K_ATTENTION_HEADS] = {0};
        bool half8 = k->type == SP_TYPE_F16 && t->dk % 32 == 0 && ((uintptr_t)row & 15) == 0;
        for (uint32_t d = 0; half8 && d < t->dk; d += 32) {
            k_words4 w[4];
            for (int g = 0; g < 4; g++) {
                w[g] = *(const k_words4 *)(row + d * 2 + g * 16);
            }
            for (int e = 0; e < 32; e++) {
                float x = k_from_half((uint16_t)(w[e / 8].w[e % 8 / 2] >> 16 * (e % 2)));
                for (uint32_t h = 0; h < heads; h++) {
                    acc[h] += x * t->q[h * t->dk + d + (uint32_t)e];
                }
            }
        }
        for (uint32_t d = 0; !half8 && d < t->dk; d++) {
            float x = k_element(k->type, row, d, t->dk);
            for (uint32_t h = 0; h < heads; h++) {
                acc[h] += x * t->q[h * t->dk + d];
            }
        }
        for (uint32_t h = 0; h < heads; h++) {
            float s = k_softcap(acc[h], k_param(op, 2));
            if (mask) {
                uint32_t head = t->head + h;
                const uint8_t *m = k_row(mask, t->token, head % (uint32_t)mask->ne[2], t->batch % (uint32_t)mask->ne[3]);
                s += k_alibi_slope(k_param(op, 1), head, (uint32_t)op->src[0].ne[2]) * k_half(m + (t->from + p) * 2ull);
            }
            t->scores[h * t->n + p] = s;
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

/* Each thread takes `each` neighbouring elements of the values and every so
 * many positions. */
static inline __attribute__((always_inline)) void k_values_of(const k_op *op, const k_attention *t, uint32_t groups, const uint32_t heads,
                                                              const uint32_t each) {
    const k_tensor *v = &op->src[2];
    uint32_t ratio = (uint32_t)op->src[0].ne[2] / (uint32_t)v->ne[2], across = t->dv / each, total = groups * across;
    for (uint32_t i = k_thread(); i < total; i += K_THREADS) {
        uint32_t d = i % across * each, group = i / across;
        float acc[K_ATTENTION_HEADS][8] = {{0}};
        const uint8_t *row = k_row(v, t->from + group, t->head / ratio, t->batch);
        for (uint32_t p = group; p < t->n; p += groups, row += (uint64_t)groups * (uint64_t)v->nb[1]) {
            float x[8];
            if (each == 8) {
                k_words4 w = *(const k_words4 *)(row + d * 2);
                for (int e = 0; e < 8; e++) {
                    x[e] = k_from_half((uint16_t)(w.w[e / 2] >> 16 * (e % 2)));
                }
            } else {
                x[0] = k_element(v->type, row, d, t->dv);
            }
            for (uint32_t h = 0; h < heads; h++) {
                float weight = t->scores[h * t->n + p];
                for (uint32_t e = 0; e < each; e++) {
                    acc[h][e] += x[e] * weight;
                }
            }
        }
        for (uint32_t h = 0; h < heads; h++) {
            for (uint32_t e = 0; e < each; e++) {
                t->parts[(group * heads + h) * t->dv + d + e] = acc[h][e];
            }
        }
    }
}

K_FN void k_attention_scores(const k_op *op, const k_attention *t) {
    if (t->heads == 1) {
        k_scores_of(op, t, 1);
    } else if (t->heads == 4) {
        k_scores_of(op, t, 4);
    } else {
        k_scores_of(op, t, t->heads);
    }
}

K_FN void k_attention_values(const k_op *op, const k_attention *t, uint32_t groups, uint32_t each) {
    if (each == 8 && t->heads == 4) {
        k_values_of(op, t, groups, 4, 8);
    } else if (each == 8 && t->heads == 1) {
        k_values_of(op, t, groups, 1, 8);
    } else {
        k_values_of(op, t, groups, t->heads, 1);
    }
}

/* One head's sum over pieces: its scale is 1 over the sum of weights, the sink
 * among them. */
K_FN float k_attention_sink(const k_op *op, uint32_t head) {
    return op->src[4].data ? ((const k_f32 *)(uintptr_t)op->src[4].data)[head] : -k_infinity();
}

/* Floats of scratch memory a piece: the largest, the sum, the values. */
K_FN k_f32 *k_attention_piece(const k_op *op, uint64_t row, uint32_t piece) {
    return (k_f32 *)(uintptr_t)op->scratch + (row * op->split + piece) * ((uint32_t)op->dst.ne[0] + 2u);
}

K_FN void k_attention_finish(const k_op *op, const k_attention *t, const k_f32 *stats, uint32_t groups, uint32_t piece) {
    for (uint32_t i = k_thread(); i < t->heads * t->dv; i += K_THREADS) {
        uint32_t h = i / t->dv, d = i % t->dv, head = t->head + h;
        float sum = 0;
        for (uint32_t g = 0; g < groups; g++) {
            sum += t->parts[(g * t->heads + h) * t->dv + d];
        }
        if (op->split > 1) {
            uint64_t row = ((uint64_t)t->batch * (uint32_t)op->dst.ne[2] + t->token) * (uint32_t)op->dst.ne[1] + head;
            k_f32 *out = k_attention_piece(op, row, piece);
            out[2 + d] = sum;
            if (d == 0) {
                out[0] = stats[h * 2];
                out[1] = stats[h * 2 + 1];
            }
            continue;
        }
        float most = stats[h * 2], weight = stats[h * 2 + 1], sink = k_attention_sink(op, head);
        if (sink > most) {
            float shrink = most == -k_infinity() ? 0 : k_exp(most - sink);
            sum *= shrink;
            weight = weight * shrink + 1.0f;
        } else if (sink != -k_infinity()) {
            weight += k_exp(sink - most);
        }
        ((k_f32 *)k_row(&op->dst, head, t->token, t->batch))[d] = weight > 0 ? sum / weight : 0;
    }
}

K_FN void k_do_attention(const k_block *b, const k_op *op, uint32_t part) {
    const k_tensor *q = &op->src[0];
    uint32_t heads = op->params[5], head_groups = ((uint32_t)q->ne[2] + heads - 1) / heads, positions = (uint32_t)op->src[1].ne[1];
    uint64_t tasks = (uint64_t)(uint32_t)q->ne[1] * (uint32_t)q->ne[3] * head_groups * op->split;
    k_f32 *stats = (k_f32 *)(b->shared + 256);
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        uint64_t rest = task;
        uint32_t piece = k_divide(&rest, op->split);
        k_attention t = {.head = k_divide(&rest, head_groups) * heads, .dk = (uint32_t)q->ne[0], .dv = (uint32_t)op->dst.ne[0]};
        t.token = k_divide(&rest, (uint32_t)q->ne[1]);
        t.batch = (uint32_t)rest;
        t.heads = heads;
        t.from = piece * op->params[4];
        t.n = positions - t.from < op->params[4] ? positions - t.from : op->params[4];
        t.q = stats + 2 * K_ATTENTION_HEADS;
        t.scores = t.q + heads * t.dk;
        t.parts = t.scores + heads * t.n;
        const k_tensor *v = &op->src[2];
        bool wide = (heads == 1 || heads == 4) && v->type == SP_TYPE_F16 && t.dv % 8 == 0 &&
                    ((v->data | (uint64_t)v->nb[1] | (uint64_t)v->nb[2] | (uint64_t)v->nb[3]) & 15) == 0;
        uint32_t each = wide ? 8 : 1, across = t.dv / each, groups = across && across < (uint32_t)K_THREADS ? (uint32_t)K_THREADS / across : 1u;
        for (uint32_t i = k_thread(); i < heads * t.dk; i += K_THREADS) {
            float x = ((const k_f32 *)k_row(q, t.token, t.head + i / t.dk, t.batch))[i % t.dk];
            t.q[i] = x * k_param(op, 0);
        }
        k_block_sync();
        k_attention_scores(op, &t);
        k_block_sync();
        k_attention_weights(&t, stats);
        k_block_sync();
        k_attention_values(op, &t, groups, each);
        k_block_sync();
        k_attention_finish(op, &t, stats, groups, piece);
        k_block_sync();
    }
}

/* One element of the result from its pieces. */
K_FN float k_attention_combined(const k_op *op, uint64_t row, uint32_t d) {
    float most = -k_infinity(), sum = 0, weight = 0, sink = -k_infinity();
    if (op->src[4].data) {
        uint64_t rest = row;
        sink = k_attention_sink(op, k_divide(&rest, (uint32_t)op->dst.ne[1]));
    }
    uint32_t n = op->split, size = (uint32_t)op->dst.ne[0] + 2u;
    const k_f32 *piece = k_attention_piece(op, row, 0);
    for (uint32_t s = 0; s < n; s++) {
        most = k_max(most, piece[s * size]);
    }
    most = k_max(most, sink);
    if (most == -k_infinity()) {
        return 0;
    }
    for (uint32_t s = 0; s < n; s++) {
        float own = piece[s * size], total = piece[s * size + 1], value = piece[s * size + 2 + d];
        float scale = own == -k_infinity() ? 0 : k_exp(own - most);
        sum += scale * value;
        weight += scale * total;
    }
    weight += sink == -k_infinity() ? 0 : k_exp(sink - most);
    return sum / weight;
}

K_FN void k_do_combine(const k_op *op, uint32_t part) {
    uint32_t dv = (uint32_t)op->dst.ne[0];
    uint64_t n = k_count(&op->dst), step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        k_at at = k_place(&op->dst, i);
        uint64_t row = i;
        k_divide(&row, dv);
        *(k_f32 *)k_address(&op->dst, &at) = k_attention_combined(op, row, at.i[0]);
    }
}

#endif
