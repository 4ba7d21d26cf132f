/* Rows made halves, once, for the tiles that many blocks multiply them in; with what comes right before: rms_norm and its weight, or a gated unit. */
#ifndef SP_DEVICE_CUDA_KERNEL_HALVES_H
#define SP_DEVICE_CUDA_KERNEL_HALVES_H

#include "device/cuda/kernel_fragments.h"
#include "device/cuda/kernel_rows.h"

/* A row, and how it is read. */
typedef struct k_halves_row {
    const uint8_t *from, *gate;
    const k_f32 *weight;
    uint32_t n, type, before;
} k_halves_row;

typedef struct k_eight {
    float f[8];
} k_eight;

K_INLINE k_eight k_floats8(const uint8_t *row, uint32_t at) {
    k_floats4 low = ((const k_floats4 *)(const void *)row)[at * 2], high = ((const k_floats4 *)(const void *)row)[at * 2 + 1];
    return (k_eight){{low.f[0], low.f[1], low.f[2], low.f[3], high.f[0], high.f[1], high.f[2], high.f[3]}};
}

/* The row's at-th eight elements; behind its end zeros. */
K_INLINE k_eight k_eight_of(uint32_t type, const uint8_t *row, uint32_t at, uint32_t n) {
    k_eight x = {{0}};
    for (uint32_t e = 0; e < 8 && at * 8 + e < n; e++) {
        x.f[e] = k_element(type, row, at * 8 + e, n);
    }
    return x;
}

/* Eight elements with what comes before them, y the norm's weights or the gate; what a norm divides by is left out, and summed instead. */
K_INLINE void k_take_before(const k_op *op, uint32_t before, k_eight *x, const k_eight *y, float *sum) {
    for (int e = 0; e < 8; e++) {
        if (before == K_BEFORE_RMS_NORM) {
            *sum += x->f[e] * x->f[e];
            x->f[e] *= y->f[e];
        } else if (before == K_BEFORE_GLU) {
            x->f[e] = k_glu_value(op->params[K_HALVES_GLU], x->f[e], y->f[e], k_param(op, K_HALVES_ALPHA), k_param(op, K_HALVES_LIMIT));
        }
    }
}

K_INLINE float k_largest(const k_eight *x) {
    float most = 0;
    K_UNROLL_ALL
    for (int e = 0; e < 8; e++) {
        most = k_max(most, __builtin_fabsf(x->f[e]));
    }
    return most;
}

/* The sums and the largest of a team's warps; every thread of the block calls this. */
K_INLINE void k_team_reduce(uint32_t team, float *sum, float *most) {
    *sum = k_warp_sum(*sum), *most = k_warp_max(*most);
    if (team == 1) {
        return;
    }
    k_f32 *slots = (k_f32 *)k_shared();
    k_block_sync();
    if (k_lane() == 0) {
        slots[k_warp()] = *sum, slots[K_WARPS + k_warp()] = *most;
    }
    k_block_sync();
    uint32_t first = k_warp() / team * team;
    *sum = slots[first], *most = slots[K_WARPS + first];
    for (uint32_t w = 1; w < team; w++) {
        *sum += slots[first + w];
        *most = k_max(*most, slots[K_WARPS + first + w]);
    }
}

/* A power of two that brings the largest to 2^14 or a little more, and its inverse. Nothing else is rounded. */
K_INLINE float k_power_below(float most, float *inverse) {
    uint32_t exponent = k_float_bits(most) >> 23 & 255, by = 268 - exponent < 253 ? 268 - exponent : 253;
    *inverse = k_bits_float((254 - by) << 23);
    return k_bits_float(by << 23);
}

/* A row on its way: its team's lanes, their share of it, where it goes. */
typedef struct k_halves_share {
    uint32_t team, lanes, lane, pieces, row; /* pieces: of eight elements, with those that are zeros; row: in its plane */
    uint8_t *to;
    k_f32 *inverse;
} k_halves_share;

/* Where the row's at-th eight elements go. */
K_INLINE uint8_t *k_eight_place(const k_op *op, const k_halves_share *s, uint32_t at) {
    if (op->params[K_HALVES_LEFT]) {
        return s->to + ((uint64_t)s->row * s->pieces + at) * 16;
    }
    return s->to + ((uint64_t)(at / 8) * k_halves_rows((uint32_t)op->src[0].ne[1]) + s->row) * (K_TILE_K * 2) + ((at ^ s->row) & 7) * 16;
}
K_INLINE void k_put_eight(uint8_t *to, const k_eight *x, float scale) {
    *(k_words4 *)(void *)to = (k_words4){{k_two_halves(x->f[0] * scale, x->f[1] * scale), k_two_halves(x->f[2] * scale, x->f[3] * scale),
                                          k_two_halves(x->f[4] * scale, x->f[5] * scale), k_two_halves(x->f[6] * scale, x->f[7] * scale)}};
}

