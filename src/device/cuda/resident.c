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

static __attribute__((noinline)) void run_stream_without_ring(const k_op *op, uint32_t part) {
    k_block b = {.ring = false};
    k_do_stream(&b, op, part);
}

/* Not inlined: what decoding runs all the time keeps its registers to itself. */
static __attribute__((noinline)) void run_op(const k_op *op, uint32_t part) {
    switch (op->op) {
    case K_OP_STREAM:
        run_stream_without_ring(op, part);
        break;
    case K_OP_TILES:
        k_do_tiles(op, part);
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
    case K_OP_ATTEND:
        k_do_attend(op, part);
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

/* The parts that no block does first: a phase has more of them than there are blocks. Their weights don't come through the ring. */
static void run_rest(uint32_t block, uint32_t blocks, const k_op *ops, const k_phase *phase) {
    for (uint32_t part = block + blocks; part < phase->n_parts; part += blocks) {
        uint32_t at = 0, first = 0;
        const k_op *op = ops + phase->first_op;
        while (part >= first + op[at].n_parts) {
            first += op[at++].n_parts;
        }
        run_op(&op[at], part - first);
    }
}

_Static_assert(sizeof(k_op) <= K_OPS / 2 && sizeof(k_op) % 4 == 0, "two operations fit");

enum { OP_WORDS = sizeof(k_op) / 4, OP_WORDS_EACH = (OP_WORDS + K_THREADS - 1) / K_THREADS };

static k_op *op_place(uint32_t phase) {
    return (k_op *)(void *)(k_shared_start() + K_CONTROL + (phase & 1) * (K_OPS / 2));
}

/* Each thread's share of an operation's words: read while the operation before
 * runs. */
static void read_op(const k_op *ops, k_work work, uint32_t *words) {
    for (uint32_t w = 0; w < OP_WORDS_EACH; w++) {
        uint32_t i = w * K_THREADS + k_thread();
        words[w] = work.op != K_NO_WORK && i < OP_WORDS ? ((const k_u32 *)(const void *)&ops[work.op])[i] : 0;
    }
}

/* Puts it into shared memory. */
static const k_op *place_op(uint32_t phase, const uint32_t *words) {
    k_op *here = op_place(phase);
    for (uint32_t w = 0; w < OP_WORDS_EACH; w++) {
        uint32_t i = w * K_THREADS + k_thread();
        if (i < OP_WORDS) {
            ((k_u32 *)(void *)here)[i] = words[w];
        }
    }
    k_block_sync();
    return here;
}

K_INLINE void mark(volatile uint64_t *marks, uint32_t i) {
    if (marks && i < K_MARKS) {
        marks[i] = k_now_ns();
    }
}

/* True: stopped. A block knows its work two phases ahead, its operation one, so that nothing waits for them behind the barrier. */
K_INLINE bool run_phases(k_block *b, const k_schedule *schedule) {
    const k_phase *phases = (const k_phase *)(uintptr_t)schedule->phases;
    const k_op *ops = (const k_op *)(uintptr_t)schedule->ops;
    const k_work *works = (const k_work *)(uintptr_t)schedule->works + b->block;
    const k_work none = {K_NO_WORK, 0};
    uint32_t n = schedule->n_phases, ring_from = schedule->ring_from, words[OP_WORDS_EACH];
    k_work work = works[0], next = n > 1 ? works[b->blocks] : none;
    read_op(ops, work, words);
    const k_op *op = place_op(0, words);
    volatile uint64_t *marks = b->block == 0 && k_thread() == 0 ? (volatile uint64_t *)(uintptr_t)b->queue->marks : NULL;
    mark(marks, 0);
    for (uint32_t i = 0; i < n; i++) {
        bool stop = b->block == 0 && k_thread() == 0 && k_peek(&b->state->stop);
        uint32_t n_parts = phases[i].n_parts;
        k_work after = i + 2 < n ? works[(uint64_t)(i + 2) * b->blocks] : none;
        read_op(ops, next, words);
        if (i == ring_from && k_thread() == 0) {
            *(volatile uint32_t *)&k_control_at()->open = 1;
        }
        if (work.op != K_NO_WORK && op->op == K_OP_STREAM && i >= ring_from) {
            k_do_stream(b, op, work.part);
        } else if (work.op != K_NO_WORK) {
            run_op(op, work.part);
        }
        if (n_parts > b->blocks) {
            run_rest(b->block, b->blocks, ops, &phases[i]);
        }
        work = next;
        next = after;
        op = place_op(i + 1, words);
        if (k_grid_barrier(b, stop)) {
            return true;
        }
        mark(marks, i + 1);
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
    if (k_thread() == 0 && stopped) {
        *(volatile uint32_t *)&control->stop = 1;
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
        if (k_grid_barrier(b, false)) {
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
        if (k_grid_barrier(b, false)) {
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
    k_all_sync();
    for (;;) {
        k_all_sync();
        const k_schedule *s = (const k_schedule *)(uintptr_t)k_control_at()->schedule;
        if (!s) {
            return;
        }
        if (k_lane() == 0 && ring) {
            const volatile k_control *control = k_control_at();
            while (s->n_streams && s->ring_from && !control->open && !control->stop) {
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
    k_block b = {.block = block, .blocks = (uint32_t)__nvvm_read_ptx_sreg_nctaid_x(), .queue = queue, .state = state, .ring = ring};
    run_block(&b);
}
#else
void k_resident(k_block *b) {
    run_block(b);
}
#endif
