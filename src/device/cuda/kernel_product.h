/*
 * Matrix products for few columns: the right side lies in shared memory, each
 * warp takes rows of the weights and reads them once. What comes right before
 * (a norm, a gated unit, the pieces of attention) is computed while the right
 * side is put there, what comes right after (a residual) when a row's result is
 * written. Many columns go through in groups.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_PRODUCT_H
#define SP_DEVICE_CUDA_KERNEL_PRODUCT_H

#include "device/cuda/kernel_attention.h"

/* A group of columns in shared memory. */
typedef struct k_right {
    uint32_t n, n0, first; /* columns; their length; number of the first */
    k_f32 *x;              /* [n][n0]; for weights in quants a column at a time */
    /* as signed bytes, for weights in quants: of each block of 32 the two halves,
     * apart; its scale; scale times sum */
    uint8_t *low, *high;
    k_f32 *scale, *sum;
    uint64_t *places; /* of each column: the result's address, the residual's */
} k_right;

K_FN bool k_takes_bytes(uint32_t type) {
    return type == K_TYPE_Q4_0_SPLIT || type == K_TYPE_Q8_0_SPLIT;
}

/* A column of the right side, counted over dst's: mul_mat_id repeats b's
 * columns over the experts of a token. */
K_FN const uint8_t *k_right_column(const k_op *op, const k_tensor *b, uint64_t c) {
    uint32_t i1 = k_divide(&c, (uint32_t)op->dst.ne[1]), i2 = k_divide(&c, (uint32_t)op->dst.ne[2]), i3 = (uint32_t)c;
    return k_row(b, i1 < (uint32_t)b->ne[1] ? i1 : i1 % (uint32_t)b->ne[1], i2, i3);
}
/* The matrix that a column is multiplied with. */
K_FN const uint8_t *k_left_matrix(const k_op *op, uint64_t c) {
    const k_tensor *a = &op->src[0];
    uint32_t i1 = k_divide(&c, (uint32_t)op->dst.ne[1]), i2 = k_divide(&c, (uint32_t)op->dst.ne[2]), i3 = (uint32_t)c;
    if (op->op == SP_OP_MUL_MAT_ID) {
        return k_row(a, 0, (uint32_t)k_id(&op->src[2], i1, i2, 0), 0);
    }
    return k_row(a, 0, i2 / ((uint32_t)op->dst.ne[2] / (uint32_t)a->ne[2]), i3 / ((uint32_t)op->dst.ne[3] / (uint32_t)a->ne[3]));
}

/* A column of the result, and of what is added to it. */
K_FN uint8_t *k_out_column(const k_op *op, const k_tensor *t, uint64_t c) {
    uint32_t i1 = k_divide(&c, (uint32_t)op->dst.ne[1]), i2 = k_divide(&c, (uint32_t)op->dst.ne[2]);
    return k_row(t, i1, i2, (uint32_t)c);
}

/* Whole rows of floats by four, several loads under way at once. n is a
 * multiple of 4, and everything is aligned. */
enum { K_AHEAD = 4 };

K_FN void k_stage_norm(const k_op *op, const k_f32 *from, k_f32 *x, uint32_t n) {
    float sum = 0;
    const k_f32 *weight = (const k_f32 *)(uintptr_t)op->extra[0].data;
    uint32_t wide = (((uintptr_t)from | (uintptr_t)weight) & 15) == 0 && n % 4 == 0 ? n / 4 : 0;
    for (uint32_t i = k_thread(); i < wide; i += K_THREADS) {
        k_floats4 v = ((const k_floats4 *)from)[i], w = weight ? ((const k_floats4 *)weight)[i] : (k_floats4){{1, 1, 1, 1}};
        for (int j = 0; j < 4; j++) {
            sum += v.f[j] * v.f[j];
            v.f[j] *= w.f[j];
        }
        ((k_floats4 *)x)[i] = v;
    }
    for (uint32_t i = wide * 4 + k_thread(); i < n; i += K_THREADS) {
        sum += from[i] * from[i];
        x[i] = from[i] * (weight ? weight[i] : 1.0f);
    }
    sum = k_block_reduce(sum, false);
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + k_param(op, 8));
    for (uint32_t i = k_thread(); i < wide; i += K_THREADS) {
        for (int j = 0; j < 4; j++) {
            ((k_floats4 *)x)[i].f[j] *= scale;
        }
    }
    for (uint32_t i = wide * 4 + k_thread(); i < n; i += K_THREADS) {
        x[i] *= scale;
    }
}

