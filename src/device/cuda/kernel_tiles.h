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

/* 16 weights, from element i on. */
K_INLINE void k_weights_of(uint32_t type, const uint8_t *row, uint32_t i, uint32_t n, float *x) {
    if (type == K_TYPE_Q4_0_SPLIT) {
        k_words4 w = *(const k_words4 *)(const void *)(row + i / 32 * 16);
        float d = k_half(row + n / 2 + i / 32 * 2);
        uint32_t shift = i % 32 / 4; /* the upper half's bits are the upper four */
        K_UNROLL
        for (int e = 0; e < 16; e++) {
            x[e] = d * (float)((int32_t)(w.w[e / 4] >> (8 * (e % 4) + shift) & 15) - 8);
        }
    } else if (type == K_TYPE_Q8_0_SPLIT) {
        k_words4 w = *(const k_words4 *)(const void *)(row + i);
        float d = k_half(row + n + i / 32 * 2);
        K_UNROLL
        for (int e = 0; e < 16; e++) {
            x[e] = d * (float)(int8_t)(w.w[e / 4] >> 8 * (e % 4));
        }
    } else {
        K_UNROLL
        for (int e = 0; e < 16; e++) {
            x[e] = k_element(type, row, i + (uint32_t)e, n);
        }
    }
}

/* Halves come often, and are aligned where rows are. */
K_INLINE void k_halves_of(const uint8_t *row, uint32_t i, float *x) {
    k_words4 w[2] = {*(const k_words4 *)(const void *)(row + i * 2ull), *(const k_words4 *)(const void *)(row + i * 2ull + 16)};
    K_UNROLL
    for (int e = 0; e < 16; e++) {
        x[e] = k_from_half((uint16_t)(w[e / 8].w[e % 8 / 2] >> 16 * (e % 2)));
    }
}

K_INLINE void k_put_rounded(k_f32 *to, const float *x, const int n) {
    K_UNROLL
    for (int i = 0; i < n; i += 4) {
        *(k_floats4 *)(void *)(to + i) = (k_floats4){{k_to_tf32(x[i]), k_to_tf32(x[i + 1]), k_to_tf32(x[i + 2]), k_to_tf32(x[i + 3])}};
    }
}

/* A tile of the result: where its sides lie. */
typedef struct k_tile {
    const uint8_t *left;
    uint32_t row, rows;               /* the first; of the matrix */
    uint32_t column, columns, i2, i3; /* likewise, in its plane */
    uint32_t n;
    bool aligned; /* both sides, for loads of 16 bytes */
} k_tile;

K_INLINE void k_bring_left(const k_op *op, const k_tile *t, uint32_t step, k_f32 *to) {
    for (uint32_t j = 0; j < K_HALVES; j++) {
        uint32_t at = k_thread() + j * K_THREADS, r = at / 2, row = t->row + r < t->rows ? t->row + r : t->rows - 1;
        const uint8_t *from = t->left + row * (uint64_t)op->src[0].nb[1];
        float x[16];
        if (op->src[0].type == SP_TYPE_F16 && t->aligned) {
            k_halves_of(from, step + at % 2 * 16, x);
        } else {
            k_weights_of(op->src[0].type, from, step + at % 2 * 16, t->n, x);
        }
        k_put_rounded(to + r * K_ROW + at % 2 * 16, x, 16);
    }
}

K_INLINE void k_bring_right(const k_op *op, const k_tile *t, uint32_t step, k_f32 *to) {
    const k_tensor *b = &op->src[1];
    for (uint32_t j = 0; j < K_EIGHTS; j++) {
        uint32_t at = k_thread() + j * K_THREADS, c = at / 4, i = step + at % 4 * 8;
        uint32_t column = t->column + c < t->columns ? t->column + c : t->columns - 1;
        const uint8_t *from = k_row(b, column, t->i2, t->i3);
        float x[8];
        if (b->type == SP_TYPE_F32 && t->aligned) {
            k_floats4 low = *(const k_floats4 *)(const void *)(from + i * 4ull), high = *(const k_floats4 *)(const void *)(from + i * 4ull + 16);
            K_UNROLL
            for (int e = 0; e < 4; e++) {
                x[e] = low.f[e], x[e + 4] = high.f[e];
            }
        } else {
            K_UNROLL
            for (int e = 0; e < 8; e++) {
                x[e] = k_element(b->type, from, i + (uint32_t)e, t->n);
            }
        }
        k_put_rounded(to + c * K_ROW + at % 4 * 8, x, 8);
    }
}

typedef struct k_sums {
    k_fragment_c c[2][4];
} k_sums;

/* One step of a warp: 32 rows, 32 columns, 32 elements. */
K_INLINE void k_multiply_step(const k_f32 *left, const k_f32 *right, k_sums *sums) {
    const k_f32 *rows = left + k_warp() / K_ACROSS * K_WARP_ROWS * K_ROW, *columns = right + k_warp() % K_ACROSS * K_WARP_COLUMNS * K_ROW;
    K_UNROLL
    for (uint32_t k = 0; k < K_STEP; k += 8) {
        k_fragment_a a[2] = {k_load_a(rows + k), k_load_a(rows + 16 * K_ROW + k)};
        k_fragment_b b[4];
        k_load_b(columns + k, &b[0], &b[1]);
        k_load_b(columns + 16 * K_ROW + k, &b[2], &b[3]);
        K_UNROLL
        for (int i = 0; i < 8; i++) {
            k_multiply(&sums->c[i / 4][i % 4], &a[i / 4], &b[i % 4]);
        }
    }
}

K_INLINE void k_put_tile(const k_op *op, const k_tile *t, const k_sums *sums) {
    uint32_t row = t->row + k_warp() / K_ACROSS * K_WARP_ROWS, column = t->column + k_warp() % K_ACROSS * K_WARP_COLUMNS;
    K_UNROLL
    for (uint32_t i = 0; i < 8; i++) {
        K_UNROLL
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
    t.aligned = ((a->data | b->data | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3] | b->nb[1] | b->nb[2] | b->nb[3])) & 15) == 0;
    return t;
}

K_APART void k_do_tiles(const k_op *op, uint32_t part) {
    uint64_t tasks = (uint64_t)((uint32_t)(op->dst.ne[1] + K_TILE_N - 1) / K_TILE_N) * ((uint32_t)(op->dst.ne[0] + K_TILE_M - 1) / K_TILE_M) *
                     (uint32_t)op->dst.ne[2] * (uint32_t)op->dst.ne[3];
    k_f32 *left = (k_f32 *)(void *)(k_shared() + 1024), *right = left + 2 * K_TILE_M * K_ROW; /* two of each */
    for (uint64_t task = part; task < tasks; task += op->n_parts) {
        const k_tile t = k_tile_of(op, task);
        k_sums sums = {0};
        k_block_sync();
        k_bring_left(op, &t, 0, left);
        k_bring_right(op, &t, 0, right);
        for (uint32_t step = 0, at = 0; step < t.n; step += K_STEP, at ^= 1) {
            k_block_sync();
            if (step + K_STEP < t.n) {
                k_bring_left(op, &t, step + K_STEP, left + (at ^ 1) * K_TILE_M * K_ROW);
                k_bring_right(op, &t, step + K_STEP, right + (at ^ 1) * K_TILE_N * K_ROW);
            }
            k_multiply_step(left + at * K_TILE_M * K_ROW, right + at * K_TILE_N * K_ROW, &sums);
        }
        k_put_tile(op, &t, &sums);
    }
}

#endif
