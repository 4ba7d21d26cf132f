/* Operations element by element: each thread of an operation's parts takes
 * every so many elements of the result. */
#ifndef SP_DEVICE_CUDA_KERNEL_ELEMENTS_H
#define SP_DEVICE_CUDA_KERNEL_ELEMENTS_H

#include "device/cuda/numbers.h"

typedef struct k_at {
    uint32_t i[4];
} k_at;

K_FN uint64_t k_count(const k_tensor *t) {
    return (uint64_t)(uint32_t)t->ne[0] * (uint32_t)t->ne[1] * (uint32_t)t->ne[2] * (uint32_t)t->ne[3];
}
K_FN uint64_t k_rows(const k_tensor *t) {
    return (uint64_t)(uint32_t)t->ne[1] * (uint32_t)t->ne[2] * (uint32_t)t->ne[3];
}
/* Divides, and returns the remainder: cards are slow at dividing 64 bits. */
K_FN uint32_t k_divide(uint64_t *n, uint32_t by) {
    if (*n >> 32) {
        uint32_t rest = (uint32_t)(*n % by);
        *n /= by;
        return rest;
    }
    uint32_t low = (uint32_t)*n, quotient = by == 1 ? low : low / by;
    *n = quotient;
    return low - quotient * by;
}
/* The place of the n-th element of a shape. */
K_FN k_at k_place(const k_tensor *t, uint64_t n) {
    k_at at;
    for (int d = 0; d < 3; d++) {
        at.i[d] = k_divide(&n, (uint32_t)t->ne[d]);
    }
    at.i[3] = (uint32_t)n;
    return at;
}
K_FN uint8_t *k_row(const k_tensor *t, uint32_t i1, uint32_t i2, uint32_t i3) {
    return (uint8_t *)(uintptr_t)(t->data + (uint64_t)(i1 * t->nb[1] + i2 * t->nb[2] + i3 * t->nb[3]));
}
K_FN uint8_t *k_row_of(const k_tensor *t, uint64_t row) {
    uint32_t i1 = k_divide(&row, (uint32_t)t->ne[1]), i2 = k_divide(&row, (uint32_t)t->ne[2]);
    return k_row(t, i1, i2, (uint32_t)row);
}
/* An element where elements of a row may lie apart (never of quants). */
K_FN uint8_t *k_address(const k_tensor *t, const k_at *at) {
    return k_row(t, at->i[1], at->i[2], at->i[3]) + at->i[0] * t->nb[0];
}
K_FN bool k_is_quantised(uint32_t type) {
    return type != SP_TYPE_F32 && type != SP_TYPE_F16 && type != SP_TYPE_BF16 && type != SP_TYPE_I32 && type != SP_TYPE_I64;
}
K_FN float k_load(const k_tensor *t, const k_at *at) {
    if (k_is_quantised(t->type)) {
        return k_element(t->type, k_row(t, at->i[1], at->i[2], at->i[3]), at->i[0], (uint32_t)t->ne[0]);
    }
    return k_element(t->type, k_address(t, at), 0, 1);
}
K_FN float k_param(const k_op *op, int i) {
    return k_bits_float(op->params[i]);
}

/* With sizes of b repeated over a's. */
K_FN float k_load_repeated(const k_tensor *b, k_at at) {
    for (int d = 0; d < 4; d++) {
        at.i[d] = b->ne[d] == 1 ? 0 : at.i[d] < (uint32_t)b->ne[d] ? at.i[d] : at.i[d] % (uint32_t)b->ne[d];
    }
    return k_load(b, &at);
}

K_FN float k_binary(uint32_t op, float a, float b) {
    return op == SP_OP_ADD ? a + b : op == SP_OP_SUB ? a - b : op == SP_OP_MUL ? a * b : a / b;
}