K_FN void k_stage_glu(const k_op *op, const k_f32 *from, const k_f32 *gate, k_f32 *x, uint32_t n) {
    uint32_t kind = op->params[9], wide = (((uintptr_t)from | (uintptr_t)gate) & 15) == 0 && n % 4 == 0 ? n / 4 : 0;
    float alpha = k_param(op, 10), limit = k_param(op, 11);
    for (uint32_t first = k_thread(); first < wide; first += K_THREADS * K_AHEAD) {
        k_floats4 v[K_AHEAD], g[K_AHEAD];
        for (uint32_t a = 0; a < K_AHEAD; a++) {
            uint32_t i = first + a * K_THREADS < wide ? first + a * K_THREADS : first;
            v[a] = ((const k_floats4 *)from)[i];
            g[a] = ((const k_floats4 *)gate)[i];
        }
        for (uint32_t a = 0; a < K_AHEAD && first + a * K_THREADS < wide; a++) {
            for (int j = 0; j < 4; j++) {
                v[a].f[j] = kind == SP_OP_SWIGLU ? k_silu(v[a].f[j]) * g[a].f[j] : k_glu_value(kind, v[a].f[j], g[a].f[j], alpha, limit);
            }
            ((k_floats4 *)x)[first + a * K_THREADS] = v[a];
        }
    }
    for (uint32_t i = wide * 4 + k_thread(); i < n; i += K_THREADS) {
        x[i] = k_glu_value(kind, from[i], gate[i], alpha, limit);
    }
}

K_FN void k_stage_plain(const k_op *op, const uint8_t *from, k_f32 *x, uint32_t n) {
    uint32_t wide = op->src[1].type == SP_TYPE_F32 && ((uintptr_t)from & 15) == 0 && n % 4 == 0 ? n / 4 : 0;
    for (uint32_t first = k_thread(); first < wide; first += K_THREADS * K_AHEAD) {
        k_floats4 v[K_AHEAD];
        for (uint32_t a = 0; a < K_AHEAD; a++) {
            v[a] = ((const k_floats4 *)from)[first + a * K_THREADS < wide ? first + a * K_THREADS : first];
        }
        for (uint32_t a = 0; a < K_AHEAD && first + a * K_THREADS < wide; a++) {
            ((k_floats4 *)x)[first + a * K_THREADS] = v[a];
        }
    }
    for (uint32_t i = wide * 4 + k_thread(); i < n; i += K_THREADS) {
        x[i] = k_element(op->src[1].type, from, i, n);
    }
}

K_FN void k_stage_column(const k_op *op, uint64_t c, k_f32 *x, uint32_t n) {
    const uint8_t *from = k_right_column(op, &op->src[1], c);
    if (op->before == K_BEFORE_RMS_NORM) {
        k_stage_norm(op, (const k_f32 *)from, x, n);
    } else if (op->before == K_BEFORE_GLU) {
        k_stage_glu(op, (const k_f32 *)from, (const k_f32 *)k_right_column(op, &op->extra[1], c), x, n);
    } else {
        k_stage_plain(op, from, x, n);
    }
}

/* A group of lanes makes a block of 32 bytes; each lane takes some neighbours.
 */
