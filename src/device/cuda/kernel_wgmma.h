/*
 * Products on the tensor cores of Hopper, whose instructions (wgmma) take both sides from shared memory and are under way while other work is done:
 * four warps multiply 64 rows by all columns of a tile. Lines have 128 bytes, their pieces of 16 in the order that K_OP_HALVES gives them, which is
 * the hardware's 128-byte swizzle.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_WGMMA_H
#define SP_DEVICE_CUDA_KERNEL_WGMMA_H

#include "device/cuda/kernel_fragments.h"

#ifdef __NVPTX__

/* A matrix in shared memory: its address, 1,024 bytes from eight lines to the next, the swizzle. */
K_INLINE uint64_t k_matrix(const uint8_t *at) {
    return (uint64_t)((k_address_of(at) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define K_SUMS4(i) "+f"(c[i].f[0]), "+f"(c[i].f[1]), "+f"(c[i].f[2]), "+f"(c[i].f[3])
#define K_SUMS16(i) K_SUMS4(i), K_SUMS4((i) + 1), K_SUMS4((i) + 2), K_SUMS4((i) + 3)
#define K_SUMS64(i) K_SUMS16(i), K_SUMS16((i) + 4), K_SUMS16((i) + 8), K_SUMS16((i) + 12)
#define K_NUMBERS64                                                                                                                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                         \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"                       \
    "%62,%63"

/* 64 rows, 128 columns, 16 elements. */
K_INLINE void k_multiply_matrices(uint64_t left, uint64_t right, k_fragment_c *c) {
    __asm__ volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" K_NUMBERS64 "}, %64, %65, 1, 1, 1, 0, 0;"
                     : K_SUMS64(0)
                     : "l"(left), "l"(right));
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

#endif

#endif
