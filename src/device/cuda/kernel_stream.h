/*
 * A product of a matrix of weights and one column, where decoding spends its time. A block's rows come through the ring in tiles of whole rows (see
 * platform.h), asked for long before the phase begins. The column is put into shared memory, with the norm before it, as bytes where the weights are
 * quants. Each warp takes rows of a tile, or segments of rows; sums go to shared memory. What follows a product is done there, a thread a row: the
 * addition of a residual, the gate of a second product, the rotation by position, the way into a cache.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STREAM_H
#define SP_DEVICE_CUDA_KERNEL_STREAM_H

#include "device/cuda/kernel_product.h"

enum { K_SUMS_AT = 1024, K_COLUMN_AT = K_SUMS_AT + K_SUMS * 4 };

/* The column in shared memory. */
typedef struct k_column {
    uint32_t n;
    k_f32 *x;           /* for halves: floats */
    uint8_t *bytes;     /* for quants: blocks of 32 signed bytes */
    k_f32 *scale, *sum; /* by block; sum: scale times the bytes' sum */
} k_column;

K_INLINE float k_stream_scale(const k_op *op, const k_f32 *from, uint32_t n) {
    float sum = 0;
    if (op->before != K_BEFORE_RMS_NORM) {
        return 1;
    }
    for (uint32_t i = k_thread() * 4; i < n; i += K_THREADS * 4) {
        k_floats4 v = *(const k_floats4 *)(from + i);
        sum += v.f[0] * v.f[0] + v.f[1] * v.f[1] + v.f[2] * v.f[2] + v.f[3] * v.f[3];
    }
    sum = k_block_reduce(sum, false);
    return k_reciprocal_root(sum / (float)n + k_param(op, K_EPS));
}

/* K_EACH neighbouring elements, normed. */
enum { K_EACH = 32 / K_GROUP };
K_INLINE void k_stream_load(const k_f32 *from, const k_f32 *weight, float scale, uint32_t at, float *x) {
    K_UNROLL
    for (uint32_t w = 0; w < K_EACH / 4; w++) {
        k_floats4 v = *(const k_floats4 *)(from + at + w * 4);
        k_floats4 by = weight ? *(const k_floats4 *)(weight + at + w * 4) : (k_floats4){{1, 1, 1, 1}};
        K_UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            x[w * 4 + j] = v.f[j] * scale * by.f[j];
        }
    }
}

/* A group of lanes makes a block of 32 bytes. */
K_INLINE void k_stream_bytes(const k_column *c, uint32_t at, const float *x) {
    float most = 0;
    K_UNROLL
    for (uint32_t j = 0; j < K_EACH; j++) {
        most = k_max(most, __builtin_fabsf(x[j]));
    }
    most = k_group_max(most);
    float d = most * (1.0f / 127.0f), id = d > 0 ? k_reciprocal(d) : 0;
    int32_t sum = 0;
    K_UNROLL
    for (uint32_t w = 0; w < K_EACH / 4; w++) {
        uint32_t word = 0;
        K_UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            float v = x[w * 4 + j] * id;
            int32_t q = (int32_t)(v < 0 ? v - 0.5f : v + 0.5f);
            sum += q;
            word |= (uint32_t)(q & 255) << 8 * j;
        }
        ((k_u32 *)(void *)(c->bytes + at))[w] = word;
    }
    sum = k_group_sum(sum);
    if (at % 32 == 0) {
        c->scale[at / 32] = d;
        c->sum[at / 32] = d * (float)sum;
    }
}

/* n is a multiple of 32, so that a group of lanes is there as a whole or not at all. */
K_INLINE k_column k_stream_column(const k_op *op) {
    uint32_t n = (uint32_t)op->src[K_SRC_LEFT].ne[0];
    bool quants = k_takes_bytes(op->src[K_SRC_LEFT].type);
    const k_f32 *from = (const k_f32 *)(uintptr_t)op->src[K_SRC_RIGHT].data, *weight = (const k_f32 *)(uintptr_t)op->extra[0].data;
    k_column c = {.n = n, .x = (k_f32 *)(void *)(k_shared() + K_COLUMN_AT), .bytes = k_shared() + K_COLUMN_AT};
    c.scale = (k_f32 *)(void *)(c.bytes + n);
    c.sum = c.scale + n / 32;
    float scale = k_stream_scale(op, from, n);
    for (uint32_t first = 0; first < n; first += K_THREADS * K_EACH) {
        uint32_t at = first + k_thread() * K_EACH;
        float x[K_EACH];
        bool live = at < n;
        k_stream_load(from, weight, scale, live ? at : 0, x);
        if (quants && live) {
            k_stream_bytes(&c, at, x);
        } else if (live) {
            K_UNROLL
            for (uint32_t w = 0; w < K_EACH / 4; w++) {
                ((k_floats4 *)(void *)(c.x + at))[w] = *(const k_floats4 *)&x[w * 4];
            }
        }
    }
    k_block_sync();
    return c;
}

