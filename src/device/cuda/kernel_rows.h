/* Operations that need a whole row at once: a block takes a row. */
#ifndef SP_DEVICE_CUDA_KERNEL_ROWS_H
#define SP_DEVICE_CUDA_KERNEL_ROWS_H

#include "device/cuda/kernel_elements.h"

/* Over the block's threads; every thread gets the result. Uses the first bytes
 * of shared memory. */
K_FN float k_block_reduce(float x, bool max) {
    k_f32 *slots = (k_f32 *)k_shared();
    x = max ? k_warp_max(x) : k_warp_sum(x);
    k_block_sync();
    if (k_lane() == 0) {
        slots[k_warp()] = x;
    }
    k_block_sync();
    float all = slots[0];
    K_UNROLL
    for (int w = 1; w < K_WARPS; w++) {
        all = max ? k_max(all, slots[w]) : all + slots[w];
    }
    return all;
}

K_FN void k_norm_row(const k_op *op, const k_f32 *x, k_f32 *y, uint32_t n) {
    float sum = 0, mean = 0, eps = k_param(op, 0);
    if (op->op == SP_OP_NORM) {
        for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
            sum += x[i];
        }
        mean = k_block_reduce(sum, false) / (float)n;
        sum = 0;
    }
    for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
        float d = x[i] - mean;
        sum += d * d;
    }
    sum = k_block_reduce(sum, false);
    float scale = op->op == SP_OP_L2_NORM ? 1.0f / k_max(__builtin_sqrtf(sum), eps) : 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
        y[i] = (x[i] - mean) * scale;
    }
}

K_FN float k_alibi_slope(float max_bias, uint32_t head, uint32_t heads) {
    if (!(max_bias > 0)) {
        return 1.0f;
    }
    uint32_t log2 = 31 - (uint32_t)__builtin_clz(heads), most = 1u << log2;
    float base = head < most ? -max_bias : -max_bias / 2.0f, exponent = (float)(head < most ? head + 1 : 2 * (head - most) + 1);
    return k_exp2_fast(base * k_bits_float((127 - log2) << 23) * exponent);
}

K_FN void k_soft_max_row(const k_op *op, uint64_t row) {
    const k_tensor *a = &op->src[0], *mask = op->src[1].data ? &op->src[1] : NULL;
    uint32_t n = (uint32_t)a->ne[0], i1 = k_divide(&row, (uint32_t)a->ne[1]), i2 = k_divide(&row, (uint32_t)a->ne[2]), i3 = (uint32_t)row;
    const k_f32 *x = (const k_f32 *)k_row(a, i1, i2, i3);
    k_f32 *y = (k_f32 *)k_row(&op->dst, i1, i2, i3);
    const uint8_t *m = mask ? k_row(mask, i1, i2 % (uint32_t)mask->ne[2], i3 % (uint32_t)mask->ne[3]) : NULL;
    float slope = k_alibi_slope(k_param(op, 1), i2, (uint32_t)a->ne[2]), most = -k_infinity(), sum = 0;
    for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
        float v = x[i] * k_param(op, 0) + (m ? slope * k_element(mask->type, m, i, n) : 0);
        y[i] = v;
        most = k_max(most, v);
    }
    float sink = op->src[2].data ? ((const k_f32 *)(uintptr_t)op->src[2].data)[i2] : -k_infinity();
    most = k_max(k_block_reduce(most, true), sink);
    for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
        y[i] = k_exp(y[i] - most);
        sum += y[i];
    }
    sum = k_block_reduce(sum, false);
    if (op->src[2].data) {
        sum += k_exp(sink - most);
    }
    for (uint32_t i = k_thread(); i < n; i += K_THREADS) {
        y[i] /= sum;
    }
}

