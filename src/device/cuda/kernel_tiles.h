/*
 * Products of many columns, on tensor cores. A block takes a tile of the result and goes along the rows, 32 elements at a time: weights, made floats,
 * and columns are put into shared memory while those before are multiplied. Inputs are rounded to TF32 (10 bits of mantissa, but the exponent of a
 * float: activations beyond the range of halves stay what they are); sums are floats.
 *
 * Fragments: the PTX ISA's m16n8k8 for tf32. On the host a warp is one lane, whose fragment is all of it.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_TILES_H
#define SP_DEVICE_CUDA_KERNEL_TILES_H

#include "device/cuda/kernel_product.h"

enum {
    K_STEP = 32,        /* elements of a row at once: a block of quants */
    K_ROW = K_STEP + 4, /* floats of a row in shared memory: so apart, loads of fragments meet no bank twice */
    K_WARP_ROWS = 32,   /* of the result */
    K_WARP_COLUMNS = 32,
    K_DOWN = K_WARPS == 1 ? 1 : 4, /* warps of a tile */
    K_ACROSS = K_WARPS == 1 ? 1 : 2,
    K_TILE_M = K_WARP_ROWS * K_DOWN,
    K_TILE_N = K_WARP_COLUMNS * K_ACROSS,
};
_Static_assert(K_WARPS == 1 || ((int)K_TILE_M == (int)K_CARD_TILE_ROWS && (int)K_TILE_N == (int)K_CARD_TILE_COLUMNS),
               "work is dealt out by tiles of a card's size");

#ifdef __NVPTX__

typedef struct k_fragment_a {
    uint32_t w[4];
} k_fragment_a;
typedef struct k_fragment_b {
    uint32_t w[2];
} k_fragment_b;
typedef struct k_fragment_c {
    float f[4];
} k_fragment_c;
enum { K_OF_C = 4 };

K_INLINE float k_to_tf32(float x) {
    float y;
    __asm__("{ .reg .b32 t; cvt.rna.tf32.f32 t, %1; mov.b32 %0, t; }" : "=f"(y) : "f"(x));
    return y;
}
/* Cards leave the bits out that are too many. */
K_INLINE float k_cut_tf32(float x) {
    return x;
}
K_INLINE uint32_t k_address_of(const k_f32 *at) {
    return (uint32_t)(uintptr_t)(__attribute__((address_space(3))) const void *)at;
}
/* 16 rows of 8 */
K_INLINE k_fragment_a k_load_a(const k_f32 *at) {
    k_fragment_a a;
    uint32_t from = k_address_of(at + k_lane() % 16 * K_ROW + k_lane() / 16 * 4);
    __asm__ volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a.w[0]), "=r"(a.w[1]), "=r"(a.w[2]), "=r"(a.w[3])
                     : "r"(from)
                     : "memory");
    return a;
}
/* Two times 8 columns of 8 */
K_INLINE void k_load_b(const k_f32 *at, k_fragment_b *first, k_fragment_b *second) {
    uint32_t from = k_address_of(at + (k_lane() / 16 * 8 + k_lane() % 8) * K_ROW + k_lane() / 8 % 2 * 4);
    __asm__ volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(first->w[0]), "=r"(first->w[1]), "=r"(second->w[0]), "=r"(second->w[1])
                     : "r"(from)
                     : "memory");
}
K_INLINE void k_multiply(k_fragment_c *c, const k_fragment_a *a, const k_fragment_b *b) {
    __asm__ volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c->f[0]), "+f"(c->f[1]), "+f"(c->f[2]), "+f"(c->f[3])
                     : "r"(a->w[0]), "r"(a->w[1]), "r"(a->w[2]), "r"(a->w[3]), "r"(b->w[0]), "r"(b->w[1]));
}
K_INLINE uint32_t k_row_in_c(uint32_t e) {
    return k_lane() / 4 + e / 2 * 8;
}
K_INLINE uint32_t k_column_in_c(uint32_t e) {
    return k_lane() % 4 * 2 + e % 2;
}

#else

typedef struct k_fragment_a {
    float x[16][8];
} k_fragment_a;
typedef struct k_fragment_b {
    float x[8][8];
} k_fragment_b;
typedef struct k_fragment_c {
    float f[128];
} k_fragment_c;
enum { K_OF_C = 128 };