K_APART float k_unary(uint32_t op, float x) {
    switch (op) {
    case SP_OP_SQR:
        return x * x;
    case SP_OP_SQRT:
        return __builtin_sqrtf(x);
    case SP_OP_SILU:
        return k_silu(x);
    case SP_OP_GELU:
        return k_gelu(x);
    case SP_OP_GELU_ERF:
        return k_gelu_erf(x);
    case SP_OP_GELU_QUICK:
        return k_gelu_quick(x);
    case SP_OP_TANH:
        return k_tanh(x);
    case SP_OP_SIGMOID:
        return k_sigmoid(x);
    case SP_OP_RELU:
        return x > 0 ? x : 0;
    case SP_OP_SOFTPLUS:
        return k_softplus(x);
    case SP_OP_EXP:
        return k_exp(x);
    default: /* NEG */
        return -x;
    }
}

/* The gated units: an activation of x times the gate. */
K_APART float k_glu_value(uint32_t op, float x, float gate, float alpha, float limit) {
    switch (op) {
    case SP_OP_REGLU:
        return x > 0 ? x * gate : 0;
    case SP_OP_GEGLU:
        return k_gelu(x) * gate;
    case SP_OP_GEGLU_ERF:
        return k_gelu_erf(x) * gate;
    case SP_OP_GEGLU_QUICK:
        return k_gelu_quick(x) * gate;
    case SP_OP_SWIGLU_OAI:
        x = k_min(x, limit);
        gate = k_max(k_min(gate, limit), -limit);
        return x * k_sigmoid(alpha * x) * (gate + 1.0f);
    case SP_OP_SWIGLU_CLAMP:
        return k_silu(k_min(x, alpha)) * k_max(k_min(gate, alpha), -alpha);
    default: /* SWIGLU */
        return k_silu(x) * gate;
    }
}

K_FN float k_glu(const k_op *op, const k_at *at) {
    const k_tensor *a = &op->src[0];
    if (op->n_src > 1) {
        return k_glu_value(op->op, k_load(a, at), k_load(&op->src[1], at), k_param(op, 1), k_param(op, 2));
    }
    k_at first = *at, second = *at;
    (op->params[0] ? &first : &second)->i[0] += (uint32_t)a->ne[0] / 2;
    return k_glu_value(op->op, k_load(a, &first), k_load(a, &second), k_param(op, 1), k_param(op, 2));
}

K_FN int64_t k_id(const k_tensor *ids, uint32_t i0, uint32_t i1, uint32_t i2) {
    const uint8_t *at = k_row(ids, i1, i2, 0) + i0 * ids->nb[0];
    return ids->type == SP_TYPE_I64 ? *(const k_i64 *)at : *(const k_i32 *)at;
}

K_APART float k_concat(const k_op *op, k_at at) {
    uint32_t dim = op->params[0], first = (uint32_t)op->src[0].ne[dim];
    if (at.i[dim] < first) {
        return k_load(&op->src[0], &at);
    }
    at.i[dim] -= first;
    return k_load(&op->src[1], &at);
}

/*
 * rope. table: by pair, what a position is multiplied with, then which of four rows of positions.
 */
K_INLINE float k_rope_angle(const k_op *op, uint32_t pair, uint32_t token) {
    const k_f32 *table = (const k_f32 *)(uintptr_t)op->table;
    uint32_t row = (uint32_t)table[op->params[0] / 2 + pair];
    float position = (float)k_id(&op->src[1], token + row * (uint32_t)op->src[0].ne[2], 0, 0), angle = position * table[pair];
    if (op->src[2].data) {
        angle /= ((const k_f32 *)(uintptr_t)op->src[2].data)[pair];
    }
    return angle;
}
K_FN k_turn k_rope_turn(const k_op *op, uint32_t pair, uint32_t token) {
    const k_turn turn = k_sin_cos(k_rope_angle(op, pair, token));
    return (k_turn){turn.sin * k_param(op, K_ROPE_BY), turn.cos * k_param(op, K_ROPE_BY)};
}

K_APART void k_do_turns(const k_op *op, uint32_t part) {
    uint32_t pairs = op->params[0] / 2, n = pairs * (uint32_t)op->src[0].ne[2];
    k_turn *to = (k_turn *)(uintptr_t)op->dst.data;
    for (uint32_t i = part * K_THREADS + k_thread(); i < n; i += op->n_parts * K_THREADS) {
        to[i] = k_rope_turn(op, i % pairs, i / pairs);
    }
}

