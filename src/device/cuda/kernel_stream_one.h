/*
 * Streamed products as decoding has them, on a card with a ring: what kernel_stream.h does, without whatever they have no use for, since all that
 * runs between one product's rows and the next's is waited for. Tiles have as many rows as the warps take at once, and a lane holds all that it needs
 * of the column: so a tile is one round, without a branch but for the rows' end and, where the first tile may be early, for that.
 *
 * Long rows of halves come one by one. Each warp has a segment of its own of all of them: it brings that part of the column for itself, by no way
 * over shared memory, where there is no room for it, and waits for no other warp. So a lane has floats as they came, four neighbours a piece.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_STREAM_ONE_H
#define SP_DEVICE_CUDA_KERNEL_STREAM_ONE_H

#include "device/cuda/kernel_stream.h"

#if defined __NVPTX__ && K_SM >= 90

enum { K_MOST_FOURS = K_LONGEST_HALVES / K_CARD_THREADS / 4, K_LONG_SEGMENTS = 3 /* a power of two: as many as there are warps */ };
_Static_assert(1 << K_LONG_SEGMENTS == K_WARPS, "each has one");

/* What a lane has in mind for every tile. In bytes, from the tile's beginning: its pieces of the warp's first row, and their scales; from one row to
 * the next. Where its sums of the first tile go, and how far apart those of neighbouring rows are, in floats. */
typedef struct k_one_part {
    int kind;
    uint32_t at, n; /* the phase; elements of a row */
    uint32_t first; /* row of a tile */
    uint32_t piece[K_MOST_PIECES], scale[K_MOST_PIECES], stride;
    uint32_t ring_from, ring_to; /* pieces of the slot that these rows lie in */
    k_f32 *sums;
    uint32_t row_sums, matrix_sums;
    k_held held;
    uint32_t taken, rows; /* the next tile; rows of each matrix */
    bool early;           /* the first tile may be loaded before the column is there */
    bool any, loaded;     /* has the next tile rows of the warp's? Are they loaded? */
    k_words4 w[4][K_MOST_PIECES];
    uint16_t d[4][K_MOST_PIECES];  /* their scales */
    float fours[K_MOST_FOURS * 4]; /* in its place for K_BY_FOUR */
    uint32_t four[K_MOST_FOURS];   /* from the lane's first piece on, in bytes */
} k_one_part;

/* What a thread finishes: as k_beside. */
typedef struct k_one_beside {
    uint32_t row, residual, id;
    float cos, sin; /* the latter of the neighbour's part: with its sign */
    uint8_t *to;
} k_one_beside;

/* How a product ends, of all threads alike. */
typedef struct k_one_ending {
    uint32_t after, segments, glu, type, row_bytes;
    k_stamp residual, result, always;
    k_f32 *newest;
} k_one_ending;

/* Read before the products: behind them it is there at once. */
K_INLINE k_one_ending k_one_ending_of(const k_op *op) {
    return (k_one_ending){.after = op->after,
                          .segments = op->params[K_SEGMENTS],
                          .glu = op->params[K_GLU_KIND],
                          .type = op->dst.type,
                          .row_bytes = (uint32_t)op->dst.nb[1],
                          .residual = k_stamp_of(&op->extra[2]),
                          .result = k_stamp_of(&op->dst),
                          .always = k_stamp_always(),
                          .newest = (k_f32 *)(uintptr_t)op->extra[K_NEWEST].data};
}

/* Of the thread's sum of rows [row, to). */
K_INLINE void k_one_asides(const k_op *op, const k_one_ending *e, uint32_t row, uint32_t to, k_one_beside *b) {
    const uint32_t thread = k_thread_anew(), beside = e->segments + (e->after & K_AFTER_GLU ? 1 : 0);
    *b = (k_one_beside){.row = row + (thread >> beside), .cos = 1};
    if (b->row >= to || thread & ((1u << beside) - 1)) {
        b->row = K_NOT_ITS;
        return;
    }
    b->to = (uint8_t *)(uintptr_t)op->dst.data + b->row * (uint64_t)(uint32_t)op->dst.nb[0];
    k_load_relaxed1((const void *)(uintptr_t)op->src[K_SRC_IDS].data, e->after & K_AFTER_SET_ROW, &b->id);
    k_load_relaxed1(k_stream_residual(op, b->row), e->after & K_AFTER_ADD, &b->residual);
    if (e->after & K_AFTER_ROPE) {
        const k_turn turn = k_stream_turn(op, b->row);
        b->cos = turn.cos, b->sin = b->row % 2 ? turn.sin : -turn.sin;
    }
}

