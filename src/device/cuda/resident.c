/*
 * The resident kernel: waits for schedules and runs them, phase after phase.
 * Compiled twice: to PTX, where every block of the grid runs it, and for the
 * host, where each thread of the emulated device is a block.
 */
#include "device/cuda/resident.h"

#include "device/cuda/kernel_attend.h"
#include "device/cuda/kernel_product.h"
#include "device/cuda/kernel_queue.h"
#include "device/cuda/kernel_recurrent.h"
#include "device/cuda/kernel_ring.h"
#include "device/cuda/kernel_run.h"
#include "device/cuda/kernel_stream_one.h"
#include "device/cuda/kernel_tiles.h"
#ifdef K_WGMMA
#include "device/cuda/kernel_fetch_hopper.h"
#endif

/* An operation that was not brought takes the place of the phase's first, for those that want it there. */
static const k_op *op_here(const k_op *op) {
    for (uint32_t i = k_thread() * 16; op != k_op_at() && i < sizeof *op; i += K_THREADS * 16) {
        *(k_words4 *)(void *)((uint8_t *)k_op_at() + i) = *(const k_words4 *)(const void *)((const uint8_t *)op + i);
    }
    k_block_sync();
    return k_op_at();
}

static void stream_alone(const k_op *op, uint32_t part) {
    op = op_here(op);
    k_do_stream(k_stream_from(op, part), k_stream_from(op, part + 1), false);
    if (op->after & K_AFTER_LARGEST) {
        k_stream_largest(op, k_stream_from(op, part), k_stream_from(op, part + 1));
    }
    k_block_sync();
}

/* Not inlined: what decoding runs all the time keeps its registers to itself. */
static __attribute__((noinline)) void run_op(const k_op *op, uint32_t part) {
    switch (op->op) {
    case K_OP_STREAM:
        stream_alone(op, part);
        break;
    case K_OP_HALVES:
        k_do_halves(op, part);
        break;
    case K_OP_ROPE:
        k_rope_by_pairs(op) ? k_do_rope_pairs(op, part) : k_do_rope(op, part);
        break;
    case K_OP_TURNS:
        k_do_turns(op, part);
        break;
    case K_OP_MASK_MAP:
        k_do_mask_map(op, part);
        break;
    case K_OP_ATTEND_HALVES:
        op_here(op);
        k_do_attend_halves(part);
        break;
    case K_OP_FLAT:
        k_do_flat(op, part);
        break;
    case K_OP_FLAT_ONE:
        k_do_flat_one(op, part);
        break;
    case SP_OP_MUL_MAT:
    case SP_OP_MUL_MAT_ID:
        k_do_product(op, part);
        break;
    case SP_OP_NORM:
    case SP_OP_RMS_NORM:
    case SP_OP_L2_NORM:
    case SP_OP_SUM_ROWS:
    case SP_OP_SOFT_MAX_EXT:
        k_do_rows(op, part);
        break;
    case SP_OP_ARGMAX:
        k_do_argmax(op, part);
        break;
    case SP_OP_FLASH_ATTN_EXT:
        k_do_attention(op, part);
        break;
    case SP_OP_ARGSORT:
    case SP_OP_TOP_K:
        k_do_sort(op, part);
        break;
    case SP_OP_GET_ROWS:
        k_do_get_rows(op, part);
        break;
    case SP_OP_SET_ROWS:
        k_do_set_rows(op, part);
        break;
    case SP_OP_CPY:
    case SP_OP_CAST:
    case SP_OP_CONT:
        k_do_copy(op, part);
        break;
    case SP_OP_SSM_SCAN:
    case SP_OP_GATED_DELTA_NET:
    case SP_OP_RWKV_WKV6:
    case SP_OP_RWKV_WKV7:
        k_do_recurrent(op, part);
        break;
    default:
        k_do_elements(op, part);
    }
}

/* A part that no block does first: a phase has more of them than there are blocks. */
static const k_op *find_part(const k_op *ops, const k_phase *phase, uint32_t *part) {
    const k_op *op = ops + phase->first_op;
    while (*part >= op->n_parts) {
        *part -= op++->n_parts;
    }
    return op;
}

K_INLINE void mark(const volatile k_run *r, uint32_t i) {
    if (k_thread_anew() == 0 && r->marks && i < K_MARKS) {
        r->marks[i] = k_now_ns();
    }
}