K_FN void k_stage_bytes(const k_right *r, uint32_t column) {
    enum { EACH = 32 / K_GROUP };
    uint32_t blocks = r->n0 / 32, rounds = (blocks * K_GROUP + K_THREADS - 1) / K_THREADS;
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t item = round * K_THREADS + k_thread(), in_row = item / K_GROUP, lane = item % K_GROUP, block = column * blocks + in_row;
        bool live = in_row < blocks;
        k_floats4 x[EACH / 4];
        float most = 0;
        K_UNROLL
        for (int w = 0; w < EACH / 4; w++) {
            x[w] = live ? ((const k_floats4 *)r->x)[in_row * 8 + lane * (EACH / 4) + (uint32_t)w] : (k_floats4){{0, 0, 0, 0}};
            K_UNROLL
            for (int j = 0; j < 4; j++) {
                most = k_max(most, __builtin_fabsf(x[w].f[j]));
            }
        }
        most = k_group_max(most);
        float d = most / 127.0f, id = d > 0 ? 1.0f / d : 0;
        int32_t sum = 0;
        K_UNROLL
        for (int w = 0; w < EACH / 4; w++) {
            uint32_t word = 0, at = lane * (EACH / 4) + (uint32_t)w;
            K_UNROLL
            for (int j = 0; j < 4; j++) {
                float v = x[w].f[j] * id;
                int32_t q = (int32_t)(v < 0 ? v - 0.5f : v + 0.5f);
                sum += q;
                word |= (uint32_t)(q & 255) << 8 * j;
            }
            if (live) {
                ((k_u32 *)(at < 4 ? r->low : r->high))[block * 4 + at % 4] = word;
            }
        }
        sum = k_group_sum(sum);
        if (live && lane == 0) {
            float scale = k_from_half(k_to_half(d)); /* as ggml's q8_0 has it */
            r->scale[block] = scale;
            r->sum[block] = scale * (float)sum;
        }
    }
}

/* How many columns fit into shared memory at once. Where they become bytes, one as floats is there beside them: in the slot, or, if it is too long
 * for that, they are. */
enum { K_STAGE_AT = 1024, K_STAGE_ROOM = K_WORK - K_STAGE_AT };
K_FN uint32_t k_columns_that_fit(uint32_t type, uint32_t n0) {
    const uint64_t floats = n0 * 4ull, each = n0 + n0 / 32 * 8ull;
    uint64_t fit = !k_takes_bytes(type) ? K_STAGE_ROOM / floats : floats <= K_SLOT ? K_STAGE_ROOM / each : floats <= K_STAGE_ROOM ? K_SLOT / each : 0;
    return fit < K_COLUMNS ? (uint32_t)fit : K_COLUMNS;
}

K_FN k_right k_stage(const k_op *op, uint64_t first, uint32_t n) {
    uint32_t n0 = (uint32_t)op->src[0].ne[0], blocks = n0 / 32;
    bool bytes = k_takes_bytes(op->src[0].type), apart = bytes && n0 * 4ull <= K_SLOT;
    uint8_t *stage = k_shared() + K_STAGE_AT, *slot = k_own_slot();
    k_right r = {.n = n, .n0 = n0, .first = (uint32_t)first, .x = (k_f32 *)(void *)(apart ? slot : stage), .low = apart ? stage : slot};
    r.places = (uint64_t *)(void *)(k_shared() + 256);
    k_block_sync();
    for (uint32_t c = k_thread(); c < n; c += K_THREADS) {
        r.places[c * 2] = (uintptr_t)k_out_column(op, &op->dst, first + c);
        r.places[c * 2 + 1] = op->after ? (uintptr_t)k_out_column(op, &op->extra[2], first + c) : 0;
    }
    r.high = r.low + (uint64_t)n * blocks * 16;
    r.scale = (k_f32 *)(r.high + (uint64_t)n * blocks * 16);
    r.sum = r.scale + (uint64_t)n * blocks;
    for (uint32_t c = 0; c < n; c++) {
        k_stage_column(op, first + c, r.x + (bytes ? 0 : (uint64_t)c * n0), n0);
        k_block_sync();
        if (bytes) {
            k_stage_bytes(&r, c);
            k_block_sync();
        }
    }
    return r;
}

/* ---- rows ---- */