/* The thread's sum, with those of the row's other segments. Neighbours begin with other quarters of theirs, which lie in other banks. */
K_INLINE float k_one_sum(uint32_t segments) {
    const uint32_t thread = k_thread_anew();
    const k_floats4 *sums = (const k_floats4 *)(const void *)(k_shared() + K_ONE_SUMS_AT);
    return k_stream_segments(k_stream_sixteen(sums + thread * (K_ONE_SUM / 4), thread / 2), 1, segments);
}

/* All threads together: they exchange. */
K_INLINE void k_one_finish(const k_op *op, const k_one_ending *e, const k_one_beside *b, float scale) {
    float x = k_one_sum(e->segments) * scale;
    const float other = k_exchange(x, 1 << e->segments);
    if (b->row == K_NOT_ITS) {
        return;
    }
    if (e->after & K_AFTER_GLU) {
        x = k_stream_gated(op, e->glu, x, other);
    }
    if (e->after & K_AFTER_ADD) {
        x += k_stamp_await(e->residual, b->residual, k_stream_residual(op, b->row));
    }
    if (e->after & K_AFTER_ROPE) {
        x = x * b->cos + other * b->sin;
    }
    if (e->result.bit) {
        k_give_float(e->result, b->to, x);
        return;
    }
    if (e->newest) { /* rounded as the cache's, whose lowest bits are zeros */
        k_give_float(e->always, e->newest + b->row, k_from_half(k_to_half(x)));
    }
    uint8_t *to = b->to + b->id * (uint64_t)e->row_bytes;
    if (e->type == SP_TYPE_F16) {
        *(k_u16 *)(void *)to = k_to_half(x);
    } else {
        *(k_f32 *)(void *)to = x;
    }
}

/* The lane's parts of sums: two neighbouring lanes add theirs up, and put down those of half of the rows each. */
K_INLINE void k_one_put_sums(const int kind, const k_one_part *s, const float *parts, k_f32 *sums) {
    const bool second = k_lane() % 2;
    const uint32_t half = k_rows_at_once(kind) / 2;
    K_UNROLL_ALL
    for (uint32_t r = 0; r < half; r++) {
        const float one = parts[r], two = parts[r + half], other = k_exchange(second ? one : two, 1);
        sums[r * s->row_sums] = (second ? two : one) + other;
    }
}

/* Where the warp's share of each tile is: bytes [from, to), which come as a whole or in pieces; and its sums, of rows from the `first` on. Last of
 * all what is behind the phase is brought. */
K_INLINE void k_one_place(const k_op *op, uint32_t segments, uint32_t segment, uint32_t from, uint32_t to, k_one_part *s) {
    const uint32_t half = s->kind == K_BY_FOUR ? 0 : k_rows_at_once(s->kind) / 2, row = s->first + k_lane() % 2 * half; /* see k_one_put_sums */
    s->ring_from = from / K_PIECE, s->ring_to = (to + K_PIECE - 1) / K_PIECE;
    s->matrix_sums = K_ONE_SUM << segments, s->row_sums = s->matrix_sums << (op->after & K_AFTER_GLU ? 1 : 0);
    s->sums = (k_f32 *)(void *)(k_shared() + K_ONE_SUMS_AT) + row * s->row_sums + segment * K_ONE_SUM + k_lane() / 2;
    k_bring(s->at + 1);
}

/* What is worked out while the column is on its way. */
K_INLINE void k_one_meanwhile(void *context) {
    k_one_part *s = context;
    const k_op *op = k_op_place(s->at);
    const uint32_t segments = op->params[K_SEGMENTS], segment = k_warp() & ((1u << segments) - 1), stride = (uint32_t)op->src[K_SRC_LEFT].nb[1];
    const uint32_t pieces = s->kind == K_BY_BLOCK ? s->n / 32 : s->kind == K_BY_HALF_BLOCK ? s->n / 16 : s->n / 8;
    const uint32_t each = (pieces + (1u << segments) - 1) >> segments, from = segment * each, once = k_rows_at_once(s->kind);
    s->first = (k_warp() >> segments) * once;
    s->any = k_warp_any(s->first < s->rows);
    const uint32_t begin = s->first * stride;
    k_hold_at(s->kind, from, from + each < pieces ? from + each : pieces, &s->held);
    s->stride = stride;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(s->kind); p++) {
        s->piece[p] = begin + s->held.piece[p] * 16;
        s->scale[p] = begin + (s->kind == K_BY_BLOCK ? s->n / 2 + s->held.piece[p] * 2 : s->n + s->held.piece[p] / 2 * 2);
    }
    k_one_place(op, segments, segment, begin, begin + once * stride, s);
}

