/*
 * A product of a matrix of weights and one column, where decoding spends its time. A block's rows come through the ring in tiles of whole rows (see
 * platform.h), asked for long before the phase begins. Each warp takes rows of a tile, or segments of rows, times the column (kernel_column.h); sums
 * go to shared memory. What follows a product is done there, a few threads a row: the addition of a residual, the gate of a second product, the
 * rotation by position, the way into a cache. All that can be asked for or worked out before the column has come is, while it is on its way.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STREAM_H
#define SP_DEVICE_CUDA_KERNEL_STREAM_H

#include "device/cuda/kernel_column.h"
#include "device/cuda/kernel_ring.h"
#include "device/cuda/kernel_rows.h"
#include "device/cuda/kernel_run.h"

/* ---- rows ---- */

/* A piece of a row times the column's, but for the row's scale. The upper halves of q4_0's bytes stay where they are: sixteen times what they stand
 * for. */
K_INLINE float k_dot_piece(const int kind, const k_held *h, uint32_t p, const k_words4 *w) {
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
    return kind == K_BY_BLOCK        ? h->scale[p] * (float)(sum * 16 + upper) - h->sum[p]
           : kind == K_BY_HALF_BLOCK ? h->scale[p] * (float)sum
                                     : h->scale[p] * (floats[0] + floats[1]);
}

/* Rows that a warp takes at once. */
K_INLINE uint32_t k_rows_at_once(const int kind) {
    return K_LANES == 1 ? 1 : kind == K_BY_BLOCK ? K_ROWS_OF_NIBBLES : K_ROWS_OF_OTHERS;
}

/* The lane's part of a row's sum: of its pieces and their scales. */
K_INLINE float k_dot_row(const int kind, const k_held *h, const k_words4 *w, const uint16_t *d) {
    float sum = 0;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        const float dot = k_dot_piece(kind, h, p, &w[p]);
        sum += kind == K_BY_EIGHT ? dot : k_from_half(d[p]) * dot;
    }
    return sum;
}

/* The lane's part of the sums of rows. */
K_INLINE void k_dot_rows(const int kind, uint32_t n, const k_held *h, const uint8_t *const *rows, float *sums) {
    k_words4 w[4][K_MOST_PIECES];
    uint16_t d[4][K_MOST_PIECES];
    K_UNROLL_ALL
    for (uint32_t r = 0; r < k_rows_at_once(kind); r++) {
        K_UNROLL_ALL
        for (uint32_t p = 0; p < k_pieces(kind); p++) {
            uint32_t i = h->piece[p];
            w[r][p] = *(const k_words4 *)(const void *)(rows[r] + i * 16);
            d[r][p] = kind == K_BY_EIGHT   ? 0
                      : kind == K_BY_BLOCK ? *(const k_u16 *)(const void *)(rows[r] + n / 2 + i * 2)
                                           : *(const k_u16 *)(const void *)(rows[r] + n + i / 2 * 2);
        }
    }
    k_warp_sync();
    K_UNROLL_ALL
    for (uint32_t r = 0; r < k_rows_at_once(kind); r++) {
        sums[r] = k_dot_row(kind, h, w[r], d[r]);
    }
}

/* A warp's share of every tile: from `first` on as many rows as it takes at once, `apart` rows apart, and again `step` rows further on; of each the
 * pieces [from, to), a segment. What it waits for are pieces [ring_from, ring_to) of the slot. Sums lie by row, by matrix where a gate has two, by
 * segment, by lane. */
typedef struct k_warp_share {
    uint32_t first, apart, step, from, to, ring_from, ring_to;
    uint32_t row_sums, matrix_sums, own; /* floats from a row's to the next's; from a matrix's; to the lane's own */
} k_warp_share;

K_INLINE uint32_t k_segments(const k_op *op) { /* as a power of two */
    return K_LANES == 1 ? 0 : op->params[K_SEGMENTS];
}

