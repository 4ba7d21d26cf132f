/*
 * The order in which the CUDA device's ring gives and takes its slots (kernel_ring.h), on the host: the fetching warp's lanes and the computing warps
 * are threads, barriers a word under a lock, and copies arrive late and in any order. Streams are drawn, with slots in between that are left to work.
 * What a warp takes must be what it is to take, and what it puts into its own slot must stay as it left it.
 */
#include "device_test.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "device/cuda/platform.h"

enum { LANES = K_PIECES, WARPS = 3, MOST_COPIES = 64, MOST_STREAMS = 40, WEIGHTS = 1 << 20, RUNS = 150 };

/* ---- what a card has: a warp of several lanes, barriers, copies ---- */

typedef struct copy {
    uint8_t *to;
    const uint8_t *from;
    uint32_t bytes;
    const uint64_t *bar;
} copy;

static struct {
    pthread_mutex_t lock; /* of barriers' words, copies and draws */
    copy copies[MOST_COPIES];
    uint32_t n_copies;
    bool over;
    pthread_barrier_t warp, block, all; /* the fetching warp's lanes; those that compute; both, and who begins runs */
    volatile bool votes[2][LANES];
    k_control control;
    uint8_t slots[K_SLOTS * K_SLOT], weights[WEIGHTS];
    k_schedule schedule;
    k_stream streams[MOST_STREAMS];
    uint32_t stop_at; /* the phase at which the run is stopped, or none */
} card = {.lock = PTHREAD_MUTEX_INITIALIZER};
static _Thread_local uint32_t own_warp, own_lane, own_vote, own_turn, fetches;

static uint32_t draw(uint32_t n) {
    return (uint32_t)random_int(0, n - 1);
}

/* A barrier's word: what its phase waits for, of arrivals and of bytes; how many arrive in each; its parity. */
typedef struct bar {
    int32_t bytes;
    uint8_t waits, count, parity;
} bar;
_Static_assert(sizeof(bar) <= sizeof(uint64_t), "it fits");

static bar *bar_of(const uint64_t *at) {
    return (bar *)(uintptr_t)at;
}
static void bar_change(const uint64_t *at, int32_t bytes, uint8_t arrivals) {
    bar *b = bar_of(at);
    b->bytes += bytes;
    b->waits = (uint8_t)(b->waits - arrivals);
    if (!b->waits && !b->bytes) {
        b->parity ^= 1;
        b->waits = b->count;
    }
}
static void k_bar_init(const uint64_t *at, uint32_t count) {
    *bar_of(at) = (bar){.waits = (uint8_t)count, .count = (uint8_t)count};
}
static void k_bar_expect(const uint64_t *at, uint32_t bytes) {
    pthread_mutex_lock(&card.lock);
    bar_change(at, (int32_t)bytes, 1);
    pthread_mutex_unlock(&card.lock);
}
static void k_bar_arrive(const uint64_t *at) {
    k_bar_expect(at, 0);
}
static bool k_bar_passed(const uint64_t *at, uint32_t parity) {
    sched_yield();
    pthread_mutex_lock(&card.lock);
    bool passed = bar_of(at)->parity != parity;
    pthread_mutex_unlock(&card.lock);
    return passed;
}
#define k_bar_has_passed k_bar_passed
static void k_bulk_load_once(uint8_t *to, uint64_t from, uint32_t bytes, const uint64_t *at) {
    pthread_mutex_lock(&card.lock);
    if (card.n_copies == MOST_COPIES) {
        abort(); /* more than slots have pieces */
    }
    card.copies[card.n_copies++] = (copy){to, (const uint8_t *)(uintptr_t)from, bytes, at};
    pthread_mutex_unlock(&card.lock);
}
static void k_bring_near(uint64_t from, uint32_t bytes) {
    (void)from, (void)bytes;
}
static void k_ring_memory_done(void) {
}

/* All copies that were asked for, one at a time, any of them next. */
static void *copy_all(void *context) {
    uint32_t pause = 0;
    for (bool over = false; !over;) {
        sched_yield();
        pthread_mutex_lock(&card.lock);
        over = card.over;
        pause = pause ? pause - 1 : draw(50) ? 0 : draw(1000);
        if (card.n_copies && !pause) {
            const uint32_t i = draw(card.n_copies);
            const copy c = card.copies[i];
            card.copies[i] = card.copies[--card.n_copies];
            memcpy(c.to, c.from, c.bytes);
            bar_change(c.bar, -(int32_t)c.bytes, 0);
        }
        pthread_mutex_unlock(&card.lock);
    }
    return context;
}

/* Now and then others get far ahead. */
static void doze(void) {
    for (uint32_t i = ++own_turn % 11 ? 0 : 300; i; i--) {
        sched_yield();
    }
}

static uint32_t ring_thread(void) {
    return own_warp;
}
static uint32_t ring_lane(void) {
    return own_lane;
}
static void ring_sync(void) {
    if (fetches) {
        pthread_barrier_wait(&card.warp);
    }
}
static bool ring_any(bool x) {
    if (!fetches) {
        return x;
    }
    doze();
    volatile bool *votes = card.votes[own_vote++ % 2];
    votes[own_lane] = x;
    pthread_barrier_wait(&card.warp);
    bool any = false;
    for (uint32_t i = 0; i < LANES; i++) {
        any |= votes[i];
    }
    return any;
}
static k_control *ring_control(void) {
    return &card.control;
}
static uint8_t *ring_slot(uint32_t n) {
    if (n % K_ROUND >= K_SLOTS) {
        abort(); /* no slot */
    }
    return card.slots + n % K_ROUND * K_SLOT;
}

