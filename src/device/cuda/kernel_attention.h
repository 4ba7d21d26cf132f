/*
 * Attention, split over tokens, heads and pieces of the cache. A block takes one token, the heads that share keys, and one piece: scores in shared
 * memory, their largest and their sum, then the weighted values. Caches of halves have a faster way (K_OP_ATTEND_HALVES). Pieces leave (largest, sum,
 * values) in scratch memory; the block that is the last to bring one combines them.
 *
 * params: 0 scale, 1 max_bias, 2 logit_softcap, 4 positions a piece, 5 heads that share keys and values (computed together); of K_OP_ATTEND_HALVES
 * also, as powers of two, 7 dk / 8 and 8 those heads, and 9 how many heads share keys. op->split: pieces; op->table: how many have been brought, by
 * token and heads.
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
    K_BROUGHT = 12 * 1024,           /* bytes of keys, and of values, that lie in shared memory at once, twice */
    K_MASKS = K_BROUGHT / 128,       /* positions that this is at most */
    K_MERGED_AT = 512,               /* in shared memory: what warps have: [warps] (largest, weight), then [warps][dv] */
    K_MASKS_AT = K_MERGED_AT + 64 + K_CARD_THREADS / 32 * 256 * 4,
    K_CACHE_AT = K_MASKS_AT + 2 * K_MASKS * 4,
};
_Static_assert(K_CACHE_AT % 16 == 0 && K_CACHE_AT + 4 * K_BROUGHT <= K_WORK, "it fits");

/* How a token's work is shared out; all but held as powers of two: 16 bytes of a key, lanes that hold a key together, warps of a head. */
typedef struct k_token {
    uint32_t wide, lanes, each;
    uint32_t group, step, d; /* the lane's group takes the positions group, group + step, ...; the lane's first element */
    uint32_t kv_head, held;
} k_token;

K_INLINE k_token k_token_of(const k_op *op, const k_attention *t) {
    k_token k = {.wide = op->params[7], .lanes = K_LANES == 1 ? 0 : op->params[7], .held = K_LANES == 1 ? t->dk : 8};
    uint32_t of_warp = (uint32_t)K_LANES >> k.lanes;
    k.each = K_WARPS == 1 ? 0 : 3 - op->params[8];
    k.group = (k_warp() & ((1u << k.each) - 1)) * of_warp + (k_lane() >> k.lanes);
    k.step = of_warp << k.each;
    k.d = (k_lane() & ((1u << k.lanes) - 1)) * 8;
    k.kv_head = t->head / op->params[9];
    return k;
}

K_INLINE uint8_t *k_cache_stage(uint32_t stage) {
    return k_shared() + K_CACHE_AT + stage * (2 * K_BROUGHT);
}
K_INLINE k_f32 *k_mask_stage(uint32_t stage) {
    return (k_f32 *)(void *)(k_shared() + K_MASKS_AT) + stage * K_MASKS;
}

/* The whole block asks for keys and values of n positions from `first` of the piece on. */
K_INLINE void k_bring_cache(const k_op *op, const k_attention *t, const k_token *s, uint32_t first, uint32_t n, uint32_t stage) {
    const k_tensor *k = &op->src[1], *v = &op->src[2];
    const uint8_t *keys = k_row(k, t->from + first, s->kv_head, t->batch), *values = k_row(v, t->from + first, s->kv_head, t->batch);
    uint8_t *to = k_cache_stage(stage);
    for (uint32_t i = k_thread(); i < n << s->wide; i += K_THREADS) {
        uint64_t row = i >> s->wide;
        uint32_t at = (i & ((1u << s->wide) - 1)) * 16;
        k_copy_async(to + i * 16, keys + row * (uint64_t)k->nb[1] + at, true);
        k_copy_async(to + K_BROUGHT + i * 16, values + row * (uint64_t)v->nb[1] + at, true);
    }
    k_copies_end();
}

/* What is added to the scores of the thread's positions, as many as there are threads apart; asked for with the keys. */
enum { K_MASKS_EACH = (K_MASKS + K_THREADS - 1) / K_THREADS };
K_INLINE void k_take_masks(const k_op *op, const k_attention *t, uint32_t first, uint32_t n, float *masks) {
    const k_tensor *m = &op->src[3];
    const k_u16 *mask = m->data ? (const k_u16 *)(const void *)k_row(m, t->token, 0, t->batch % (uint32_t)m->ne[3]) + t->from + first : NULL;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_MASKS_EACH; i++) {
        uint32_t at = i * K_THREADS + k_thread();
        masks[i] = mask && at < n ? k_from_half(mask[at]) : 0;
    }
}
K_INLINE void k_put_masks(const float *masks, uint32_t stage) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_MASKS_EACH; i++) {
        uint32_t at = i * K_THREADS + k_thread();
        if (at < K_MASKS) {
            k_mask_stage(stage)[at] = masks[i];
        }
    }
}

/* What a group of lanes that hold a key together has so far; each lane its own elements of the values. */
typedef struct k_so_far {
    float most, weight, acc[K_HELD];
} k_so_far;

