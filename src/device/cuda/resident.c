/*
 * The resident kernel: waits for schedules and runs them, phase after phase.
 * Compiled twice: to PTX, where every block of the grid runs it, and for the
 * host, where each thread of the emulated device is a block.
 */
#include "device/cuda/resident.h"

#include "device/cuda/kernel_attend.h"
#include "device/cuda/kernel_recurrent.h"
#include "device/cuda/kernel_stream.h"
#include "device/cuda/kernel_tiles.h"
#ifdef K_WGMMA
#include "device/cuda/kernel_fetch_hopper.h"
#endif

/* Not inlined: what decoding runs all the time keeps its registers to itself. */
static __attribute__((noinline)) void run_op(const k_op *op, uint32_t part) {
    switch (op->op) {
    case K_OP_STREAM:
        k_do_stream(op, k_stream_from(op, part), k_stream_from(op, part + 1), false, 0);
        k_block_sync();
        break;
    case K_OP_HALVES:
        k_do_halves(op, part);
        break;
    case K_OP_ROPE:
        k_do_rope(op, part);
        break;
    case K_OP_MASK_MAP:
        k_do_mask_map(op, part);
        break;
    case K_OP_ATTEND_HALVES:
        k_do_attend_halves(op, part);
        break;
    case K_OP_FLAT:
        k_do_flat(op, part);
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
    case SP_OP_ARGMAX:
        k_do_rows(op, part);
        break;
    case SP_OP_FLASH_ATTN_EXT:
        k_do_attention(op, part);
        break;
    case SP_OP_ARGSORT:
    case SP_OP_TOP_K:
        k_do_sort(op, part);
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

_Static_assert(sizeof(k_op) <= K_OPS / 2 && sizeof(k_op) % 16 == 0 && sizeof(k_schedule) % 16 == 0 && sizeof(k_phase) % 16 == 0,
               "two operations fit, aligned");

static k_op *op_place(uint32_t phase) {
    return (k_op *)(void *)(k_shared_start() + K_CONTROL + (phase & 1) * (K_OPS / 2));
}

/* The phase's operation, and the work of the one behind it. */
K_INLINE void bring(const k_block *b, k_run *r, uint32_t phase) {
    const k_work work = r->works[phase & 3];
    const uint8_t *from = (const uint8_t *)&r->ops[work.op];
    for (uint32_t i = k_thread() * 16; phase < r->n && work.op != K_NO_WORK && i < sizeof(k_op); i += K_THREADS * 16) {
        k_copy_async((uint8_t *)op_place(phase) + i, from + i, true);
    }
    if (k_thread() == 0 && phase + 1 < r->n) {
        k_copy_async(&r->works[(phase + 1) & 3], &r->list[(uint64_t)(phase + 1) * b->blocks], true);
    }
}

K_INLINE void mark(const k_run *r, uint32_t i) {
    if (k_thread() == 0 && r->marks && i < K_MARKS) {
        r->marks[i] = k_now_ns();
    }
}

/* A phase ends at a barrier. */
K_INLINE uint32_t phase_of(volatile const k_block *b, volatile const k_run *r) {
    return b->barriers - r->before;
}

K_INLINE void run_work(volatile k_block *b, volatile k_run *r) {
    const k_op *op = op_place(phase_of(b, r));
    volatile k_work *work = &r->works[phase_of(b, r) & 3];
    uint32_t part = work->part & ~K_MORE;
    if (work->op == K_NO_WORK) {
        return;
    }
    if (op->op == K_OP_STREAM && phase_of(b, r) >= r->ring_from) {
        uint32_t taken = k_do_stream(op, work->from, work->to, b->ring, b->taken);
        if (k_thread() == 0) {
            b->taken = taken;
        }
        part = K_NO_WORK;
    } else if (op->op == K_OP_ATTEND_HALVES) {
        k_do_attend_halves(op, part);
        part = K_NO_WORK;
    }
    for (uint32_t next = b->block;;) { /* the rest's weights don't come through the ring */
        if (part != K_NO_WORK && op->op == K_OP_TILES) {
            k_do_tiles(op, part);
        } else if (part != K_NO_WORK && op->op == K_OP_ATTEND) {
            k_do_attend(op, part);
        } else if (part != K_NO_WORK) {
            run_op(op, part);
        }
        next += b->blocks;
        const k_phase *phase = &r->phases[phase_of(b, r)];
        if (!(r->works[phase_of(b, r) & 3].part & K_MORE) || next >= phase->n_parts) {
            return;
        }
        k_block_sync();
        part = next;
        op = find_part(r->ops, phase, &part);
    }
}

K_INLINE void begin_run(const k_block *b, k_run *r, const k_schedule *schedule) {
    if (k_thread() == 0) {
        r->phases = (const k_phase *)(uintptr_t)schedule->phases;
        r->ops = (const k_op *)(uintptr_t)schedule->ops;
        r->list = (const k_work *)(uintptr_t)schedule->works + b->block;
        r->marks = b->block == 0 ? (volatile uint64_t *)(uintptr_t)b->queue->marks : NULL;
        r->n = schedule->n_phases;
        r->ring_from = schedule->ring_from;
        r->before = b->barriers;
        r->works[0] = r->list[0];
    }
    k_block_sync();
    bring(b, r, 0);
    k_copies_wait_all();
    k_block_sync();
    mark(r, 0);
}

/* True: stopped. What is needed behind the work of a phase is read again from shared memory: the work needs all registers. */
K_INLINE bool run_phases(k_block *b, const k_schedule *schedule) {
    k_run *r = &k_control_at()->run;
    begin_run(b, r, schedule);
    while (phase_of(b, r) < *(volatile uint32_t *)&r->n) {
        if (k_thread() == 0 && phase_of(b, r) == r->ring_from) {
            *(volatile uint32_t *)&k_control_at()->open = 1;
        }
        if (b->block == 0 && k_thread() == 0) {
            k_peek_async(r->stop, &b->state->stop);
        }
        bring(b, r, phase_of(b, r) + 1);
        run_work(b, r);
        k_copies_wait_all();
        if (k_grid_barrier(b, b->block == 0 && k_thread() == 0 ? *(volatile uint32_t *)r->stop : 0)) {
            return true;
        }
        mark(r, phase_of(b, r));
    }
    return false;
}

/* True: stopped. The fetching warp begins and ends with the others. */
K_INLINE bool run_schedule(k_block *b, const k_schedule *schedule) {
    k_control *control = k_control_at();
    if (k_thread() == 0) {
        control->schedule = (uintptr_t)schedule;
        control->open = 0;
    }
    k_all_sync();
    bool stopped = run_phases(b, schedule);
    if (k_thread() == 0) {
        *(volatile uint32_t *)&control->open = 1;
        if (stopped) {
            *(volatile uint32_t *)&control->stop = 1;
        }
    }
    k_all_sync();
    return stopped;
}

/* Copies go by 16 bytes where both ends and the length allow it. */
K_INLINE void run_copies(const k_block *b) {
    uint32_t first = b->block * K_THREADS + k_thread(), step = b->blocks * K_THREADS;
    for (uint32_t c = 0; c < b->state->n_copies; c++) {
        const k_copy *copy = &b->state->copies[c];
        uint8_t *to = (uint8_t *)(uintptr_t)copy->to;
        const uint8_t *from = (const uint8_t *)(uintptr_t)copy->from;
        uint64_t wide = (copy->to | copy->from) & 15 ? 0 : copy->bytes / 16;
        for (uint64_t i = first; i < wide; i += step) {
            ((k_words4 *)to)[i] = ((const k_words4 *)from)[i];
        }
        for (uint64_t i = wide * 16 + first; i < copy->bytes; i += step) {
            to[i] = from[i];
        }
    }
}

/* One thread of block 0: what the host asks for goes to where every block reads
 * it. */
K_INLINE void take_command(k_block *b, uint32_t last) {
    k_state *state = b->state;
    const k_queue *queue = b->queue;
    state->command = k_await_doorbell(b, last);
    if (state->command == last) { /* nobody rang: what is in the queue may be half a command */
        state->leave = true;
        return;
    }
    state->n_copies = queue->n_copies;
    state->leave = queue->leave;
    state->schedule = queue->schedule;
    for (uint32_t i = 0; i < state->n_copies; i++) {
        state->copies[i] = queue->copies[i];
    }
}

/* True: stopped. The state is read before the first barrier alone: after the
 * last one block 0 writes the next command there. */
K_INLINE bool run_command(k_block *b) {
    uint64_t schedule = b->state->schedule;
    if (b->state->n_copies) {
        run_copies(b);
        if (k_grid_barrier(b, 0)) {
            return true;
        }
    }
    return schedule && run_schedule(b, (const k_schedule *)(uintptr_t)schedule);
}

K_INLINE void serve(k_block *b) {
    uint32_t last = k_load_system(&b->queue->done);
    bool first = b->block == 0 && k_thread() == 0, leave = false;
    while (!leave) {
        if (first) {
            take_command(b, last);
        }
        if (k_grid_barrier(b, 0)) {
            break;
        }
        leave = b->state->leave;
        bool idle = b->state->command == last;
        last = b->state->command;
        if (idle) {
            break;
        }
        bool stopped = run_command(b);
        leave |= stopped;
        if (first) {
            if (stopped) {
                k_store_system(&b->queue->stopped, last);
            }
            k_store_system(&b->queue->done, last);
        }
    }
    if (first) {
        k_store_system(&b->queue->left, b->queue->left + 1);
    }
}

K_INLINE void run_block(k_block *b) {
    if (k_thread() == 0) {
        k_control_at()->stop = 0;
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
static void fetch(uint32_t block, bool ring) {
    uint32_t n = 0;
    k_fetched fetched = {0};
    k_all_sync();
    for (;;) {
        k_all_sync();
        const k_schedule *s = (const k_schedule *)(uintptr_t)k_control_at()->schedule;
        if (!s) {
            return;
        }
        if (k_lane() == 0 && ring) {
            if (s->ring_from) {
                k_serve_stages(&fetched);
            }
            n = k_fetch_schedule(s, block, n);
        }
        __nvvm_bar_warp_sync(0xffffffffu);
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
