/*
 * What kernels are written against. Two sides: PTX, where a block has 8 warps
 * of 32 lanes; and the host, where a block is one thread: a warp has one lane,
 * a block one warp, and barriers within a block are nothing. Between blocks
 * both are the same, so a missing phase barrier is a data race on the host too.
 */
#ifndef SP_DEVICE_CUDA_PLATFORM_H
#define SP_DEVICE_CUDA_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda/schedule.h"

#define K_FN static inline __attribute__((unused))

typedef uint16_t __attribute__((may_alias)) k_u16;
typedef uint32_t __attribute__((may_alias)) k_u32;
typedef int32_t __attribute__((may_alias)) k_i32;
typedef int64_t __attribute__((may_alias)) k_i64;
typedef float __attribute__((may_alias)) k_f32;
typedef struct k_floats4 {
    float f[4];
} __attribute__((may_alias, aligned(16))) k_floats4;
typedef struct k_words4 {
    uint32_t w[4];
} __attribute__((may_alias, aligned(16))) k_words4;

/* What a block knows of itself. */
typedef struct k_block {
    uint32_t block, blocks;
    uint8_t *shared; /* K_SHARED bytes, 16-byte aligned; the last 2 KiB hold
                        operations */
    k_queue *queue;
    k_state *state;
    uint32_t barriers; /* passed since the launch */
    void *host;        /* the emulated device's */
} k_block;

#ifdef __NVPTX__

enum { K_LANES = 32, K_THREADS = K_CARD_THREADS, K_WARPS = K_THREADS / K_LANES };

K_FN uint32_t k_thread(void) {
    return (uint32_t)__nvvm_read_ptx_sreg_tid_x();
}
K_FN uint32_t k_lane(void) {
    return k_thread() % K_LANES;
}
K_FN uint32_t k_warp(void) {
    return k_thread() / K_LANES;
}
K_FN void k_block_sync(void) {
    __syncthreads();
}
K_FN float k_warp_sum(float x) {
    for (int m = 16; m; m /= 2) {
        x += __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
    }
    return x;
}
K_FN float k_warp_max(float x) {
    for (int m = 16; m; m /= 2) {
        float y = __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
        x = y > x ? y : x;
    }
    return x;
}
/* Over 8 neighbouring lanes, which hold a block of 32 elements together. */
enum { K_GROUP = 8 };
K_FN float k_group_max(float x) {
    for (int m = 4; m; m /= 2) {
        float y = __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
        x = y > x ? y : x;
    }
    return x;
}
K_FN int32_t k_group_sum(int32_t x) {
    for (int m = 4; m; m /= 2) {
        x += __nvvm_shfl_sync_bfly_i32(0xffffffffu, x, m, 31);
    }
    return x;
}
/* a + the products of four signed bytes. */
K_FN int32_t k_dot4(uint32_t a, uint32_t b, int32_t c) {
    int32_t d;
    __asm__("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/* Half precision, by its bits. */
K_FN float k_from_half(uint16_t h) {
    float x;
    __asm__("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}
K_FN uint16_t k_to_half(float x) {
    uint16_t h;
    __asm__("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
/* 16 bytes that are read once: past the first cache. */
K_FN k_words4 k_stream16(const void *at) {
    k_words4 v;
    __asm__ volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "l"(at));
    return v;
}
/* Starts bringing bytes into the second cache; at and size are multiples of 16.
 */
K_FN void k_prefetch(const void *at, uint32_t size) {
#if K_SM >= 90
    __asm__ volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(at), "r"(size) : "memory");
#else
    for (uint32_t i = 0; i < size; i += 128) {
        __asm__ volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)at + i) : "memory");
    }
#endif
}
K_FN uint32_t k_load_acquire(const uint32_t *at) {
    uint32_t v;
    __asm__ volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
K_FN void k_add_release(uint32_t *at, uint32_t n) {
    __asm__ volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(n) : "memory");
}
K_FN uint64_t k_now_ns(void) {
    uint64_t t;
    __asm__ volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}
K_FN uint32_t k_load_system(const uint32_t *at) {
    uint32_t v;
    __asm__ volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
K_FN uint32_t k_peek(const uint32_t *at) {
    return *(const volatile uint32_t *)at;
}
K_FN void k_store_system(uint32_t *at, uint32_t v) {
    __asm__ volatile("fence.acq_rel.sys; st.release.sys.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

/* Waits until every block is here. True: the run was stopped, and every block
 * leaves. */
K_FN bool k_grid_barrier(k_block *b, bool stop) {
    k_block_sync();
    uint32_t *arrived = &b->state->arrived;
    uint32_t target = ++b->barriers * b->blocks, seen = 0;
    if (k_thread() == 0) {
        k_add_release(arrived, stop ? 0x80000001u : 1u);
        do {
            seen = k_load_acquire(arrived);
        } while ((int32_t)((seen - target) << 1) < 0);
        *(volatile uint32_t *)b->shared = seen;
    }
    k_block_sync();
    seen = *(volatile uint32_t *)b->shared;
    k_block_sync();
    return seen >> 31;
}

/* Waits for the doorbell to differ from last; returns it, or last after a while
 * without work. One thread calls this. */
K_FN uint32_t k_await_doorbell(k_block *b, uint32_t last) {
    uint64_t since = k_now_ns();
    uint32_t bell, polls = 0;
    while ((bell = k_load_system(&b->queue->doorbell)) == last) {
        if (++polls % 64 == 0 && k_now_ns() - since > b->queue->idle_ns) {
            break;
        }
    }
    return bell;
}

#else

enum { K_LANES = 1, K_WARPS = 1, K_THREADS = 1 };

K_FN uint32_t k_thread(void) {
    return 0;
}
K_FN uint32_t k_lane(void) {
    return 0;
}
K_FN uint32_t k_warp(void) {
    return 0;
}
K_FN void k_block_sync(void) {
}
K_FN float k_warp_sum(float x) {
    return x;
}
K_FN float k_warp_max(float x) {
    return x;
}
enum { K_GROUP = 1 };
K_FN float k_group_max(float x) {
    return x;
}
K_FN int32_t k_group_sum(int32_t x) {
    return x;
}
K_FN int32_t k_dot4(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 4; i++) {
        c += (int32_t)(int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    }
    return c;
}
K_FN float k_from_half(uint16_t h) {
    union {
        uint16_t u;
        _Float16 f;
    } v = {.u = h};
    return (float)v.f;
}
K_FN uint16_t k_to_half(float x) {
    union {
        _Float16 f;
        uint16_t u;
    } v = {.f = (_Float16)x};
    return v.u;
}
K_FN k_words4 k_stream16(const void *at) {
    return *(const k_words4 *)at;
}
K_FN void k_prefetch(const void *at, uint32_t size) {
    (void)at, (void)size;
}
K_FN void k_store_system(uint32_t *at, uint32_t v) {
    __atomic_store_n(at, v, __ATOMIC_RELEASE);
}
K_FN uint32_t k_load_system(const uint32_t *at) {
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
K_FN uint32_t k_peek(const uint32_t *at) {
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}
bool k_grid_barrier(k_block *b, bool stop);
uint32_t k_await_doorbell(k_block *b, uint32_t last);

#endif

#endif
