/*
 * Products on the tensor cores of Hopper, whose instructions (wgmma) take both sides from shared memory and are under way while other work is done:
 * four warps multiply 64 lines of one side by all of the other. Lines have 128 bytes, their pieces of 16 in the order that K_OP_HALVES gives them,
 * which is the hardware's 128-byte swizzle.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_WGMMA_H
#define SP_DEVICE_CUDA_KERNEL_WGMMA_H

#include "device/cuda/kernel_fragments.h"

#ifdef __NVPTX__

/* A matrix in shared memory: its address, 1,024 bytes from eight lines to the next, the swizzle. */
K_INLINE uint64_t k_matrix(const uint8_t *at) {
    return (uint64_t)((k_address_of(at) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

/* The same, of which the instruction takes columns as its lines: 1,024 bytes from eight lines to the next, `apart` from 64 columns to the next. */
K_INLINE uint64_t k_matrix_turned(const uint8_t *at, uint32_t apart) {
    return (uint64_t)((k_address_of(at) & 0x3ffff) >> 4) | (uint64_t)(apart >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

#define K_SUMS4(i) "+f"(c[i].f[0]), "+f"(c[i].f[1]), "+f"(c[i].f[2]), "+f"(c[i].f[3])
#define K_SUMS16(i) K_SUMS4(i), K_SUMS4((i) + 1), K_SUMS4((i) + 2), K_SUMS4((i) + 3)
#define K_SUMS64(i) K_SUMS16(i), K_SUMS16((i) + 4), K_SUMS16((i) + 8), K_SUMS16((i) + 12)
#define K_SUMS32(i) K_SUMS16(i), K_SUMS16((i) + 4)
#define K_NUMBERS32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define K_NUMBERS64                                                                                                                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                         \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"                       \
    "%62,%63"

/* 64 lines of one side, 128 of the other, 16 elements. */
K_INLINE void k_multiply_matrices(uint64_t left, uint64_t right, k_fragment_c *c) {
    __asm__ volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" K_NUMBERS64 "}, %64, %65, 1, 1, 1, 0, 0;"
                     : K_SUMS64(0)
                     : "l"(left), "l"(right));
}

/* 64 lines of each side. */
K_INLINE void k_multiply_lines(uint64_t left, uint64_t right, k_fragment_c *c) {
    __asm__ volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" K_NUMBERS32 "}, %32, %33, 1, 1, 1, 0, 0;"
                     : K_SUMS32(0)
                     : "l"(left), "l"(right));
}

/* 64 lines out of registers, 16 of each warp; 64 lines of a matrix, or 64 or 128 columns. */
#define K_OF_A(a) "r"((a)->w[0]), "r"((a)->w[1]), "r"((a)->w[2]), "r"((a)->w[3])
K_INLINE void k_multiply_held(const k_half_a *left, uint64_t right, k_fragment_c *c) {
    __asm__ volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" K_NUMBERS32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
                     : K_SUMS32(0)
                     : K_OF_A(left), "l"(right));
}
K_INLINE void k_multiply_held_turned(const uint32_t wide, const k_half_a *left, uint64_t right, k_fragment_c *c) {
    if (wide == 64) {
        __asm__ volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" K_NUMBERS32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                         : K_SUMS32(0)
                         : K_OF_A(left), "l"(right));
    } else {
        __asm__ volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" K_NUMBERS64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                         : K_SUMS64(0)
                         : K_OF_A(left), "l"(right));
    }
}
/* Sums that were under way: nobody takes them before this. */
K_INLINE void k_sums_there(k_fragment_c *c, const uint32_t n) {
    K_UNROLL_ALL
    for (uint32_t i = 0; i < n; i++) {
        __asm__ volatile("" : "+f"(c[i].f[0]), "+f"(c[i].f[1]), "+f"(c[i].f[2]), "+f"(c[i].f[3])::"memory");
    }
}

/* A part of a matrix that the host made a map of (driver.h): so many elements of 64 rows, from element x of row `row` of a plane; what is not there
 * is zeros. */
K_INLINE void k_bring_matrix(uint8_t *to, uint64_t map, uint32_t x, uint32_t row, uint32_t i2, uint32_t i3, const uint64_t *bar) {
    __asm__ volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2,%3,%4,%5}], [%6];" ::"r"(k_address_of(to)),
        "l"(map), "r"(x), "r"(row), "r"(i2), "r"(i3), "r"(k_address_of(bar))
        : "memory");
}
/* The map may be another than the one that was at this address before. */
K_INLINE void k_see_map(uint64_t map) {
    __asm__ volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}

/* What was written into shared memory is seen by the tensor cores of all that meet at a barrier behind this. */
K_INLINE void k_show_matrices(void) {
    __asm__ volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
K_INLINE void k_multiply_start(void) {
    __asm__ volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
K_INLINE void k_multiply_group(void) {
    __asm__ volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All groups but the last, or all. */
K_INLINE void k_multiply_wait(void) {
    __asm__ volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
}
K_INLINE void k_multiply_wait_all(void) {
    __asm__ volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
/* All, on one of two ways: of the same text on both the compiler makes one, in front of the fork. */
K_INLINE void k_multiply_wait_here(void) {
    __asm__ volatile("wgmma.wait_group.sync.aligned 0; /* here */" ::: "memory");
}

#endif

#endif