K_INLINE k_warp_share k_share_of_warp(const int kind, const k_op *op, uint32_t n) {
    uint32_t pieces = kind == K_BY_BLOCK ? n / 32 : kind == K_BY_HALF_BLOCK ? n / 16 : n / 8, segments = k_segments(op);
    uint32_t each = (pieces + (1u << segments) - 1) >> segments, segment = k_warp() & ((1u << segments) - 1);
    uint32_t row = k_warp() >> segments, rows = K_WARPS >> segments, once = k_rows_at_once(kind), tile = op->params[K_TILE_ROWS];
    k_warp_share s = {.first = row, .apart = rows, .step = rows * once, .from = segment * each, .ring_to = K_PIECES};
    if (rows * once <= tile) { /* neighbours: they are there earlier than the whole tile */
        s.first = row * once, s.apart = 1;
    }
    if (rows * once == tile) {
        uint32_t stride = kind == K_BY_EIGHT ? n * 2 : (uint32_t)op->src[K_SRC_LEFT].nb[1];
        s.ring_from = s.first * stride / K_PIECE, s.ring_to = ((s.first + once) * stride + K_PIECE - 1) / K_PIECE;
    }
    s.to = s.from + each < pieces ? s.from + each : pieces;
    s.matrix_sums = K_SUM << segments, s.row_sums = s.matrix_sums << (op->after & K_AFTER_GLU ? 1 : 0), s.own = segment * K_SUM + k_lane();
    return s;
}

/* n rows of a tile; more: their sums join what there is. What lanes have is added up at the end, so that nobody waits for it here. In place of a row
 * that is not there, the first is computed once more. */
K_INLINE void k_tile_sums(const int kind, const k_column *c, float norm, const k_warp_share *share, k_held *held, const uint8_t *tile,
                          uint32_t stride, uint32_t n, bool more, k_f32 *sums) {
    const uint32_t each = share->apart * stride, each_sums = share->apart * share->row_sums;
    for (uint32_t base = share->from; base < share->to; base += k_pieces(kind) * K_LANES) { /* once, but for long columns */
        if (held->base != base) {
            k_hold_at(kind, base, share->to, held);
            k_hold(kind, c, norm, held);
        }
        const bool join = more || base > share->from;
        const uint8_t *row = tile + share->first * stride;
        k_f32 *at = sums + share->first * share->row_sums + share->own;
        for (uint32_t r = share->first; r < n; r += share->step) {
            const uint8_t *rows[4];
            float own[4], before[4];
            uint32_t to[4];
            K_UNROLL_ALL
            for (uint32_t i = 0; i < k_rows_at_once(kind); i++) {
                const bool there = r + i * share->apart < n;
                rows[i] = there ? row + i * each : row;
                to[i] = there ? i * each_sums : 0;
                before[i] = join ? at[to[i]] : 0;
            }
            k_dot_rows(kind, c->n, held, rows, own);
            K_UNROLL_ALL
            for (uint32_t i = k_rows_at_once(kind); i--;) { /* so that the first's own sum is the last there */
                at[to[i]] = own[i] + before[i];
            }
            row += share->step * stride, at += share->step * share->row_sums;
        }
    }
}

/* The next tile: out of the ring, or, where there is none, brought here by all threads. */
K_INLINE const uint8_t *k_take_tile(bool ring, uint32_t taken, const k_warp_share *share, const uint8_t *there, uint32_t bytes) {
    if (ring) {
        return k_await_tile(taken, share->ring_from, share->ring_to);
    }
    k_block_sync();
    for (uint32_t i = k_thread(); i < bytes / 16; i += K_THREADS) {
        ((k_words4 *)(void *)k_slot(0))[i] = ((const k_words4 *)(const void *)there)[i];
    }
    k_block_sync();
    return k_slot(0);
}