/* To nearest, as a card does: 13 bits less. */
K_INLINE float k_to_tf32(float x) {
    uint32_t bits = k_float_bits(x);
    return (bits >> 23 & 255) == 255 ? x : k_bits_float((bits + 0x1000u) & ~0x1fffu);
}
K_INLINE float k_cut_tf32(float x) {
    return k_bits_float(k_float_bits(x) & ~0x1fffu);
}
K_INLINE k_fragment_a k_load_a(const k_f32 *at) {
    k_fragment_a a;
    for (uint32_t i = 0; i < 128; i++) {
        a.x[i / 8][i % 8] = at[i / 8 * K_ROW + i % 8];
    }
    return a;
}
K_INLINE void k_load_b(const k_f32 *at, k_fragment_b *first, k_fragment_b *second) {
    for (uint32_t i = 0; i < 64; i++) {
        first->x[i / 8][i % 8] = at[i / 8 * K_ROW + i % 8];
        second->x[i / 8][i % 8] = at[(8 + i / 8) * K_ROW + i % 8];
    }
}
K_INLINE void k_multiply(k_fragment_c *c, const k_fragment_a *a, const k_fragment_b *b) {
    for (uint32_t e = 0; e < 128; e++) {
        for (uint32_t k = 0; k < 8; k++) {
            c->f[e] += a->x[e / 8][k] * b->x[e % 8][k];
        }
    }
}
K_INLINE uint32_t k_row_in_c(uint32_t e) {
    return e / 8;
}
K_INLINE uint32_t k_column_in_c(uint32_t e) {
    return e % 8;
}

#endif

/* ---- what a thread brings: half a block of a row, an eighth of K_TILE_N columns' elements ---- */

enum { K_HALVES = K_TILE_M * 2 / K_THREADS, K_EIGHTS = K_TILE_N * 4 / K_THREADS }; /* one each, on a card */

/* How a side is read: element by element, or by pieces of 16 bytes, which are under way while the step before is multiplied. */
enum { K_BY_ELEMENT, K_BY_Q4, K_BY_Q8, K_BY_F16, K_BY_F32 };

/* As it lies in memory: 16 weights with their scale. */
typedef struct k_raw_weights {
    k_words4 w[2];
    uint16_t scale;
} k_raw_weights;

K_INLINE k_raw_weights k_take_weights(const int by, const uint8_t *row, uint32_t i, uint32_t n) {
    k_raw_weights raw = {0};
    if (by == K_BY_Q4) { /* the whole block: the upper half's bits are the upper four */
        raw.w[0] = *(const k_words4 *)(const void *)(row + i / 32 * 16);
        raw.scale = *(const k_u16 *)(const void *)(row + n / 2 + i / 32 * 2);
    } else if (by == K_BY_Q8) {
        raw.w[0] = *(const k_words4 *)(const void *)(row + i);
        raw.scale = *(const k_u16 *)(const void *)(row + n + i / 32 * 2);
    } else if (by == K_BY_F16) {
        raw.w[0] = *(const k_words4 *)(const void *)(row + i * 2ull);
        raw.w[1] = *(const k_words4 *)(const void *)(row + i * 2ull + 16);
    }
    return raw;
}

/* The b-th of four unsigned bytes, less `from`: by the bits of a float, as cards convert integers slowly. */
K_INLINE float k_byte_less(uint32_t bytes, int b, float from) {
    return k_bits_float(0x4b000000u | (bytes >> 8 * b & 255)) - (8388608.0f + from);
}

K_INLINE void k_weights_of(const int by, const k_raw_weights *raw, uint32_t i, float *x) {
    float d = k_from_half(raw->scale);
    K_UNROLL_ALL
    for (int w = 0; w < 4; w++) {
        uint32_t bytes = by == K_BY_Q4 ? raw->w[0].w[w] >> i % 32 / 4 & 0x0f0f0f0fu : raw->w[0].w[w] ^ 0x80808080u;
        K_UNROLL_ALL
        for (int b = 0; b < 4; b++) {
            int e = w * 4 + b;
            x[e] = by == K_BY_F16 ? k_from_half((uint16_t)(raw->w[e / 8].w[e % 8 / 2] >> 16 * (e % 2)))
                                  : d * k_byte_less(bytes, b, by == K_BY_Q4 ? 8 : 128);
        }
    }
}

/* Weights lose what TF32 has no room for: halves nothing, those of quants less than their own rounding lost. */
K_INLINE void k_put_cut(k_f32 *to, const float *x) {
    K_UNROLL_ALL
    for (int i = 0; i < 16; i += 4) {
        *(k_floats4 *)(void *)(to + i) = (k_floats4){{k_cut_tf32(x[i]), k_cut_tf32(x[i + 1]), k_cut_tf32(x[i + 2]), k_cut_tf32(x[i + 3])}};
    }
}

K_INLINE void k_put_rounded(k_f32 *to, const k_floats4 *x) {
    K_UNROLL_ALL
    for (int i = 0; i < 2; i++) {
        const float *f = x[i].f;
        *(k_floats4 *)(void *)(to + i * 4) = (k_floats4){{k_to_tf32(f[0]), k_to_tf32(f[1]), k_to_tf32(f[2]), k_to_tf32(f[3])}};
    }
}