/* The larger of two keys has the larger number; of equal ones, that which comes first. 0: there is none above minus infinity. */
K_FN uint64_t k_argmax_key(float x, uint32_t i) {
    union {
        float f;
        uint32_t u;
    } v = {.f = x == 0 ? 0 : x};
    uint32_t ordered = v.u >> 31 ? ~v.u : v.u | 0x80000000u;
    return x > -k_infinity() ? (uint64_t)ordered << 32 | ~i : 0;
}

/* The key of the block's part of a row. */
K_FN uint64_t k_argmax_part(const k_f32 *x, uint32_t from, uint32_t to) {
    float most = -k_infinity();
    uint32_t at = from;
    for (uint32_t i = from + k_thread(); i < to; i += K_THREADS) {
        float v = x[i];
        at = v > most ? i : at;
        most = k_max(v, most);
    }
    float all = k_block_reduce(most, true);
    float first = k_block_reduce(most == all ? -(float)(at - from) : -(float)(to - from), true);
    return k_argmax_key(all, from + (uint32_t)-first);
}

/* One thread: a piece of a row, one of so many, has this key. The last to arrive knows the largest of all, and says it. keys: by row the largest so
 * far, then by row how many arrived. */
K_FN void k_argmax_arrive(uint64_t *keys, uint32_t rows, uint32_t row, uint32_t pieces, uint64_t key, k_i32 *out) {
    uint32_t *arrived = (uint32_t *)(void *)(keys + rows) + row;
    if (pieces > 1) {
        k_largest64(&keys[row], key);
        if (k_count_up(arrived) + 1 < pieces) {
            return;
        }
        key = *(volatile uint64_t *)&keys[row];
        keys[row] = 0;
        *arrived = 0;
    }
    *out = key ? (int32_t) ~(uint32_t)key : 0;
}

/* The first of the largest; NaN never are; 0 where nothing is above minus infinity. */
K_FN void k_do_argmax(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0];
    uint32_t rows = (uint32_t)a->ne[1], n = (uint32_t)a->ne[0];
    uint64_t *keys = (uint64_t *)(uintptr_t)op->table;
    for (uint64_t task = part; task < (uint64_t)rows * op->split; task += op->n_parts) {
        uint64_t row = task;
        uint32_t piece = k_divide(&row, op->split);
        uint64_t key = k_argmax_part((const k_f32 *)k_row_of(a, row), k_share(n, piece, op->split), k_share(n, piece + 1, op->split));
        if (k_thread() == 0) {
            k_argmax_arrive(keys, rows, (uint32_t)row, op->split, key, (k_i32 *)(uintptr_t)op->dst.data + row);
        }
    }
}

/* The same of what a streamed product has just written, of which this block did rows [from, to). */
K_APART void k_stream_largest(const k_op *op, uint32_t from, uint32_t to) {
    k_block_sync();
    uint64_t key = k_argmax_part((const k_f32 *)(uintptr_t)op->dst.data, from, to);
    if (k_thread() == 0) {
        k_argmax_arrive((uint64_t *)(uintptr_t)op->table, 1, 0, op->n_parts, key, (k_i32 *)(uintptr_t)op->scratch);
    }
    k_block_sync();
}

K_FN void k_do_rows(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0];
    uint64_t rows = k_rows(a);
    for (uint64_t row = part; row < rows; row += op->n_parts) {
        const k_f32 *x = (const k_f32 *)k_row_of(a, row);
        if (op->op == SP_OP_SOFT_MAX_EXT) {
            k_soft_max_row(op, row);
        } else if (op->op == SP_OP_SUM_ROWS) {
            float sum = 0;
            for (uint32_t i = k_thread(); i < (uint32_t)a->ne[0]; i += K_THREADS) {
                sum += x[i];
            }
            sum = k_block_reduce(sum, false);
            if (k_thread() == 0) {
                *(k_f32 *)k_row_of(&op->dst, row) = sum;
            }
        } else {
            k_norm_row(op, x, (k_f32 *)k_row_of(&op->dst, row), (uint32_t)a->ne[0]);
        }
    }
}

#endif