/* ---- rows ---- */

K_INLINE float k_piece_q4(const k_column *c, const uint8_t *row, uint32_t i) {
    k_words4 w = *(const k_words4 *)(row + i * 16), low = *(const k_words4 *)(c->bytes + i * 32), high = *(const k_words4 *)(c->bytes + i * 32 + 16);
    int32_t sum = 0, upper = 0;
    K_UNROLL
    for (int j = 0; j < 4; j++) {
        sum = k_dot4(w.w[j] & 0x0f0f0f0fu, low.w[j], sum);
        upper = k_dot4(w.w[j] >> 4 & 0x0f0f0f0fu, high.w[j], upper);
    }
    return k_half(row + c->n / 2 + i * 2) * (c->scale[i] * (float)(sum + upper) - 8.0f * c->sum[i]);
}

/* Half a block. */
K_INLINE float k_piece_q8(const k_column *c, const uint8_t *row, uint32_t i) {
    k_words4 w = *(const k_words4 *)(row + i * 16), x = *(const k_words4 *)(c->bytes + i * 16);
    int32_t sum = 0;
    K_UNROLL
    for (int j = 0; j < 4; j++) {
        sum = k_dot4(w.w[j], x.w[j], sum);
    }
    return k_half(row + c->n + i / 2 * 2) * c->scale[i / 2] * (float)sum;
}

/* Eight halves. */
K_INLINE float k_piece_f16(const k_column *c, const uint8_t *row, uint32_t i) {
    k_words4 w = *(const k_words4 *)(row + i * 16);
    k_floats4 x[2] = {((const k_floats4 *)(void *)c->x)[i * 2], ((const k_floats4 *)(void *)c->x)[i * 2 + 1]};
    float sum = 0;
    K_UNROLL
    for (int j = 0; j < 8; j++) {
        sum += k_from_half((uint16_t)(w.w[j / 2] >> 16 * (j % 2))) * x[j / 4].f[j % 4];
    }
    return sum;
}

K_INLINE float k_piece(const int kind, const k_column *c, const uint8_t *row, uint32_t i) {
    return kind == 1 ? k_piece_q4(c, row, i) : kind == 2 ? k_piece_q8(c, row, i) : k_piece_f16(c, row, i);
}

/* The warp's sums of two rows. */
K_INLINE void k_put_two(k_f32 *sums, uint32_t at, uint32_t at_other, float one, float other) {
#ifdef __NVPTX__
    float sum = k_warp_sums(one, other);
    if (k_lane() % (K_LANES / 2) == 0) {
        sums[k_lane() ? at_other : at] = sum;
    }
#else
    sums[at] = one, sums[at_other] = other;
#endif
}

/* A warp's share of every tile: rows first, first + step, ...; of each the pieces [from, to). */
typedef struct k_warp_share {
    uint32_t segments, segment, first, step, from, to;
} k_warp_share;

K_INLINE k_warp_share k_share_of_warp(const k_op *op, uint32_t n) {
    uint32_t type = op->src[K_SRC_LEFT].type, pieces = n / (type == K_TYPE_Q4_0_SPLIT ? 32 : type == K_TYPE_Q8_0_SPLIT ? 16 : 8);
    k_warp_share s = {.segments = op->params[K_SEGMENTS] < (uint32_t)K_WARPS ? op->params[K_SEGMENTS] : (uint32_t)K_WARPS};
    uint32_t each = (pieces + s.segments - 1) / s.segments;
    s.segment = k_warp() % s.segments, s.first = k_warp() / s.segments, s.step = K_WARPS / s.segments;
    s.from = s.segment * each, s.to = s.from + each < pieces ? s.from + each : pieces;
    return s;
}

