/*
 * A product of a matrix of weights and one column, where decoding spends its time. A block's rows come through the ring in tiles of whole rows (see
 * platform.h), asked for long before the phase begins. The column is put into shared memory, with the norm before it, as bytes where the weights are
 * quants. Each warp takes rows of a tile, or segments of rows; sums go to shared memory. What follows a product is done there, a thread a row: the
 * addition of a residual, the gate of a second product, the rotation by position, the way into a cache.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STREAM_H
#define SP_DEVICE_CUDA_KERNEL_STREAM_H

#include "device/cuda/kernel_product.h"
#include "device/cuda/kernel_run.h"
#include "device/cuda/kernel_stamp.h"

enum { K_SUMS_AT = 1024, K_COLUMN_AT = K_SUMS_AT + K_SUMS * K_SUM * 4 };
_Static_assert(K_COLUMN_AT + K_SLOT / 2 * 4 <= K_WORK, "the longest row's column fits");

/* The column in shared memory. */
typedef struct k_column {
    uint32_t n;
    k_f32 *x;           /* for halves: floats */
    uint8_t *bytes;     /* for quants: blocks of 32 signed bytes */
    k_f32 *scale, *sum; /* by block; sum: of the bytes */
    k_f32 *squares;     /* by warp: its part of the sum of squares */
    float norm;         /* what it was not multiplied with */
} k_column;

/* Eight neighbouring elements of each of four lanes make a block of 32 bytes; on the host, all of them. */
enum { K_EACH = K_LANES == 1 ? 32 : 8, K_GROUPED = 32 / K_EACH, K_ONCE = 4 /* pieces of a column that a thread has under way */ };

K_INLINE void k_stream_bytes(const k_column *c, uint32_t at, const float *x) {
    float most = 0, all;
    int32_t sum = 0;
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_EACH; j++) {
        most = k_max(most, __builtin_fabsf(x[j]));
    }
    K_UNROLL_ALL
    for (int m = K_GROUPED / 2; m; m /= 2) {
        most = k_max(most, k_exchange(most, m));
    }
    float d = most * (1.0f / 127.0f), id = d > 0 ? k_reciprocal(d) : 0;
    uint32_t words[K_EACH / 4];
    K_UNROLL_ALL
    for (uint32_t w = 0; w < K_EACH / 4; w++) {
        words[w] = k_bytes4(k_nearest(x[w * 4] * id), k_nearest(x[w * 4 + 1] * id), k_nearest(x[w * 4 + 2] * id), k_nearest(x[w * 4 + 3] * id));
        sum = k_dot4(words[w], 0x01010101u, sum);
        ((k_u32 *)(void *)(c->bytes + at))[w] = words[w];
    }
    all = (float)sum;
    K_UNROLL_ALL
    for (int m = K_GROUPED / 2; m; m /= 2) {
        all += k_exchange(all, m);
    }
    if (at % 32 == 0) {
        c->scale[at / 32] = d;
        c->sum[at / 32] = all;
    }
}

/* A thread's pieces from `first` on, `once` of them at most: multiplied by the norm's weight and put where products want them. Returns its part of
 * the sum of squares. A warp has them or has none: n is a multiple of 256. */
K_INLINE float k_stream_pieces(const uint32_t once, const k_column *c, k_stamp stamp, const uint8_t *from, const uint8_t *weight, uint32_t first,
                               const bool quants) {
    enum { EACH4 = K_EACH / 4 };
    k_floats4 x[K_ONCE * EACH4], by[K_ONCE * EACH4];
    const k_floats4 ones = {{1, 1, 1, 1}};
    uint32_t pieces = 0;
    float squares = 0;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < once; p++) {
        bool live = once == 1 || first + p * K_THREADS * K_EACH < c->n;
        pieces += live;
        K_UNROLL_ALL
        for (uint32_t w = 0; w < EACH4; w++) {
            by[p * EACH4 + w] = ones;
            if (live && weight) {
                by[p * EACH4 + w] = *(const k_floats4 *)(const void *)(weight + (p * K_THREADS * K_EACH + w * 4) * 4);
            }
        }
    }
    k_take_floats(stamp, once, EACH4, once == 1 ? 1 : pieces, from, K_THREADS * K_EACH * 4, x);
    K_UNROLL_ALL
    for (uint32_t p = 0; p < once; p++) {
        if (once == 1 || p < pieces) {
            float *own = x[p * EACH4].f;
            K_UNROLL_ALL
            for (uint32_t j = 0; j < K_EACH; j++) {
                squares += own[j] * own[j];
                own[j] *= by[p * EACH4 + j / 4].f[j % 4];
            }
            if (quants) {
                k_stream_bytes(c, first + p * K_THREADS * K_EACH, own);
            } else {
                K_UNROLL_ALL
                for (uint32_t w = 0; w < EACH4; w++) {
                    *(k_floats4 *)(void *)(c->x + first + p * K_THREADS * K_EACH + w * 4) = x[p * EACH4 + w];
                }
            }
        }
    }
    return squares;
}