/* What a row is multiplied with; its inverse is noted. All of the block. */
K_INLINE float k_halves_scale(const k_op *op, const k_halves_row *r, const k_halves_share *s, float sum, float most) {
    float inverse;
    k_team_reduce(s->team, &sum, &most);
    float norm = r->before == K_BEFORE_RMS_NORM ? k_reciprocal_root(sum * k_reciprocal((float)r->n) + k_param(op, K_HALVES_EPS)) : 1.0f;
    float scale = k_power_below(most * norm, &inverse) * norm;
    if (s->lane == 0 && s->pieces) {
        *s->inverse = inverse;
    }
    return scale;
}

enum { K_ROW_HELD = K_LANES == 1 ? 64 : 4 }; /* times eight elements of a row that a lane keeps */

/* Eight elements each time, as the team's lanes take them: multiplied with the norm's weight, or gated; behind the row's end zeros. All loads are
 * under way at once. */
K_INLINE void k_load_held(const bool gated, const k_halves_row *r, const k_halves_share *s, uint32_t base, k_eight *x, float *sums) {
    const uint8_t *beside = gated ? r->gate : (const uint8_t *)r->weight;
    k_eight y[K_ROW_HELD];
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        uint32_t at = base + s->lane + i * s->lanes, here = at < r->n / 8 ? at : 0;
        x[i] = k_floats8(r->from, here);
        y[i] = (k_eight){{1, 1, 1, 1, 1, 1, 1, 1}};
        if (beside) {
            y[i] = k_floats8(beside, here);
        }
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        bool there = base + s->lane + i * s->lanes < r->n / 8;
        K_UNROLL_ALL
        for (int e = 0; e < 8; e++) {
            float one = there ? x[i].f[e] : 0;
            sums[e % 2] = gated ? 0 : __builtin_fmaf(one, one, sums[e % 2]);
            x[i].f[e] = (gated ? k_silu_fast(one) : one) * y[i].f[e];
        }
    }
}

K_INLINE float k_largest_held(const k_eight *x, float most) {
    float other = 0;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD * 4; i++) {
        most = k_larger(most, __builtin_fabsf(x[i / 4].f[i % 4]));
        other = k_larger(other, __builtin_fabsf(x[i / 4].f[4 + i % 4]));
    }
    return k_larger(most, other);
}

/* Where the i-th of a lane's eights goes, the first at `to`: they are as far apart one as the other, where lanes come by eight. */
K_INLINE uint8_t *k_held_place(const k_op *op, const k_halves_share *s, uint32_t base, uint32_t i, uint8_t *to) {
    return K_LANES % 8 ? k_eight_place(op, s, base + i) : to + i * (uint64_t)(k_eight_place(op, s, base + s->lane + s->lanes) - to);
}
K_INLINE void k_put_held(const k_op *op, const k_halves_share *s, uint32_t base, const k_eight *x, float scale) {
    uint8_t *to = k_eight_place(op, s, base + s->lane);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        if (base + s->lane + i * s->lanes < s->pieces) {
            k_put_eight(k_held_place(op, s, base, i, to), &x[i], scale);
        }
    }
}

/* Rows of floats that the team can keep. gated: before comes a swiglu, else a norm or nothing. */
K_INLINE void k_halve_held(const bool gated, const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    k_eight x[K_ROW_HELD];
    float sums[2] = {0, 0};
    k_load_held(gated, r, s, 0, x, sums);
    k_put_held(op, s, 0, x, k_halves_scale(op, r, s, sums[0] + sums[1], k_largest_held(x, 0)));
}
/* Longer ones, which are read twice. */
K_INLINE void k_halve_twice(const bool gated, const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    const uint32_t once = s->lanes * K_ROW_HELD, all = k_halves_steps(r->n) * 8;
    k_eight x[K_ROW_HELD];
    float sums[2] = {0, 0}, none[2] = {0, 0}, most = 0;
    for (uint32_t base = 0; base < all; base += once) {
        k_load_held(gated, r, s, base, x, sums);
        most = k_largest_held(x, most);
    }
    float scale = k_halves_scale(op, r, s, sums[0] + sums[1], most);
    for (uint32_t base = 0; base < all; base += once) {
        k_load_held(gated, r, s, base, x, none);
        k_put_held(op, s, base, x, scale);
    }
}