/* n rows of a tile; sums: [n][segments]. Two rows at once where a warp has them, since both want the same part of the column. */
K_INLINE void k_tile_sums(const int kind, const k_column *c, const k_warp_share *share, const uint8_t *tile, uint32_t stride, uint32_t n,
                          k_f32 *sums) {
    for (uint32_t r = share->first; r < n; r += 2 * share->step) {
        const uint8_t *row = tile + r * stride;
        float one = 0, other = 0;
        if (r + share->step < n) {
            const uint8_t *second = row + share->step * stride;
            K_UNROLL_BY(2)
            for (uint32_t i = share->from + k_lane(); i < share->to; i += K_LANES) {
                one += k_piece(kind, c, row, i);
                other += k_piece(kind, c, second, i);
            }
            k_put_two(sums, r * share->segments + share->segment, (r + share->step) * share->segments + share->segment, one, other);
        } else {
            K_UNROLL_BY(2)
            for (uint32_t i = share->from + k_lane(); i < share->to; i += K_LANES) {
                one += k_piece(kind, c, row, i);
            }
            one = k_warp_sum(one);
            if (k_lane() == 0) {
                sums[r * share->segments + share->segment] = one;
            }
        }
    }
}

/* The next tile: out of the ring, or, where there is none, brought here by all threads. */
K_INLINE const uint8_t *k_take_tile(const k_block *b, const uint8_t *there, uint32_t bytes) {
    if (b->ring) {
        return k_await_tile(b->taken);
    }
    k_block_sync();
    for (uint32_t i = k_thread(); i < bytes / 16; i += K_THREADS) {
        ((k_words4 *)(void *)k_slot(0))[i] = ((const k_words4 *)(const void *)there)[i];
    }
    k_block_sync();
    return k_slot(0);
}

K_INLINE void k_give_tile(k_block *b) {
    if (b->ring) {
        k_release_tile(b->taken++);
    }
}

/* Rows [from, to) of a matrix, as they come. */
K_INLINE void k_stream_matrix(k_block *b, const int kind, const k_op *op, const k_tensor *a, const k_column *c, const k_warp_share *share,
                              uint32_t from, uint32_t to, k_f32 *sums) {
    uint32_t tile_rows = op->params[K_TILE_ROWS], stride = (uint32_t)a->nb[1];
    const uint8_t *matrix = (const uint8_t *)(uintptr_t)a->data;
    for (uint32_t row = from; row < to; row += tile_rows) {
        uint32_t n = to - row < tile_rows ? to - row : tile_rows;
        const uint8_t *tile = k_take_tile(b, matrix + (uint64_t)row * stride, n * stride);
        k_tile_sums(kind, c, share, tile, stride, n, sums + (row - from) * share->segments);
        k_give_tile(b);
    }
}

/* ---- what follows ---- */

K_INLINE float k_stream_sum(const k_f32 *sums, uint32_t row, uint32_t segments) {
    float sum = 0;
    for (uint32_t s = 0; s < segments; s++) {
        sum += sums[row * segments + s];
    }
    return sum;
}

/* What a row and its neighbour need of the memory beside their products: asked for before these, since it takes its time. */
typedef struct k_beside {
    float residual[2], turn, factor;
} k_beside;

K_INLINE k_beside k_stream_beside(const k_op *op, uint32_t row) {
    k_beside beside = {{0, 0}, 0, 1};
    if (op->after & K_AFTER_ADD) {
        const k_f32 *residual = (const k_f32 *)(uintptr_t)op->extra[2].data;
        beside.residual[0] = residual[row];
        beside.residual[1] = op->params[K_UNIT] == 2 ? residual[row + 1] : 0;
    }
    if (op->after & K_AFTER_ROPE) {
        uint32_t pair = row % op->params[K_ROPE_HEAD] / 2;
        if (pair * 2 < op->params[K_ROPE_DIMS]) {
            beside.turn = ((const k_f32 *)(uintptr_t)op->table)[pair];
            beside.factor = op->src[K_SRC_FACTORS].data ? ((const k_f32 *)(uintptr_t)op->src[K_SRC_FACTORS].data)[pair] : 1;
        }
    }
    return beside;
}