/* The column, or a slice of n of it. What the norm divides by is the same for all elements: it is left to the results (k_stream_scale), so that
 * nobody waits for it here. */
K_INLINE k_column k_stream_column(const k_op *op, const bool quants, uint32_t n, uint32_t slice) {
    const uint8_t *from = (const uint8_t *)(uintptr_t)op->src[K_SRC_RIGHT].data + (uint64_t)slice * n * 4,
                  *weight = (const uint8_t *)(uintptr_t)op->extra[0].data;
    const k_stamp stamp = k_stamp_of(&op->src[K_SRC_RIGHT]);
    k_column c = {
        .n = n, .x = (k_f32 *)(void *)(k_shared() + K_COLUMN_AT), .bytes = k_shared() + K_COLUMN_AT, .squares = (k_f32 *)(void *)k_shared()};
    c.scale = (k_f32 *)(void *)(c.bytes + n);
    c.sum = c.scale + n / 32;
    float squares = 0;
    uint32_t first = k_thread() * K_EACH, few = n <= K_THREADS * K_EACH;
    if (few && first < n) {
        squares = k_stream_pieces(1, &c, stamp, from + first * 4, weight ? weight + first * 4 : NULL, first, quants);
    }
    for (; !few && first < n; first += K_ONCE * K_THREADS * K_EACH) {
        squares += k_stream_pieces(K_ONCE, &c, stamp, from + first * 4, weight ? weight + first * 4 : NULL, first, quants);
    }
    if (op->before == K_BEFORE_RMS_NORM) {
        squares = k_warp_sum(squares);
        if (k_lane() == 0) {
            c.squares[k_warp()] = squares;
        }
    }
    k_block_sync();
    return c;
}

/* What the column was not multiplied with. */
K_INLINE float k_stream_scale(const k_op *op, const k_column *c) {
    float sum = 0;
    if (op->before != K_BEFORE_RMS_NORM) {
        return 1;
    }
    K_UNROLL_ALL
    for (int w = 0; w < K_WARPS; w++) {
        sum += c->squares[w];
    }
    return k_reciprocal_root(sum / (float)c->n + k_param(op, K_EPS));
}

/* ---- rows ---- */

enum { K_BY_BLOCK = 1 /* of q4_0: 32 elements */, K_BY_HALF_BLOCK /* of q8_0: 16 */, K_BY_EIGHT /* halves */ };
enum { K_MOST_PIECES = K_LANES == 1 ? 8 : 4 };

/* Pieces of a row, of 16 bytes each, that a lane takes at once. */
K_INLINE uint32_t k_pieces(const int kind) {
    return kind == K_BY_BLOCK ? K_MOST_PIECES / 2 : K_MOST_PIECES;
}

/* What a lane holds of the column, for all rows. */
typedef struct k_held {
    uint32_t base; /* the first piece; ~0: nothing yet */
    k_words4 x[K_MOST_PIECES][2];
    float scale[K_MOST_PIECES], sum[K_MOST_PIECES]; /* of q4_0: a sixteenth of the scale; eight times the sum */
} k_held;

/* Pieces beyond the end count nothing; in their place the last is read. */
K_INLINE uint32_t k_piece_at(uint32_t base, uint32_t p, uint32_t end) {
    uint32_t i = base + p * K_LANES + k_lane();
    return i < end ? i : end - 1;
}

