/*
 * The ring: tiles of weights on their way into shared memory, over the barriers of the grid (Hopper and later). A warp of its own fetches them; those
 * that compute wait for a tile, or for the pieces of it that they want, and give it back. Where there is no ring, nothing goes through one.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_RING_H
#define SP_DEVICE_CUDA_KERNEL_RING_H

#include "device/cuda/platform.h"

#if defined __NVPTX__ && K_SM >= 90

K_FN void k_bar_init(const uint64_t *bar, uint32_t count) {
    __asm__ volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(k_shared_address(bar)), "r"(count) : "memory");
}
K_FN void k_bar_expect(const uint64_t *bar, uint32_t bytes) {
    __asm__ volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(k_shared_address(bar)), "r"(bytes) : "memory");
}
K_FN void k_bar_arrive(const uint64_t *bar) {
    __asm__ volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(k_shared_address(bar)) : "memory");
}
/* Has the barrier's phase of this parity ended? Waits a little. */
K_FN bool k_bar_passed(const uint64_t *bar, uint32_t parity) {
    uint32_t passed;
    __asm__ volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(passed)
                     : "r"(k_shared_address(bar)), "r"(parity)
                     : "memory");
    return passed;
}
K_FN void k_bulk_load(uint8_t *to, uint64_t from, uint32_t bytes, const uint64_t *bar) {
    __asm__ volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(k_shared_address(to)), "l"(from),
                     "r"(bytes), "r"(k_shared_address(bar))
                     : "memory");
}
/* What is read once a run is the first to leave the second cache: so that keeps what is waited for. */
K_FN void k_bulk_load_once(uint8_t *to, uint64_t from, uint32_t bytes, const uint64_t *bar) {
    __asm__ volatile(
        "{ .reg .b64 once; createpolicy.fractional.L2::evict_first.b64 once, 1.0;"
        " cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], once; }" ::"r"(k_shared_address(to)),
        "l"(from), "r"(bytes), "r"(k_shared_address(bar))
        : "memory");
}
/* n counts the tiles that went through a ring; its slots are used again and again. */
K_FN uint32_t k_round(uint32_t n) {
    return n / K_SLOTS & 1;
}
K_FN void k_ring_init(void) {
    k_control *c = k_control_at();
    for (uint32_t i = 0; i < K_SLOTS * K_PIECES; i++) {
        k_bar_init(&c->full[i], 1);
    }
    for (uint32_t i = 0; i < K_SLOTS; i++) {
        k_bar_init(&c->empty[i], K_WARPS);
    }
    for (uint32_t i = 0; i < K_TILE_STAGES; i++) {
        k_bar_init(&c->stage_full[i], 1);
        k_bar_init(&c->stage_empty[i], K_WARPS);
    }
    k_bar_init(&c->asked, 1);
    c->stage = c->round = 0;
    __asm__ volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* What was written into the ring's memory comes before what the ring brings there. */
K_FN void k_ring_memory_done(void) {
    __asm__ volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
K_FN void k_await_piece(uint32_t n) {
    while (!k_bar_passed(&k_control_at()->full[n % (K_SLOTS * K_PIECES)], k_round(n / K_PIECES))) {
    }
}
/* All lanes, each one of its pieces [from, to): the others' memory is not to be looked at. */
K_FN const uint8_t *k_await_tile(uint32_t n, uint32_t from, uint32_t to) {
    const uint32_t piece = from + k_lane() % K_PIECES;
    k_await_piece(n * K_PIECES + (piece < to ? piece : from));
    k_warp_sync();
    return k_slot(n);
}
/* The warp has read the tile. */
K_FN void k_release_tile(uint32_t n) {
    k_warp_sync();
    if (k_lane() == 0) {
        k_bar_arrive(&k_control_at()->empty[n % K_SLOTS]);
    }
}

/* Memory's bytes on their way into the second cache. */
K_FN void k_bring_near(uint64_t from, uint32_t bytes) {
    __asm__ volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/* ---- the fetching warp: all lanes together, each with a piece of the tile, so that what is done for each of them is done at once ---- */

/* The lane's piece of a tile is so many bytes, or none. */
K_FN void k_expect_piece(uint32_t n, uint32_t bytes) {
    if (k_lane() < K_PIECES) {
        k_bar_expect(&k_control_at()->full[n % K_SLOTS * K_PIECES + k_lane()], bytes);
    }
}
/* Asks for the tile in pieces, each when those before the last few are there. */
K_FN void k_fetch_pieces(uint64_t from, uint32_t bytes, uint32_t n) {
    const uint32_t lane = k_lane(), at = lane * K_PIECE, left = at < bytes ? bytes - at : 0, size = left < K_PIECE ? left : K_PIECE;
    k_expect_piece(n, size);
    for (uint32_t i = 0; i < K_PIECES; i++) {
        const uint32_t piece = n * K_PIECES + i;
        if (piece >= K_PIECES_UNDER_WAY) {
            k_await_piece(piece - K_PIECES_UNDER_WAY);
        }
        if (lane == i && size) {
            k_bulk_load_once(k_slot(n) + at, from + at, size, &k_control_at()->full[piece % (K_SLOTS * K_PIECES)]);
        }
    }
}
/* As a whole: its first piece is all of it. */
K_FN void k_fetch_whole(uint64_t from, uint32_t bytes, uint32_t n) {
    if (n >= K_TILES_UNDER_WAY) {
        k_await_tile(n - K_TILES_UNDER_WAY, 0, K_PIECES);
    }
    k_expect_piece(n, k_lane() ? 0 : bytes);
    if (k_lane() == 0) {
        k_bulk_load_once(k_slot(n), from, bytes, &k_control_at()->full[n % K_SLOTS * K_PIECES]);
    }
}

/* Puts a stream into the ring, tile by tile, from the n-th on; returns how many that makes. Ends early when stopped. */
K_FN uint32_t k_fetch_stream(const k_stream *stream, uint32_t n) {
    const k_control *c = k_control_at();
    uint64_t from = stream->from;
    for (uint32_t at = 0; at < stream->bytes; at += stream->tile_bytes, from += stream->step, n++) {
        uint32_t bytes = stream->bytes - at < stream->tile_bytes ? stream->bytes - at : stream->tile_bytes;
        while (k_warp_any(!k_bar_passed(&c->empty[n % K_SLOTS], k_round(n) ^ 1))) {
            if (k_warp_any(*(const volatile uint32_t *)&c->stop)) {
                return n;
            }
        }
        if (stream->whole) {
            k_fetch_whole(from, bytes, n);
        } else {
            k_fetch_pieces(from, bytes, n);
        }
    }
    return n;
}

/* A block's streams over a whole schedule. Nothing may be under way when the block leaves. */
K_FN uint32_t k_fetch_schedule(const k_schedule *s, uint32_t block, uint32_t n) {
    const k_stream *streams = (const k_stream *)(uintptr_t)s->streams + (uint64_t)block * s->n_streams, none = {0};
    k_stream next = s->n_streams ? streams[0] : none;
    for (uint32_t i = 1; next.bytes && !k_warp_any(*(volatile uint32_t *)&k_control_at()->stop); i++) {
        k_stream now = next;
        next = i < s->n_streams ? streams[i] : none;
        if (now.tile_bytes) {
            n = k_fetch_stream(&now, n);
        } else if (k_lane() == 0) {
            k_bring_near(now.from, now.bytes);
        }
    }
    for (uint32_t back = n < K_SLOTS ? n : K_SLOTS; back; back--) {
        k_await_tile(n - back, 0, K_PIECES);
    }
    return n;
}

#else

K_FN void k_ring_init(void) {
}
K_FN void k_ring_memory_done(void) {
}
K_FN const uint8_t *k_await_tile(uint32_t n, uint32_t from, uint32_t to) {
    (void)from, (void)to;
    return k_slot(n);
}
K_FN void k_release_tile(uint32_t n) {
    (void)n;
}
K_FN uint32_t k_fetch_schedule(const k_schedule *s, uint32_t block, uint32_t n) {
    (void)s, (void)block;
    return n;
}

#endif

#endif