/* Each element is made from its pair. */
K_APART float k_rope(const k_op *op, const k_at *at) {
    uint32_t n_dims = op->params[0], offset = op->params[13], i = at->i[0] - offset, pairs = n_dims / 2;
    const k_tensor *a = &op->src[0];
    if (at->i[0] < offset || i >= n_dims) {
        return k_load(a, at);
    }
    bool neighbours = op->params[1] == 0;
    uint32_t pair = neighbours ? i / 2 : i % pairs;
    k_at one = *at, two = *at;
    one.i[0] = offset + (neighbours ? pair * 2 : pair);
    two.i[0] = offset + (neighbours ? pair * 2 + 1 : pair + pairs);
    const k_turn turn = k_rope_turn(op, pair, at->i[2]);
    float x = k_load(a, &one), y = k_load(a, &two), sin = turn.sin, cos = turn.cos;
    return at->i[0] == one.i[0] ? x * cos - y * sin : x * sin + y * cos;
}

enum { K_ROPE_HEADS = 8 }; /* that a thread turns by an angle it worked out */

/* Are all pairs of a row neighbours, and can each be read and written at once? */
K_FN bool k_rope_by_pairs(const k_op *op) {
    const k_tensor *a = &op->src[0], *d = &op->dst;
    uint64_t places = a->data | d->data | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3] | d->nb[1] | d->nb[2] | d->nb[3]);
    return op->params[1] == 0 && op->params[13] == 0 && op->params[0] == (uint32_t)a->ne[0] && places % 8 == 0;
}

/* So they go: to rows of floats, or (after: K_AFTER_SET_ROW) to rows of a cache of halves, all heads of a token in one. */
K_APART void k_do_rope_pairs(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0], *d = &op->dst;
    uint32_t pairs = (uint32_t)a->ne[0] / 2, heads = (uint32_t)a->ne[1], tokens = (uint32_t)a->ne[2],
             groups = (heads + K_ROPE_HEADS - 1) / K_ROPE_HEADS;
    uint64_t n = (uint64_t)pairs * groups * tokens * (uint32_t)a->ne[3], step = (uint64_t)op->n_parts * K_THREADS;
    bool half = op->after == K_AFTER_SET_ROW;
    uint64_t from_stride = (uint64_t)a->nb[1], to_stride = half ? pairs * 4ull : (uint64_t)d->nb[1];
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        uint64_t rest = i;
        uint32_t pair = k_divide(&rest, pairs), head = k_divide(&rest, groups) * K_ROPE_HEADS, token = k_divide(&rest, tokens), i3 = (uint32_t)rest;
        uint32_t some = heads - head < K_ROPE_HEADS ? heads - head : K_ROPE_HEADS;
        const uint8_t *from = k_row(a, head, token, i3) + pair * 8ull;
        k_floats2 x[K_ROPE_HEADS];
        K_UNROLL_ALL
        for (uint32_t h = 0; h < K_ROPE_HEADS; h++) { /* they come while the angle is worked out */
            x[h] = *(const k_floats2 *)(const void *)(from + (h < some ? h : 0) * from_stride);
        }
        uint8_t *to = half ? (uint8_t *)(uintptr_t)d->data + k_id(&op->src[K_SRC_IDS], token, 0, 0) * d->nb[1] + head * to_stride + pair * 4ull
                           : k_row(d, head, token, i3) + pair * 8ull;
        k_turn turn = k_sin_cos_here(k_rope_angle(op, pair, token)); /* not by a call: what was asked for would wait in memory */
        turn.sin *= k_param(op, K_ROPE_BY), turn.cos *= k_param(op, K_ROPE_BY);
        K_UNROLL_ALL
        for (uint32_t h = 0; h < K_ROPE_HEADS; h++) {
            const k_floats2 y = {{x[h].f[0] * turn.cos - x[h].f[1] * turn.sin, x[h].f[0] * turn.sin + x[h].f[1] * turn.cos}};
            if (h < some && half) {
                *(k_u32 *)(void *)(to + h * to_stride) = k_two_halves(y.f[0], y.f[1]);
            } else if (h < some) {
                *(k_floats2 *)(void *)(to + h * to_stride) = y;
            }
        }
    }
}