/* A tile of the result: where its sides lie. */
typedef struct k_tile {
    const uint8_t *left;
    uint32_t row, rows;               /* the first; of the matrix */
    uint32_t column, columns, i2, i3; /* likewise, in its plane */
    uint32_t n;
    int left_by, right_by;
} k_tile;

/* What a thread brings for the next step. */
typedef struct k_brought_sides {
    k_raw_weights left[K_HALVES];
    k_floats4 right[K_EIGHTS][2];
} k_brought_sides;

/* The thread's j-th piece of the left side: its row of the tile, and where in the step it begins. */
K_INLINE const uint8_t *k_left_piece(const k_op *op, const k_tile *t, uint32_t j, uint32_t *r, uint32_t *i) {
    uint32_t at = k_thread() + j * K_THREADS;
    *r = at / 2, *i = at % 2 * 16;
    return t->left + (t->row + *r < t->rows ? t->row + *r : t->rows - 1) * (uint64_t)op->src[0].nb[1];
}
K_INLINE const uint8_t *k_right_piece(const k_op *op, const k_tile *t, uint32_t j, uint32_t *c, uint32_t *i) {
    uint32_t at = k_thread() + j * K_THREADS;
    *c = at / 4, *i = at % 4 * 8;
    return k_row(&op->src[1], t->column + *c < t->columns ? t->column + *c : t->columns - 1, t->i2, t->i3);
}

K_INLINE void k_take_sides(const int left_by, const k_op *op, const k_tile *t, uint32_t step, k_brought_sides *b) {
    uint32_t at, i;
    K_UNROLL_ALL
    for (uint32_t j = 0; left_by != K_BY_ELEMENT && j < K_HALVES; j++) {
        const uint8_t *row = k_left_piece(op, t, j, &at, &i);
        b->left[j] = k_take_weights(left_by, row, step + i, t->n);
    }
    K_UNROLL_ALL
    for (uint32_t j = 0; t->right_by == K_BY_F32 && j < K_EIGHTS; j++) {
        const uint8_t *from = k_right_piece(op, t, j, &at, &i) + (step + i) * 4ull;
        b->right[j][0] = *(const k_floats4 *)(const void *)from;
        b->right[j][1] = *(const k_floats4 *)(const void *)(from + 16);
    }
}

K_INLINE void k_put_left(const int by, const k_op *op, const k_tile *t, uint32_t step, const k_brought_sides *b, k_f32 *to) {
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_HALVES; j++) {
        uint32_t r, i;
        const uint8_t *row = k_left_piece(op, t, j, &r, &i);
        float x[16];
        if (by != K_BY_ELEMENT) {
            k_weights_of(by, &b->left[j], step + i, x);
            k_put_cut(to + r * K_ROW + i, x);
            continue;
        }
        for (uint32_t e = 0; e < 16; e++) {
            to[r * K_ROW + i + e] = k_to_tf32(k_element(op->src[0].type, row, step + i + e, t->n));
        }
    }
}

K_INLINE void k_put_right(const k_op *op, const k_tile *t, uint32_t step, const k_brought_sides *b, k_f32 *to) {
    K_UNROLL_ALL
    for (uint32_t j = 0; j < K_EIGHTS; j++) {
        uint32_t c, i;
        const uint8_t *from = k_right_piece(op, t, j, &c, &i);
        if (t->right_by == K_BY_F32) {
            k_put_rounded(to + c * K_ROW + i, b->right[j]);
            continue;
        }
        for (uint32_t e = 0; e < 8; e++) {
            to[c * K_ROW + i + e] = k_to_tf32(k_element(op->src[1].type, from, step + i + e, t->n));
        }
    }
}

typedef struct k_sums {
    k_fragment_c c[2][4];
} k_sums;

/* One step of a warp: 32 rows, 32 columns, 32 elements. */
K_INLINE void k_multiply_step(const k_f32 *left, const k_f32 *right, k_sums *sums) {
    const k_f32 *rows = left + k_warp() / K_ACROSS * K_WARP_ROWS * K_ROW, *columns = right + k_warp() % K_ACROSS * K_WARP_COLUMNS * K_ROW;
    K_UNROLL_ALL
    for (uint32_t k = 0; k < K_STEP; k += 8) {
        k_fragment_a a[2] = {k_load_a(rows + k), k_load_a(rows + 16 * K_ROW + k)};
        k_fragment_b b[4];
        k_load_b(columns + k, &b[0], &b[1]);
        k_load_b(columns + 16 * K_ROW + k, &b[2], &b[3]);
        K_UNROLL_ALL
        for (int i = 0; i < 8; i++) {
            k_multiply(&sums->c[i / 4][i % 4], &a[i / 4], &b[i % 4]);
        }
    }
}

