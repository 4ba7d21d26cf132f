/*
 * What carries state from token to token: state spaces, linear attention. A
 * thread takes what is independent of its neighbours (a row or a column of the
 * state) through all tokens of a sequence. Results: what comes out, then the
 * states.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_RECURRENT_H
#define SP_DEVICE_CUDA_KERNEL_RECURRENT_H

#include "device/cuda/kernel_elements.h"

/* s [states, dim, heads, ..], x [dim, heads, tokens, sequences], dt [heads,
 * tokens, sequences], A [1 or states, heads], B and C [states, groups, ..] */
K_FN void k_ssm_scan(const k_op *op, uint64_t item) {
    const k_tensor *s = &op->src[0], *x = &op->src[1];
    uint32_t n = (uint32_t)s->ne[0], dim = (uint32_t)x->ne[0], heads = (uint32_t)x->ne[1], tokens = (uint32_t)x->ne[2],
             each = (uint32_t)op->src[3].ne[0];
    uint32_t i = k_divide(&item, dim), h = k_divide(&item, heads), sequence = (uint32_t)item, g = h / (heads / (uint32_t)op->src[4].ne[1]);
    k_f32 *out = (k_f32 *)(uintptr_t)op->dst.data + (uint64_t)sequence * tokens * heads * dim;
    k_f32 *state = (k_f32 *)(uintptr_t)op->dst.data + k_count(x) + (((uint64_t)sequence * heads + h) * dim + i) * n;
    const k_f32 *before = k_floats(s, i, h, (uint32_t)k_id(&op->src[6], sequence, 0, 0)), *a = k_floats(&op->src[3], h, 0, 0);
    for (uint32_t t = 0; t < tokens; t++, before = state) {
        float step = k_softplus(k_floats(&op->src[2], t, sequence, 0)[h]), in = k_floats(x, h, t, sequence)[i] * step, sum = 0;
        const k_f32 *b = k_floats(&op->src[4], g, t, sequence), *c = k_floats(&op->src[5], g, t, sequence);
        float decay = each == 1 ? k_exp(step * a[0]) : 0;
        for (uint32_t j = 0; j < n; j++) {
            state[j] = before[j] * (each == 1 ? decay : k_exp(step * a[j])) + b[j] * in;
            sum += state[j] * c[j];
        }
        out[((uint64_t)t * heads + h) * dim + i] = sum;
    }
}

/* q, k, v [n, heads, tokens, sequences], g [1 or n, heads, ..], beta [1, heads,
 * ..], state [n, n, heads, sequences] */
K_FN void k_gated_delta_net(const k_op *op, uint64_t item) {
    const k_tensor *q = &op->src[0], *k = &op->src[1], *v = &op->src[2], *g = &op->src[3];
    uint32_t n = (uint32_t)v->ne[0], heads = (uint32_t)v->ne[1], tokens = (uint32_t)v->ne[2], j = k_divide(&item, n), h = k_divide(&item, heads),
             sequence = (uint32_t)item;
    uint32_t q3 = sequence / ((uint32_t)v->ne[3] / (uint32_t)q->ne[3]), k3 = sequence / ((uint32_t)v->ne[3] / (uint32_t)k->ne[3]);
    k_f32 *out = (k_f32 *)(uintptr_t)op->dst.data + (((uint64_t)sequence * tokens) * heads + h) * n + j;
    k_f32 *state = (k_f32 *)(uintptr_t)op->dst.data + k_count(v) + (((uint64_t)sequence * heads + h) * n + j) * n;
    const k_f32 *before = k_floats(&op->src[5], j, h, sequence);
    float scale = 1.0f / __builtin_sqrtf((float)n);
    for (uint32_t t = 0; t < tokens; t++, before = state, out += (uint64_t)heads * n) {
        const k_f32 *query = k_floats(q, h % (uint32_t)q->ne[1], t, q3), *key = k_floats(k, h % (uint32_t)k->ne[1], t, k3);
        const k_f32 *gate = k_floats(g, h, t, sequence);
        float beta = k_floats(&op->src[4], h, t, sequence)[0], all = k_exp(gate[0]), sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            state[i] = before[i] * (g->ne[0] == 1 ? all : k_exp(gate[i]));
            sum += state[i] * key[i];
        }
        float delta = (k_floats(v, h, t, sequence)[j] - sum) * beta;
        sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            state[i] += key[i] * delta;
            sum += state[i] * query[i];
        }
        *out = sum * scale;
    }
}