/* Rows of floats: a thread takes a pair of some heads of a token, or an element that isn't turned. */
K_APART void k_do_rope(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0], *d = &op->dst;
    uint32_t n_dims = op->params[0], offset = op->params[13], pairs = n_dims / 2, heads = (uint32_t)a->ne[1], tokens = (uint32_t)a->ne[2];
    uint32_t units = pairs + (uint32_t)a->ne[0] - n_dims, groups = (heads + K_ROPE_HEADS - 1) / K_ROPE_HEADS;
    uint64_t n = (uint64_t)units * groups * tokens * (uint32_t)a->ne[3], step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        uint64_t rest = i;
        uint32_t unit = k_divide(&rest, units), head = k_divide(&rest, groups) * K_ROPE_HEADS, token = k_divide(&rest, tokens);
        uint32_t first = offset + (op->params[1] == 0 ? unit * 2 : unit), second = first + (op->params[1] == 0 ? 1 : pairs);
        k_turn turn = {0, 1};
        float x[K_ROPE_HEADS], y[K_ROPE_HEADS];
        if (unit < pairs) {
            turn = k_rope_turn(op, unit, token);
        } else {
            first = second = unit - pairs < offset ? unit - pairs : unit - pairs + n_dims;
        }
        const uint8_t *from = k_row(a, head, token, (uint32_t)rest);
        uint8_t *to = k_row(d, head, token, (uint32_t)rest);
        uint32_t some = heads - head < K_ROPE_HEADS ? heads - head : K_ROPE_HEADS;
        uint64_t from_stride = (uint64_t)a->nb[1], to_stride = (uint64_t)d->nb[1];
        K_UNROLL_ALL
        for (uint32_t h = 0; h < K_ROPE_HEADS; h++) {
            const k_f32 *row = (const k_f32 *)(const void *)(from + (h < some ? h : 0) * from_stride);
            x[h] = row[first], y[h] = row[second];
        }
        K_UNROLL_ALL
        for (uint32_t h = 0; h < K_ROPE_HEADS; h++) {
            k_f32 *row = (k_f32 *)(void *)(to + h * to_stride);
            if (h < some) {
                row[first] = x[h] * turn.cos - y[h] * turn.sin;
            }
            if (h < some && second != first) {
                row[second] = x[h] * turn.sin + y[h] * turn.cos;
            }
        }
    }
}

K_FN float k_get_row(const k_op *op, const k_at *at) {
    k_at from = {{at->i[0], (uint32_t)k_id(&op->src[1], at->i[1], at->i[2], at->i[3]), at->i[2], at->i[3]}};
    return k_load(&op->src[0], &from);
}

K_FN float k_add_id(const k_op *op, const k_at *at) {
    k_at row = {{at->i[0], (uint32_t)k_id(&op->src[2], at->i[1], at->i[2], 0), 0, 0}};
    return k_load(&op->src[0], at) + k_load(&op->src[1], &row);
}

K_FN const k_f32 *k_floats(const k_tensor *t, uint32_t i1, uint32_t i2, uint32_t i3) {
    return (const k_f32 *)k_row(t, i1, i2, i3);
}

/* sx [taps - 1 + tokens, rows, sequences], c [taps, rows] */
K_APART float k_ssm_conv(const k_op *op, const k_at *at) {
    const k_f32 *s = k_floats(&op->src[0], at->i[0], at->i[2], 0) + at->i[1], *c = k_floats(&op->src[1], at->i[0], 0, 0);
    float sum = 0;
    for (int32_t i = 0; i < op->src[1].ne[0]; i++) {
        sum += s[i] * c[i];
    }
    return sum;
}