K_INLINE void k_hold(const int kind, const k_column *c, uint32_t base, uint32_t end, k_held *h) {
    h->base = base;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        uint32_t i = k_piece_at(base, p, end);
        bool live = base + p * K_LANES + k_lane() < end;
        if (kind == K_BY_EIGHT) {
            h->x[p][0] = *(const k_words4 *)(const void *)(c->x + i * 8);
            h->x[p][1] = *(const k_words4 *)(const void *)(c->x + i * 8 + 4);
            h->scale[p] = live ? 1 : 0;
            continue;
        }
        uint32_t block = kind == K_BY_BLOCK ? i : i / 2;
        float scale = live ? k_from_half(k_to_half(c->scale[block] * c->norm)) : 0; /* as ggml's q8_0 has it */
        h->x[p][0] = *(const k_words4 *)(const void *)(c->bytes + i * (kind == K_BY_BLOCK ? 32 : 16));
        h->x[p][1] = kind == K_BY_BLOCK ? *(const k_words4 *)(const void *)(c->bytes + i * 32 + 16) : h->x[p][0];
        h->scale[p] = kind == K_BY_BLOCK ? scale * 0.0625f : scale;
        h->sum[p] = kind == K_BY_BLOCK ? scale * 8 * c->sum[block] : 0;
    }
}

/* A piece of a row times the column's. The upper halves of q4_0's bytes stay where they are: sixteen times what they stand for. */
K_INLINE float k_dot_piece(const int kind, const k_held *h, uint32_t p, const k_words4 *w, float d) {
    int32_t sum = 0, upper = 0;
    float floats[2] = {0, 0};
    K_UNROLL_ALL
    for (int j = 0; j < 4; j++) {
        if (kind == K_BY_BLOCK) {
            sum = k_dot4(w->w[j] & 0x0f0f0f0fu, h->x[p][0].w[j], sum);
            upper = k_dot4_unsigned(w->w[j] & 0xf0f0f0f0u, h->x[p][1].w[j], upper);
        } else if (kind == K_BY_HALF_BLOCK) {
            sum = k_dot4(w->w[j], h->x[p][0].w[j], sum);
        } else {
            floats[0] += k_from_half((uint16_t)w->w[j]) * k_bits_float(h->x[p][j / 2].w[j % 2 * 2]);
            floats[1] += k_from_half((uint16_t)(w->w[j] >> 16)) * k_bits_float(h->x[p][j / 2].w[j % 2 * 2 + 1]);
        }
    }
    return kind == K_BY_BLOCK        ? d * (h->scale[p] * (float)(sum * 16 + upper) - h->sum[p])
           : kind == K_BY_HALF_BLOCK ? d * h->scale[p] * (float)sum
                                     : h->scale[p] * (floats[0] + floats[1]);
}

/* The lane's part of the sums of two rows. */
K_INLINE void k_dot_rows(const int kind, const k_column *c, const k_held *h, uint32_t end, const uint8_t *const *rows, float *sums) {
    k_words4 w[2][K_MOST_PIECES];
    float d[2][K_MOST_PIECES];
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        uint32_t i = k_piece_at(h->base, p, end);
        K_UNROLL_ALL
        for (uint32_t r = 0; r < 2; r++) {
            w[r][p] = *(const k_words4 *)(const void *)(rows[r] + i * 16);
            d[r][p] = kind == K_BY_BLOCK ? k_half(rows[r] + c->n / 2 + i * 2) : kind == K_BY_HALF_BLOCK ? k_half(rows[r] + c->n + i / 2 * 2) : 1;
        }
    }
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        K_UNROLL_ALL
        for (uint32_t r = 0; r < 2; r++) {
            sums[r] += k_dot_piece(kind, h, p, &w[r][p], d[r][p]);
        }
    }
}

/* A warp's share of every tile: rows first, first + step, ...; of each the pieces [from, to), which are one of so many segments. */
typedef struct k_warp_share {
    uint32_t segments, segment, first, step, from, to; /* segments: as a power of two */
} k_warp_share;

K_INLINE k_warp_share k_share_of_warp(const int kind, const k_op *op, uint32_t n) {
    uint32_t pieces = kind == K_BY_BLOCK ? n / 32 : kind == K_BY_HALF_BLOCK ? n / 16 : n / 8;
    k_warp_share s = {.segments = K_LANES == 1 ? 0 : op->params[K_SEGMENTS]};
    uint32_t each = (pieces + (1u << s.segments) - 1) >> s.segments;
    s.segment = k_warp() & ((1u << s.segments) - 1), s.first = k_warp() >> s.segments, s.step = K_WARPS >> s.segments;
    s.from = s.segment * each, s.to = s.from + each < pieces ? s.from + each : pieces;
    return s;
}