/* Loads all of the warp's rows of the next tile at once, see k_dot_rows; then the ring may have it back. */
K_INLINE void k_one_load(const int kind, k_one_part *s) {
    const uint8_t *tile = k_slot(s->taken);
    K_UNROLL_ALL
    for (uint32_t r = 0; r < k_rows_at_once(kind); r++) {
        K_UNROLL_ALL
        for (uint32_t p = 0; p < k_pieces(kind); p++) {
            s->w[r][p] = *(const k_words4 *)(const void *)(tile + s->piece[p] + r * s->stride);
            s->d[r][p] = kind == K_BY_EIGHT ? 0 : *(const k_u16 *)(const void *)(tile + s->scale[p] + r * s->stride);
        }
    }
    k_release_tile(s->taken);
}
/* The first tile, before the column is there: then the ring has room for one more meanwhile. */
K_INLINE void k_one_load_early(void *context) {
    k_one_part *s = context;
    if (s->early && s->any && !s->loaded && k_is_tile_there(s->taken, s->ring_from, s->ring_to)) {
        k_one_load(s->kind, s);
        s->loaded = true;
    }
}

/* The warp's rows of the next tile. */
K_INLINE void k_one_rows(const int kind, k_one_part *s, k_f32 *sums) {
    const bool loaded = s->early && s->loaded;
    if (!loaded) {
        k_await_tile(s->taken, s->ring_from, s->ring_to);
    }
    s->loaded = false;
    if (s->any) {
        float parts[4];
        if (!loaded) {
            k_one_load(kind, s);
        }
        K_UNROLL_ALL
        for (uint32_t r = 0; r < k_rows_at_once(kind); r++) {
            parts[r] = k_dot_row(kind, &s->held, s->w[r], s->d[r]);
        }
        k_one_put_sums(kind, s, parts, sums);
    } else {
        k_release_tile(s->taken);
    }
}

/* What is worked out while the column is on its way, where rows are long: all warps share each. */
K_INLINE void k_one_prepare_fours(k_one_part *s) {
    const k_op *op = k_op_place(s->at);
    const uint32_t each = s->n / K_WARPS, begin = k_warp() * each * 2;
    s->first = 0, s->piece[0] = begin + k_lane() * 8;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < K_MOST_FOURS; p++) { /* behind the end, where the column is zeros, the first is read again; some pieces all have */
        s->four[p] = p < K_MOST_FOURS / 2 || (p * K_LANES + k_lane()) * 4 < each ? p * K_LANES * 8 : 0;
    }
    k_one_place(op, K_LONG_SEGMENTS, k_warp(), begin, begin + each * 2, s);
}

/* The warp's segment of the column, for itself. */
K_INLINE void k_one_hold_fours(const k_op *op, k_one_part *s) {
    const k_column c = {.n = s->n / K_WARPS, .apart = K_LANES * 4};
    const k_column_from from = k_from_column(op, &c, k_warp());
    k_words4 words[K_MOST_FOURS];
    k_ask_pieces(K_MOST_FOURS, &c, &from, k_lane() * 4, words);
    k_one_prepare_fours(s);
    k_have_pieces(K_MOST_FOURS, &c, &from, k_lane() * 4, NULL, words, s->fours);
}

/* The warp's segment of a row. */
K_INLINE void k_one_fours(const k_one_part *s, const uint8_t *tile, uint32_t n, k_f32 *sums) {
    k_words2 w[K_MOST_FOURS];
    float sum[4] = {0, 0, 0, 0};
    K_UNROLL_ALL
    for (uint32_t p = 0; p < K_MOST_FOURS; p++) {
        w[p] = *(const k_words2 *)(const void *)(tile + s->piece[0] + s->four[p]);
    }
    k_release_tile(n);
    K_UNROLL_ALL
    for (uint32_t i = 0; i < K_MOST_FOURS * 4; i++) {
        sum[i % 4] += k_from_half((uint16_t)(w[i / 4].w[i / 2 % 2] >> i % 2 * 16)) * s->fours[i];
    }
    const float all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    *sums = all + k_exchange(all, 1); /* both lanes the same */
}

