/*
 * The column of a streamed product (kernel_stream.h). Threads ask for their pieces of it, have other things to do until these are there, and put them
 * into shared memory, with the norm before the product, as bytes where the weights are quants. Of that a lane then holds, in registers, what it needs
 * for all rows.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_COLUMN_H
#define SP_DEVICE_CUDA_KERNEL_COLUMN_H

#include "device/cuda/kernel_elements.h"
#include "device/cuda/kernel_stamp.h"

enum { K_SUMS_AT = 1024, K_COLUMN_AT = K_SUMS_AT + K_SUMS * K_SUM * 4, K_ONE_SUMS_AT = K_WORK - K_CARD_THREADS * K_ONE_SUM * 4 };
_Static_assert(K_COLUMN_AT + K_LONGEST_ROW / 2 * 4 <= K_WORK, "the longest row's column fits");
_Static_assert(K_COLUMN_AT + K_HELD_BYTES * K_CARD_WARPS / 32 * 36 <= K_ONE_SUMS_AT,
               "a column of bytes, too, beside the sums of kernel_stream_one.h");

/* Four neighbouring elements of each of eight lanes make a block of 32 bytes, so that a warp asks for whole sectors of the second cache, and for none
 * twice; on the host, one thread has all of them. */
enum {
    K_EACH = K_LANES == 1 ? 32 : 4,
    K_EACH4 = K_EACH / 4,
    K_GROUPED = 32 / K_EACH,
    K_ONCE = K_LANES == 1 ? 4 : 8, /* pieces of a column that a thread has under way */
    K_APIECE = K_THREADS * K_EACH  /* from one to the next, in elements */
};

/* The column in shared memory. */
typedef struct k_column {
    uint32_t n, apart; /* elements; from one piece of a thread to the next */
    k_f32 *x;          /* for halves: floats */
    uint8_t *bytes;    /* for quants: blocks of 32 signed bytes */
    k_f32 *scale;      /* by block */
    k_f32 *squares;    /* by warp: its part of the sum of squares */
} k_column;

/* Where a thread's pieces come from. */
typedef struct k_column_from {
    k_stamp stamp;
    const uint8_t *x, *weight; /* weight NULL: there is no norm */
} k_column_from;

/* What is done while the first pieces are on their way: at first, and each time before they are looked at. */
typedef struct k_meanwhile {
    void (*first)(void *context), (*again)(void *context);
    void *context;
} k_meanwhile;

K_INLINE k_column k_whole_column(uint32_t n) {
    k_column c = {.n = n,
                  .apart = K_APIECE,
                  .x = (k_f32 *)(void *)(k_shared() + K_COLUMN_AT),
                  .bytes = k_shared() + K_COLUMN_AT,
                  .squares = (k_f32 *)(void *)k_shared()};
    c.scale = (k_f32 *)(void *)(c.bytes + n);
    return c;
}

/* Of slice `slice` of the operation's column. */
K_INLINE k_column_from k_from_column(const k_op *op, const k_column *c, uint32_t slice) {
    return (k_column_from){.stamp = k_stamp_of(&op->src[K_SRC_RIGHT]),
                           .x = (const uint8_t *)(uintptr_t)op->src[K_SRC_RIGHT].data + (uint64_t)slice * c->n * 4,
                           .weight = op->before == K_BEFORE_RMS_NORM ? (const uint8_t *)(uintptr_t)op->extra[0].data : NULL};
}

/* ---- pieces: of a thread, `once` at a time, element `first` the first's ---- */

/* A warp has a piece or has it not, since n is a multiple of 128; or, of a segment, some of its blocks of 32. */
K_INLINE bool k_has_piece(const k_column *c, uint32_t first, uint32_t p) {
    return first + p * c->apart < c->n;
}

K_INLINE void k_ask_pieces(const uint32_t once, const k_column *c, const k_column_from *from, uint32_t first, k_words4 *words) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < once * K_EACH4; i++) {
        words[i] = (k_words4){{from->stamp.turn, from->stamp.turn, from->stamp.turn, from->stamp.turn}};
        k_load_relaxed4(from->x + (first + i / K_EACH4 * c->apart) * 4 + i % K_EACH4 * 16, k_has_piece(c, first, i / K_EACH4), &words[i]);
    }
}

K_INLINE bool k_is_all_there(const uint32_t once, k_stamp stamp, const k_words4 *words) {
    bool there = true;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < once * K_EACH4; i++) {
        there &= !k_lacking4(stamp, &words[i]);
    }
    return there;
}