/* Any work. */
K_INLINE void run_work(const k_block *b, volatile k_run *r) {
    const k_op *op = k_op_at();
    const volatile k_work *work = &r->works[k_phase_at() & 3];
    uint32_t part = work->part & K_NUMBER;
    k_bring_next();
    if (work->op == K_NO_WORK) {
        return;
    }
    for (uint32_t next = b->block;;) {
        if (op->op == K_OP_TILES) {
            k_do_tiles(op, part);
        } else if (op->op == K_OP_ATTEND) {
            k_do_attend(op, part);
        } else {
            run_op(op, part);
        }
        next += b->blocks;
        const k_phase *phase = &r->phases[k_phase_at()];
        if (!(r->works[k_phase_at() & 3].part & K_MORE) || next >= phase->n_parts) {
            return;
        }
        k_block_sync();
        part = next;
        op = find_part(r->ops, phase, &part);
    }
}

/* What a run begins with, in one trip: the schedule's head, the block's works of two phases, and the first operation, which is most often its own. */
K_INLINE void bring_first(const k_run *r, const k_schedule *schedule) {
    enum { PIECE = 16, OP = sizeof(k_op) / PIECE, HEAD = OP + K_HEAD / PIECE, ALL = HEAD + 2 };
    uint8_t *op = (uint8_t *)k_op_place(0), *head = (uint8_t *)k_run_at();
    for (uint32_t i = k_thread(); i < ALL; i += K_THREADS) {
        uint32_t n = i < OP ? i : i < HEAD ? i - OP : i - HEAD;
        k_copy_async(i < OP     ? op + n * PIECE
                     : i < HEAD ? head + n * PIECE
                                : head + offsetof(k_run, works) + n * PIECE,
                     i < OP     ? (const uint8_t *)&schedule->first + n * PIECE
                     : i < HEAD ? (const uint8_t *)schedule + n * PIECE
                                : (const uint8_t *)&r->list[(uint64_t)n * r->blocks],
                     true);
    }
}

K_APART void begin_run(k_block *block, const k_schedule *schedule, bool later) {
    k_block *b = k_block_at(block);
    k_run *r = &k_control_at()->run;
    const k_run first = {.list = (const k_work *)(const void *)(schedule + 1) + b->block, .blocks = b->blocks};
    bring_first(&first, schedule);
    if (k_thread() == 0) {
        r->list = first.list;
        r->blocks = first.blocks;
        r->halt = &b->state->stop;
    }
    k_go_to(0);
    k_copies_wait_all();
    if (later && k_thread() == 0) {
        k_await_ready(b, k_control_at()->command.later);
    }
    k_block_sync();
    if (r->works[0].op != 0) {
        k_bring(0);
        k_copies_wait_all();
        k_block_sync();
    }
    mark(r, 0);
}

/* To the phase behind, at once or past a barrier. True: stopped. */
K_INLINE bool end_phase(k_block *block) {
    const uint32_t at = k_phase_at(), part = k_alike(k_work_of(at).part);
    bool stopped = false;
    if (part & K_LARGEST) {
        const k_work done = k_work_of(at);
        k_stream_largest(k_op_place(at), done.from, done.to);
    }
    k_copies_wait_all();
    if (part & K_OWN_SLOT) {
        k_release_own_slot();
    }
    if (part & K_FLOWS) {
        k_block_sync();
    } else {
        k_block *b = k_block_at(block);
        stopped = k_grid_barrier(b, b->block == 0 && k_thread_anew() == 0 ? k_run_at()->stop[0] : 0);
    }
    k_go_to(at + 1);
    if (part & K_MARKED) {
        mark(k_run_at(), at + 1);
    }
    return stopped;
}

/* Before a phase that ends at a barrier: block 0 learns whether the run is to be stopped there. */
K_INLINE void look_for_stop(const k_block *b, volatile k_run *r) {
    if (b->block == 0 && k_thread_anew() == 0) {
        k_peek_async((uint32_t *)(uintptr_t)r->stop, &b->state->stop);
    }
}

/*
 * Such phases, as many as come. Apart, since the registers of everything else would be spilled here, and what is read back from a block's little
 * first cache takes as long as what is read from memory. For the same reason nothing is kept over a phase's work: it is read anew from shared memory.
 * True: stopped.
 */
