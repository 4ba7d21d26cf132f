/*
 * The resident kernel: waits for schedules and runs them, phase after phase.
 * Compiled twice: to PTX, where every block of the grid runs it, and for the
 * host, where each thread of the emulated device is a block.
 */
#include "device/cuda/resident.h"

#include "device/cuda/kernel_product.h"
#include "device/cuda/kernel_recurrent.h"

static void run_op(k_block *b, const k_op *op, uint32_t part) {
    switch (op->op) {
    case SP_OP_MUL_MAT:
    case SP_OP_MUL_MAT_ID:
        k_do_product(b, op, part);
        break;
    case SP_OP_NORM:
    case SP_OP_RMS_NORM:
    case SP_OP_L2_NORM:
    case SP_OP_SUM_ROWS:
    case SP_OP_SOFT_MAX_EXT:
    case SP_OP_ARGMAX:
        k_do_rows(b, op, part);
        break;
    case SP_OP_FLASH_ATTN_EXT:
        k_do_attention(b, op, part);
        break;
    case K_OP_ATTENTION_COMBINE:
        k_do_combine(op, part);
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
    case K_OP_COPY_BYTES:
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

/* The parts that no block does first: a phase has more of them than there are
 * blocks. */
static void run_rest(k_block *b, const k_op *ops, const k_phase *phase) {
    for (uint32_t part = b->block + b->blocks; part < phase->n_parts; part += b->blocks) {
        uint32_t at = 0, first = 0;
        const k_op *op = ops + phase->first_op;
        while (part >= first + op[at].n_parts) {
            first += op[at++].n_parts;
        }
        run_op(b, &op[at], part - first);
    }
}

_Static_assert(sizeof(k_op) <= K_SHARED_OPS / 2 && sizeof(k_op) % 4 == 0, "two operations fit");

enum { OP_WORDS = sizeof(k_op) / 4, OP_WORDS_EACH = (OP_WORDS + K_THREADS - 1) / K_THREADS };

static k_op *op_place(const k_block *b, uint32_t phase) {
    return (k_op *)(void *)(b->shared + K_SHARED_WORK + (phase & 1) * (K_SHARED_OPS / 2));
}

/* Each thread's share of an operation's words: read while the operation before
 * runs. */
static void read_op(const k_op *ops, k_work work, uint32_t *words) {
    for (uint32_t w = 0; w < OP_WORDS_EACH; w++) {
        uint32_t i = w * K_THREADS + k_thread();
        words[w] = work.op != K_NO_WORK && i < OP_WORDS ? ((const k_u32 *)(const void *)&ops[work.op])[i] : 0;
    }
}

/* Puts it into shared memory, and asks for what a product reads first. */
static const k_op *place_op(const k_block *b, k_work work, uint32_t phase, const uint32_t *words) {
    k_op *here = op_place(b, phase);
    for (uint32_t w = 0; w < OP_WORDS_EACH; w++) {
        uint32_t i = w * K_THREADS + k_thread();
        if (i < OP_WORDS) {
            ((k_u32 *)(void *)here)[i] = words[w];
        }
    }
    k_block_sync();
    if (work.op != K_NO_WORK) {
        k_prefetch_product(here, work.part);
    }
    return here;
}

/* True: stopped. A block knows its work two phases ahead, its operation one, so
 * that nothing waits for them behind the barrier. */
static bool run_schedule(k_block *b, const k_schedule *schedule) {
    const k_phase *phases = (const k_phase *)(uintptr_t)schedule->phases;
    const k_op *ops = (const k_op *)(uintptr_t)schedule->ops;
    const k_work *works = (const k_work *)(uintptr_t)schedule->works + b->block;
    const k_work none = {K_NO_WORK, 0};
    uint32_t n = schedule->n_phases, words[OP_WORDS_EACH];
    k_work work = works[0], next = n > 1 ? works[b->blocks] : none;
    read_op(ops, work, words);
    const k_op *op = place_op(b, work, 0, words);
    for (uint32_t i = 0; i < n; i++) {
        bool stop = b->block == 0 && k_thread() == 0 && k_peek(&b->state->stop);
        uint32_t n_parts = phases[i].n_parts;
        k_work after = i + 2 < n ? works[(uint64_t)(i + 2) * b->blocks] : none;
        read_op(ops, next, words);
        if (work.op != K_NO_WORK) {
            run_op(b, op, work.part);
        }
        if (n_parts > b->blocks) {
            run_rest(b, ops, &phases[i]);
        }
        work = next;
        next = after;
        op = place_op(b, work, i + 1, words);
        if (k_grid_barrier(b, stop)) {
            return true;
        }
    }
    return false;
}

/* Copies go by 16 bytes where both ends and the length allow it. */
static void run_copies(const k_block *b) {
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
static void take_command(k_block *b, uint32_t last) {
    k_state *state = b->state;
    const k_queue *queue = b->queue;
    state->command = k_await_doorbell(b, last);
    state->n_copies = queue->n_copies;
    state->leave = queue->leave || state->command == last;
    state->schedule = queue->schedule;
    for (uint32_t i = 0; i < state->n_copies; i++) {
        state->copies[i] = queue->copies[i];
    }
}

/* True: stopped. The state is read before the first barrier alone: after the
 * last one block 0 writes the next command there. */
static bool run_command(k_block *b) {
    uint64_t schedule = b->state->schedule;
    if (b->state->n_copies) {
        run_copies(b);
        if (k_grid_barrier(b, false)) {
            return true;
        }
    }
    return schedule && run_schedule(b, (const k_schedule *)(uintptr_t)schedule);
}

void k_resident(k_block *b) {
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

#ifdef __NVPTX__
/* Dynamic shared memory, K_SHARED bytes. */
extern __attribute__((address_space(3), aligned(16))) uint8_t k_shared_memory[];

__attribute__((used)) void sp_cuda_resident(k_queue *queue, k_state *state) {
    k_block b = {.block = (uint32_t)__nvvm_read_ptx_sreg_ctaid_x(),
                 .blocks = (uint32_t)__nvvm_read_ptx_sreg_nctaid_x(),
                 .shared = (uint8_t *)k_shared_memory,
                 .queue = queue,
                 .state = state};
    k_resident(&b);
}
#endif