/* Rows [from, to) of a matrix, or a slice of them, as they come; returns how many tiles the ring has given by then. */
K_INLINE uint32_t k_stream_matrix(const int kind, const k_op *op, const k_tensor *a, uint32_t slice, const k_column *c, float norm,
                                  const k_warp_share *share, k_held *held, uint32_t from, uint32_t to, k_f32 *sums, bool ring, uint32_t taken) {
    uint32_t tile_rows = op->params[K_TILE_ROWS], whole = (uint32_t)a->nb[1], stride = kind == K_BY_EIGHT ? c->n * 2 : whole;
    const uint8_t *matrix = (const uint8_t *)(uintptr_t)a->data + slice * stride;
    for (uint32_t row = from; row < to; row += tile_rows, sums += tile_rows * share->row_sums) {
        uint32_t n = to - row < tile_rows ? to - row : tile_rows;
        const uint8_t *tile = k_take_tile(ring, taken, share, matrix + (uint64_t)row * whole, n * stride);
        k_tile_sums(kind, c, norm, share, held, tile, stride, n, slice > 0, sums);
        if (ring) {
            k_release_tile(taken);
            taken = k_tile_next(taken);
        }
    }
    return taken;
}

/* ---- what follows ---- */

/* Sums that a thread finishes: on the host those of a pair of rows, or of a gate's two products. On a card, so many threads add up a sum of a
 * segment; with those of the row's other segments they end with the result each. */
enum { K_OWN = K_LANES == 1 ? 2 : 1, K_FINISHERS = K_LANES == 1 ? 1 : 2 };
_Static_assert(K_LANES == 1 || K_THREADS / K_FINISHERS >= K_SUMS, "they finish together");

/* What a thread finishes, as far as it needs no products: it is asked for before these, since it takes its time. */
enum { K_NOT_ITS = 0x7fffffff };
typedef struct k_beside {
    uint32_t row;      /* of the result; K_NOT_ITS: the thread doesn't write it */
    uint32_t residual; /* as it is there: see k_stamp_await */
    uint32_t id;       /* of the cache's row; rows are less than 2^31 */
    k_turn turn;
    uint8_t *to; /* in the cache's first row */
} k_beside;

/* The rotation of a row and its neighbour. */
K_INLINE k_turn k_stream_turn(const k_op *op, uint32_t row) {
    const uint32_t head = op->params[K_ROPE_HEAD];
    uint32_t pair = (head & (head - 1) ? row % head : row & (head - 1)) / 2;
    const k_turn *turns = (const k_turn *)(uintptr_t)op->src[K_SRC_TURNS].data, none = {0, 1};
    return pair * 2 < op->params[K_ROPE_DIMS] ? turns[pair] : none;
}

/* The number of the thread's sum among those of rows and matrices. */
K_INLINE uint32_t k_own_sum(uint32_t segments) {
    return K_LANES == 1 ? 0 : k_thread() >> segments >> 1;
}

K_INLINE const k_f32 *k_stream_residual(const k_op *op, uint32_t row) {
    return (const k_f32 *)(uintptr_t)op->extra[2].data + row;
}

/* Of sum number i of rows [row, to). */
K_INLINE k_beside k_stream_beside(const k_op *op, uint32_t i, uint32_t row, uint32_t to) {
    const bool gated = op->after & K_AFTER_GLU;
    k_beside b = {.row = row + (gated ? i / 2 : i), .turn = {0, 1}};
    if (b.row >= to || (gated && i % 2) || (K_LANES > 1 && k_thread() & ((K_FINISHERS << k_segments(op)) - 1))) {
        b.row = K_NOT_ITS;
        return b;
    }
    b.to = (uint8_t *)(uintptr_t)op->dst.data + b.row * (uint64_t)op->dst.nb[0];
    k_load_relaxed1((const void *)(uintptr_t)op->src[K_SRC_IDS].data, op->after & K_AFTER_SET_ROW, &b.id);
    k_load_relaxed1(k_stream_residual(op, b.row), op->after & K_AFTER_ADD, &b.residual);
    if (op->after & K_AFTER_ROPE) {
        b.turn = k_stream_turn(op, b.row);
    }
    return b;
}

/* With those of the row's other segments, which as many neighbours as `apart` have each. */
K_INLINE float k_stream_segments(float all, int apart, uint32_t segments) {
    if (segments) {
        all += k_exchange(all, apart);
        const float two = k_exchange(all, apart * 2);
        all += segments > 1 ? two : 0;
        const float four = k_exchange(all, apart * 4);
        all += segments > 2 ? four : 0;
    }
    return all;
}