/* Each lane takes every so many pieces of a row, `ahead` of them under way at
 * once for each of n_rows rows. Pieces beyond the end count as nothing. */
K_INLINE void k_dot_q4(const k_right *r, const uint8_t *const *rows, const int n_rows, const int ahead, const int n, float acc[4][K_COLUMNS]) {
    uint32_t blocks = r->n0 / 32;
    for (uint32_t first = k_lane(); first < blocks; first += K_LANES * (uint32_t)ahead) {
        k_words4 w[4];
        float d[4];
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            K_UNROLL
            for (int y = 0; y < n_rows; y++) {
                uint32_t i = first + (uint32_t)s * K_LANES, at = i < blocks ? i : first;
                w[s * n_rows + y] = k_stream16(rows[y] + at * 16ull);
                d[s * n_rows + y] = i < blocks ? k_half(rows[y] + r->n0 / 2 + at * 2ull) : 0;
            }
        }
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            uint32_t i = first + (uint32_t)s * K_LANES, in_row = i < blocks ? i : first;
            K_UNROLL
            for (int c = 0; c < n; c++) {
                uint32_t at = (uint32_t)c * blocks + in_row;
                k_words4 low = *(const k_words4 *)(r->low + at * 16ull), high = *(const k_words4 *)(r->high + at * 16ull);
                K_UNROLL
                for (int y = 0; y < n_rows; y++) {
                    int32_t sum = 0;
                    K_UNROLL
                    for (int j = 0; j < 4; j++) {
                        sum = k_dot4(w[s * n_rows + y].w[j] & 0x0f0f0f0fu, low.w[j], sum);
                        sum = k_dot4(w[s * n_rows + y].w[j] >> 4 & 0x0f0f0f0fu, high.w[j], sum);
                    }
                    acc[y][c] += d[s * n_rows + y] * (r->scale[at] * (float)sum - 8.0f * r->sum[at]);
                }
            }
        }
    }
}

K_INLINE void k_dot_q8(const k_right *r, const uint8_t *const *rows, const int n_rows, const int ahead, const int n, float acc[4][K_COLUMNS]) {
    uint32_t blocks = r->n0 / 32, halves = blocks * 2; /* half a block at a time */
    for (uint32_t first = k_lane(); first < halves; first += K_LANES * (uint32_t)ahead) {
        k_words4 w[4];
        float d[4];
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            K_UNROLL
            for (int y = 0; y < n_rows; y++) {
                uint32_t i = first + (uint32_t)s * K_LANES, at = i < halves ? i : first;
                w[s * n_rows + y] = k_stream16(rows[y] + at * 16ull);
                d[s * n_rows + y] = i < halves ? k_half(rows[y] + r->n0 + at / 2 * 2ull) : 0;
            }
        }
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            uint32_t i = first + (uint32_t)s * K_LANES, in_row = i < halves ? i : first;
            K_UNROLL
            for (int c = 0; c < n; c++) {
                uint32_t at = (uint32_t)c * blocks + in_row / 2;
                k_words4 x = *(const k_words4 *)((in_row % 2 ? r->high : r->low) + at * 16ull);
                K_UNROLL
                for (int y = 0; y < n_rows; y++) {
                    int32_t sum = 0;
                    K_UNROLL
                    for (int j = 0; j < 4; j++) {
                        sum = k_dot4(w[s * n_rows + y].w[j], x.w[j], sum);
                    }
                    acc[y][c] += d[s * n_rows + y] * r->scale[at] * (float)sum;
                }
            }
        }
    }
}