/* k, v, r, td [n, heads, tokens], tf [n, heads], state [.., sequences]: column
 * j of the state */
K_FN void k_rwkv_wkv6(const k_op *op, uint64_t item) {
    const k_tensor *k = &op->src[0];
    uint32_t n = (uint32_t)k->ne[0], heads = (uint32_t)k->ne[1], sequences = (uint32_t)op->src[5].ne[1], tokens = (uint32_t)k->ne[2] / sequences;
    uint32_t j = k_divide(&item, n), h = k_divide(&item, heads), sequence = (uint32_t)item;
    uint64_t at = ((uint64_t)sequence * heads + h) * n * n + j;
    k_f32 *state = (k_f32 *)(uintptr_t)op->dst.data + k_count(k) + at;
    const k_f32 *before = (const k_f32 *)(uintptr_t)op->src[5].data + at, *first = k_floats(&op->src[3], h, 0, 0);
    for (uint32_t t = sequence * tokens; t < (sequence + 1) * tokens; t++, before = state) {
        const k_f32 *key = k_floats(k, h, t, 0), *r = k_floats(&op->src[2], h, t, 0), *decay = k_floats(&op->src[4], h, t, 0);
        float value = k_floats(&op->src[1], h, t, 0)[j], sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            float old = before[(uint64_t)i * n], both = value * key[i];
            sum += (both * first[i] + old) * r[i];
            state[(uint64_t)i * n] = old * decay[i] + both;
        }
        ((k_f32 *)(uintptr_t)op->dst.data)[((uint64_t)t * heads + h) * n + j] = sum;
    }
}

/* r, w, k, v, a, b [n, heads, tokens], state [.., sequences]: row i of the
 * state */
K_FN void k_rwkv_wkv7(const k_op *op, uint64_t item) {
    const k_tensor *first = &op->src[0];
    uint32_t n = (uint32_t)first->ne[0], heads = (uint32_t)first->ne[1], sequences = (uint32_t)op->src[6].ne[1],
             tokens = (uint32_t)first->ne[2] / sequences;
    uint32_t i = k_divide(&item, n), h = k_divide(&item, heads), sequence = (uint32_t)item;
    uint64_t at = (((uint64_t)sequence * heads + h) * n + i) * n;
    k_f32 *state = (k_f32 *)(uintptr_t)op->dst.data + k_count(first) + at;
    const k_f32 *before = (const k_f32 *)(uintptr_t)op->src[6].data + at;
    for (uint32_t t = sequence * tokens; t < (sequence + 1) * tokens; t++, before = state) {
        const k_f32 *r = k_floats(first, h, t, 0), *w = k_floats(&op->src[1], h, t, 0), *k = k_floats(&op->src[2], h, t, 0);
        const k_f32 *a = k_floats(&op->src[4], h, t, 0), *b = k_floats(&op->src[5], h, t, 0);
        float value = k_floats(&op->src[3], h, t, 0)[i], sum = 0, out = 0;
        for (uint32_t j = 0; j < n; j++) {
            sum += a[j] * before[j];
        }
        for (uint32_t j = 0; j < n; j++) {
            state[j] = before[j] * w[j] + value * k[j] + sum * b[j];
            out += state[j] * r[j];
        }
        ((k_f32 *)(uintptr_t)op->dst.data)[((uint64_t)t * heads + h) * n + i] = out;
    }
}

K_FN void k_do_recurrent(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[op->op == SP_OP_SSM_SCAN ? 1 : op->op == SP_OP_GATED_DELTA_NET ? 2 : 0];
    uint32_t sequences = op->op == SP_OP_RWKV_WKV6   ? (uint32_t)op->src[5].ne[1]
                         : op->op == SP_OP_RWKV_WKV7 ? (uint32_t)op->src[6].ne[1]
                                                     : (uint32_t)a->ne[3];
    uint64_t n = (uint64_t)(uint32_t)a->ne[0] * (uint32_t)a->ne[1] * sequences, step = (uint64_t)op->n_parts * K_THREADS;
    for (uint64_t i = (uint64_t)part * K_THREADS + k_thread(); i < n; i += step) {
        if (op->op == SP_OP_SSM_SCAN) {
            k_ssm_scan(op, i);
        } else if (op->op == SP_OP_GATED_DELTA_NET) {
            k_gated_delta_net(op, i);
        } else if (op->op == SP_OP_RWKV_WKV6) {
            k_rwkv_wkv6(op, i);
        } else {
            k_rwkv_wkv7(op, i);
        }
    }
}

#endif