/* Pieces as blocks of bytes; what one needs of its neighbours is exchanged for all together. Squares are added up over a block's lanes on the way. */
K_INLINE void k_put_bytes(const uint32_t once, const k_column *c, uint32_t first, const float *x, float *squares) {
    float most[K_ONCE], id[K_ONCE];
    K_UNROLL_ALL
    for (uint32_t p = 0; p < once; p++) {
        most[p] = 0;
        K_UNROLL_ALL
        for (uint32_t j = 0; j < K_EACH; j++) {
            most[p] = __builtin_fmaxf(most[p], __builtin_fabsf(x[p * K_EACH + j]));
        }
    }
    K_UNROLL_ALL
    for (int m = K_GROUPED / 2; m; m /= 2) {
        K_UNROLL_ALL
        for (uint32_t p = 0; p < once; p++) {
            most[p] = __builtin_fmaxf(most[p], k_exchange(most[p], m));
        }
        *squares += k_exchange(*squares, m);
    }
    K_UNROLL_ALL
    for (uint32_t p = 0; p < once; p++) {
        most[p] *= 1.0f / 127.0f;
        id[p] = most[p] > 0 ? k_reciprocal(most[p]) : 0;
        K_UNROLL_ALL
        for (uint32_t w = 0; w < K_EACH4; w++) {
            const float *four = x + p * K_EACH + w * 4;
            uint32_t bytes = k_bytes4(k_nearest_byte(four[0], id[p]), k_nearest_byte(four[1], id[p]), k_nearest_byte(four[2], id[p]),
                                      k_nearest_byte(four[3], id[p]));
            if (k_has_piece(c, first, p)) {
                ((k_u32 *)(void *)(c->bytes + first + p * K_APIECE))[w] = bytes;
            }
        }
    }
    K_UNROLL_ALL
    for (uint32_t p = 0; p < once; p++) {
        uint32_t block = (first + p * K_APIECE) / 32;
        if (k_lane() % K_GROUPED == 0 && k_has_piece(c, first, p)) {
            c->scale[block] = most[p];
        }
    }
}

K_INLINE void k_put_floats(const uint32_t once, const k_column *c, uint32_t first, const float *x) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < once * K_EACH4; i++) {
        if (k_has_piece(c, first, i / K_EACH4)) {
            *(k_floats4 *)(void *)(c->x + first + i / K_EACH4 * K_APIECE + i % K_EACH4 * 4) =
                (k_floats4){{x[i * 4], x[i * 4 + 1], x[i * 4 + 2], x[i * 4 + 3]}};
        }
    }
}

/* What was asked for. A warp asks again for all of its pieces until all are there: so it does in few instructions, and for whole sectors. */
K_INLINE void k_have_pieces(const uint32_t once, const k_column *c, const k_column_from *from, uint32_t first, const k_meanwhile *meanwhile,
                            k_words4 *words, float *x) {
    const k_stamp stamp = k_stamp_again(from->stamp); /* or the compiler would look at what was asked for before it goes on */
    uint32_t polls = 0;
    for (;;) {
        if (once <= K_ONCE / 2 && meanwhile && meanwhile->again) { /* of the most pieces, registers have no room for more */
            meanwhile->again(meanwhile->context);
        }
        if (!k_warp_any(!k_is_all_there(once, stamp, words)) || k_warp_any(k_waits_in_vain(&polls))) {
            break;
        }
        k_ask_pieces(once, c, from, first, words);
    }
    K_UNROLL_ALL
    for (uint32_t i = 0; i < once * K_EACH; i++) {
        x[i] = k_taken(stamp, words[i / 4].w[i % 4]);
    }
}

/* From asking to putting, of elements from `base` on; returns the thread's part of the sum of squares, or, of quants, that of a block's lanes. */
K_INLINE float k_move_pieces(const uint32_t once, const bool quants, const k_column *c, const k_column_from *from, uint32_t base,
                             const k_meanwhile *meanwhile) {
    k_words4 words[K_ONCE * K_EACH4];
    k_floats4 by[K_ONCE * K_EACH4];
    float x[K_ONCE * K_EACH], squares = 0;
    uint32_t first = base + k_thread() * K_EACH;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < once * K_EACH4; i++) {
        by[i] = (k_floats4){{0, 0, 0, 0}};
        if (from->weight && k_has_piece(c, first, i / K_EACH4)) {
            by[i] = k_load_floats4(from->weight + (first + i / K_EACH4 * K_APIECE) * 4 + i % K_EACH4 * 16);
        }
    }
    k_ask_pieces(once, c, from, first, words);
    if (meanwhile) {
        meanwhile->first(meanwhile->context);
    }
    k_have_pieces(once, c, from, first, meanwhile, words, x);
    first = base + k_thread_anew() * K_EACH;
    if (from->weight) {
        K_UNROLL_ALL
        for (uint32_t i = 0; i < once * K_EACH; i++) {
            squares += x[i] * x[i];
            x[i] *= by[i / 4].f[i % 4];
        }
    }
    if (quants) {
        k_put_bytes(once, c, first, x, &squares);
    } else {
        k_put_floats(once, c, first, x);
    }
    return squares;
}

/* Over a warp, of what a block's lanes have alike. */
K_INLINE float k_blocks_sum(float x) {
    K_UNROLL_ALL
    for (int m = K_GROUPED; m < K_LANES; m *= 2) {
        x += k_exchange(x, m);
    }
    return x;
}

/* The column, or the slice of it. What the norm divides by is the same for all elements: it is left to who holds the column, or to results
 * (k_column_norm), so that nobody waits for it here. */
