/* What both ways to compute a tile share (kernel_tiles.h): where its sides lie, quants made halves. */
#ifndef SP_DEVICE_CUDA_KERNEL_TILE_H
#define SP_DEVICE_CUDA_KERNEL_TILE_H

#include "device/cuda/kernel_halves.h"

enum {
    K_LINE = K_TILE_K * 2,            /* bytes of a row of a side in a stage */
    K_FRAGMENTS = K_TILE_N / K_WARPS, /* of a warp's sums: 16 rows, 8 columns each */
};

/* A tile of the result: where its sides lie. */
typedef struct k_tile {
    const uint8_t *left, *right;      /* of its plane */
    const uint8_t *second;            /* a gated unit's other matrix, whose rows are the tile's second half; NULL: there is none */
    uint64_t stride;                  /* of rows of the left side */
    uint32_t row, rows;               /* the first; of the matrix */
    uint32_t column, columns, i2, i3; /* likewise, in its plane */
    uint32_t lines;                   /* K_OP_HALVES' rows of the right side, padded */
    uint32_t n, by;
    uint32_t from, to;               /* steps */
    uint32_t number, piece;          /* of all tiles; of this one */
    const k_f32 *by_row, *by_column; /* what sums are multiplied with; NULL: nothing */
} k_tile;

/* ---- quants ---- */

#ifdef __NVPTX__

/* Two halves: a - b, a * b, a * b + c. */
K_INLINE uint32_t k_halves_less(uint32_t a, uint32_t b) {
    uint32_t d;
    __asm__("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
K_INLINE uint32_t k_halves_times(uint32_t a, uint32_t b) {
    uint32_t d;
    __asm__("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
K_INLINE uint32_t k_halves_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    __asm__("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
K_INLINE uint32_t k_bytes_of(uint32_t a, uint32_t b, uint32_t which) {
    uint32_t d;
    __asm__("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(which));
    return d;
}

/* Quants become halves by their bits: 0x6400 is 1024, whose last bit counts one. Four bytes are four elements, and the four 16 further on. */
K_INLINE void k_halves_of_q4(uint32_t bytes, uint32_t scale, uint32_t *low, uint32_t *high) {
    uint32_t x = k_bytes_of(bytes, bytes, 0x3120); /* the bytes of two neighbours are 16 bits apart */
    K_UNROLL_ALL
    for (int i = 0; i < 2; i++, x >>= 8) {
        low[i] = k_halves_times(k_halves_less((x & 0x000f000fu) | 0x64006400u, 0x64086408u), scale);
        high[i] = k_halves_times(k_halves_fma((x & 0x00f000f0u) | 0x64006400u, 0x2c002c00u, 0xd480d480u), scale); /* / 16 - 72 */
    }
}
K_INLINE void k_halves_of_q8(uint32_t bytes, uint32_t scale, uint32_t *out) {
    uint32_t x = bytes ^ 0x80808080u;
    out[0] = k_halves_times(k_halves_less(k_bytes_of(x, 0x64646464u, 0x4140), 0x64806480u), scale);
    out[1] = k_halves_times(k_halves_less(k_bytes_of(x, 0x64646464u, 0x4342), 0x64806480u), scale);
}

#else

K_INLINE uint32_t k_scaled(float low, float high, uint32_t scale) {
    float d = k_from_half((uint16_t)scale);
    return k_two_halves(low * d, high * d);
}
K_INLINE void k_halves_of_q4(uint32_t bytes, uint32_t scale, uint32_t *low, uint32_t *high) {
    for (uint32_t i = 0; i < 2; i++, bytes >>= 16) {
        low[i] = k_scaled((float)(bytes & 15) - 8, (float)(bytes >> 8 & 15) - 8, scale);
        high[i] = k_scaled((float)(bytes >> 4 & 15) - 8, (float)(bytes >> 12 & 15) - 8, scale);
    }
}
K_INLINE void k_halves_of_q8(uint32_t bytes, uint32_t scale, uint32_t *out) {
    for (uint32_t i = 0; i < 2; i++, bytes >>= 16) {
        out[i] = k_scaled((float)(int8_t)bytes, (float)(int8_t)(bytes >> 8), scale);
    }
}

#endif

/* Row r of the tile; rows behind the last are the last. */
K_INLINE const uint8_t *k_left_row(const k_tile *t, uint32_t r) {
    bool other = t->second && r >= K_TILE_M / 2;
    uint32_t row = t->row + (other ? r - K_TILE_M / 2 : r);
    return (other ? t->second : t->left) + (row < t->rows ? row : t->rows - 1) * t->stride;
}

#endif