#define K_RING
#define K_WARPS WARPS
#define k_thread_anew ring_thread
#define k_lane ring_lane
#define k_warp_sync ring_sync
#define k_warp_any ring_any
#define k_control_at ring_control
#define k_control_anew ring_control
#define k_slot ring_slot
#include "device/cuda/kernel_ring.h"

/* ---- runs ---- */

/* What blocks do in a run, phase by phase: take the tiles of a stream, or have a slot for themselves. */
static void draw_stream(k_stream *s) {
    if (draw(3) == 0) {
        *s = (k_stream){.bytes = 1, .leaves = 1};
        return;
    }
    const uint32_t tile = 16 * (1 + draw(draw(2) ? K_SLOT / 16 : 40)), tiles = 1 + draw(12), step = tile * (1 + draw(2));
    const uint32_t last = 16 * (1 + draw(tile / 16)), room = WEIGHTS - tiles * step;
    *s = (k_stream){.from = (uint64_t)(uintptr_t)(card.weights + draw(room / 16) * 16),
                    .step = step,
                    .bytes = (tiles - 1) * tile + last,
                    .tile_bytes = tile,
                    .under_way = 1 + draw(2 * K_PIECES)};
}

static uint32_t take_stream(const k_stream *s, uint32_t taken) {
    const uint8_t *from = (const uint8_t *)(uintptr_t)s->from;
    for (uint32_t at = 0; at < s->bytes; at += s->tile_bytes, from += s->step) {
        const uint32_t bytes = s->bytes - at < s->tile_bytes ? s->bytes - at : s->tile_bytes, pieces = (bytes + K_PIECE - 1) / K_PIECE;
        while (own_turn % 2 && !k_is_tile_there(taken, 0, pieces)) { /* or at once */
        }
        for (uint32_t i = 0; i < pieces; i++) {
            k_await_piece(taken, i);
        }
        doze();
        if (memcmp(k_slot(taken), from, bytes)) {
            abort(); /* not the tile's bytes */
        }
        k_release_tile(taken);
        taken = k_tile_next(taken);
    }
    return taken;
}

static void use_slot(void) {
    enum { SHARE = K_SLOT / WARPS };
    uint8_t *share = k_own_slot() + own_warp * SHARE;
    memset(share, (int)own_warp + 1, SHARE);
    for (uint32_t i = 0; i < 20; i++) {
        sched_yield();
    }
    for (uint32_t i = 0; i < SHARE; i++) {
        if (share[i] != own_warp + 1) {
            abort(); /* others had it, too */
        }
    }
    k_release_own_slot();
}

static void *compute(void *context) {
    own_warp = (uint32_t)(uintptr_t)context;
    for (;;) {
        pthread_barrier_wait(&card.all);
        if (card.over) {
            return NULL;
        }
        for (uint32_t i = 0; i < card.schedule.n_streams && i != card.stop_at; i++) {
            card.streams[i].leaves ? use_slot() : k_set_next_tile(take_stream(&card.streams[i], k_next_tile()));
            pthread_barrier_wait(&card.block);
        }
        if (own_warp == 0) {
            *(volatile uint32_t *)&card.control.stop = card.stop_at < card.schedule.n_streams;
        }
        pthread_barrier_wait(&card.all);
    }
}

static void *fetch(void *context) {
    own_lane = (uint32_t)(uintptr_t)context, fetches = 1;
    k_fetching fetching = {0};
    for (;;) {
        pthread_barrier_wait(&card.all);
        if (card.over) {
            return NULL;
        }
        k_fetch_schedule(&card.schedule, 0, &fetching);
        if (card.stop_at < card.schedule.n_streams) { /* the block leaves, and comes again */
            fetching = (k_fetching){0};
        }
        pthread_barrier_wait(&card.all);
    }
}

static void test_ring(void **state) {
    (void)state;
    pthread_t threads[1 + WARPS + LANES];
    for (uint32_t i = 0; i < WEIGHTS; i++) {
        card.weights[i] = (uint8_t)draw(256);
    }
    pthread_barrier_init(&card.warp, NULL, LANES);
    pthread_barrier_init(&card.block, NULL, WARPS);
    pthread_barrier_init(&card.all, NULL, WARPS + LANES + 1);
    card.control.block.ring = true;
    k_ring_init();
    pthread_create(&threads[0], NULL, copy_all, NULL);
    for (uint32_t i = 0; i < WARPS + LANES; i++) {
        pthread_create(&threads[1 + i], NULL, i < WARPS ? compute : fetch, (void *)(uintptr_t)(i < WARPS ? i : i - WARPS));
    }
    uint32_t stops = 0;
    for (uint32_t run = 0; run < RUNS; run++) {
        pthread_mutex_lock(&card.lock);
        card.schedule = (k_schedule){.streams = (uint64_t)(uintptr_t)card.streams, .n_streams = draw(MOST_STREAMS)};
        for (uint32_t i = 0; i < card.schedule.n_streams; i++) {
            draw_stream(&card.streams[i]);
        }
        card.stop_at = draw(4) ? UINT32_MAX : draw(MOST_STREAMS);
        pthread_mutex_unlock(&card.lock);
        card.control.stop = 0;
        pthread_barrier_wait(&card.all);
        pthread_barrier_wait(&card.all);
        assert_int_equal(card.n_copies, 0);
        if (card.stop_at < card.schedule.n_streams) {
            stops++;
            memset(card.control.block.taken, 0, sizeof card.control.block.taken);
            k_ring_init();
        }
    }
    assert_in_range(stops, 1, RUNS - 1);
    pthread_mutex_lock(&card.lock);
    card.over = true;
    pthread_mutex_unlock(&card.lock);
    pthread_barrier_wait(&card.all);
    for (uint32_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        pthread_join(threads[i], NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring)};
    alarm(300); /* whoever waits in vain waits for ever */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
