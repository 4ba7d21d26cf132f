/*
 * The ring: tiles of weights on their way into shared memory, over the barriers of the grid (Hopper and later). A warp of its own fetches them; those
 * that compute wait for a tile, or for the pieces of it that they want, and give it back. Where there is no ring, nothing goes through one.
 */
#ifndef SP_DEVICE_CUDA_KERNEL_RING_H
#define SP_DEVICE_CUDA_KERNEL_RING_H

#include "device/cuda/platform.h"

/* A tile's number: in its lowest bits its slot, above them how often the ring has been gone round. */
K_FN uint32_t k_tile_next(uint32_t n) {
    return n + (n % K_ROUND == K_SLOTS - 1 ? K_ROUND - K_SLOTS + 1 : 1);
}
K_FN uint32_t k_tile_back(uint32_t n, uint32_t by) {
    return n - by - (n % K_ROUND < by ? K_ROUND - K_SLOTS : 0);
}
/* Where the fetching warp is: at which tile; how many came before it, up to all slots. */
typedef struct k_fetching {
    uint32_t n, before;
} k_fetching;
/* The next tile that the warp takes. */
K_FN uint32_t k_next_tile(void) {
    return k_control_anew()->block.taken[k_thread_anew() / K_LANES];
}
K_FN void k_set_next_tile(uint32_t n) {
    const uint32_t thread = k_thread_anew();
    if (thread % K_LANES == 0) {
        k_control_anew()->block.taken[thread / K_LANES] = n;
    }
}

/* A test on the host, too, has it, with barriers and copies of its own (test_cuda_ring.c). */
#if defined __NVPTX__ && K_SM >= 90
#define K_RING

K_FN void k_bar_init(const uint64_t *bar, uint32_t count) {
    __asm__ volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(k_shared_address(bar)), "r"(count) : "memory");
}
K_FN void k_bar_expect(const uint64_t *bar, uint32_t bytes) {
    __asm__ volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(k_shared_address(bar)), "r"(bytes) : "memory");
}
K_FN void k_bar_arrive(const uint64_t *bar) {
    __asm__ volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(k_shared_address(bar)) : "memory");
}
/* Has the barrier's phase of this parity ended? The first waits a little. */
#define K_BAR_PASSED(name, how)                                                                                                                      \
    K_FN bool name(const uint64_t *bar, uint32_t parity) {                                                                                           \
        uint32_t passed;                                                                                                                             \
        __asm__ volatile("{ .reg .pred p; mbarrier." how ".parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"                                   \
                         : "=r"(passed)                                                                                                              \
                         : "r"(k_shared_address(bar)), "r"(parity)                                                                                   \
                         : "memory");                                                                                                                \
        return passed;                                                                                                                               \
    }