/* q [n, heads, tokens, streams], k [n, 1, positions, streams], weights [heads, tokens], mask [positions, tokens] */
K_APART float k_lightning_indexer(const k_op *op, const k_at *at) {
    const k_tensor *q = &op->src[0], *k = &op->src[1], *mask = &op->src[3];
    const uint8_t *key = k_row(k, 0, at->i[0], at->i[3]);
    const k_f32 *weights = k_floats(&op->src[2], at->i[1], 0, at->i[3]);
    float score = 0;
    for (uint32_t h = 0; h < (uint32_t)q->ne[1]; h++) {
        const k_f32 *query = k_floats(q, h, at->i[1], at->i[3]);
        float sum = 0;
        for (uint32_t i = 0; i < (uint32_t)q->ne[0]; i++) {
            sum += query[i] * k_element(k->type, key, i, (uint32_t)k->ne[0]);
        }
        score += sum > 0 ? sum * weights[h] : 0;
    }
    return score + k_half(k_row(mask, at->i[1], 0, at->i[3] % (uint32_t)mask->ne[3]) + at->i[0] * 2ull);
}

/* x [n, rows, tokens], weights [rows, tokens] */
K_APART float k_dsv4_hc_pre(const k_op *op, const k_at *at) {
    const k_f32 *weights = k_floats(&op->src[1], at->i[1], 0, 0);
    float sum = 0;
    for (uint32_t h = 0; h < (uint32_t)op->src[0].ne[1]; h++) {
        sum += k_floats(&op->src[0], h, at->i[1], 0)[at->i[0]] * weights[h];
    }
    return sum;
}

/* What has one side, with its params. */
K_FN float k_of_one(uint32_t kind, float x, float first, float second) {
    if (kind == SP_OP_SCALE) {
        return x * first + second;
    }
    if (kind == SP_OP_CLAMP) { /* as ggml: what is not a number becomes the minimum's neighbour, the maximum */
        x = x < second ? x : second;
        return x > first ? x : first;
    }
    return k_unary(kind, x);
}

K_APART float k_value(const k_op *op, const k_at *at) {
    switch (op->op) {
    case SP_OP_ADD:
    case SP_OP_SUB:
    case SP_OP_MUL:
    case SP_OP_DIV:
        return k_binary(op->op, k_load(&op->src[0], at), k_load_repeated(&op->src[1], *at));
    case SP_OP_REPEAT:
        return k_load_repeated(&op->src[0], *at);
    case SP_OP_CONCAT:
        return k_concat(op, *at);
    case SP_OP_FILL:
        return k_param(op, 0);
    case SP_OP_REGLU:
    case SP_OP_GEGLU:
    case SP_OP_SWIGLU:
    case SP_OP_SWIGLU_OAI:
    case SP_OP_SWIGLU_CLAMP:
    case SP_OP_GEGLU_ERF:
    case SP_OP_GEGLU_QUICK:
        return k_glu(op, at);
    case SP_OP_ROPE_EXT:
        return k_rope(op, at);
    case SP_OP_SSM_CONV:
        return k_ssm_conv(op, at);
    case SP_OP_LIGHTNING_INDEXER:
        return k_lightning_indexer(op, at);
    case SP_OP_DSV4_HC_PRE:
        return k_dsv4_hc_pre(op, at);
    case SP_OP_GET_ROWS:
        return k_get_row(op, at);
    case SP_OP_ADD_ID:
        return k_add_id(op, at);
    case SP_OP_CAST:
    case SP_OP_CONT:
    case SP_OP_CPY:
        return k_load(&op->src[0], at);
    default:
        return k_of_one(op->op, k_load(&op->src[0], at), k_param(op, 0), k_param(op, 1));
    }
}

/* Every element of the result from its place. */
K_FN void k_do_elements(const k_op *op, uint32_t part) {
    uint64_t n = k_count(&op->dst), step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        k_at at = k_place(&op->dst, i);
        k_put(op->dst.type, k_address(&op->dst, &at), k_value(op, &at));
    }
}