K_INLINE void k_dot_f16(const k_right *r, const uint8_t *const *rows, const int n_rows, const int ahead, const int n, float acc[4][K_COLUMNS]) {
    uint32_t pieces = r->n0 / 8;
    for (uint32_t first = k_lane(); first < pieces; first += K_LANES * (uint32_t)ahead) {
        k_words4 w[4];
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            K_UNROLL
            for (int y = 0; y < n_rows; y++) {
                uint32_t i = first + (uint32_t)s * K_LANES;
                w[s * n_rows + y] = i < pieces ? k_stream16(rows[y] + i * 16ull) : (k_words4){{0, 0, 0, 0}};
            }
        }
        K_UNROLL
        for (int s = 0; s < ahead; s++) {
            uint32_t i = first + (uint32_t)s * K_LANES, in_row = i < pieces ? i : first;
            K_UNROLL
            for (int c = 0; c < n; c++) {
                const k_floats4 *x = (const k_floats4 *)(r->x + (uint64_t)(uint32_t)c * r->n0) + in_row * 2;
                k_floats4 both[2] = {x[0], x[1]};
                K_UNROLL
                for (int y = 0; y < n_rows; y++) {
                    K_UNROLL
                    for (int j = 0; j < 8; j++) {
                        acc[y][c] += k_from_half((uint16_t)(w[s * n_rows + y].w[j / 2] >> 16 * (j % 2))) * both[j / 4].f[j % 4];
                    }
                }
            }
        }
    }
}

K_INLINE void k_dot_any(uint32_t type, const k_right *r, const uint8_t *const *rows, const int n_rows, const int n, float acc[4][K_COLUMNS]) {
    for (uint32_t i = k_lane(); i < r->n0; i += K_LANES) {
        K_UNROLL
        for (int y = 0; y < n_rows; y++) {
            float w = k_element(type, rows[y], i, r->n0);
            K_UNROLL
            for (int c = 0; c < n; c++) {
                acc[y][c] += w * r->x[(uint64_t)(uint32_t)c * r->n0 + i];
            }
        }
    }
}

K_FN void k_put_product(const k_op *op, const uint64_t *places, uint32_t row, float x) {
    if (op->after == K_AFTER_ADD) {
        x += ((const k_f32 *)(uintptr_t)places[1])[row];
    }
    ((k_f32 *)(uintptr_t)places[0])[row] = x;
}

/* Rows [from, to) of the matrix times the group; n_rows and n are constants
 * where it counts. kind: 0 any, 1 q4, 2 q8, 3 f16. */
K_INLINE void k_product_rows(const k_op *op, const k_right *r, const uint8_t *matrix, uint32_t from, uint32_t to, const int kind, const int n_rows,
                             const int ahead, const int n) {
    uint64_t stride = (uint64_t)op->src[0].nb[1];
    for (uint32_t row = from + k_warp() * (uint32_t)n_rows; row < to; row += K_WARPS * (uint32_t)n_rows) {
        const uint8_t *rows[4];
        float acc[4][K_COLUMNS];
        K_UNROLL
        for (int y = 0; y < n_rows; y++) {
            uint32_t at = row + (uint32_t)y < to ? row + (uint32_t)y : to - 1;
            rows[y] = matrix + at * stride;
            K_UNROLL
            for (int c = 0; c < n; c++) {
                acc[y][c] = 0;
            }
        }
        if (kind == 1) {
            k_dot_q4(r, rows, n_rows, ahead, n, acc);
        } else if (kind == 2) {
            k_dot_q8(r, rows, n_rows, ahead, n, acc);
        } else if (kind == 3) {
            k_dot_f16(r, rows, n_rows, ahead, n, acc);
        } else {
            k_dot_any(op->src[0].type, r, rows, n_rows, n, acc);
        }
        K_UNROLL
        for (int y = 0; y < n_rows; y++) {
            K_UNROLL
            for (int c = 0; c < n; c++) {
                float sum = k_warp_sum(acc[y][c]);
                if (k_lane() == 0 && row + (uint32_t)y < to) {
                    k_put_product(op, r->places + c * 2, row + (uint32_t)y, sum);
                }
            }
        }
    }
}

/* One column of a group. */
K_INLINE k_right k_column_of(const k_right *r, uint32_t c) {
    k_right one = *r;
    uint64_t blocks = r->n0 / 32;
    one.n = 1;
    one.x += (uint64_t)c * r->n0;
    one.low += c * blocks * 16, one.high += c * blocks * 16;
    one.scale += c * blocks, one.sum += c * blocks, one.places += c * 2;
    return one;
}