K_INLINE void k_put_tile(const k_op *op, const k_tile *t, const k_sums *sums) {
    uint32_t row = t->row + k_warp() / K_ACROSS * K_WARP_ROWS, column = t->column + k_warp() % K_ACROSS * K_WARP_COLUMNS;
    K_UNROLL_ALL
    for (uint32_t i = 0; i < 8; i++) {
        K_UNROLL_ALL
        for (uint32_t e = 0; e < K_OF_C; e++) {
            uint32_t r = row + i / 4 * 16 + k_row_in_c(e), c = column + i % 4 * 8 + k_column_in_c(e);
            if (r < t->rows && c < t->columns) {
                ((k_f32 *)(void *)k_row(&op->dst, c, t->i2, t->i3))[r] = sums->c[i / 4][i % 4].f[e];
            }
        }
    }
}

K_FN k_tile k_tile_of(const k_op *op, uint64_t task) {
    const k_tensor *a = &op->src[0], *b = &op->src[1], *d = &op->dst;
    k_tile t = {.rows = (uint32_t)a->ne[1], .columns = (uint32_t)d->ne[1], .n = (uint32_t)a->ne[0]};
    t.column = k_divide(&task, (t.columns + K_TILE_N - 1) / K_TILE_N) * K_TILE_N; /* neighbours share their weights */
    t.row = k_divide(&task, (t.rows + K_TILE_M - 1) / K_TILE_M) * K_TILE_M;
    t.i2 = k_divide(&task, (uint32_t)d->ne[2]);
    t.i3 = (uint32_t)task;
    t.left = k_row(a, 0, t.i2 / ((uint32_t)d->ne[2] / (uint32_t)a->ne[2]), t.i3 / ((uint32_t)d->ne[3] / (uint32_t)a->ne[3]));
    bool aligned = ((a->data | b->data | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3] | b->nb[1] | b->nb[2] | b->nb[3])) & 15) == 0;
    t.left_by = a->type == K_TYPE_Q4_0_SPLIT        ? K_BY_Q4
                : a->type == K_TYPE_Q8_0_SPLIT      ? K_BY_Q8
                : a->type == SP_TYPE_F16 && aligned ? K_BY_F16
                                                    : K_BY_ELEMENT;
    t.right_by = b->type == SP_TYPE_F32 && aligned ? K_BY_F32 : K_BY_ELEMENT;
    return t;
}

K_INLINE void k_multiply_tile(const int left_by, const k_op *op, const k_tile *t) {
    k_f32 *left = (k_f32 *)(void *)(k_shared() + 1024), *right = left + 2 * K_TILE_M * K_ROW; /* two of each */
    k_sums sums = {0};
    k_brought_sides next;
    k_take_sides(left_by, op, t, 0, &next);
    k_block_sync();
    k_put_left(left_by, op, t, 0, &next, left);
    k_put_right(op, t, 0, &next, right);
    for (uint32_t step = 0, at = 0; step < t->n; step += K_STEP, at ^= 1) {
        bool more = step + K_STEP < t->n;
        if (more) {
            k_take_sides(left_by, op, t, step + K_STEP, &next);
        }
        k_block_sync();
        k_multiply_step(left + at * K_TILE_M * K_ROW, right + at * K_TILE_N * K_ROW, &sums);
        if (more) {
            k_put_left(left_by, op, t, step + K_STEP, &next, left + (at ^ 1) * K_TILE_M * K_ROW);
            k_put_right(op, t, step + K_STEP, &next, right + (at ^ 1) * K_TILE_N * K_ROW);
        }
    }
    k_put_tile(op, t, &sums);
}

K_APART void k_do_tiles(const k_op *op, uint32_t part) {
    uint64_t tasks = (uint64_t)((uint32_t)(op->dst.ne[1] + K_TILE_N - 1) / K_TILE_N) * ((uint32_t)(op->dst.ne[0] + K_TILE_M - 1) / K_TILE_M) *
                     (uint32_t)op->dst.ne[2] * (uint32_t)op->dst.ne[3];
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        const k_tile t = k_tile_of(op, task);
        switch (t.left_by) {
        case K_BY_Q4:
            k_multiply_tile(K_BY_Q4, op, &t);
            break;
        case K_BY_Q8:
            k_multiply_tile(K_BY_Q8, op, &t);
            break;
        case K_BY_F16:
            k_multiply_tile(K_BY_F16, op, &t);
            break;
        default:
            k_multiply_tile(K_BY_ELEMENT, op, &t);
        }
    }
}

#endif