/* Eight elements of a row of q4_0 or q8_0, in either layout, from `at` on, in one trip to memory. False: it is of another type. */
K_INLINE bool k_eight_quants(uint32_t type, const uint8_t *row, uint32_t at, uint32_t n, k_floats4 *x) {
    const bool split = type == K_TYPE_Q4_0_SPLIT || type == K_TYPE_Q8_0_SPLIT, nibbles = type == K_TYPE_Q4_0_SPLIT || type == SP_TYPE_Q4_0;
    if (!split && !nibbles && type != SP_TYPE_Q8_0) {
        return false;
    }
    const uint32_t bytes = nibbles ? 16 : 32, block = at / 32, from = at % bytes;
    const uint8_t *scale = split ? row + n * bytes / 32 + block * 2 : row + block * (bytes + 2);
    const k_u16 *quants = (const k_u16 *)(const void *)((split ? row + block * bytes : scale + 2) + from);
    const uint32_t two[4] = {quants[0], quants[1], quants[2], quants[3]}, shift = at % 32 < 16 ? 0 : 4;
    const float d = k_half(scale);
    K_UNROLL_ALL
    for (uint32_t e = 0; e < 8; e++) {
        const uint32_t byte = two[e / 2] >> e % 2 * 8 & 255;
        x[e / 4].f[e % 4] = d * (nibbles ? (float)(int32_t)(byte >> shift & 15) - 8 : (float)(int8_t)byte);
    }
    return true;
}

/* Rows of a matrix, by eight elements: each thread takes its part of a row, and then of the next. */
K_APART void k_do_get_rows(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0], *d = &op->dst;
    uint64_t places = d->data | (uint64_t)(d->nb[1] | d->nb[2] | d->nb[3]), from_places = a->data | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3]);
    bool halves = a->type == SP_TYPE_F16 && from_places % 16 == 0;
    if (d->type != SP_TYPE_F32 || d->nb[0] != 4 || d->ne[0] % 8 || places % 16 || (!k_is_quantised(a->type) && !halves)) {
        k_do_elements(op, part);
        return;
    }
    uint32_t units = (uint32_t)d->ne[0] / 8, n = (uint32_t)a->ne[0];
    uint64_t all = k_rows(d) * units, step = (uint64_t)op->n_parts * K_THREADS;
    K_UNROLL_BY(2)
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < all; i += step) {
        uint64_t rest = i;
        uint32_t at = k_divide(&rest, units) * 8, i1 = k_divide(&rest, (uint32_t)d->ne[1]), i2 = k_divide(&rest, (uint32_t)d->ne[2]);
        const uint8_t *row = k_row(a, (uint32_t)k_id(&op->src[1], i1, i2, (uint32_t)rest), i2, (uint32_t)rest);
        k_floats4 *to = (k_floats4 *)(void *)(k_row(d, i1, i2, (uint32_t)rest) + at * 4ull), x[2];
        const k_words4 words = halves ? *(const k_words4 *)(const void *)(row + at * 2ull) : (k_words4){{0}};
        K_UNROLL_ALL
        for (uint32_t e = 0; e < 8; e++) {
            x[e / 4].f[e % 4] = k_from_half((uint16_t)(words.w[e / 2] >> e % 2 * 16));
        }
        if (halves || k_eight_quants(a->type, row, at, n, x)) {
            to[0] = x[0], to[1] = x[1];
            continue;
        }
        for (uint32_t e = 0; e < 8; e++) {
            ((k_f32 *)(void *)to)[e] = k_element(a->type, row, at + e, n);
        }
    }
}

/* Two sides of floats, one behind the other in memory: by four. */
K_APART void k_do_flat(const k_op *op, uint32_t part) {
    const k_floats4 *a = (const k_floats4 *)(uintptr_t)op->src[0].data, *b = (const k_floats4 *)(uintptr_t)op->src[1].data;
    k_floats4 *to = (k_floats4 *)(uintptr_t)op->dst.data;
    uint32_t kind = op->params[K_FLAT_OP], row = op->params[K_FLAT_ROW];
    uint64_t n = k_count(&op->dst) / 4, step = (uint64_t)op->n_parts * K_THREADS;
    K_UNROLL_BY(2)
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        uint64_t rest = i;
        k_floats4 x = a[i], y = b[row ? k_divide(&rest, row) : i];
        K_UNROLL
        for (int e = 0; e < 4; e++) {
            x.f[e] = kind == SP_OP_SWIGLU                     ? k_silu(x.f[e]) * y.f[e]
                     : kind >= SP_OP_ADD && kind <= SP_OP_DIV ? k_binary(kind, x.f[e], y.f[e])
                                                              : k_glu_value(kind, x.f[e], y.f[e], k_param(op, 1), k_param(op, 2));
        }
        to[i] = x;
    }
}