K_INLINE void k_bring_column(const bool quants, const k_column *c, const k_column_from *from, const k_meanwhile *meanwhile) {
    float squares = 0;
    if (c->n <= K_ONCE / 4 * K_APIECE) {
        squares = k_move_pieces(K_ONCE / 4, quants, c, from, 0, meanwhile);
    } else if (c->n <= K_ONCE / 2 * K_APIECE) {
        squares = k_move_pieces(K_ONCE / 2, quants, c, from, 0, meanwhile);
    } else {
        squares = k_move_pieces(K_ONCE, quants, c, from, 0, meanwhile);
        for (uint32_t base = K_ONCE * K_APIECE; base < c->n; base += K_ONCE * K_APIECE) {
            squares += k_move_pieces(K_ONCE, quants, c, from, base, NULL);
        }
    }
    if (from->weight) {
        squares = quants ? k_blocks_sum(squares) : k_warp_sum(squares);
        if (k_lane() == 0) {
            c->squares[k_warp()] = squares;
        }
    }
    k_block_sync();
}

/* What the column was not multiplied with. */
K_INLINE float k_column_norm(const k_op *op, const k_column *c) {
    float sum[K_WARPS];
    K_UNROLL_ALL
    for (uint32_t w = 0; w < K_WARPS; w++) {
        sum[w] = c->squares[w];
    }
    K_UNROLL_ALL
    for (uint32_t n = K_WARPS / 2; n; n /= 2) {
        K_UNROLL_ALL
        for (uint32_t w = 0; w < n; w++) {
            sum[w] += sum[w + n];
        }
    }
    const float norm = k_reciprocal_root(sum[0] * k_reciprocal((float)c->n) + k_param(op, K_EPS));
    return op->before == K_BEFORE_RMS_NORM ? norm : 1;
}

/* ---- holding ---- */

enum { K_BY_BLOCK = 1 /* of q4_0: 32 elements */, K_BY_HALF_BLOCK /* of q8_0: 16 */, K_BY_EIGHT /* halves */, K_BY_FOUR /* of long rows */ };
enum { K_MOST_PIECES = K_LANES == 1 ? 8 : 4 };
_Static_assert(K_LANES == 1 || (K_MOST_PIECES * K_LANES * 16 == K_HELD_BYTES && K_MOST_PIECES * K_LANES * 8 == K_HELD_HALVES), "as plans have it");

/* Pieces of a row, of 16 bytes each, that a lane takes at once. */
K_INLINE uint32_t k_pieces(const int kind) {
    return kind == K_BY_BLOCK ? K_MOST_PIECES / 2 : K_MOST_PIECES;
}

/* What a lane holds of the column, for all rows, and where in a row its pieces and their scales lie. */
typedef struct k_held {
    uint32_t base;                       /* the first piece */
    uint32_t piece[K_MOST_PIECES], live; /* live: a bit each; those beyond the end count nothing: in their place the last is read */
    k_words4 x[K_MOST_PIECES][2];
    float scale[K_MOST_PIECES], sum[K_MOST_PIECES]; /* of q4_0: a sixteenth of the scale; eight times the sum */
} k_held;

/* Pieces base + lane, ... */
K_INLINE void k_hold_at(const int kind, uint32_t base, uint32_t end, k_held *h) {
    h->base = base;
    h->live = 0;
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        uint32_t i = base + p * K_LANES + k_lane();
        h->live |= i < end ? 1u << p : 0;
        h->piece[p] = i < end ? i : end - 1;
    }
}

/* Of a block's 32 bytes. */
K_INLINE int32_t k_sum_of_block(const k_words4 *x) {
    int32_t sum = 0;
    K_UNROLL_ALL
    for (int i = 0; i < 8; i++) {
        sum = k_dot4(0x01010101u, x[i / 4].w[i % 4], sum);
    }
    return sum;
}

/* What the column has at these places. */
K_INLINE void k_hold(const int kind, const k_column *c, float norm, k_held *h) {
    K_UNROLL_ALL
    for (uint32_t p = 0; p < k_pieces(kind); p++) {
        uint32_t i = h->piece[p], block = kind == K_BY_BLOCK ? i : i / 2;
        bool live = h->live >> p & 1;
        if (kind == K_BY_EIGHT) {
            h->x[p][0] = *(const k_words4 *)(const void *)(c->x + i * 8);
            h->x[p][1] = *(const k_words4 *)(const void *)(c->x + i * 8 + 4);
            h->scale[p] = live ? 1 : 0;
            continue;
        }
        h->x[p][0] = *(const k_words4 *)(const void *)(c->bytes + i * (kind == K_BY_BLOCK ? 32 : 16));
        h->x[p][1] = kind == K_BY_BLOCK ? *(const k_words4 *)(const void *)(c->bytes + i * 32 + 16) : h->x[p][0];
        float scale = live ? k_from_half(k_to_half(c->scale[block] * norm)) : 0; /* as ggml's q8_0 has it */
        h->scale[p] = kind == K_BY_BLOCK ? scale * 0.0625f : scale;
        h->sum[p] = kind == K_BY_BLOCK ? scale * 8 * (float)k_sum_of_block(h->x[p]) : 0;
    }
}

#endif