/* A row's result, as far as it needs no neighbour; i: its number among the sums. */
K_INLINE float k_stream_row(const k_op *op, uint32_t i, uint32_t segments, const k_f32 *sums, const k_f32 *second) {
    float x = k_stream_sum(sums, i, segments);
    if (op->after & K_AFTER_GLU) {
        float gate = k_stream_sum(second, i, segments);
        uint32_t kind = op->params[K_GLU_KIND];
        x = kind == SP_OP_SWIGLU ? k_silu(x) * gate : k_glu_value(kind, x, gate, k_param(op, K_GLU_ALPHA), k_param(op, K_GLU_LIMIT));
    }
    return x;
}

/* n rows from row on: their sums, and those of the gate's other product. first: of the first rows, what they need beside. */
K_INLINE void k_stream_finish(const k_op *op, uint32_t row, uint32_t n, uint32_t segments, const k_f32 *sums, const k_f32 *second, k_beside first,
                              float position, int64_t id) {
    uint32_t unit = op->params[K_UNIT];
    uint64_t step = (uint64_t)op->dst.nb[0];
    uint8_t *out = (uint8_t *)(uintptr_t)(op->dst.data + (uint64_t)(id * op->dst.nb[1]));
    k_beside beside = first;
    for (uint32_t i = k_thread() * unit; i < n; i += K_THREADS * unit) {
        beside = i < K_THREADS * unit ? beside : k_stream_beside(op, row + i);
        float x = k_stream_row(op, i, segments, sums, second) + beside.residual[0];
        if (unit == 2) {
            float y = k_stream_row(op, i + 1, segments, sums, second) + beside.residual[1];
            if (op->after & K_AFTER_ROPE && (row + i) % op->params[K_ROPE_HEAD] < op->params[K_ROPE_DIMS]) {
                float sin, cos, was = x;
                k_sin_cos(position * beside.turn / beside.factor, &sin, &cos);
                x = (was * cos - y * sin) * k_param(op, K_ROPE_MAGNITUDE);
                y = (was * sin + y * cos) * k_param(op, K_ROPE_MAGNITUDE);
            }
            k_put(op->dst.type, out + (row + i + 1) * step, y);
        }
        k_put(op->dst.type, out + (row + i) * step, x);
    }
}

K_INLINE void k_stream_tiles(k_block *b, const k_op *op, const k_tensor *a, const k_column *c, const k_warp_share *share, uint32_t from, uint32_t to,
                             k_f32 *sums) {
    if (a->type == K_TYPE_Q4_0_SPLIT) {
        k_stream_matrix(b, 1, op, a, c, share, from, to, sums);
    } else if (a->type == K_TYPE_Q8_0_SPLIT) {
        k_stream_matrix(b, 2, op, a, c, share, from, to, sums);
    } else {
        k_stream_matrix(b, 3, op, a, c, share, from, to, sums);
    }
}

K_INLINE void k_do_stream(k_block *b, const k_op *op, uint32_t part) {
    uint32_t unit = op->params[K_UNIT], from = k_stream_from(op, part), to = k_stream_from(op, part + 1), most = k_stream_most(op);
    k_f32 *sums = (k_f32 *)(void *)(k_shared() + K_SUMS_AT);
    float position = op->after & K_AFTER_ROPE ? (float)k_id(&op->src[K_SRC_POSITIONS], 0, 0, 0) : 0;
    int64_t id = op->after & K_AFTER_SET_ROW ? k_id(&op->src[K_SRC_IDS], 0, 0, 0) : 0;
    k_beside beside = k_stream_beside(op, from + k_thread() * unit < to ? from + k_thread() * unit : from);
    k_column c = k_stream_column(op);
    const k_warp_share share = k_share_of_warp(op, c.n);
    for (uint32_t row = from; row < to; row += most) {
        beside = row == from ? beside : k_stream_beside(op, row + k_thread() * unit < to ? row + k_thread() * unit : row);
        uint32_t n = to - row < most ? to - row : most, matrices = op->after & K_AFTER_GLU ? 2 : 1;
        for (uint32_t m = 0; m < matrices; m++) {
            k_stream_tiles(b, op, &op->src[m ? K_SRC_LEFT2 : K_SRC_LEFT], &c, &share, row, row + n, sums + m * n * share.segments);
        }
        k_block_sync();
        k_stream_finish(op, row, n, share.segments, sums, sums + n * share.segments, beside, position, id);
        k_block_sync();
    }
}

#endif
