/*
 * Attention, split over tokens, heads and pieces of the cache. A block takes one token, the heads that share keys, and one piece: scores in shared
 * memory, their largest and their sum, then the weighted values. Caches of halves have a faster way (k_attend_halves). Pieces leave (largest, sum,
 * values) in scratch memory; the block that is the last to bring one combines them.
 *
 * params: 0 scale, 1 max_bias, 2 logit_softcap, 4 positions a piece, 5 heads that share keys and values (computed together), 6 the faster way.
 * op->split: pieces; op->table: how many have been brought, by token and heads.
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
    return (k_f32 *)(uintptr_t)op->scratch + (row * op->split + piece) * ((uint32_t)op->dst.ne[0] + 2u);
}

/* An element of a head: into its piece, or, where there is one piece alone, into the result. */
K_FN void k_attention_put(const k_op *op, const k_attention *t, uint32_t h, uint32_t d, uint32_t piece, float most, float weight, float sum) {
    uint32_t head = t->head + h;
    if (op->split > 1) {
        uint64_t row = ((uint64_t)t->batch * (uint32_t)op->dst.ne[2] + t->token) * (uint32_t)op->dst.ne[1] + head;
        k_f32 *out = k_attention_piece(op, row, piece);
        out[2 + d] = sum;
        if (d == 0) {
            out[0] = most;
            out[1] = weight;
        }
        return;
    }
    float sink = k_attention_sink(op, head);
    if (sink > most) {
        float shrink = most == -k_infinity() ? 0 : k_exp(most - sink);
        sum *= shrink;
        weight = weight * shrink + 1.0f;
    } else if (sink != -k_infinity()) {
        weight += k_exp(sink - most);
    }
    ((k_f32 *)k_row(&op->dst, head, t->token, t->batch))[d] = weight > 0 ? sum / weight : 0;
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

/* ---- caches of halves: dk == dv, a power of two; no soft cap ---- */

enum {
    K_HELD = K_LANES == 1 ? 256 : 8, /* elements of a key that a lane holds; on the host all of them */
    K_BROUGHT = 16 * 1024,           /* bytes of keys, and of values, that lie in shared memory at once */
    K_MASKS = K_BROUGHT / 128,       /* positions that this is at most */
};

/* Where in shared memory. */
typedef struct k_brought {
    uint8_t *keys, *values; /* [n][dk] halves */
    k_f32 *masks;           /* what is added to the score */
    uint32_t n;
} k_brought;

/* What a group of lanes that hold a key together has so far; each lane its own elements of the values. */
typedef struct k_so_far {
    float most, weight, acc[K_HELD];
} k_so_far;

/* A constant on a card, where everything that is held lies in registers. */
K_INLINE uint32_t k_held_by(const k_attention *t) {
    return K_LANES == 1 ? t->dk : 8;
}

K_INLINE k_words4 k_row_piece(const uint8_t *rows, const k_tensor *t, uint32_t at, uint32_t wide) {
    return *(const k_words4 *)(const void *)(rows + at / wide * (uint64_t)t->nb[1] + at % wide * 16);
}

/* The whole block brings keys, values and mask of positions [first, first + n) of the piece: read once for all heads, many loads under way. */
K_INLINE void k_bring(const k_op *op, const k_attention *t, uint32_t first, const k_brought *to) {
    const k_tensor *k = &op->src[1], *v = &op->src[2], *m = &op->src[3];
    uint32_t ratio = (uint32_t)op->src[0].ne[2] / (uint32_t)k->ne[2], wide = t->dk / 8, total = to->n * wide;
    const uint8_t *keys = k_row(k, t->from + first, t->head / ratio, t->batch), *values = k_row(v, t->from + first, t->head / ratio, t->batch);
    for (uint32_t i = k_thread(); i < total; i += K_THREADS * 4) { /* four at once, the last of them perhaps in vain */
        uint32_t at0 = i, at1 = i + K_THREADS < total ? i + K_THREADS : i, at2 = i + 2 * K_THREADS < total ? i + 2 * K_THREADS : i,
                 at3 = i + 3 * K_THREADS < total ? i + 3 * K_THREADS : i;
        k_words4 k0 = k_row_piece(keys, k, at0, wide), k1 = k_row_piece(keys, k, at1, wide), k2 = k_row_piece(keys, k, at2, wide),
                 k3 = k_row_piece(keys, k, at3, wide);
        k_words4 v0 = k_row_piece(values, v, at0, wide), v1 = k_row_piece(values, v, at1, wide), v2 = k_row_piece(values, v, at2, wide),
                 v3 = k_row_piece(values, v, at3, wide);
        k_words4 *to_k = (k_words4 *)(void *)to->keys, *to_v = (k_words4 *)(void *)to->values;
        to_k[at0] = k0, to_k[at1] = k1, to_k[at2] = k2, to_k[at3] = k3;
        to_v[at0] = v0, to_v[at1] = v1, to_v[at2] = v2, to_v[at3] = v3;
    }
    const uint8_t *mask = m->data ? k_row(m, t->token, 0, t->batch % (uint32_t)m->ne[3]) + (t->from + first) * 2ull : NULL;
    for (uint32_t i = k_thread(); i < to->n; i += K_THREADS) {
        to->masks[i] = mask ? k_half(mask + i * 2ull) : 0;
    }
}

K_INLINE float k_of_eight(const k_words4 *w, int e) {
    return k_from_half((uint16_t)(w->w[e / 2] >> 16 * (e % 2)));
}

K_INLINE void k_rescale(const k_attention *t, k_so_far *s, float most) {
    float by = s->most == -k_infinity() ? 0 : k_exp_fast(s->most - most);
    s->most = most;
    s->weight *= by;
    K_UNROLL
    for (uint32_t e = 0; e < k_held_by(t); e++) {
        s->acc[e] *= by;
    }
}

/* K_AT_ONCE positions from p on, `step` apart, d: the lane's first element; those beyond the end count nothing. */
K_INLINE void k_attend_some(const k_attention *t, const float *q, float slope, const k_brought *b, uint32_t p, uint32_t step, uint32_t d,
                            k_so_far *s) {
    float scores[K_AT_ONCE], most = s->most;
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * step, here = at < b->n ? at : 0;
        const uint8_t *key = b->keys + (here * t->dk + d) * 2;
        scores[i] = 0;
        K_UNROLL
        for (uint32_t g = 0; g < k_held_by(t); g += 8) {
            k_words4 w = *(const k_words4 *)(const void *)(key + g * 2);
            K_UNROLL
            for (int e = 0; e < 8; e++) {
                scores[i] += k_of_eight(&w, e) * q[g + (uint32_t)e];
            }
        }
    }
    for (uint32_t m = t->dk / k_held_by(t) / 2; m; m /= 2) {
        K_UNROLL
        for (int i = 0; i < K_AT_ONCE; i++) {
            scores[i] += k_exchange(scores[i], (int)m);
        }
    }
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * step;
        float mask = at < b->n ? b->masks[at] : -k_infinity();
        scores[i] = mask == -k_infinity() ? mask : scores[i] + slope * mask;
        most = k_max(most, scores[i]);
    }
    if (most == -k_infinity()) {
        return;
    }
    k_rescale(t, s, most);
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * step, here = at < b->n ? at : 0;
        const uint8_t *value = b->values + (here * t->dk + d) * 2;
        float weight = scores[i] == -k_infinity() ? 0 : k_exp_fast(scores[i] - most);
        s->weight += weight;
        K_UNROLL
        for (uint32_t g = 0; g < k_held_by(t); g += 8) {
            k_words4 w = *(const k_words4 *)(const void *)(value + g * 2);
            K_UNROLL
            for (int e = 0; e < 8; e++) {
                s->acc[g + (uint32_t)e] += weight * k_of_eight(&w, e);
            }
        }
    }
}