/* One side of floats, one behind the other. */
K_FN void k_do_flat_one(const k_op *op, uint32_t part) {
    const k_f32 *a = (const k_f32 *)(uintptr_t)op->src[0].data;
    k_f32 *to = (k_f32 *)(uintptr_t)op->dst.data;
    uint32_t kind = op->params[K_FLAT_OP];
    uint64_t n = k_count(&op->dst), step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        to[i] = k_of_one(kind, a[i], k_param(op, 0), k_param(op, 1));
    }
}

/* ---- copies: the n-th element of one shape goes to the n-th of another; also
 * bits, and blocks of quants ---- */

K_FN void k_copy_element(const k_tensor *from, const k_at *a, const k_tensor *to, const k_at *b) {
    if (from->type != to->type) {
        k_put(to->type, k_address(to, b), k_load(from, a));
    } else if (to->type == SP_TYPE_I64) {
        *(k_i64 *)k_address(to, b) = *(const k_i64 *)k_address(from, a);
    } else if (to->type == SP_TYPE_F32 || to->type == SP_TYPE_I32) {
        *(k_u32 *)k_address(to, b) = *(const k_u32 *)k_address(from, a);
    } else {
        *(k_u16 *)k_address(to, b) = *(const k_u16 *)k_address(from, a);
    }
}

/* Blocks of 32 floats into quants. */
K_APART void k_quantise_blocks(const k_tensor *from, const k_tensor *to, uint32_t block_size, uint32_t part, uint32_t parts) {
    uint64_t n = k_count(to) / 32, step = (uint64_t)parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        k_at at = k_place(to, i * 32);
        float x[32];
        for (uint32_t j = 0; j < 32; j++) {
            k_at one = {{at.i[0] + j, at.i[1], at.i[2], at.i[3]}};
            x[j] = k_load(from, &one);
        }
        k_quantise(to->type, x, k_row(to, at.i[1], at.i[2], at.i[3]) + (uint64_t)at.i[0] / 32 * block_size);
    }
}

/* params[15]: bytes of a block of the destination's type; params[14]: copy as
 * contiguous bytes, this many (and params[13], the upper half). */
K_APART void k_do_copy(const k_op *op, uint32_t part) {
    const k_tensor *from = &op->src[0], *to = &op->dst;
    uint64_t step = (uint64_t)op->n_parts * K_THREADS, first = (uint64_t)part * K_THREADS + k_thread();
    uint64_t bytes = op->params[14] | (uint64_t)op->params[13] << 32;
    if (bytes) {
        for (uint64_t i = first; i < bytes; i += step) {
            ((uint8_t *)(uintptr_t)to->data)[i] = ((const uint8_t *)(uintptr_t)from->data)[i];
        }
    } else if (k_is_quantised(to->type)) {
        k_quantise_blocks(from, to, op->params[15], part, op->n_parts);
    } else {
        uint64_t n = k_count(to);
        for (uint64_t i = first; i < n; i += step) {
            k_at a = k_place(from, i), b = k_place(to, i);
            k_copy_element(from, &a, to, &b);
        }
    }
}