/* Apart, so that what most rows need is short: it comes from afar once a phase. */
K_APART void k_halve_plain(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    k_halve_held(false, op, r, s);
}
K_APART void k_halve_gated(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    k_halve_held(true, op, r, s);
}
K_APART void k_halve_plain_twice(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    k_halve_twice(false, op, r, s);
}
K_APART void k_halve_gated_twice(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    k_halve_twice(true, op, r, s);
}

K_INLINE k_eight k_halves_eight(const k_op *op, const k_halves_row *r, uint32_t at, float *sum) {
    k_eight x = k_eight_of(r->type, r->from, at, r->n), y = {{0}};
    if (r->before == K_BEFORE_RMS_NORM) {
        y = k_eight_of(SP_TYPE_F32, (const uint8_t *)r->weight, at, r->n);
    } else if (r->before == K_BEFORE_GLU) {
        y = k_eight_of(r->type, r->gate, at, r->n);
    }
    k_take_before(op, r->before, &x, &y, sum);
    return x;
}

/* Any row, by its elements, twice. */
K_APART void k_halve_any(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    float sum = 0, most = 0, none = 0;
    for (uint32_t at = s->lane; at < s->pieces; at += s->lanes) {
        k_eight x = k_halves_eight(op, r, at, &sum);
        most = k_max(most, k_largest(&x));
    }
    float scale = k_halves_scale(op, r, s, sum, most);
    for (uint32_t at = s->lane; at < s->pieces; at += s->lanes) {
        k_eight x = k_halves_eight(op, r, at, &none);
        k_put_eight(k_eight_place(op, s, at), &x, scale);
    }
}

K_APART void k_do_halves(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0];
    uint32_t team = K_WARPS == 1 ? 1 : op->params[K_HALVES_TEAM], teams = K_WARPS / team, padded = k_halves_rows((uint32_t)a->ne[1]);
    uint64_t rows = k_rows(a), all = (uint64_t)op->n_parts * teams;
    k_halves_row r = {.n = (uint32_t)a->ne[0], .type = a->type, .before = op->before, .weight = (const k_f32 *)(uintptr_t)op->extra[0].data};
    k_halves_share s = {.team = team, .lanes = team * K_LANES, .lane = k_thread() % (team * K_LANES)};
    uint32_t pieces = k_halves_steps(r.n) * 8;
    for (uint64_t first = part; first < rows; first += all) { /* all teams of the block together */
        uint64_t row = first + k_warp() / team * (uint64_t)op->n_parts, rest = row < rows ? row : first;
        s.pieces = row < rows ? pieces : 0;
        s.row = k_divide(&rest, (uint32_t)a->ne[1]);
        s.to = (uint8_t *)(uintptr_t)op->dst.data + rest * pieces * 16 * padded;
        s.inverse = (k_f32 *)(uintptr_t)op->scratch + rest * padded + s.row;
        uint32_t i2 = k_divide(&rest, (uint32_t)a->ne[2]);
        r.from = k_row(a, s.row, i2, (uint32_t)rest);
        r.gate = r.before == K_BEFORE_GLU ? k_row(&op->extra[1], s.row, i2, (uint32_t)rest) : NULL;
        uint64_t places = (uintptr_t)r.from | (uintptr_t)r.gate | (uintptr_t)r.weight | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3]);
        places |=
            r.before == K_BEFORE_GLU ? (uint64_t)(op->extra[1].nb[1] | op->extra[1].nb[2] | op->extra[1].nb[3]) : 0; /* the same for all teams */
        bool floats = r.type == SP_TYPE_F32 && r.n % 8 == 0 && places % 16 == 0, fits = pieces <= s.lanes * K_ROW_HELD;
        if (floats && r.before != K_BEFORE_GLU) {
            fits ? k_halve_plain(op, &r, &s) : k_halve_plain_twice(op, &r, &s);
        } else if (floats && op->params[K_HALVES_GLU] == SP_OP_SWIGLU) {
            fits ? k_halve_gated(op, &r, &s) : k_halve_gated_twice(op, &r, &s);
        } else {
            k_halve_any(op, &r, &s);
        }
    }
}

#endif