/* Of so many rows of each matrix, at most as have sums. Sums of rows behind the last are nobody's. */
K_INLINE void k_one_matrices(const int kind, k_one_part *s, uint32_t rows, uint32_t tile_rows, uint32_t matrices) {
    for (uint32_t m = 0; m < matrices; m++) {
        k_f32 *sums = s->sums + m * s->matrix_sums;
        for (uint32_t row = s->first; row - s->first < rows; row += tile_rows, sums += tile_rows * s->row_sums) {
            if (kind == K_BY_FOUR) {
                k_one_fours(s, k_await_tile(s->taken, s->ring_from, s->ring_to), s->taken, sums);
            } else {
                s->any = k_warp_any(row < rows);
                k_one_rows(kind, s, sums);
            }
            s->taken = k_tile_next(s->taken);
        }
    }
}

/* The column, to where it is held; returns what results are to be multiplied with. */
K_INLINE float k_one_hold(const int kind, const k_op *op, k_one_part *s) {
    if (kind == K_BY_FOUR) {
        k_one_hold_fours(op, s);
        return 1;
    }
    const k_column c = k_whole_column(s->n);
    const k_column_from right = k_from_column(op, &c, 0);
    const k_meanwhile meanwhile = {.first = k_one_meanwhile, .again = k_one_load_early, .context = s};
    k_bring_column(kind != K_BY_EIGHT, &c, &right, &meanwhile);
    const float norm = k_column_norm(op, &c);
    k_hold(kind, &c, norm, &s->held);
    if (kind == K_BY_EIGHT && K_COLUMN_AT + s->n * 4 > K_ONE_SUMS_AT) {
        k_block_sync(); /* sums take the place of the column's end */
    }
    return kind == K_BY_EIGHT ? norm : 1;
}

/* Asides come before the column is asked for: it isn't there earlier, and asking in vain delays what others ask for. */
K_INLINE void k_one_stream(const int kind, const bool early, uint32_t at, uint32_t from, uint32_t to) {
    const k_op *op = k_op_place(at);
    const uint32_t most = k_stream_most(op, K_CARD_THREADS), tile_rows = op->params[K_TILE_ROWS], matrices = op->after & K_AFTER_GLU ? 2 : 1;
    uint32_t end = to - from < most ? to : from + most;
    const k_one_ending ending = k_one_ending_of(op);
    k_one_beside beside;
    k_one_part s = {.kind = kind, .early = early, .at = at, .n = (uint32_t)op->src[K_SRC_LEFT].ne[0], .taken = k_next_tile(), .rows = end - from};
    k_one_asides(op, &ending, from, end, &beside);
    const float scale = k_one_hold(kind, op, &s);
    for (;;) {
        k_one_matrices(kind, &s, end - from, tile_rows, matrices);
        k_block_sync();
        k_one_finish(op, &ending, &beside, scale);
        if (k_warp_any(end == to)) {
            break;
        }
        from = end, end = to - from < most ? to : from + most;
        k_block_sync(); /* sums are read before others take their place */
        k_one_asides(op, &ending, from, end, &beside);
    }
    k_set_next_tile(s.taken);
}

/* Apart, so that each keeps registers to itself. */
K_APART void k_one_stream_q4(uint32_t at, uint32_t from, uint32_t to) {
    k_one_stream(K_BY_BLOCK, false, at, from, to);
}
K_APART void k_one_stream_q4_early(uint32_t at, uint32_t from, uint32_t to) {
    k_one_stream(K_BY_BLOCK, true, at, from, to);
}
K_APART void k_one_stream_q8(uint32_t at, uint32_t from, uint32_t to) {
    k_one_stream(K_BY_HALF_BLOCK, true, at, from, to);
}
K_APART void k_one_stream_f16(uint32_t at, uint32_t from, uint32_t to) {
    k_one_stream(K_BY_EIGHT, true, at, from, to);
}
K_APART void k_one_stream_long(uint32_t at, uint32_t from, uint32_t to) {
    k_one_stream(K_BY_FOUR, false, at, from, to);
}

#else

/* The plan has none of them. */
K_INLINE void k_one_stream_q4(uint32_t at, uint32_t from, uint32_t to) {
    (void)at, (void)from, (void)to;
}
K_INLINE void k_one_stream_q4_early(uint32_t at, uint32_t from, uint32_t to) {
    (void)at, (void)from, (void)to;
}
K_INLINE void k_one_stream_q8(uint32_t at, uint32_t from, uint32_t to) {
    (void)at, (void)from, (void)to;
}
K_INLINE void k_one_stream_f16(uint32_t at, uint32_t from, uint32_t to) {
    (void)at, (void)from, (void)to;
}
K_INLINE void k_one_stream_long(uint32_t at, uint32_t from, uint32_t to) {
    (void)at, (void)from, (void)to;
}

#endif

#endif