K_APART bool run_decoding(k_block *block) {
    for (;;) {
        const uint32_t at = k_phase_at();
        const k_work work = k_work_of(at);
        const uint32_t part = k_alike(work.part), kind = part & K_DECODES;
        if (!(part & K_FLOWS)) {
            look_for_stop(k_block_at(block), k_run_at());
        }
        if (kind == K_DOES_Q4) {
            k_one_stream_q4(at, work.from, work.to);
        } else if (kind == K_DOES_Q4_EARLY) {
            k_one_stream_q4_early(at, work.from, work.to);
        } else if (kind == K_DOES_Q8) {
            k_one_stream_q8(at, work.from, work.to);
        } else if (kind == K_DOES_F16) {
            k_one_stream_f16(at, work.from, work.to);
        } else if (kind == K_DOES_NOTHING) {
            k_bring_next();
        } else if (kind == K_DOES_ATTEND) {
            k_do_attend_halves(part & K_NUMBER);
        } else if (kind == K_DOES_LONG) {
            k_one_stream_long(at, work.from, work.to);
        } else if (kind == K_DOES_STREAM) {
            k_do_stream(work.from, work.to, k_block_at(block)->ring);
        } else {
            return false;
        }
        if (end_phase(block)) {
            return true;
        }
    }
}

/* True: stopped. What is needed behind the work of a phase is read again from shared memory: the work needs all registers. */
K_INLINE bool run_phases(k_block *b) {
    volatile k_run *r = k_run_at();
    bool stopped = false;
    while (!stopped && k_phase_at() < r->n) {
        if (k_thread_anew() == 0 && k_phase_at() >= r->ring_from) {
            *(volatile uint32_t *)&k_control_at()->open = 1;
        }
        if ((k_work_of(k_phase_at()).part & K_DECODES) != K_DOES_ANY) {
            stopped = run_decoding(b);
        } else {
            look_for_stop(b, r);
            run_work(b, r);
            k_ring_memory_done();
            stopped = end_phase(b);
        }
    }
    return stopped;
}

/* True: stopped. The fetching warp begins and ends with the others. */
K_INLINE bool run_schedule(k_block *b, k_schedule *schedule, bool later) {
    k_control *control = k_control_at();
    k_ring_memory_done();
    if (k_thread() == 0) {
        control->schedule = (uintptr_t)schedule;
        control->open = 0;
    }
    k_all_sync();
    begin_run(b, schedule, later);
    bool stopped = run_phases(b);
    if (k_thread() == 0) {
        *(volatile uint32_t *)&control->open = 1;
        if (stopped) {
            *(volatile uint32_t *)&control->stop = 1;
        } else if (b->block == 0) {
            schedule->turn = control->run.turn ^ 1;
        }
    }
    k_all_sync();
    return stopped;
}

/* One block has it all: it meets nobody, and nothing is fetched. True: stopped. */
K_APART bool run_alone(k_block *block, k_schedule *schedule) {
    k_block *b = k_block_at(block);
    volatile k_run *r = k_run_at();
    begin_run(b, schedule, false);
    for (uint32_t at = 0, n = r->n; at < n; at++) {
        look_for_stop(b, r);
        k_bring_next();
        run_op(k_op_at(), 0);
        k_copies_wait_all();
        k_block_sync();
        mark(r, at + 1);
        if (r->stop[0]) {
            return true;
        }
        if (at + 1 < n) {
            k_go_to(at + 1);
        }
    }
    if (k_thread() == 0) {
        schedule->turn = r->turn ^ 1;
    }
    return false;
}

/* Copies go by 16 bytes where both ends and the length allow it. Threads first, first + step, ... make it. */
K_INLINE void run_copy(uint64_t to_at, uint64_t from_at, uint64_t bytes, uint32_t first, uint32_t step) {
    uint8_t *to = (uint8_t *)(uintptr_t)to_at;
    const uint8_t *from = (const uint8_t *)(uintptr_t)from_at;
    uint64_t wide = (to_at | from_at) & 15 ? 0 : bytes / 16;
    for (uint64_t i = first; i < wide; i += step) {
        ((k_words4 *)to)[i] = ((const k_words4 *)from)[i];
    }
    for (uint64_t i = wide * 16 + first; i < bytes; i += step) {
        to[i] = from[i];
    }
}

/* Those that are for all blocks. */
K_INLINE void run_copies(const k_block *b) {
    for (uint32_t c = 0; c < b->state->n_copies; c++) {
        const k_copy *copy = &b->state->copies[c];
        run_copy(copy->to, copy->from, copy->bytes, b->block * K_THREADS + k_thread(), b->blocks * K_THREADS);
    }
}

/* Block 0 brings the packet into shared memory, several reads at once, since the host is far. */
K_INLINE void bring_packet(const uint8_t *from, uint8_t *to, uint32_t bytes) {
    enum { AT_ONCE = 4, STEP = K_THREADS * 16 };
    for (uint32_t at = k_thread() * 16; at < bytes; at += AT_ONCE * STEP) {
        k_words4 words[AT_ONCE];
        K_UNROLL_ALL
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            if (at + i * STEP < bytes) {
                words[i] = k_host16(from + at + i * STEP);
            }
        }
        K_UNROLL_ALL
        for (uint32_t i = 0; i < AT_ONCE; i++) {
            if (at + i * STEP < bytes) {
                *(k_words4 *)(void *)(to + at + i * STEP) = words[i];
            }
        }
    }
}