/* Of 16 floats, beginning with one of their quarters. */
K_INLINE float k_stream_sixteen(const k_floats4 *fours, uint32_t quarter) {
    float sum[4];
    K_UNROLL_ALL
    for (uint32_t i = 0; i < 4; i++) {
        const k_floats4 four = fours[(quarter + i) % 4];
        sum[i] = (four.f[0] + four.f[1]) + (four.f[2] + four.f[3]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Sum number i. */
K_INLINE float k_stream_sum(const k_f32 *sums, uint32_t i, uint32_t segments) {
    if (K_LANES == 1) {
        return sums[i * K_SUM];
    }
    const k_f32 *from = sums + k_thread() / K_FINISHERS * K_SUM + k_thread() % K_FINISHERS * (K_LANES / K_FINISHERS);
    float all = k_stream_sixteen((const k_floats4 *)(const void *)from, 0);
    all += k_exchange(all, 1);
    return k_stream_segments(all, K_FINISHERS, segments);
}

/* A gate's two products become one. */
K_INLINE float k_stream_gated(const k_op *op, uint32_t kind, float x, float other) {
    return kind == SP_OP_SWIGLU ? k_silu_fast(x) * other : k_glu_value(kind, x, other, k_param(op, K_GLU_ALPHA), k_param(op, K_GLU_LIMIT));
}

/* The row's result: of its own sum, and of its neighbour's or that of the gate's other product. */
K_INLINE float k_stream_result(const k_op *op, const k_beside *b, float x, float other) {
    if (op->after & K_AFTER_GLU) {
        x = k_stream_gated(op, op->params[K_GLU_KIND], x, other);
    }
    if (op->after & K_AFTER_ADD) {
        x += k_stamp_await(k_stamp_of(&op->extra[2]), b->residual, k_stream_residual(op, b->row));
    }
    if (op->after & K_AFTER_ROPE) {
        x = x * b->turn.cos + (b->row % 2 ? other : -other) * b->turn.sin;
    }
    return x;
}

/* All threads together: they exchange. */
K_INLINE void k_stream_finish(const k_op *op, const k_f32 *sums, const k_beside *beside, float scale) {
    const uint32_t segments = k_segments(op);
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_OWN; j++) {
        const k_beside *b = &beside[j];
        float x = k_stream_sum(sums, j, segments) * scale;
        const float other = K_LANES == 1 ? k_stream_sum(sums, j ^ 1, segments) * scale : k_exchange(x, K_FINISHERS << segments); /* if it is wanted */
        if (b->row != K_NOT_ITS) {
            x = k_stream_result(op, b, x, other);
            if (op->dst.stamped) {
                k_give_float(k_stamp_of(&op->dst), b->to, x);
            } else {
                if (op->extra[K_NEWEST].data) { /* rounded as the cache's, whose lowest bits are zeros */
                    k_give_float(k_stamp_always(), (k_f32 *)(uintptr_t)op->extra[K_NEWEST].data + b->row, k_from_half(k_to_half(x)));
                }
                k_put(op->dst.type, b->to + b->id * (uint64_t)op->dst.nb[1], x);
            }
        }
    }
}

/* Of the sums that a thread finishes, of rows [row, to). */
K_INLINE void k_stream_asides(const k_op *op, uint32_t row, uint32_t to, k_beside *beside) {
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_OWN; j++) {
        beside[j] = k_stream_beside(op, k_own_sum(k_segments(op)) + j, row, to);
    }
}

/* What is worked out while the column is on its way. */
typedef struct k_stream_part {
    int kind;
    uint32_t at, n; /* the phase; elements of a row, or of a slice of it */
    k_warp_share share;
    k_held held;
} k_stream_part;

K_INLINE void k_stream_meanwhile(void *context) {
    k_stream_part *s = context;
    s->share = k_share_of_warp(s->kind, k_op_place(s->at), s->n);
    k_hold_at(s->kind, s->share.from, s->share.to, &s->held);
    k_bring(s->at + 1);
}

/* The operation lies in shared memory (k_op_place), where the compiler sees that it does. Asides come before the column is asked for: it
 * isn't there earlier, and asking in vain delays what others ask for. */
K_INLINE void k_stream_by(const int kind, const bool sliced, uint32_t from, uint32_t to, bool ring) {
    const uint32_t at = k_phase_at();
    uint32_t taken = k_next_tile();
    const k_op *op = k_op_place(at);
    const bool quants = kind != K_BY_EIGHT;
    const uint32_t slices = sliced ? op->params[K_SLICES] : 1, matrices = op->after & K_AFTER_GLU ? 2 : 1;
    const uint32_t most = K_LANES == 1 ? op->params[K_UNIT] : k_stream_most(op, K_SUMS); /* no more than threads finish */
    const k_column c = k_whole_column((uint32_t)op->src[K_SRC_LEFT].ne[0] / slices);
    k_f32 *sums = (k_f32 *)(void *)(k_shared() + K_SUMS_AT);
    k_column_from right = k_from_column(op, &c, 0);
    k_beside beside[K_OWN];
    k_stream_part s = {.kind = kind, .at = at, .n = c.n};
    k_stream_asides(op, from, to - from < most ? to : from + most, beside);
    const k_meanwhile meanwhile = {.first = k_stream_meanwhile, .context = &s};
    k_bring_column(quants, &c, &right, &meanwhile);
    const float norm = k_column_norm(op, &c);
    k_hold(kind, &c, norm, &s.held);
    for (uint32_t row = from; row < to; row += most) {
        uint32_t end = to - row < most ? to : row + most;
        if (row > from) { /* sums are read before others take their place */
            k_block_sync();
            k_stream_asides(op, row, end, beside);
        }
        for (uint32_t m = 0; m < matrices * slices; m++) {
            if (sliced && (m || row > from)) {
                k_block_sync();
                right = k_from_column(op, &c, m % slices);
                k_bring_column(quants, &c, &right, NULL);
                k_hold_at(kind, s.share.from, s.share.to, &s.held);
                k_hold(kind, &c, norm, &s.held);
            }
            const k_tensor *left = &op->src[m / slices ? K_SRC_LEFT2 : K_SRC_LEFT];
            taken = k_stream_matrix(kind, op, left, m % slices, &c, norm, &s.share, &s.held, row, end, sums + m / slices * s.share.matrix_sums, ring,
                                    taken);
        }
        k_block_sync();
        k_stream_finish(op, sums, beside, quants ? 1 : norm);
    }
    if (ring) {
        k_set_next_tile(taken);
    }
}

/* Apart, so that each keeps registers to itself. */
K_APART void k_stream_q4(uint32_t from, uint32_t to, bool ring) {
    k_stream_by(K_BY_BLOCK, false, from, to, ring);
}
K_APART void k_stream_q8(uint32_t from, uint32_t to, bool ring) {
    k_stream_by(K_BY_HALF_BLOCK, false, from, to, ring);
}
K_APART void k_stream_f16(uint32_t from, uint32_t to, bool ring) {
    k_stream_by(K_BY_EIGHT, false, from, to, ring);
}
K_APART void k_stream_long(uint32_t from, uint32_t to, bool ring) {
    k_stream_by(K_BY_EIGHT, true, from, to, ring);
}

/* Rows [from, to) of the phase's operation. What was written is there for others behind a barrier alone, or by its stamps. */
K_APART void k_do_stream(uint32_t from, uint32_t to, bool ring) {
    const k_op *op = k_op_at();
    const uint32_t type = op->src[K_SRC_LEFT].type;
    if (type == K_TYPE_Q4_0_SPLIT) {
        k_stream_q4(from, to, ring);
    } else if (type == K_TYPE_Q8_0_SPLIT) {
        k_stream_q8(from, to, ring);
    } else if (op->params[K_SLICES] == 1) {
        k_stream_f16(from, to, ring);
    } else {
        k_stream_long(from, to, ring);
    }
}

#endif