/* n rows of a tile; more: their sums join what there is. sums: [n][segments][K_SUM]: what lanes have is added up at the end, so that nobody waits for
 * it here. */
K_INLINE void k_tile_sums(const int kind, const k_column *c, const k_warp_share *share, k_held *held, const uint8_t *tile, uint32_t stride,
                          uint32_t n, bool more, k_f32 *sums) {
    sums += share->segment * K_SUM + k_lane();
    for (uint32_t base = share->from; base < share->to; base += k_pieces(kind) * K_LANES) { /* once, but for long columns */
        if (held->base != base) {
            k_hold(kind, c, base, share->to, held);
        }
        for (uint32_t r = share->first; r < n; r += 2 * share->step) {
            bool two = r + share->step < n;
            const uint8_t *rows[2] = {tile + r * stride, tile + (two ? r + share->step : r) * stride};
            k_f32 *at[2] = {sums + (r << share->segments) * K_SUM, sums + ((r + share->step) << share->segments) * K_SUM};
            float own[2] = {0, 0};
            if (more || base > share->from) {
                own[0] = *at[0], own[1] = two ? *at[1] : 0;
            }
            k_dot_rows(kind, c, held, share->to, rows, own);
            *at[0] = own[0];
            if (two) {
                *at[1] = own[1];
            }
        }
    }
}

/* The next tile: out of the ring, or, where there is none, brought here by all threads. */
K_INLINE const uint8_t *k_take_tile(bool ring, uint32_t taken, const uint8_t *there, uint32_t bytes) {
    if (ring) {
        return k_await_tile(taken);
    }
    k_block_sync();
    for (uint32_t i = k_thread(); i < bytes / 16; i += K_THREADS) {
        ((k_words4 *)(void *)k_slot(0))[i] = ((const k_words4 *)(const void *)there)[i];
    }
    k_block_sync();
    return k_slot(0);
}

/* Rows [from, to) of a matrix, or a slice of them, as they come; returns how many tiles the ring has given by then. */
K_INLINE uint32_t k_stream_matrix(const int kind, const k_op *op, const k_tensor *a, uint32_t slice, const k_column *c, const k_warp_share *share,
                                  k_held *held, uint32_t from, uint32_t to, k_f32 *sums, bool ring, uint32_t taken) {
    uint32_t tile_rows = op->params[K_TILE_ROWS], whole = (uint32_t)a->nb[1], stride = kind == K_BY_EIGHT ? c->n * 2 : whole;
    const uint8_t *matrix = (const uint8_t *)(uintptr_t)a->data + slice * stride;
    for (uint32_t row = from; row < to; row += tile_rows) {
        uint32_t n = to - row < tile_rows ? to - row : tile_rows;
        const uint8_t *tile = k_take_tile(ring, taken, matrix + (uint64_t)row * whole, n * stride);
        k_tile_sums(kind, c, share, held, tile, stride, n, slice > 0, sums + ((row - from) << share->segments) * K_SUM);
        if (ring) {
            k_release_tile(taken++);
        }
    }
    return taken;
}

/* ---- what follows ---- */

/* So many threads add up a row's sums, and end with the result each: enough for all rows that have sums at once. */
enum { K_FINISHERS = K_LANES == 1 ? 1 : 2 };
_Static_assert(K_LANES == 1 || K_THREADS / K_FINISHERS >= K_SUMS, "they finish together");

/* `segments` as a power of two. */
K_INLINE float k_stream_sum(const k_f32 *sums, uint32_t row, uint32_t segments) {
    const k_f32 *from = sums + (row << segments) * K_SUM + k_thread() % K_FINISHERS * (K_LANES / K_FINISHERS);
    float sum = 0;
    if (K_LANES == 1) {
        return from[0];
    }
    for (uint32_t s = 0; s < 1u << segments; s++, from += K_SUM) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < K_LANES / K_FINISHERS; i += 4) {
            const k_floats4 four = *(const k_floats4 *)(const void *)(from + i);
            sum += (four.f[0] + four.f[1]) + (four.f[2] + four.f[3]);
        }
    }
    return sum + k_exchange(sum, 1);
}

