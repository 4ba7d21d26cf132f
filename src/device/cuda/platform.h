/*
 * What kernels are written against. Two sides: PTX, where a block has 8 warps of 32 lanes that compute, and one that fetches weights; and the host,
 * where a block is one thread: a warp has one lane, a block one warp, and barriers within a block are nothing. Between blocks both are the same, so a
 * missing phase barrier is a data race on the host too.
 */
#ifndef SP_DEVICE_CUDA_PLATFORM_H
#define SP_DEVICE_CUDA_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda/kernel_control.h"

#define K_FN static inline __attribute__((unused))
/* What is seldom needed, or large: code that is not there need not be fetched. */
#define K_APART static __attribute__((noinline, unused))
#define K_INLINE static inline __attribute__((always_inline, unused))

/* A float of this size has no room for fractions: its lowest bits are those of the whole number that was added. */
#define K_WHOLE 12582912.0f

#ifdef __NVPTX__
#define K_UNROLL _Pragma("unroll")
#define K_UNROLL_ALL _Pragma("clang loop unroll(full)") /* whatever it costs: what lies in registers has no address */
#define K_UNROLL_BY(n) K_PRAGMA(unroll n)
#define K_PRAGMA(text) _Pragma(#text)
/* Dynamic shared memory. By its name the compiler knows what it is. */
extern __attribute__((address_space(3), aligned(1024))) uint8_t k_shared_memory[];
K_FN uint8_t *k_shared_start(void) {
    return (uint8_t *)k_shared_memory;
}
/* As instructions have it that know of no other memory. */
K_FN uint32_t k_shared_address(const void *at) {
    return (uint32_t)(uintptr_t)(const __attribute__((address_space(3))) void *)at;
}
#else
#define K_UNROLL
#define K_UNROLL_ALL
#define K_UNROLL_BY(n)
extern _Thread_local uint8_t *k_shared_memory;
K_FN uint8_t *k_shared_start(void) {
    return k_shared_memory;
}
#endif

/* What operations work in. */
K_FN uint8_t *k_shared(void) {
    return k_shared_start() + K_BEFORE_WORK;
}
K_FN k_control *k_control_at(void) {
    return (k_control *)(void *)k_shared_start();
}
/* The same as b, where the compiler sees that it lies in shared memory. */
K_FN k_block *k_block_at(k_block *b) {
#ifdef __NVPTX__
    b = &k_control_at()->block;
#endif
    return b;
}
/* Of the ring's tile n. */
K_FN uint8_t *k_slot(uint32_t n) {
    return k_shared() + K_WORK + n % K_ROUND * K_SLOT;
}

#ifdef __NVPTX__

enum { K_LANES = 32, K_THREADS = K_CARD_THREADS, K_WARPS = K_THREADS / K_LANES };