/* Rows of floats into rows of halves, by eight elements. */
K_APART void k_do_set_rows_wide(const k_op *op, uint32_t part) {
    enum { AT_ONCE = 4 };
    const k_tensor *rows = &op->src[1], *ids = &op->src[2], *to = &op->dst;
    uint32_t units = (uint32_t)rows->ne[0] / 8, ne1 = (uint32_t)rows->ne[1], ne2 = (uint32_t)rows->ne[2];
    uint64_t n = k_rows(rows) * units, step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t first = (uint64_t)part * K_THREADS + k_thread(); first < n; first += step * AT_ONCE) {
        k_floats4 low[AT_ONCE], high[AT_ONCE];
        uint8_t *row[AT_ONCE];
        K_UNROLL_ALL
        for (uint32_t j = 0; j < AT_ONCE; j++) { /* all under way together */
            uint64_t rest = first + j * step < n ? first + j * step : first;
            uint32_t i0 = k_divide(&rest, units) * 8, i1 = k_divide(&rest, ne1), i2 = k_divide(&rest, ne2), i3 = (uint32_t)rest;
            const k_floats4 *from = (const k_floats4 *)(const void *)(k_row(rows, i1, i2, i3) + i0 * 4ull);
            low[j] = from[0], high[j] = from[1];
            int64_t id = k_id(ids, i1, i2 % (uint32_t)ids->ne[1], i3 % (uint32_t)ids->ne[2]);
            row[j] = (uint8_t *)(uintptr_t)(to->data + (uint64_t)(id * to->nb[1] + i2 * to->nb[2] + i3 * to->nb[3])) + i0 * 2ull;
        }
        K_UNROLL_ALL
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            if (first + j * step < n) {
                *(k_words4 *)(void *)row[j] = (k_words4){{k_two_halves(low[j].f[0], low[j].f[1]), k_two_halves(low[j].f[2], low[j].f[3]),
                                                          k_two_halves(high[j].f[0], high[j].f[1]), k_two_halves(high[j].f[2], high[j].f[3])}};
            }
        }
    }
}

/* set_rows: dst is the destination's view, src[1] the rows, src[2] their ids.
 */
K_APART void k_do_set_rows(const k_op *op, uint32_t part) {
    const k_tensor *rows = &op->src[1], *ids = &op->src[2], *to = &op->dst;
    uint64_t places = rows->data | to->data | (uint64_t)(rows->nb[1] | rows->nb[2] | rows->nb[3] | to->nb[1] | to->nb[2] | to->nb[3]);
    bool wide =
        rows->type == SP_TYPE_F32 && to->type == SP_TYPE_F16 && rows->nb[0] == 4 && to->nb[0] == 2 && rows->ne[0] % 8 == 0 && places % 16 == 0;
    if (wide) {
        k_do_set_rows_wide(op, part);
        return;
    }
    uint32_t unit = k_is_quantised(to->type) ? 32 : 1, units = (uint32_t)rows->ne[0] / unit;
    uint64_t n = k_rows(rows) * units, step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        uint64_t rest = i;
        uint32_t i0 = k_divide(&rest, units) * unit, i1 = k_divide(&rest, (uint32_t)rows->ne[1]), i2 = k_divide(&rest, (uint32_t)rows->ne[2]);
        const k_at at = {{i0, i1, i2, (uint32_t)rest}};
        int64_t id = k_id(ids, at.i[1], at.i[2] % (uint32_t)ids->ne[1], at.i[3] % (uint32_t)ids->ne[2]);
        uint8_t *row = (uint8_t *)(uintptr_t)(to->data + (uint64_t)(id * to->nb[1] + at.i[2] * to->nb[2] + at.i[3] * to->nb[3]));
        if (unit == 1) {
            k_put(to->type, row + at.i[0] * to->nb[0], k_load(rows, &at));
            continue;
        }
        float x[32];
        for (uint32_t j = 0; j < 32; j++) {
            k_at one = {{at.i[0] + j, at.i[1], at.i[2], at.i[3]}};
            x[j] = k_load(rows, &one);
        }
        k_quantise(to->type, x, row + (uint64_t)at.i[0] / 32 * op->params[15]);
    }
}

/* argsort and top_k: each element counts those before it. Ties go by place;
 * there are no NaN (the verifier asks for a clamp). */
K_APART void k_do_sort(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0];
    uint32_t n0 = (uint32_t)a->ne[0], most = (uint32_t)op->dst.ne[0];
    bool descending = op->op == SP_OP_TOP_K || op->params[0];
    uint64_t n = k_count(a), step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        k_at at = k_place(a, i);
        const k_f32 *row = (const k_f32 *)k_row(a, at.i[1], at.i[2], at.i[3]);
        float x = row[at.i[0]];
        uint32_t rank = 0;
        for (uint32_t j = 0; j < n0; j++) {
            bool before = descending ? row[j] > x : row[j] < x;
            rank += before || (row[j] == x && j < at.i[0]);
        }
        if (rank < most) {
            ((k_i32 *)k_row(&op->dst, at.i[1], at.i[2], at.i[3]))[rank] = (int32_t)at.i[0];
        }
    }
}

#endif
