/*
 * Products of small matrices of halves, with sums in floats: on tensor cores, by the fragments of the PTX ISA's m16n8k16. On the host a warp is one
 * lane, whose fragment is all of it.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_FRAGMENTS_H
#define SP_DEVICE_CUDA_KERNEL_FRAGMENTS_H

#include "device/cuda/numbers.h"

#ifdef __NVPTX__

typedef struct k_half_a {
    uint32_t w[4];
} k_half_a;
typedef struct k_half_b {
    uint32_t w[2];
} k_half_b;
typedef struct k_fragment_c {
    float f[4];
} k_fragment_c;
enum { K_OF_C = 4, K_C_ROWS = 2 /* rows of a result that a lane has elements of */ };

K_INLINE uint32_t k_address_of(const void *at) {
    return (uint32_t)(uintptr_t)(__attribute__((address_space(3))) const void *)at;
}
/* Four matrices of 8 rows of 8 halves; lane l has the address of row l % 8 of matrix l / 8. */
K_INLINE void k_load_matrices(uint32_t from, uint32_t *w) {
    __asm__ volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "r"(from)
                     : "memory");
}
K_INLINE void k_load_matrices_turned(uint32_t from, uint32_t *w) {
    __asm__ volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                     : "r"(from)
                     : "memory");
}
K_INLINE void k_multiply_halves(k_fragment_c *c, const k_half_a *a, const k_half_b *b) {
    __asm__ volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c->f[0]), "+f"(c->f[1]), "+f"(c->f[2]), "+f"(c->f[3])
                     : "r"(a->w[0]), "r"(a->w[1]), "r"(a->w[2]), "r"(a->w[3]), "r"(b->w[0]), "r"(b->w[1]));
}
K_INLINE uint32_t k_slot_in_c(uint32_t e) {
    return e / 2;
}
K_INLINE uint32_t k_row_in_c(uint32_t e) {
    return k_lane() / 4 + e / 2 * 8;
}
K_INLINE uint32_t k_column_in_c(uint32_t e) {
    return k_lane() % 4 * 2 + e % 2;
}

#else

typedef struct k_half_a {
    float x[16][16];
} k_half_a;
typedef struct k_half_b {
    float x[8][16];
} k_half_b;
typedef struct k_fragment_c {
    float f[128];
} k_fragment_c;
enum { K_OF_C = 128, K_C_ROWS = 16 };

K_INLINE void k_multiply_halves(k_fragment_c *c, const k_half_a *a, const k_half_b *b) {
    for (uint32_t e = 0; e < 128; e++) {
        for (uint32_t k = 0; k < 16; k++) {
            c->f[e] += a->x[e / 8][k] * b->x[e % 8][k];
        }
    }
}
K_INLINE uint32_t k_slot_in_c(uint32_t e) {
    return e / 8;
}
K_INLINE uint32_t k_row_in_c(uint32_t e) {
    return e / 8;
}
K_INLINE uint32_t k_column_in_c(uint32_t e) {
    return e % 8;
}

#endif

#endif