K_FN void k_product_column(const k_op *op, const k_right *r, const uint8_t *matrix, uint32_t from, uint32_t to, int kind) {
    if (kind == 1) {
        k_product_rows(op, r, matrix, from, to, 1, 1, 2, 1);
    } else if (kind == 2) {
        k_product_rows(op, r, matrix, from, to, 2, 1, 2, 1);
    } else if (kind == 3) {
        k_product_rows(op, r, matrix, from, to, 3, 1, 2, 1);
    } else {
        k_product_rows(op, r, matrix, from, to, 0, 1, 1, 1);
    }
}

K_FN void k_product_group(const k_op *op, const k_right *r, const uint8_t *matrix, uint32_t from, uint32_t to) {
    const k_tensor *a = &op->src[0];
    bool aligned = (((uint64_t)(uintptr_t)matrix | (uint64_t)a->nb[1]) & 15) == 0 && a->ne[0] % 8 == 0;
    int kind = a->type == K_TYPE_Q4_0_SPLIT ? 1 : a->type == K_TYPE_Q8_0_SPLIT ? 2 : a->type == SP_TYPE_F16 && aligned ? 3 : 0;
    if (r->n == 8 && kind == 1) {
        k_product_rows(op, r, matrix, from, to, 1, 2, 1, 8);
    } else if (r->n == 8 && kind == 2) {
        k_product_rows(op, r, matrix, from, to, 2, 2, 1, 8);
    } else if (r->n == 8 && kind == 3) {
        k_product_rows(op, r, matrix, from, to, 3, 2, 1, 8);
    } else {
        for (uint32_t c = 0; c < r->n; c++) {
            k_right one = k_column_of(r, c);
            k_product_column(op, &one, matrix, from, to, kind);
        }
    }
}

/* Where nothing else fits: a warp an element, both sides read where they are.
 */
K_FN void k_product_plain(const k_op *op, uint32_t part) {
    uint64_t n = k_count(&op->dst), step = (uint64_t)op->n_parts * K_WARPS;
    uint32_t n0 = (uint32_t)op->src[0].ne[0], m = (uint32_t)op->dst.ne[0];
    for (uint64_t i = (uint64_t)part * K_WARPS + k_warp(); i < n; i += step) {
        uint64_t c = i;
        uint32_t row = k_divide(&c, m);
        const uint8_t *left = k_left_matrix(op, c) + row * (uint64_t)op->src[0].nb[1], *column = k_right_column(op, &op->src[1], c);
        float sum = 0;
        for (uint32_t j = k_lane(); j < n0; j += K_LANES) {
            sum += k_element(op->src[0].type, left, j, n0) * k_element(op->src[1].type, column, j, n0);
        }
        sum = k_warp_sum(sum);
        if (k_lane() == 0) {
            uint64_t places[2] = {(uintptr_t)k_out_column(op, &op->dst, c), op->after ? (uintptr_t)k_out_column(op, &op->extra[2], c) : 0};
            k_put_product(op, places, row, sum);
        }
    }
}

K_FN void k_do_product(const k_op *op, uint32_t part) {
    const k_tensor *a = &op->src[0];
    uint32_t rows = (uint32_t)op->dst.ne[0], from = k_share(rows, part, op->n_parts), to = k_share(rows, part + 1, op->n_parts),
             most = k_columns_that_fit(a->type, (uint32_t)a->ne[0]);
    if (!most) {
        k_product_plain(op, part);
        return;
    }
    uint64_t columns = k_rows(&op->dst);
    for (uint64_t c = 0; c < columns;) {
        const uint8_t *matrix = k_left_matrix(op, c);
        uint32_t n = 1;
        while (n < most && c + n < columns && k_left_matrix(op, c + n) == matrix) {
            n++;
        }
        k_right r = k_stage(op, c, n);
        k_product_group(op, &r, matrix, from, to);
        c += n;
    }
}

#endif