K_INLINE float k_of_eight(const k_words4 *w, int e) {
    return k_from_half((uint16_t)(w->w[e / 2] >> 16 * (e % 2)));
}

/* A constant on a card, where everything that is held lies in registers. */
K_INLINE uint32_t k_held_by(const k_token *s) {
    return K_LANES == 1 ? s->held : 8;
}

K_INLINE void k_rescale(const k_token *s, k_so_far *a, float most) {
    float by = a->most == -k_infinity() ? 0 : k_exp_fast(a->most - most);
    a->most = most;
    a->weight *= by;
    K_UNROLL
    for (uint32_t e = 0; e < k_held_by(s); e++) {
        a->acc[e] *= by;
    }
}

/* K_AT_ONCE of n positions from p on; those beyond the end count nothing. */
K_INLINE void k_attend_some(const k_token *s, const float *q, float slope, uint32_t stage, uint32_t p, uint32_t n, k_so_far *a) {
    const uint8_t *cache = k_cache_stage(stage) + s->d * 2;
    float scores[K_AT_ONCE], most = a->most;
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * s->step, here = at < n ? at : 0;
        scores[i] = 0;
        K_UNROLL
        for (uint32_t g = 0; g < k_held_by(s); g += 8) {
            k_words4 w = *(const k_words4 *)(const void *)(cache + (here << s->wide) * 16 + g * 2);
            K_UNROLL
            for (int e = 0; e < 8; e++) {
                scores[i] += k_of_eight(&w, e) * q[g + (uint32_t)e];
            }
        }
    }
    for (int m = (1 << s->lanes) / 2; m; m /= 2) {
        K_UNROLL
        for (int i = 0; i < K_AT_ONCE; i++) {
            scores[i] += k_exchange(scores[i], m);
        }
    }
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * s->step;
        float mask = at < n ? k_mask_stage(stage)[at] : -k_infinity();
        scores[i] = mask == -k_infinity() ? mask : scores[i] + slope * mask;
        most = k_max(most, scores[i]);
    }
    if (most == -k_infinity()) {
        return;
    }
    k_rescale(s, a, most);
    K_UNROLL
    for (int i = 0; i < K_AT_ONCE; i++) {
        uint32_t at = p + (uint32_t)i * s->step, here = at < n ? at : 0;
        float weight = scores[i] == -k_infinity() ? 0 : k_exp_fast(scores[i] - most);
        a->weight += weight;
        K_UNROLL
        for (uint32_t g = 0; g < k_held_by(s); g += 8) {
            k_words4 w = *(const k_words4 *)(const void *)(cache + K_BROUGHT + (here << s->wide) * 16 + g * 2);
            K_UNROLL
            for (int e = 0; e < 8; e++) {
                a->acc[g + (uint32_t)e] += weight * k_of_eight(&w, e);
            }
        }
    }
}

/* What the lane `away` has is added; it adds what this one has. */
K_INLINE void k_merge(const k_token *s, k_so_far *a, int away) {
    float most = k_exchange(a->most, away), weight = k_exchange(a->weight, away), both = k_max(a->most, most);
    float by = most == -k_infinity() ? 0 : k_exp_fast(most - both);
    float own = a->most == -k_infinity() ? 0 : k_exp_fast(a->most - both);
    a->most = both;
    a->weight = a->weight * own + weight * by;
    K_UNROLL
    for (uint32_t e = 0; e < k_held_by(s); e++) {
        a->acc[e] = a->acc[e] * own + k_exchange(a->acc[e], away) * by;
    }
}

/* The warp's result, to where the block's are. */
K_INLINE void k_put_merged(const k_attention *t, const k_token *s, const k_so_far *a) {
    k_f32 *stats = (k_f32 *)(void *)(k_shared() + K_MERGED_AT), *values = stats + 16 + k_warp() * t->dv + s->d;
    if (k_lane() >> s->lanes == 0) {
        K_UNROLL
        for (uint32_t e = 0; e < k_held_by(s); e++) {
            values[e] = a->acc[e];
        }
    }
    if (k_lane() == 0) {
        stats[k_warp() * 2] = a->most;
        stats[k_warp() * 2 + 1] = a->weight;
    }
}

/* Heads from `first` on, one to a number of warps: what these have is merged and put where it belongs. */
K_INLINE void k_attend_end(const k_op *op, const k_attention *t, const k_token *s, uint32_t first, uint32_t piece) {
    const k_f32 *stats = (const k_f32 *)(const void *)(k_shared() + K_MERGED_AT), *values = stats + 16;
    uint32_t heads = (uint32_t)K_WARPS >> s->each;
    for (uint32_t i = k_thread(); i < heads * t->dv; i += K_THREADS) {
        uint32_t h = i >> (s->wide + 3), d = i & (t->dv - 1);
        float largest = -k_infinity(), sum = 0, all = 0;
        for (uint32_t w = h << s->each; w < (h + 1) << s->each; w++) {
            largest = k_max(largest, stats[w * 2]);
        }
        for (uint32_t w = h << s->each; w < (h + 1) << s->each; w++) {
            float by = stats[w * 2] == -k_infinity() ? 0 : k_exp_fast(stats[w * 2] - largest);
            sum += values[w * t->dv + d] * by;
            all += stats[w * 2 + 1] * by;
        }
        k_attention_put(op, t, first + h, d, piece, largest, all, sum);
    }
}

