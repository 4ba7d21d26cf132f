/*
 * Phases: an operation runs in the first phase in which all that it reads is
 * there and nobody reads what it overwrites. Temporaries share memory with
 * those that are dead before they are born.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/plan.h"

static int32_t most(int32_t a, int32_t b) {
    return a > b ? a : b;
}

static void assign_phase(plan *p, plan_op *o) {
    int32_t phase = 0;
    for (uint32_t i = 0; i < o->n_reads; i++) {
        phase = most(phase, p->roots[o->reads[i]].written + 1);
    }
    plan_root *out = &p->roots[o->writes];
    phase = most(phase, most(out->written, out->read) + 1);
    for (uint32_t i = 0; i < o->n_reads; i++) {
        plan_root *in = &p->roots[o->reads[i]];
        in->read = most(in->read, phase);
        in->dies = most(in->dies, phase);
    }
    if (o->scratch != PLAN_NONE) {
        p->roots[o->scratch].born = p->roots[o->scratch].dies = phase;
    }
    out->written = phase;
    out->born = out->born < 0 ? phase : out->born;
    out->dies = most(out->dies, phase);
    o->phase = phase;
    p->n_phases = most(p->n_phases, phase + 1);
}

/* ---- temporaries: first fit among free gaps, phase by phase ---- */

typedef struct gap {
    uint64_t at, size;
} gap;

typedef struct gaps {
    gap *list;
    uint32_t n;
    uint64_t end;
} gaps;

static uint64_t take(gaps *g, uint64_t size) {
    for (uint32_t i = 0; i < g->n; i++) {
        if (g->list[i].size >= size) {
            uint64_t at = g->list[i].at;
            g->list[i].at += size;
            g->list[i].size -= size;
            if (!g->list[i].size) {
                memmove(&g->list[i], &g->list[i + 1], (--g->n - i) * sizeof *g->list);
            }
            return at;
        }
    }
    uint64_t at = g->end;
    g->end += size;
    return at;
}

static void give(gaps *g, uint64_t at, uint64_t size) {
    uint32_t i = 0;
    while (i < g->n && g->list[i].at < at) {
        i++;
    }
    bool joins_before = i > 0 && g->list[i - 1].at + g->list[i - 1].size == at, joins_after = i < g->n && at + size == g->list[i].at;
    if (joins_before && joins_after) {
        g->list[i - 1].size += size + g->list[i].size;
        memmove(&g->list[i], &g->list[i + 1], (--g->n - i) * sizeof *g->list);
    } else if (joins_before) {
        g->list[i - 1].size += size;
    } else if (joins_after) {
        g->list[i].at = at;
        g->list[i].size += size;
    } else {
        memmove(&g->list[i + 1], &g->list[i], (g->n++ - i) * sizeof *g->list);
        g->list[i] = (gap){at, size};
    }
}

static uint64_t padded(uint64_t bytes) {
    return (bytes + 255) / 256 * 256;
}

typedef struct event {
    int32_t phase;
    uint32_t root;
    bool dies;
} event;

/* What dies in a phase is free in the next. */
static int by_phase(const void *a, const void *b) {
    const event *x = a, *y = b;
    int64_t u = (int64_t)x->phase * 2 + x->dies, v = (int64_t)y->phase * 2 + y->dies;
    return u < v ? -1 : u > v ? 1 : x->root < y->root ? -1 : x->root > y->root;
}

static sp_status place_temporaries(plan *p, sp_error *err) {
    event *events = calloc((size_t)p->n_roots * 2 + 1, sizeof *events);
    gaps g = {.list = calloc((size_t)p->n_roots + 1, sizeof(gap)), .end = padded(p->temporary_bytes)};
    if (!events || !g.list) {
        free(events);
        free(g.list);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_roots; i++) {
        if (p->roots[i].bytes && p->roots[i].born >= 0) {
            events[n++] = (event){p->roots[i].born, i, false};
            events[n++] = (event){p->roots[i].dies, i, true};
        }
    }
    qsort(events, n, sizeof *events, by_phase);
    for (uint32_t i = 0; i < n; i++) {
        plan_root *root = &p->roots[events[i].root];
        if (events[i].dies) {
            give(&g, root->at, padded(root->bytes));
        } else {
            root->at = take(&g, padded(root->bytes));
        }
    }
    p->temporary_bytes = g.end;
    free(events);
    free(g.list);
    return SP_OK;
}

/* A temporary's address: its root, in the upper bits, becomes its place. */
static void settle(const plan *p, uint64_t *address) {
    uint32_t root = plan_root_of(*address);
    if (root != PLAN_NONE) {
        const plan_root *r = &p->roots[root];
        *address = plan_behind_root(*address) + (r->table ? r->table : PLAN_TEMPORARY | r->at);
    }
}

static void settle_op(const plan *p, k_op *op) {
    settle(p, &op->scratch);
    for (uint32_t i = 0; i < PLAN_TENSORS; i++) {
        settle(p, &plan_tensor_of(op, i)->data);
    }
}

/* ---- parts: a phase's blocks are dealt out by work ---- */

static void deal(plan_op *ops, uint32_t n, uint32_t blocks) {
    double work = 0;
    uint32_t dealt = 0;
    for (uint32_t i = 0; i < n; i++) {
        work += ops[i].work;
    }
    for (uint32_t i = 0; i < n; i++) {
        double share = work > 0 ? ops[i].work / work * blocks : 1;
        uint32_t parts = share < 1 ? 1 : (uint32_t)share;
        ops[i].op.n_parts = parts < ops[i].most_parts ? parts : ops[i].most_parts;
        dealt += ops[i].op.n_parts;
    }
    for (uint32_t i = 0; i < n && dealt < blocks; i++) { /* what rounding left over */
        uint32_t more = blocks - dealt, room = ops[i].most_parts - ops[i].op.n_parts;
        more = more < room ? more : room;
        more = i + 1 < n && more > 1 ? 1 : more;
        ops[i].op.n_parts += more;
        dealt += more;
    }
}

static int by_op_phase(const void *a, const void *b) {
    const plan_op *x = a, *y = b;
    return x->phase < y->phase ? -1 : x->phase > y->phase ? 1 : x->work > y->work ? -1 : x->work < y->work;
}

sp_status sp_plan_schedule(plan *p, k_phase **phases, sp_error *err) {
    for (uint32_t i = 0; i < p->n_ops; i++) {
        assign_phase(p, &p->ops[i]);
    }
    sp_status status = sp_plan_newest(p, err);
    status = status == SP_OK ? sp_plan_stamp(p, err) : status;
    status = status == SP_OK ? place_temporaries(p, err) : status;
    *phases = calloc((size_t)p->n_phases + 1, sizeof **phases);
    if (status == SP_OK && !*phases) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    if (status != SP_OK) {
        return status;
    }
    qsort(p->ops, p->n_ops, sizeof *p->ops, by_op_phase);
    for (uint32_t i = 0; i < p->n_ops;) {
        k_phase *phase = &(*phases)[p->ops[i].phase];
        uint32_t first = i;
        while (i < p->n_ops && p->ops[i].phase == p->ops[first].phase) {
            settle_op(p, &p->ops[i].op);
            i++;
        }
        deal(p->ops + first, i - first, p->workspace->device->driver->blocks);
        *phase = (k_phase){.first_op = first, .n_ops = i - first};
        for (uint32_t j = first; j < i; j++) {
            phase->n_parts += p->ops[j].op.n_parts;
        }
    }
    sp_plan_flow(p, *phases);
    return SP_OK;
}
