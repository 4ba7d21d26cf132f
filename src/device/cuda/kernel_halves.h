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

/* For values that are rounded to halves. */
K_INLINE float k_silu_fast(float x) {
    return x * k_reciprocal(1.0f + k_exp_fast(-x));
}

/* Eight elements with what comes before them, y the norm's weights or the gate; what a norm divides by is left out, and summed instead. */
K_INLINE void k_take_before(const k_op *op, uint32_t before, k_eight *x, const k_eight *y, float *sum) {
    uint32_t kind = op->params[K_HALVES_GLU];
    if (before == K_BEFORE_RMS_NORM) {
        K_UNROLL_ALL
        for (int e = 0; e < 8; e++) {
            *sum += x->f[e] * x->f[e];
            x->f[e] *= y->f[e];
        }
    } else if (before == K_BEFORE_GLU && kind == SP_OP_SWIGLU) {
        K_UNROLL_ALL
        for (int e = 0; e < 8; e++) {
            x->f[e] = k_silu_fast(x->f[e]) * y->f[e];
        }
    } else if (before == K_BEFORE_GLU) {
        for (int e = 0; e < 8; e++) {
            x->f[e] = k_glu_value(kind, x->f[e], y->f[e], k_param(op, K_HALVES_ALPHA), k_param(op, K_HALVES_LIMIT));
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

K_INLINE void k_put_eight(const k_op *op, uint8_t *to, uint32_t row, uint32_t at, uint32_t pieces, const k_eight *x, float scale) {
    const k_words4 w = {{k_two_halves(x->f[0] * scale, x->f[1] * scale), k_two_halves(x->f[2] * scale, x->f[3] * scale),
                         k_two_halves(x->f[4] * scale, x->f[5] * scale), k_two_halves(x->f[6] * scale, x->f[7] * scale)}};
    if (op->params[K_HALVES_LEFT]) {
        ((k_words4 *)(void *)to)[(uint64_t)row * pieces + at] = w;
        return;
    }
    uint8_t *line = to + ((uint64_t)(at / 8) * k_halves_rows((uint32_t)op->src[0].ne[1]) + row) * (K_TILE_K * 2);
    *(k_words4 *)(void *)(line + ((at ^ row) & 7) * 16) = w;
}

/* A row on its way: its team's lanes, their share of it, where it goes. */
typedef struct k_halves_share {
    uint32_t team, lanes, lane, pieces, row; /* pieces: of eight elements, with those that are zeros; row: in its plane */
    uint8_t *to;
    k_f32 *inverse;
} k_halves_share;

/* What a row is multiplied with; its inverse is noted. All of the block. */
K_INLINE float k_halves_scale(const k_op *op, const k_halves_row *r, const k_halves_share *s, float sum, float most) {
    float inverse;
    k_team_reduce(s->team, &sum, &most);
    float norm = r->before == K_BEFORE_RMS_NORM ? 1.0f / __builtin_sqrtf(sum / (float)r->n + k_param(op, K_HALVES_EPS)) : 1.0f;
    float scale = k_power_below(most * norm, &inverse) * norm;
    if (s->lane == 0 && s->pieces) {
        *s->inverse = inverse;
    }
    return scale;
}

enum { K_ROW_HELD = K_LANES == 1 ? 64 : 4 }; /* times eight elements of a row that a lane keeps */

/* Floats that the team can keep: all loads are under way at once. */
K_INLINE void k_halve_held(const k_op *op, const k_halves_row *r, const k_halves_share *s) {
    const uint8_t *beside = r->before == K_BEFORE_GLU ? r->gate : (const uint8_t *)r->weight;
    k_eight x[K_ROW_HELD], y[K_ROW_HELD];
    float sum = 0, most = 0;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        uint32_t at = s->lane + i * s->lanes;
        x[i] = k_floats8(r->from, at < r->n / 8 ? at : 0);
    }
    if (r->before) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_ROW_HELD; i++) {
            uint32_t at = s->lane + i * s->lanes;
            y[i] = k_floats8(beside, at < r->n / 8 ? at : 0);
        }
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        x[i] = s->lane + i * s->lanes < r->n / 8 ? x[i] : (k_eight){{0}};
        k_take_before(op, r->before, &x[i], &y[i], &sum);
        most = k_max(most, k_largest(&x[i]));
    }
    float scale = k_halves_scale(op, r, s, sum, most);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_ROW_HELD; i++) {
        if (s->lane + i * s->lanes < s->pieces) {
            k_put_eight(op, s->to, s->row, s->lane + i * s->lanes, s->pieces, &x[i], scale);
        }
    }
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
        k_put_eight(op, s->to, s->row, at, s->pieces, &x, scale);
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
        if (r.type == SP_TYPE_F32 && r.n % 8 == 0 && places % 16 == 0 && pieces <= s.lanes * K_ROW_HELD) {
            k_halve_held(op, &r, &s);
        } else {
            k_halve_any(op, &r, &s);
        }
    }
}

#endif