K_BAR_PASSED(k_bar_passed, "try_wait")
K_BAR_PASSED(k_bar_has_passed, "test_wait")
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
/* Memory's bytes on their way into the second cache. */
K_FN void k_bring_near(uint64_t from, uint32_t bytes) {
    __asm__ volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
/* What was written into the ring's memory comes before what the ring brings there. */
K_FN void k_ring_memory_done(void) {
    __asm__ volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif

#ifdef K_RING

/* How often the ring has been gone round before tile n, as a parity. */
K_FN uint32_t k_round(uint32_t n) {
    return n / K_ROUND & 1;
}
K_FN const uint64_t *k_full(uint32_t n, uint32_t piece) {
    return &k_control_at()->full[n % K_ROUND * K_PIECES + piece];
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
    k_ring_memory_done();
}
K_FN void k_await_piece(uint32_t n, uint32_t piece) {
    while (!k_bar_passed(k_full(n, piece), k_round(n))) {
    }
}
/* Of pieces [from, to) of a tile, the one that the lane looks at: a warp looks at all of them together. */
K_FN uint32_t k_own_piece(uint32_t from, uint32_t to) {
    const uint32_t piece = from + k_lane() % K_PIECES;
    return piece < to ? piece : from;
}
/* All lanes: pieces that were not awaited are not to be looked at. */
K_FN const uint8_t *k_await_tile(uint32_t n, uint32_t from, uint32_t to) {
    k_await_piece(n, k_own_piece(from, to));
    k_warp_sync();
    return k_slot(n);
}
/* Are these pieces there? Likewise. */
K_FN bool k_is_tile_there(uint32_t n, uint32_t from, uint32_t to) {
    const bool lacks = k_warp_any(!k_bar_has_passed(k_full(n, k_own_piece(from, to)), k_round(n)));
    k_warp_sync();
    return !lacks;
}
/* What work has that needs more than the working memory: without a ring the only slot; else that of a tile of no bytes, which is the next. */
K_FN uint8_t *k_own_slot(void) {
    return k_slot(k_next_tile());
}
/* The warp has read the tile. */
K_FN void k_release_tile(uint32_t n) {
    k_warp_sync();
    if (k_lane() == 0) {
        k_bar_arrive(&k_control_at()->empty[n % K_ROUND]);
    }
}

/* The warp needs the slot no longer that work had for itself. */
K_FN void k_release_own_slot(void) {
    const uint32_t n = k_next_tile();
    k_ring_memory_done();
    k_await_tile(n, 0, 1);
    k_release_tile(n);
    k_set_next_tile(k_tile_next(n));
}

/* ---- the fetching warp: all lanes together, each with a piece of the tile, so that what is done for each of them is done at once ---- */

/* The lane's piece of a tile is so many bytes, or none. */
K_FN void k_expect_piece(uint32_t n, uint32_t bytes) {
    if (k_lane() < K_PIECES) {
        k_bar_expect(k_full(n, k_lane()), bytes);
    }
}
/* Asks for the tile in pieces, each when those before the last few are there, of which some were the last tiles'. */
K_FN void k_fetch_tile(const k_fetching *f, uint64_t from, uint32_t bytes, uint32_t under_way) {
    const uint32_t n = f->n, lane = k_lane(), at = lane * K_PIECE, left = at < bytes ? bytes - at : 0, size = left < K_PIECE ? left : K_PIECE;
    k_expect_piece(n, size);
    for (uint32_t i = 0; i < K_PIECES; i++) {
        const uint32_t piece = i + 2 * K_PIECES - under_way, back = 2 - piece / K_PIECES;
        if (f->before >= back) {
            k_await_piece(k_tile_back(n, back), piece % K_PIECES);
        }
        if (lane == i && size) {
            k_bulk_load_once(k_slot(n) + at, from + at, size, k_full(n, i));
        }
    }
}

K_FN bool k_stops(void) {
    return k_warp_any(*(const volatile uint32_t *)&k_control_at()->stop);
}
/* Waits until nobody reads what was in the next tile's slot. False: stopped. */
K_FN bool k_await_slot(const k_fetching *f) {
    while (k_warp_any(!k_bar_passed(&k_control_at()->empty[f->n % K_ROUND], k_round(f->n) ^ 1))) {
        if (k_stops()) {
            return false;
        }
    }
    return true;
}
K_FN void k_pass_slot(k_fetching *f) {
    f->n = k_tile_next(f->n);
    f->before += f->before < K_SLOTS;
}

/* Puts a stream into the ring, tile by tile. False: stopped. */
K_FN bool k_fetch_stream(const k_stream *stream, k_fetching *f) {
    uint64_t from = stream->from;
    for (uint32_t at = 0; at < stream->bytes; at += stream->tile_bytes, from += stream->step) {
        uint32_t bytes = stream->bytes - at < stream->tile_bytes ? stream->bytes - at : stream->tile_bytes;
        if (!k_await_slot(f)) {
            return false;
        }
        k_fetch_tile(f, from, bytes, stream->under_way);
        k_pass_slot(f);
    }
    return true;
}

/* Leaves a slot to work, as a tile of no bytes. False: stopped. */
K_FN bool k_leave_slot(k_fetching *f) {
    if (!k_await_slot(f)) {
        return false;
    }
    k_expect_piece(f->n, 0);
    k_pass_slot(f);
    return true;
}

/* A block's streams over a whole schedule. Nothing may be under way when the block leaves. */
K_FN void k_fetch_schedule(const k_schedule *s, uint32_t block, k_fetching *f) {
    const k_stream *streams = (const k_stream *)(uintptr_t)s->streams + (uint64_t)block * s->n_streams, none = {0};
    k_stream next = s->n_streams ? streams[0] : none;
    bool goes_on = !k_stops();
    for (uint32_t i = 1; next.bytes && goes_on; i++) {
        k_stream now = next;
        next = i < s->n_streams ? streams[i] : none;
        if (now.tile_bytes) {
            goes_on = k_fetch_stream(&now, f);
        } else if (now.leaves) {
            goes_on = k_leave_slot(f);
        } else if (k_lane() == 0) {
            k_bring_near(now.from, now.bytes);
        }
    }
    for (uint32_t back = f->before; back; back--) {
        k_await_tile(k_tile_back(f->n, back), 0, K_PIECES);
    }
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
K_FN uint8_t *k_own_slot(void) {
    return k_slot(0);
}
K_FN void k_release_own_slot(void) {
}
K_FN void k_release_tile(uint32_t n) {
    (void)n;
}
K_FN void k_fetch_schedule(const k_schedule *s, uint32_t block, k_fetching *f) {
    (void)s, (void)block, (void)f;
}

#endif

#endif