/* What a row and its neighbour need beside their products: asked for before these, since it takes its time. */
typedef struct k_beside {
    uint32_t residual[2]; /* as it is there: see k_stamp_await */
    k_turn turn;
} k_beside;

/* The rotation of a row and its neighbour. */
K_APART k_turn k_stream_turn(uint32_t row) {
    const k_op *op = k_op_at();
    uint32_t pair = row % op->params[K_ROPE_HEAD] / 2;
    k_turn by = {0, 1};
    if (pair * 2 < op->params[K_ROPE_DIMS]) {
        const k_f32 *factors = (const k_f32 *)(uintptr_t)op->src[K_SRC_FACTORS].data;
        float turn = ((const k_f32 *)(uintptr_t)op->table)[pair], position = (float)k_id(&op->src[K_SRC_POSITIONS], 0, 0, 0);
        by = k_sin_cos(position * turn / (factors ? factors[pair] : 1));
        by.sin *= k_param(op, K_ROPE_MAGNITUDE), by.cos *= k_param(op, K_ROPE_MAGNITUDE);
    }
    return by;
}

K_INLINE const k_f32 *k_stream_residual(const k_op *op, uint32_t row) {
    return (const k_f32 *)(uintptr_t)op->extra[2].data + row;
}

K_INLINE k_beside k_stream_beside(const k_op *op, uint32_t row, bool live) {
    k_beside beside = {{0, 0}, {0, 1}};
    if (op->after & K_AFTER_ADD && live) {
        beside.residual[0] = k_load_relaxed(k_stream_residual(op, row));
        beside.residual[1] = op->params[K_UNIT] == 2 ? k_load_relaxed(k_stream_residual(op, row + 1)) : 0;
    }
    if (op->after & K_AFTER_ROPE && live) {
        beside.turn = k_stream_turn(row);
    }
    return beside;
}

/* A row's result, as far as it needs no neighbour; i: its number among the sums. */
K_INLINE float k_stream_row(const k_op *op, uint32_t i, uint32_t segments, const k_f32 *sums, const k_f32 *second, float scale) {
    float x = k_stream_sum(sums, i, segments) * scale;
    if (op->after & K_AFTER_GLU) {
        float gate = k_stream_sum(second, i, segments) * scale;
        uint32_t kind = op->params[K_GLU_KIND];
        x = kind == SP_OP_SWIGLU ? k_silu(x) * gate : k_glu_value(kind, x, gate, k_param(op, K_GLU_ALPHA), k_param(op, K_GLU_LIMIT));
    }
    return x;
}

/* The thread's row, or pair of rows, `own` of n from `row` on: its sums, and those of the gate's other product. */
K_INLINE void k_stream_finish(const k_op *op, uint32_t row, uint32_t own, uint32_t n, uint32_t segments, const k_f32 *sums, const k_f32 *second,
                              const k_beside *beside, float scale, uint8_t *out) {
    uint32_t unit = op->params[K_UNIT], i = own < n ? own : n - unit; /* all together: threads exchange */
    float x = k_stream_row(op, i, segments, sums, second, scale), y = 0;
    const k_stamp stamp = k_stamp_of(&op->extra[2]);
    if (unit == 2) {
        y = k_stream_row(op, i + 1, segments, sums, second, scale);
    }
    if (own >= n) {
        return;
    }
    if (op->after & K_AFTER_ADD) {
        x += k_stamp_await(stamp, beside->residual[0], k_stream_residual(op, row + i));
        y += unit == 2 ? k_stamp_await(stamp, beside->residual[1], k_stream_residual(op, row + i + 1)) : 0;
    }
    if (op->after & K_AFTER_ROPE && (row + i) % op->params[K_ROPE_HEAD] < op->params[K_ROPE_DIMS]) {
        float was = x;
        x = was * beside->turn.cos - y * beside->turn.sin;
        y = was * beside->turn.sin + y * beside->turn.cos;
    }
    for (uint32_t s = k_thread() % K_FINISHERS; s < unit; s += K_FINISHERS) {
        uint8_t *at = out + (row + i + s) * (uint64_t)op->dst.nb[0];
        if (op->dst.stamped) {
            k_give_float(k_stamp_of(&op->dst), at, s ? y : x);
        } else {
            if (op->extra[K_NEWEST].data) { /* rounded as the cache's, whose lowest bits are zeros */
                k_give_float(k_stamp_always(), (k_f32 *)(uintptr_t)op->extra[K_NEWEST].data + row + i + s, k_from_half(k_to_half(s ? y : x)));
            }
            k_put(op->dst.type, at, s ? y : x);
        }
    }
}