/* Block 0 makes the copies of a packet, but for those that all blocks are to make. */
K_APART void take_packet(k_block *b, uint64_t from, uint32_t bytes) {
    uint8_t *packet = k_shared();
    uint32_t n = 0;
    bring_packet((const uint8_t *)(uintptr_t)from, packet, bytes);
    k_block_sync();
    for (uint32_t at = 0; at < bytes; at += sizeof(k_entry)) {
        const k_entry e = *(const k_entry *)(void *)(packet + at);
        if (!e.from) {
            run_copy(e.to, (uint64_t)(uintptr_t)(packet + at + sizeof e), e.bytes, k_thread(), K_THREADS);
            at += ((uint32_t)e.bytes + 15) / 16 * 16;
        } else if (e.bytes <= K_COPY_ALONE) {
            run_copy(e.to, e.from, e.bytes, k_thread(), K_THREADS);
        } else {
            if (k_thread() == 0) {
                b->state->copies[n] = (k_copy){e.to, e.from, e.bytes};
            }
            n++;
        }
    }
    if (k_thread() == 0) {
        b->state->n_copies = n;
    }
    k_block_sync();
}

/* One thread of block 0. */
K_INLINE void tell(k_block *b, uint64_t go) {
    volatile k_command *c = &k_control_at()->command;
    c->go = go | ((c->go & K_TURN) ^ K_TURN);
    k_tell(b, c->go);
}

/* A command that one warp can do, and does. What it needs to know comes in one trip. */
K_INLINE void run_small(k_block *b, const k_schedule *s, uint32_t number) {
    const k_words4 where = k_host16(&s->small), what = k_host16(&s->small.kind), result = k_host16(&s->turn);
    k_f32 *to = (k_f32 *)(uintptr_t)((uint64_t)where.w[1] << 32 | where.w[0]);
    const k_f32 *from = (const k_f32 *)(uintptr_t)((uint64_t)where.w[3] << 32 | where.w[2]);
    for (uint32_t i = k_lane(); i < what.w[1]; i += K_LANES) {
        to[i] = k_of_one(what.w[0], from[i], k_bits_float(what.w[2]), k_bits_float(what.w[3]));
    }
    k_warp_sync();
    for (uint32_t i = k_lane(); i < result.w[1] / 4; i += K_LANES) {
        k_store_word(&b->queue->answer[i], (uint64_t)number << 32 | ((const k_u32 *)(uintptr_t)((uint64_t)result.w[3] << 32 | result.w[2]))[i]);
    }
    if (k_lane() == 0) {
        k_show();
        k_store_done(&b->queue->done, number);
    }
}

/* The first warp of block 0 waits for a command that is for more than one warp. */
K_APART void await_work(k_block *block) {
    k_block *b = k_block_at(block);
    volatile k_command *c = &k_control_at()->command;
    uint32_t last;
    do {
        last = c->number;
        k_await_command(b, c);
        k_warp_sync();
        if (c->number != last && c->words[0] & K_SMALL) {
            run_small(b, (const k_schedule *)(uintptr_t)((uint64_t)c->words[1] << 32 | (c->words[0] & ~(uint32_t)K_FLAGS)), c->number);
        }
    } while (c->number != last && c->words[0] & K_SMALL);
    if (k_lane() == 0) {
        c->idle = c->number == last;
    }
}

/* Block 0 waits for a command, makes its copies, and tells the others of what is left. */
K_APART uint64_t lead(k_block *block) {
    k_block *b = k_block_at(block);
    volatile k_command *c = &k_control_at()->command;
    k_block_sync();
    if (k_warp() == 0) {
        await_work(b);
    }
    k_block_sync();
    uint64_t go = c->idle ? K_LEAVE | K_IDLE : (uint64_t)c->words[1] << 32 | c->words[0];
    uint32_t bytes = go & K_IDLE ? 0 : c->words[2];
    bool later = bytes && !(go & (K_ALONE | K_ALL)); /* the others may find out what to do while the copies are made */
    if (later && k_thread() == 0) {
        tell(b, go | K_LATER);
    }
    if (bytes) {
        take_packet(b, b->packet, bytes);
    }
    if (later && k_thread() == 0) {
        k_tell_ready(b, ++c->later);
    } else if (k_thread() == 0 && !(go & K_ALONE)) {
        tell(b, go);
    }
    return go;
}