/* What the lane `away` has is added; it adds what this one has. */
K_INLINE void k_merge(const k_attention *t, k_so_far *s, int away) {
    float most = k_exchange(s->most, away), weight = k_exchange(s->weight, away), both = k_max(s->most, most);
    float by = most == -k_infinity() ? 0 : k_exp_fast(most - both);
    float own = s->most == -k_infinity() ? 0 : k_exp_fast(s->most - both);
    s->most = both;
    s->weight = s->weight * own + weight * by;
    K_UNROLL
    for (uint32_t e = 0; e < k_held_by(t); e++) {
        s->acc[e] = s->acc[e] * own + k_exchange(s->acc[e], away) * by;
    }
}

/* Heads from `first` on, one to a number of warps: what these have is merged and put where it belongs. parts: [warps][dv]; stats: [warps] (largest,
 * weight) */
K_APART void k_attend_end(const k_op *op, const k_attention *t, uint32_t first, uint32_t each, uint32_t piece, const k_f32 *parts,
                          const k_f32 *stats) {
    uint32_t heads = K_WARPS / each;
    for (uint32_t i = k_thread(); i < heads * t->dv; i += K_THREADS) {
        uint32_t h = i / t->dv, e = i % t->dv;
        float largest = -k_infinity(), sum = 0, all = 0;
        for (uint32_t w = h * each; w < (h + 1) * each; w++) {
            largest = k_max(largest, stats[w * 2]);
        }
        for (uint32_t w = h * each; w < (h + 1) * each; w++) {
            float by = stats[w * 2] == -k_infinity() ? 0 : k_exp_fast(stats[w * 2] - largest);
            sum += parts[w * t->dv + e] * by;
            all += stats[w * 2 + 1] * by;
        }
        k_attention_put(op, t, first + h, e, piece, largest, all, sum);
    }
}