/* The operation lies in shared memory (k_op_at), where the compiler sees that it does. */
K_INLINE uint32_t k_stream_by(const int kind, const bool sliced, uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    const k_op *op = k_op_at();
    uint32_t unit = op->params[K_UNIT], own = k_thread() / K_FINISHERS * unit;
    uint32_t most = K_LANES == 1 ? unit : k_stream_most(op); /* no more than threads finish */
    k_f32 *sums = (k_f32 *)(void *)(k_shared() + K_SUMS_AT);
    int64_t id = op->after & K_AFTER_SET_ROW ? k_id(&op->src[K_SRC_IDS], 0, 0, 0) : 0;
    uint8_t *out = (uint8_t *)(uintptr_t)(op->dst.data + (uint64_t)(id * op->dst.nb[1]));
    k_beside beside = k_stream_beside(op, from + own, from + own < to);
    const uint32_t slices = sliced ? op->params[K_SLICES] : 1, length = (uint32_t)op->src[K_SRC_LEFT].ne[0] / slices;
    k_column c = k_stream_column(op, kind != K_BY_EIGHT, length, 0);
    k_bring_next();
    const k_warp_share share = k_share_of_warp(kind, op, length);
    const float norm = k_stream_scale(op, &c), scale = kind == K_BY_EIGHT ? norm : 1;
    c.norm = norm;
    k_held held = {.base = ~0u};
    for (uint32_t row = from; row < to; row += most) {
        uint32_t n = to - row < most ? to - row : most, matrices = op->after & K_AFTER_GLU ? 2 : 1;
        if (row > from) { /* sums are read before others take their place */
            k_block_sync();
            beside = k_stream_beside(op, row + own, row + own < to);
        }
        for (uint32_t m = 0; m < matrices * slices; m++) {
            const k_tensor *left = &op->src[m / slices ? K_SRC_LEFT2 : K_SRC_LEFT];
            if (sliced && (m || row > from)) {
                k_block_sync();
                c = k_stream_column(op, kind != K_BY_EIGHT, length, m % slices);
                held.base = ~0u;
            }
            taken = k_stream_matrix(kind, op, left, m % slices, &c, &share, &held, row, row + n, sums + (m / slices * n << share.segments) * K_SUM,
                                    ring, taken);
        }
        k_block_sync();
        k_stream_finish(op, row, own, n, share.segments, sums, sums + (n << share.segments) * K_SUM, &beside, scale, out);
    }
    return taken;
}

/* Apart, so that each keeps registers to itself. */
K_APART uint32_t k_stream_q4(uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    return k_stream_by(K_BY_BLOCK, false, from, to, ring, taken);
}
K_APART uint32_t k_stream_q8(uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    return k_stream_by(K_BY_HALF_BLOCK, false, from, to, ring, taken);
}
K_APART uint32_t k_stream_f16(uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    return k_stream_by(K_BY_EIGHT, false, from, to, ring, taken);
}
K_APART uint32_t k_stream_long(uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    return k_stream_by(K_BY_EIGHT, true, from, to, ring, taken);
}

/* Rows [from, to) of the phase's operation. `taken` tiles came out of the ring before; returns how many have now. What was written is there for
 * others behind a barrier alone, or by its stamps. */
K_INLINE uint32_t k_do_stream(uint32_t from, uint32_t to, bool ring, uint32_t taken) {
    const k_op *op = k_op_at();
    uint32_t type = op->src[K_SRC_LEFT].type;
    return type == K_TYPE_Q4_0_SPLIT   ? k_stream_q4(from, to, ring, taken)
           : type == K_TYPE_Q8_0_SPLIT ? k_stream_q8(from, to, ring, taken)
           : op->params[K_SLICES] > 1  ? k_stream_long(from, to, ring, taken)
                                       : k_stream_f16(from, to, ring, taken);
}

#endif