/* The others wait until they are told. */
K_APART uint64_t follow(k_block *block) {
    k_block *b = k_block_at(block);
    volatile k_command *c = &k_control_at()->command;
    k_block_sync();
    if (k_thread() == 0) {
        c->go = k_await_told(b, c->go & K_TURN);
        c->later += c->go & K_LATER ? 1 : 0;
    }
    k_block_sync();
    return c->go;
}

/* True: stopped. */
K_INLINE bool run_command(k_block *b, uint64_t go) {
    uint64_t schedule = go & ~(uint64_t)K_FLAGS;
    if (go & K_ALL) {
        run_copies(b);
        if (k_grid_barrier(b, 0)) {
            return true;
        }
    }
    if (go & K_ALONE) {
        return schedule && run_alone(b, (k_schedule *)(uintptr_t)schedule);
    }
    return schedule && run_schedule(b, (k_schedule *)(uintptr_t)schedule, go & K_LATER);
}

/* Block 0 says that it is done. An answer's words say by themselves when they are there: none waits for another, and done for none of them. */
K_APART void answer(k_block *block, uint64_t go, bool stopped) {
    k_block *b = k_block_at(block);
    const k_run *r = &k_control_at()->run;
    uint32_t number = k_control_at()->command.number, words = go & ~(uint64_t)K_FLAGS && !stopped ? r->answer_bytes / 4 : 0;
    for (uint32_t i = K_THREADS - 1 - k_thread(); i < words; i += K_THREADS) {
        k_store_word(&b->queue->answer[i], (uint64_t)number << 32 | ((const k_u32 *)(uintptr_t)r->answer)[i]);
    }
    if (k_thread() == 0 && !stopped && !(go & K_TO_HOST)) {
        if (go & K_ALONE) { /* others met at a barrier */
            k_show();
        }
        k_store_done(&b->queue->done, number);
    } else if (k_thread() == 0) {
        if (stopped) {
            k_store_system(&b->queue->stopped, number);
        }
        if (stopped && go & K_ALONE) {
            tell(b, K_LEAVE);
        }
        k_store_system(&b->queue->done, number);
    }
}

/*
 * What happens once a command is apart, in functions that need few registers: what would be kept over the work, whose code needs all of them, is
 * brought back from the second cache, since whoever waits for somebody else gives up what is in the first.
 */
K_INLINE void serve(k_block *b) {
    uint64_t go = 0;
    while (!(go & K_LEAVE)) {
        go = b->block == 0 ? lead(b) : follow(b);
        bool stopped = run_command(b, go);
        if (b->block == 0 && !(go & K_IDLE)) {
            answer(b, go, stopped);
        }
        go |= stopped ? K_LEAVE : 0;
    }
    if (b->block == 0 && k_thread() == 0) {
        k_store_system(&b->queue->left, b->queue->left + 1);
    }
}

K_INLINE void run_block(k_block *b) {
    if (k_thread() == 0) {
        k_control *c = k_control_at();
        c->stop = 0;
        c->command = (k_command){.number = k_load_system(&b->queue->done)};
        b->packet = b->queue->packet;
        c->run.marks = b->block == 0 ? (volatile uint64_t *)(uintptr_t)b->queue->marks : NULL;
        k_ring_init();
    }
    k_all_sync();
    serve(b);
    if (k_thread() == 0) {
        k_control_at()->schedule = 0;
    }
    k_all_sync();
}

#ifdef __NVPTX__
/* The fetching warp: for each schedule that the others run. */
K_APART void fetch(uint32_t block, bool ring) {
    k_fetching fetching = {0};
    k_fetched fetched = {0};
    k_all_sync();
    for (;;) {
        k_all_sync();
        const k_schedule *s = (const k_schedule *)(uintptr_t)k_control_at()->schedule;
        if (!s) {
            return;
        }
        if (ring) {
            if (s->ring_from && k_lane() == 0) {
                k_serve_stages(&fetched);
            }
            k_warp_sync();
            k_fetch_schedule(s, block, &fetching);
        }
        k_all_sync();
    }
}

__attribute__((used)) void sp_cuda_resident(k_queue *queue, k_state *state, uint32_t ring) {
    uint32_t block = (uint32_t)__nvvm_read_ptx_sreg_ctaid_x();
    if (k_thread() >= K_THREADS) {
        fetch(block, ring);
        return;
    }
    k_block *b = &k_control_at()->block;
    if (k_thread() == 0) {
        *b = (k_block){.block = block, .blocks = (uint32_t)__nvvm_read_ptx_sreg_nctaid_x(), .queue = queue, .state = state, .ring = ring};
    }
    run_block(b);
}
#else
void k_resident(k_block *b) {
    run_block(b);
}
#endif