/* One piece: each head has warps of its own, in which groups of lanes hold a key together and take every so many positions, with a sum of their own;
 * these are merged in a warp, then in the block. */
K_APART void k_attend_halves(const k_op *op, const k_attention *t, k_f32 *stats, uint32_t piece) {
    uint32_t lanes = t->dk / k_held_by(t), each = (uint32_t)K_WARPS > t->heads ? (uint32_t)K_WARPS / t->heads : 1; /* warps of a head */
    uint32_t of_warp = K_LANES / lanes, group = k_warp() % each * of_warp + k_lane() / lanes, step = each * of_warp,
             d = k_lane() % lanes * k_held_by(t);
    k_f32 *parts = stats + 2 * K_CARD_THREADS / 32; /* [warps][dv] */
    k_brought b = {.masks = parts + K_CARD_THREADS / 32 * 256};
    b.keys = (uint8_t *)(b.masks + K_MASKS), b.values = b.keys + K_BROUGHT;
    uint32_t room = K_BROUGHT / (t->dk * 2);
    for (uint32_t first_head = 0; first_head < t->heads; first_head += K_WARPS) { /* once, on a card */
        uint32_t h = first_head + k_warp() / each, head = t->head + h;
        const k_f32 *from = (const k_f32 *)k_row(&op->src[0], t->token, head, t->batch) + d;
        float q[K_HELD], slope = k_param(op, 1) > 0 ? k_alibi_slope(k_param(op, 1), head, (uint32_t)op->src[0].ne[2]) : 1;
        k_so_far s = {.most = -k_infinity(), .weight = 0};
        K_UNROLL
        for (uint32_t e = 0; e < k_held_by(t); e++) {
            q[e] = from[e] * k_param(op, 0);
            s.acc[e] = 0;
        }
        for (uint32_t first = 0; first < t->n; first += room) {
            b.n = t->n - first < room ? t->n - first : room;
            k_block_sync();
            k_bring(op, t, first, &b);
            k_block_sync();
            for (uint32_t p = 0; p < b.n; p += step * K_AT_ONCE) { /* together: lanes exchange */
                k_attend_some(t, q, slope, &b, p + group, step, d, &s);
            }
        }
        for (uint32_t away = lanes; away < K_LANES; away *= 2) {
            k_merge(t, &s, (int)away);
        }
        if (k_lane() < lanes) {
            K_UNROLL
            for (uint32_t e = 0; e < k_held_by(t); e++) {
                parts[k_warp() * t->dv + d + e] = s.acc[e];
            }
        }
        if (k_lane() == 0) {
            stats[k_warp() * 2] = s.most;
            stats[k_warp() * 2 + 1] = s.weight;
        }
        k_block_sync();
        k_attend_end(op, t, first_head, each, piece, parts, stats);
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
    K_UNROLL_BY(8)
    for (uint32_t s = 0; s < n; s++) {
        most = k_max(most, piece[s * size]);
    }
    most = k_max(most, sink);
    if (most == -k_infinity()) {
        return 0;
    }
    K_UNROLL_BY(8)
    for (uint32_t s = 0; s < n; s++) {
        float own = piece[s * size], total = piece[s * size + 1], value = piece[s * size + 2 + d];
        float scale = own == -k_infinity() ? 0 : k_exp_fast(own - most);
        sum += scale * value;
        weight += scale * total;
    }
    weight += sink == -k_infinity() ? 0 : k_exp(sink - most);
    return sum / weight;
}

/* Pieces of one token and its heads: the last to arrive combines all. */
K_APART void k_attention_arrive(const k_op *op, const k_attention *t, uint64_t counter) {
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

K_FN void k_do_attention(const k_op *op, uint32_t part) {
    const k_tensor *q = &op->src[0];
    uint32_t heads = op->params[5], head_groups = ((uint32_t)q->ne[2] + heads - 1) / heads, positions = (uint32_t)op->src[1].ne[1];
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
        if (op->params[6]) {
            k_attend_halves(op, &t, stats, piece);
        } else {
            k_attend_any(op, &t, stats, piece);
        }
        if (op->split > 1) {
            k_attention_arrive(op, &t, counter);
        }
        k_block_sync();
    }
}

#endif