K_FN uint32_t k_thread(void) {
    return (uint32_t)__nvvm_read_ptx_sreg_tid_x();
}
/* Read anew: what is compared with it is not kept, and spilled, from wherever else that was done. */
K_FN uint32_t k_thread_anew(void) {
    uint32_t n;
    __asm__ volatile("mov.u32 %0, %%tid.x;" : "=r"(n));
    return n;
}
/* Likewise: where it lies is not kept, and spilled, over calls. */
K_FN k_control *k_control_anew(void) {
    uint32_t at;
    __asm__ volatile("mov.u32 %0, k_shared_memory;" : "=r"(at));
    return (k_control *)(__attribute__((address_space(3))) k_control *)(uintptr_t)at;
}
K_FN uint32_t k_lane(void) {
    return k_thread() % K_LANES;
}
K_FN uint32_t k_warp(void) {
    return k_thread() / K_LANES;
}
/* What all lanes of the warp have alike, as the compiler knows then. */
K_FN uint32_t k_alike(uint32_t x) {
    uint32_t y;
    __asm__ volatile("redux.sync.or.b32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}
/* A warp's. What is loaded before is asked for before, too: the compiler would rather load each value where it is used. */
K_FN void k_warp_sync(void) {
    __nvvm_bar_warp_sync(0xffffffffu);
}
/* Is it so for any of the warp? The compiler knows that all of its lanes get the same answer. */
K_FN bool k_warp_any(bool x) {
    return __nvvm_vote_any_sync(0xffffffffu, x);
}
/* The threads that compute. */
K_FN void k_block_sync(void) {
    __nvvm_barrier_sync_cnt(1, K_THREADS);
}
/* Those and the fetching warp. */
K_FN void k_all_sync(void) {
    __nvvm_barrier_sync_cnt(0, K_CARD_LAUNCHED);
}
K_FN float k_warp_sum(float x) {
    K_UNROLL
    for (int m = 16; m; m /= 2) {
        x += __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
    }
    return x;
}
K_FN float k_warp_max(float x) {
    K_UNROLL
    for (int m = 16; m; m /= 2) {
        float y = __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
        x = y > x ? y : x;
    }
    return x;
}
/* Over 8 neighbouring lanes, which hold a block of 32 elements together. */
enum { K_GROUP = 8 };
K_FN float k_group_max(float x) {
    K_UNROLL
    for (int m = 4; m; m /= 2) {
        float y = __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, m, 31);
        x = y > x ? y : x;
    }
    return x;
}
K_FN int32_t k_group_sum(int32_t x) {
    K_UNROLL
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
/* The same, of unsigned and signed ones. */
K_FN int32_t k_dot4_unsigned(uint32_t a, uint32_t b, int32_t c) {
    int32_t d;
    __asm__("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/* The lowest bytes of four, the first lowest. */
K_FN uint32_t k_bytes4(int32_t a, int32_t b, int32_t c, int32_t d) {
    uint32_t low, high, all;
    __asm__("prmt.b32 %0, %1, %2, 0x0040;" : "=r"(low) : "r"(a), "r"(b));
    __asm__("prmt.b32 %0, %1, %2, 0x0040;" : "=r"(high) : "r"(c), "r"(d));
    __asm__("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(all) : "r"(low), "r"(high));
    return all;
}
/* x times `by`, to the nearest whole number: its lowest byte. Of two that are as near, the even one. */
K_FN int32_t k_nearest_byte(float x, float by) {
    union {
        float f;
        int32_t i;
    } v = {.f = __builtin_fmaf(x, by, K_WHOLE)};
    return v.i;
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
K_FN uint32_t k_load_acquire(const uint32_t *at) {
    uint32_t v;
    __asm__ volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
/* What is there, whoever wrote it, and nothing else with it. */
K_FN uint32_t k_load_relaxed(const void *at) {
    uint32_t v;
    __asm__ volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
/* If there is none, v stays what it is. */
K_FN void k_load_relaxed1(const void *at, bool there, uint32_t *v) {
    __asm__ volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.relaxed.gpu.global.u32 %0, [%1]; }"
                     : "+r"(*v)
                     : "l"(at), "r"((uint32_t)there)
                     : "memory");
}
/* Four words, likewise. */
K_FN void k_load_relaxed4(const void *at, bool there, k_words4 *v) {
    __asm__ volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                     : "+r"(v->w[0]), "+r"(v->w[1]), "+r"(v->w[2]), "+r"(v->w[3])
                     : "l"(at), "r"((uint32_t)there)
                     : "memory");
}
K_FN k_floats4 k_load_floats4(const void *at) {
    k_floats4 v;
    __asm__ volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.f[0]), "=f"(v.f[1]), "=f"(v.f[2]), "=f"(v.f[3]) : "l"(at));
    return v;
}
K_FN void k_store_relaxed(void *at, uint32_t v) {
    __asm__ volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
K_FN void k_load_relaxed2(const void *at, uint32_t *v) {
    __asm__ volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "l"(at) : "memory");
}
K_FN void k_store_relaxed2(void *at, uint32_t v, uint32_t w) {
    __asm__ volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(at), "r"(v), "r"(w) : "memory");
}
K_FN void k_store_relaxed4(void *at, k_words4 v) {
    __asm__ volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(at), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3]) : "memory");
}
K_FN void k_relax(void) {
}
K_FN void k_add_release(uint32_t *at, uint32_t n) {
    __asm__ volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(n) : "memory");
}
/* Adds one; what others wrote before they added is seen, what this thread's block wrote (behind a barrier of the block) is shown. */
K_FN uint32_t k_count_up(uint32_t *at) {
    uint32_t old;
    __asm__ volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(old) : "l"(at) : "memory");
    return old;
}
/* What is there becomes the larger of it and v. */
K_FN void k_largest64(uint64_t *at, uint64_t v) {
    __asm__ volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory");
}
/* Within 2 units of the last place. */
K_FN float k_reciprocal(float x) {
    return __nvvm_rcp_approx_ftz_f(x);
}
K_FN float k_reciprocal_root(float x) {
    return __nvvm_rsqrt_approx_ftz_f(x);
}
K_FN float k_exchange(float x, int mask) {
    return __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, mask, 31);
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
K_FN void k_store_system(uint32_t *at, uint32_t v) {
    __asm__ volatile("st.release.sys.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}

/* 16 bytes on their way into shared memory; zeros instead, where there are none. What was asked for before an end belongs together. */
K_FN void k_copy_async(void *to, const void *from, bool there) {
    __asm__ volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(k_shared_address(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
/* Four bytes. */
K_FN void k_copy_async_word(void *to, const void *from) {
    __asm__ volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(k_shared_address(to)), "l"(from) : "memory");
}
K_FN void k_copies_end(void) {
    __asm__ volatile("cp.async.commit_group;" ::: "memory");
}
/* For all, those too that no end followed. */
K_FN void k_copies_wait_all(void) {
    __asm__ volatile("cp.async.wait_all;" ::: "memory");
}
/* What is there now is in to[0] when copies were waited for; to: 16 bytes. */
K_FN void k_peek_async(uint32_t *to, const uint32_t *at) {
    k_copy_async(to, at, true);
}
/* For all but the last so many that ended. */
K_FN void k_copies_wait_but(uint32_t n) {
    switch (n) {
    case 0:
        __asm__ volatile("cp.async.wait_group 0;" ::: "memory");
        break;
    case 1:
        __asm__ volatile("cp.async.wait_group 1;" ::: "memory");
        break;
    case 2:
        __asm__ volatile("cp.async.wait_group 2;" ::: "memory");
        break;
    case 3:
        __asm__ volatile("cp.async.wait_group 3;" ::: "memory");
        break;
    default:
        __asm__ volatile("cp.async.wait_group 4;" ::: "memory");
    }
}

/* Waits until every block is here. True: the run was stopped, and every block
 * leaves. */
K_FN bool k_grid_barrier(k_block *b, uint32_t stop) {
    k_control *c = k_control_at();
    uint32_t *arrived = &b->state->arrived;
    k_block_sync();
    if (k_thread() == 0) {
        uint32_t target = ++b->barriers * b->blocks, seen;
        k_add_release(arrived, stop ? 0x80000001u : 1u);
        do {
            seen = k_load_acquire(arrived);
        } while ((int32_t)((seen - target) << 1) < 0);
        *(volatile uint32_t *)&c->seen = seen;
    }
    k_block_sync();
    return *(volatile uint32_t *)&c->seen >> 31;
}

#else

enum { K_LANES = 1, K_WARPS = 1, K_THREADS = 1 };

K_FN uint32_t k_thread(void) {
    return 0;
}
K_FN uint32_t k_thread_anew(void) {
    return 0;
}
K_FN k_control *k_control_anew(void) {
    return k_control_at();
}
K_FN uint32_t k_alike(uint32_t x) {
    return x;
}
K_FN uint32_t k_lane(void) {
    return 0;
}
K_FN uint32_t k_warp(void) {
    return 0;
}
K_FN void k_warp_sync(void) {
}
K_FN bool k_warp_any(bool x) {
    return x;
}
K_FN void k_block_sync(void) {
}
K_FN void k_all_sync(void) {
}
K_FN float k_reciprocal(float x) {
    return 1.0f / x;
}
K_FN float k_reciprocal_root(float x) {
    return 1.0f / __builtin_sqrtf(x);
}
K_FN uint32_t k_count_up(uint32_t *at) {
    return __atomic_fetch_add(at, 1, __ATOMIC_ACQ_REL);
}
K_FN void k_largest64(uint64_t *at, uint64_t v) {
    uint64_t there = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (there < v && !__atomic_compare_exchange_n(at, &there, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
K_FN uint32_t k_load_acquire(const uint32_t *at) {
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
K_FN uint32_t k_load_relaxed(const void *at) {
    return __atomic_load_n((const k_u32 *)at, __ATOMIC_RELAXED);
}
K_FN void k_load_relaxed1(const void *at, bool there, uint32_t *v) {
    *v = there ? k_load_relaxed(at) : *v;
}
K_FN void k_load_relaxed4(const void *at, bool there, k_words4 *v) {
    for (int i = 0; there && i < 4; i++) {
        v->w[i] = k_load_relaxed((const k_u32 *)at + i);
    }
}
K_FN k_floats4 k_load_floats4(const void *at) {
    return *(const k_floats4 *)at;
}
K_FN void k_store_relaxed(void *at, uint32_t v) {
    __atomic_store_n((k_u32 *)at, v, __ATOMIC_RELAXED);
}
K_FN void k_load_relaxed2(const void *at, uint32_t *v) {
    v[0] = k_load_relaxed(at), v[1] = k_load_relaxed((const k_u32 *)at + 1);
}
K_FN void k_store_relaxed2(void *at, uint32_t v, uint32_t w) {
    k_store_relaxed(at, v), k_store_relaxed((k_u32 *)at + 1, w);
}
K_FN void k_store_relaxed4(void *at, k_words4 v) {
    for (int i = 0; i < 4; i++) {
        k_store_relaxed((k_u32 *)at + i, v.w[i]);
    }
}
void k_relax(void); /* others may need the core */
K_FN float k_exchange(float x, int mask) {
    (void)mask;
    return x;
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
K_FN int32_t k_dot4_unsigned(uint32_t a, uint32_t b, int32_t c) {
    for (int i = 0; i < 4; i++) {
        c += (int32_t)(uint8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    }
    return c;
}
K_FN uint32_t k_bytes4(int32_t a, int32_t b, int32_t c, int32_t d) {
    return (uint32_t)(a & 255) | (uint32_t)(b & 255) << 8 | (uint32_t)(c & 255) << 16 | (uint32_t)d << 24;
}
K_FN int32_t k_nearest_byte(float x, float by) {
    float y = x * by;
    union {
        float f;
        int32_t i;
    } v = {.f = y + K_WHOLE};
    return v.i;
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
K_FN void k_copy_async(void *to, const void *from, bool there) {
    const k_words4 none = {{0, 0, 0, 0}};
    *(k_words4 *)to = there ? *(const k_words4 *)from : none;
}
K_FN void k_copy_async_word(void *to, const void *from) {
    *(k_u32 *)to = *(const k_u32 *)from;
}
K_FN void k_copies_end(void) {
}
K_FN void k_copies_wait_all(void) {
}
K_FN void k_peek_async(uint32_t *to, const uint32_t *at) {
    *to = __atomic_load_n(at, __ATOMIC_RELAXED);
}
K_FN void k_copies_wait_but(uint32_t n) {
    (void)n;
}
K_FN void k_store_system(uint32_t *at, uint32_t v) {
    __atomic_store_n(at, v, __ATOMIC_RELEASE);
}
K_FN uint32_t k_load_system(const uint32_t *at) {
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
uint64_t k_now_ns(void);
bool k_grid_barrier(k_block *b, uint32_t stop);

#endif

#endif