/* Keys and values come into shared memory, the next while those before are computed with. */
K_INLINE void k_attend_piece(const k_op *op, const k_attention *t, const k_token *s, const float *q, float slope, k_so_far *a) {
    uint32_t room = (uint32_t)K_BROUGHT / 16 >> s->wide, n = t->n < room ? t->n : room;
    float masks[K_MASKS_EACH];
    k_bring_cache(op, t, s, 0, n, 0);
    k_take_masks(op, t, 0, n, masks);
    k_put_masks(masks, 0);
    for (uint32_t first = 0, stage = 0; first < t->n; stage ^= 1) {
        uint32_t next = first + n, n_next = t->n - next < room ? t->n - next : room;
        k_bring_cache(op, t, s, next, n_next, stage ^ 1); /* at the end nothing, so that what came before is waited for */
        k_take_masks(op, t, next, n_next, masks);
        k_copies_wait_but(1);
        k_block_sync();
        for (uint32_t p = 0; p < n; p += s->step * K_AT_ONCE) { /* together: lanes exchange */
            k_attend_some(s, q, slope, stage, p + s->group, n, a);
        }
        k_put_masks(masks, stage ^ 1);
        k_block_sync();
        first = next, n = n_next;
    }
}

/* One piece: each head has warps of its own, in which groups of lanes hold a key together and take every so many positions, with a sum of their own;
 * these are merged in a warp, then in the block. */
K_INLINE void k_attend_halves(const k_op *op, const k_attention *t, uint32_t piece) {
    const k_token s = k_token_of(op, t);
    for (uint32_t first = 0; first < t->heads; first += K_WARPS) { /* once, on a card */
        uint32_t head = t->head + first + (k_warp() >> s.each);
        const k_floats4 *from = (const k_floats4 *)(const void *)((const k_f32 *)k_row(&op->src[0], t->token, head, t->batch) + s.d);
        float q[K_HELD], slope = k_param(op, 1) > 0 ? k_alibi_slope(k_param(op, 1), head, (uint32_t)op->src[0].ne[2]) : 1;
        k_so_far a = {.most = -k_infinity(), .weight = 0};
        K_UNROLL
        for (uint32_t e = 0; e < k_held_by(&s); e++) {
            q[e] = from[e / 4].f[e % 4] * k_param(op, 0);
            a.acc[e] = 0;
        }
        k_attend_piece(op, t, &s, q, slope, &a);
        for (uint32_t away = 1u << s.lanes; away < K_LANES; away *= 2) {
            k_merge(&s, &a, (int)away);
        }
        k_put_merged(t, &s, &a);
        k_block_sync();
        k_attend_end(op, t, &s, first, piece);
    }
}

enum { K_PIECES_AT_ONCE = 8 };

/* One element of the result from its pieces, some of them under way at once. */
K_FN float k_attention_combined(const k_op *op, uint64_t row, uint32_t d) {
    uint64_t rest = row;
    float most = op->src[4].data ? k_attention_sink(op, k_divide(&rest, (uint32_t)op->dst.ne[1])) : -k_infinity();
    float sum = 0, weight = most == -k_infinity() ? 0 : 1;
    uint32_t size = (uint32_t)op->dst.ne[0] + 2u;
    const k_f32 *piece = k_attention_piece(op, row, 0);
    for (uint32_t first = 0; first < op->split; first += K_PIECES_AT_ONCE) {
        float own[K_PIECES_AT_ONCE], total[K_PIECES_AT_ONCE], value[K_PIECES_AT_ONCE], before = most;
        K_UNROLL_ALL
        for (uint32_t s = 0; s < K_PIECES_AT_ONCE; s++) {
            uint32_t at = (first + s < op->split ? first + s : first) * size;
            own[s] = piece[at], total[s] = piece[at + 1], value[s] = piece[at + 2 + d];
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
    return weight > 0 ? sum / weight : 0;
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
K_INLINE void k_attend_tasks(const bool halves, const k_op *op, uint32_t part) {
    const k_tensor *q = &op->src[0];
    uint32_t heads = op->params[5], positions = (uint32_t)op->src[1].ne[1];
    uint32_t head_groups = halves ? (uint32_t)q->ne[2] >> op->params[8] : ((uint32_t)q->ne[2] + heads - 1) / heads;
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
        if (halves) {
            k_attend_halves(op, &t, piece);
        } else {
            k_attend_any(op, &t, stats, piece);
        }
        if (op->split > 1) {
            k_attention_arrive(op, &t, counter);
        }
        k_block_sync();
    }
}

K_APART void k_do_attention(const k_op *op, uint32_t part) {
    k_attend_tasks(false, op, part);
}
K_APART void k_do_attend_halves(const k_op *op, uint32_t part) {
    k_attend_tasks(true, op, part);
}

#endif
