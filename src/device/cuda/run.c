/*
 * Preparing and executing. An executable is a schedule in the device's memory;
 * it is written anew when the temporaries moved. Executing copies the row ids,
 * checks them, and rings.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "device/cuda/plan.h"

typedef struct id_copy {
    const uint8_t *from;
    uint64_t size, offset; /* offset: among the temporaries, and in the staging memory */
} id_copy;

typedef struct id_check {
    uint32_t copy;
    sp_spec_index rule;
    sp_spec_tensor shape;
} id_check;

/* What a run may write in one region. */
typedef struct written {
    cuda_memory *memory;
    uint64_t offset; /* of the slot */
    uint32_t ids;    /* the copy that has its row ids */
    sp_spec_write write;
} written;

typedef struct cuda_executable {
    const sp_device_ops *ops;
    cuda_workspace *workspace;
    uint8_t *bytes; /* schedule, phases, operations, tables: as they go to the
                       device, but for addresses that move */
    uint64_t size, phases_at, ops_at, streams_at, tables_at, maps_at;
    uint32_t n_phases, n_ops, n_streams, ring_from;
    uint64_t at; /* on the device */
    id_copy *copies;
    id_check *checks;
    written *writes;
    uint32_t n_copies, n_checks, n_writes;
    uint64_t ids_bytes, temporary_bytes, work, generation;
    bool alone, small;   /* one block can run it; one warp can */
    cuda_memory *echoes; /* the region of the small output that comes back with the run; NULL: there is none */
    uint64_t echo_from, echo_to;
    cuda_phases *phases;
} cuda_executable;

static sp_status check_bindings(const sp_spec *spec, const sp_slot_binding *bindings, sp_error *err) {
    sp_slot_range *ranges = calloc(spec->n_slots ? spec->n_slots : 1, sizeof *ranges);
    if (!ranges) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < spec->n_slots; i++) {
        const sp_slot_binding *b = &bindings[i];
        const cuda_memory *m = (const cuda_memory *)(const void *)b->memory;
        if (!m) {
            status = sp_fail(err, SP_ERR_STATE, "slot %s is not bound to a region", spec->slots[i].name);
        } else if (!sp_range_within(b->offset, b->length, m->length)) {
            status = sp_fail(err, SP_ERR_RANGE, "slot %s is bound to bytes outside of its region", spec->slots[i].name);
        } else if (b->length < spec->slots[i].size) {
            status = sp_fail(err, SP_ERR_RANGE, "slot %s needs %llu bytes; %llu are bound", spec->slots[i].name,
                             (unsigned long long)spec->slots[i].size, (unsigned long long)b->length);
        } else {
            ranges[i] = (sp_slot_range){.start = (uint64_t)(uintptr_t)m->base + b->offset, .length = b->length};
        }
    }
    status = status == SP_OK ? sp_spec_check_ranges(spec, ranges, err) : status;
    free(ranges);
    return status;
}

/* Row ids: a private copy each, first among the temporaries, kept for the whole
 * run. */
static sp_status place_ids(plan *p, cuda_executable *x, sp_error *err) {
    x->copies = calloc(p->spec->n_tensors, sizeof *x->copies);
    x->checks = calloc(p->spec->n_indices ? p->spec->n_indices : 1, sizeof *x->checks);
    if (!x->copies || !x->checks) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t t = 0; t < p->spec->n_tensors; t++) {
        const sp_spec_tensor *s = &p->spec->tensors[t];
        if (!s->index) {
            continue;
        }
        const sp_slot_binding *b = &p->bindings[s->slot];
        id_copy *copy = &x->copies[x->n_copies];
        copy->from = ((const cuda_memory *)(const void *)b->memory)->base + b->offset + s->offset;
        copy->size = s->nb[3] * (uint64_t)s->ne[3];
        copy->offset = p->temporary_bytes;
        p->ids[t] = copy->offset + 1;
        p->temporary_bytes += (copy->size + 255) / 256 * 256;
        for (uint32_t i = 0; i < p->spec->n_indices; i++) {
            if (p->spec->indices[i].tensor == t) {
                x->checks[x->n_checks] = (id_check){.copy = x->n_copies, .rule = p->spec->indices[i], .shape = *s};
                x->checks[x->n_checks].rule.tensor = 0;
                x->checks[x->n_checks++].shape.name = ""; /* names belong to the program, which may go first */
            }
        }
        x->n_copies++;
    }
    x->ids_bytes = p->temporary_bytes;
    return SP_OK;
}

static sp_status place_writes(const plan *p, cuda_executable *x, sp_error *err) {
    sp_spec_write *writes = NULL;
    sp_status status = sp_spec_get_writes(p->spec, &writes, &x->n_writes, err);
    x->writes = status == SP_OK ? calloc((size_t)x->n_writes + 1, sizeof *x->writes) : NULL;
    if (!x->writes) {
        x->n_writes = 0;
        free(writes);
        return status == SP_OK ? sp_fail(err, SP_ERR_NO_MEMORY, "out of memory") : status;
    }
    for (uint32_t i = 0; i < x->n_writes; i++) {
        const sp_slot_binding *to = &p->bindings[writes[i].slot], *ids = &p->bindings[writes[i].ids_slot];
        x->writes[i] = (written){.memory = (cuda_memory *)(void *)to->memory, .offset = to->offset, .write = writes[i]};
        const uint8_t *from = ((const cuda_memory *)(const void *)ids->memory)->base + ids->offset + writes[i].ids_offset;
        while (writes[i].row_bytes && x->copies[x->writes[i].ids].from != from) {
            x->writes[i].ids++; /* all row ids that lie in the host's pages have a copy */
        }
    }
    free(writes);
    return SP_OK;
}

/* A small output, such as a token that was chosen, comes back with the run: asking for it would take as long as a small program. */
static void place_echo(const plan *p, cuda_executable *x) {
    for (uint32_t i = 0; i < x->n_writes && !x->echoes; i++) {
        const written *w = &x->writes[i];
        if (p->spec->slots[w->write.slot].flags & SP_SLOT_OUTPUT && !w->write.row_bytes && w->write.length <= K_ANSWER && w->write.length % 4 == 0) {
            x->echoes = w->memory;
            x->echo_from = w->offset + w->write.offset;
            x->echo_to = x->echo_from + w->write.length;
        }
    }
}

/* The phase behind the last whose tiles, or keys and values, need the ring's memory; or where a block may have several operations, of which one
 * streams weights past the ring. */
static uint32_t ring_from(const plan *p, const k_phase *phases, uint32_t blocks) {
    int32_t last = -1;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const plan_op *o = &p->ops[i];
        const bool needs = sp_plan_has_maps(&o->op) || (o->op.op == K_OP_STREAM && phases[o->phase].n_parts > blocks);
        last = needs && o->phase > last ? o->phase : last;
    }
    return (uint32_t)(last + 1);
}

/* Has the block work in the phase that may need more than the working memory? */
static bool needs_slot(const plan *p, const k_phase *phase, const k_work *work) {
    bool needs = false;
    for (uint32_t i = phase->first_op; i < phase->first_op + phase->n_ops && work->op != K_NO_WORK; i++) {
        const uint32_t op = p->ops[i].op.op;
        needs |= (op == K_OP_ATTEND_HALVES || op == SP_OP_MUL_MAT || op == SP_OP_MUL_MAT_ID) && (work->op == i || work->part & K_MORE);
    }
    return needs;
}

/* Bytes of a K_OP_STREAM's weights that a block has. */
static uint64_t weights_each(const k_op *op) {
    uint64_t rows = (uint32_t)op->src[K_SRC_LEFT].ne[1] * (op->after & K_AFTER_GLU ? 2ull : 1ull);
    return rows * (uint32_t)op->src[K_SRC_LEFT].nb[1] / op->n_parts;
}

/* Pieces of them that it asks for at once. */
static uint32_t under_way(const k_op *op) {
    uint64_t each = weights_each(op);
    return each > K_LONGEST_STREAM ? K_UNDER_WAY_LONGEST : each > K_LONG_STREAM ? K_UNDER_WAY_LONG : K_UNDER_WAY;
}

/* What of the things that decoding does; of q4_0 by how many weights a block has. */
static uint32_t decodes(const plan_op *o) {
    return o->decodes == K_DOES_Q4 && weights_each(&o->op) > K_LONG_STREAM ? K_DOES_Q4_EARLY : o->decodes;
}

/* What each block does first in each phase, and behind the last in two of nothing; weights come through the ring from one of them on. */
static void deal_works(const plan *p, const k_phase *phases, uint32_t blocks, uint32_t ring_from, k_work *works) {
    const cuda_device *device = p->workspace->device;
    for (uint32_t b = 0; b < 2 * blocks; b++) {
        works[(uint64_t)p->n_phases * blocks + b] = (k_work){.op = K_NO_WORK};
    }
    for (int32_t i = 0; i < p->n_phases; i++) {
        uint32_t op = phases[i].first_op, part = 0;
        for (uint32_t b = 0; b < blocks; b++, part++) {
            while (op < phases[i].first_op + phases[i].n_ops && part == p->ops[op].op.n_parts) {
                op++;
                part = 0;
            }
            bool any = op < phases[i].first_op + phases[i].n_ops;
            k_work *work = &works[(uint64_t)i * blocks + b];
            bool more = phases[i].n_parts > blocks;
            *work = any ? (k_work){.op = op, .part = part | (more ? K_MORE : 0)} : (k_work){.op = K_NO_WORK};
            work->part |= i + 1 < p->n_phases && phases[i + 1].flows ? K_FLOWS : 0;
            work->part |= device->marks ? K_MARKED : 0;
            work->part |= more || (uint32_t)i < ring_from ? K_DOES_ANY : any ? decodes(&p->ops[op]) : K_DOES_NOTHING;
            work->part |= device->driver->ring && (uint32_t)i >= ring_from && needs_slot(p, &phases[i], work) ? K_OWN_SLOT : 0;
            if (any && p->ops[op].op.op == K_OP_STREAM) {
                work->part |= work->part & K_DECODES && p->ops[op].op.after & K_AFTER_LARGEST ? K_LARGEST : 0;
                work->from = k_stream_from(&p->ops[op].op, part), work->to = k_stream_from(&p->ops[op].op, part + 1);
            }
        }
    }
}

/* The weights that a block's part of an operation streams, in the order in which it takes them; returns how many ranges. streams may be NULL. */
static uint32_t stream_of(const k_op *op, const k_work *work, k_stream *streams) {
    const k_tensor *left = &op->src[K_SRC_LEFT];
    uint32_t n = 0, stride = (uint32_t)left->nb[1], does = work->part & K_DECODES;
    const bool one = does != K_DOES_ANY && does != K_DOES_STREAM;
    uint32_t most = k_stream_most(op, one ? K_CARD_THREADS : K_SUMS), slices = one ? 1 : op->params[K_SLICES], slice = stride / slices;
    for (uint32_t row = work->from; row < work->to; row += most) {
        uint32_t rows = work->to - row < most ? work->to - row : most;
        for (uint32_t m = 0; m < (op->after & K_AFTER_GLU ? 2 : 1) * slices; m++, n++) {
            if (streams) {
                streams[n] = (k_stream){.from = op->src[m / slices ? K_SRC_LEFT2 : K_SRC_LEFT].data + (uint64_t)row * stride + m % slices * slice,
                                        .step = (uint64_t)op->params[K_TILE_ROWS] * stride,
                                        .bytes = rows * slice,
                                        .tile_bytes = op->params[K_TILE_ROWS] * slice,
                                        .under_way = under_way(op)};
            }
        }
    }
    return n;
}

/* A block's share of the keys and values that the attention of a phase looks at, which it brings near ahead of it: all of them, the newest too, since
 * what is near is what is true. Returns how many ranges. streams may be NULL. */
static uint32_t near_of(const plan *p, const k_phase *phase, uint32_t blocks, uint32_t block, k_stream *streams) {
    enum { MOST = 12 << 20, LINE = 128 }; /* more would drive out what else is near */
    uint32_t n = 0;
    for (uint32_t i = phase->first_op; i < phase->first_op + phase->n_ops; i++) {
        for (uint32_t s = 1; p->ops[i].op.op == K_OP_ATTEND_HALVES && s <= 2; s++) {
            const k_tensor *t = &p->ops[i].op.src[s];
            uint64_t used = 2ull * (uint64_t)t->ne[0] * (uint64_t)t->ne[1] * (uint64_t)t->ne[2];
            uint64_t bytes =
                2ull * (uint64_t)t->ne[0] + (uint64_t)(t->ne[1] - 1) * (uint64_t)t->nb[1] + (uint64_t)(t->ne[2] - 1) * (uint64_t)t->nb[2];
            uint32_t lines =
                bytes <= MOST && bytes <= 2 * used && t->ne[3] == 1 && !(t->data & (PLAN_TEMPORARY | PLAN_TABLE)) ? (uint32_t)(bytes / LINE) : 0;
            uint64_t from = k_share(lines, block, blocks), to = k_share(lines, block + 1, blocks);
            if (to > from && streams) {
                streams[n] = (k_stream){.from = t->data + from * LINE, .bytes = (uint32_t)(to - from) * LINE};
            }
            n += to > from;
        }
    }
    return n;
}

/* A block's streams over the phases from ring_from on; returns how many. streams may be NULL. */
static uint32_t streams_of(const plan *p, uint32_t ring_from, const k_phase *phases, const k_work *works, uint32_t blocks, uint32_t block,
                           k_stream *streams) {
    uint32_t n = 0;
    for (int32_t i = (int32_t)ring_from; i < p->n_phases; i++) {
        const k_work *work = &works[(uint64_t)i * blocks + block];
        n += near_of(p, &phases[i], blocks, block, streams ? streams + n : NULL);
        if (work->part & K_OWN_SLOT) {
            if (streams) {
                streams[n] = (k_stream){.bytes = 1, .leaves = 1};
            }
            n++;
        }
        if (work->op != K_NO_WORK && p->ops[work->op].op.op == K_OP_STREAM) {
            n += stream_of(&p->ops[work->op].op, work, streams ? streams + n : NULL);
        }
    }
    return n;
}

static uint64_t count_mapped(const plan *p) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        n += sp_plan_has_maps(&p->ops[i].op);
    }
    return n;
}

/* Everything that the kernel reads, in one piece. */
static sp_status pack(const plan *p, cuda_executable *x, const k_phase *phases, sp_error *err) {
    x->n_phases = (uint32_t)p->n_phases;
    x->n_ops = p->n_ops;
    x->alone = true;
    for (uint32_t i = 0; i < x->n_phases; i++) {
        x->alone &= phases[i].n_parts == 1;
    }
    for (uint32_t i = 0; i < x->n_ops; i++) { /* the fetching warp isn't woken for it */
        x->alone &= p->ops[i].op.op != K_OP_STREAM && p->ops[i].op.op != K_OP_TILES && p->ops[i].op.op != K_OP_ATTEND;
    }
    x->small = x->alone && p->n_ops == 1 && p->ops[0].op.op == K_OP_FLAT_ONE;
    uint32_t blocks = p->workspace->device->driver->blocks;
    uint64_t n_works = ((uint64_t)p->n_phases + 2) * blocks;
    k_work *works = calloc(n_works, sizeof *works);
    if (!works) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    x->ring_from = ring_from(p, phases, blocks);
    deal_works(p, phases, blocks, x->ring_from, works);
    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t n = streams_of(p, x->ring_from, phases, works, blocks, b, NULL);
        x->n_streams = n > x->n_streams ? n : x->n_streams;
    }
    x->phases_at = sizeof(k_schedule) + n_works * sizeof(k_work);
    x->ops_at = x->phases_at + (uint64_t)p->n_phases * sizeof(k_phase);
    x->streams_at = x->ops_at + (uint64_t)p->n_ops * sizeof(k_op);
    x->tables_at = (x->streams_at + (uint64_t)x->n_streams * blocks * sizeof(k_stream) + 127) / 128 * 128;
    x->maps_at = (x->tables_at + (uint64_t)p->n_tables * sizeof(float) + K_MAP - 1) / K_MAP * K_MAP;
    x->size = x->maps_at + (p->workspace->device->driver->maps ? count_mapped(p) * K_MAPS * K_MAP : 0);
    x->bytes = calloc(1, x->size);
    if (!x->bytes) {
        free(works);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(x->bytes + x->phases_at, phases, (size_t)p->n_phases * sizeof *phases);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        memcpy(x->bytes + x->ops_at + (uint64_t)i * sizeof(k_op), &p->ops[i].op, sizeof(k_op));
    }
    memcpy(x->bytes + sizeof(k_schedule), works, n_works * sizeof *works);
    for (uint32_t b = 0; b < blocks; b++) {
        streams_of(p, x->ring_from, phases, works, blocks, b, (k_stream *)(void *)(x->bytes + x->streams_at) + (uint64_t)b * x->n_streams);
    }
    free(works);
    if (p->n_tables) {
        memcpy(x->bytes + x->tables_at, p->tables, (size_t)p->n_tables * sizeof *p->tables);
    }
    x->temporary_bytes = p->temporary_bytes;
    return sp_cuda_alloc(p->workspace->device, x->size, &x->at, err);
}

static void resolve(const cuda_executable *x, uint64_t *address) {
    if (*address & PLAN_TEMPORARY) {
        *address = x->workspace->at + (*address & ~PLAN_TEMPORARY);
    } else if (*address & PLAN_TABLE) {
        *address = x->at + x->tables_at + (*address & ~PLAN_TABLE);
    }
}

/* Maps of matrices, with what is where now. */
static sp_status map_matrices(const cuda_executable *x, k_op *ops, uint8_t *bytes, sp_error *err) {
    sp_cuda_driver *driver = x->workspace->device->driver;
    sp_status status = SP_OK;
    uint64_t at = x->maps_at;
    for (uint32_t i = 0; driver->maps && i < x->n_ops && status == SP_OK; i++) {
        if (sp_plan_has_maps(&ops[i])) {
            ops[i].src[K_SRC_MAPS].data = x->at + at;
            status = sp_plan_map(driver, &ops[i], bytes + at, err);
            at += K_MAPS * K_MAP;
        }
    }
    return status;
}

/* Writes the schedule to the device, with the temporaries where they are now.
 */
static sp_status settle(cuda_executable *x, sp_error *err) {
    uint8_t *bytes = malloc(x->size);
    if (!bytes) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(bytes, x->bytes, x->size);
    k_schedule head = {.phases = x->at + x->phases_at,
                       .ops = x->at + x->ops_at,
                       .streams = x->at + x->streams_at,
                       .n_phases = x->n_phases,
                       .n_ops = x->n_ops,
                       .n_streams = x->n_streams,
                       .ring_from = x->ring_from,
                       .answer = x->echoes ? x->echoes->beside + x->echo_from : 0,
                       .answer_bytes = (uint32_t)(x->echo_to - x->echo_from),
                       .turn = 1}; /* what is stamped is zeros */
    k_op *ops = (k_op *)(void *)(bytes + x->ops_at);
    for (uint32_t i = 0; i < x->n_ops; i++) {
        resolve(x, &ops[i].scratch);
        resolve(x, &ops[i].table);
        for (uint32_t t = 0; t < PLAN_TENSORS; t++) {
            resolve(x, &plan_tensor_of(&ops[i], t)->data);
        }
    }
    sp_status status = map_matrices(x, ops, bytes, err);
    if (x->n_ops) {
        head.first = ops[0];
    }
    if (x->small) {
        const k_op *op = &ops[0];
        head.small = (k_small){.to = op->dst.data, .from = op->src[0].data, .kind = op->params[K_FLAT_OP], .n = (uint32_t)plan_elements(&op->dst)};
        memcpy(head.small.params, op->params, sizeof head.small.params);
    }
    memcpy(bytes, &head, sizeof head);
    status = status == SP_OK ? sp_cuda_upload(x->workspace->device, x->at, bytes, x->size, err) : status;
    x->generation = x->workspace->generation;
    free(bytes);
    return status;
}

/* Makes the workspace large enough. */
static sp_status grow(cuda_workspace *w, const cuda_executable *x, sp_error *err) {
    sp_status status = SP_OK;
    if (x->temporary_bytes > w->limit) {
        return sp_fail(err, SP_ERR_LIMIT, "the program needs %llu bytes of temporaries; the limit is %llu", (unsigned long long)x->temporary_bytes,
                       (unsigned long long)w->limit);
    }
    if (x->temporary_bytes > w->bytes) {
        sp_cuda_release(w->device, w->at);
        w->bytes = 0;
        w->generation++;
        status = sp_cuda_alloc(w->device, x->temporary_bytes, &w->at, err);
        w->bytes = status == SP_OK ? x->temporary_bytes : 0;
    }
    if (status == SP_OK && x->ids_bytes > w->staging_bytes) {
        sp_cuda_host_release(w->device, w->staging);
        w->staging_bytes = 0;
        status = sp_cuda_host_alloc(w->device, x->ids_bytes, &w->staging, err);
        w->staging_bytes = status == SP_OK ? x->ids_bytes : 0;
    }
    return status;
}

static sp_status prepare(plan *p, cuda_executable *x, sp_error *err) {
    uint32_t n = p->spec->n_tensors;
    p->roots = calloc((size_t)n * 4 + 1, sizeof *p->roots); /* products by tiles have both sides as halves, and sums of pieces; attention a map */
    p->ops = calloc((size_t)n * 3 + 2, sizeof *p->ops);
    p->fusions = calloc((size_t)n + 1, sizeof *p->fusions);
    p->ids = calloc((size_t)n + 1, sizeof *p->ids);
    p->uses = calloc((size_t)n + 1, sizeof *p->uses);
    p->used_by = calloc((size_t)n + 1, sizeof *p->used_by);
    if (!p->roots || !p->ops || !p->fusions || !p->ids || !p->uses || !p->used_by) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < n; i++) {
        p->roots[i] = (plan_root){.written = -1, .read = -1, .born = -1, .dies = -1};
    }
    p->n_roots = n;
    k_phase *phases = NULL;
    sp_status status = place_ids(p, x, err);
    status = status == SP_OK ? place_writes(p, x, err) : status;
    if (status == SP_OK) {
        place_echo(p, x);
        sp_plan_fuse(p);
        status = sp_plan_lower(p, err);
    }
    status = status == SP_OK ? sp_plan_schedule(p, &phases, err) : status;
    status = status == SP_OK ? pack(p, x, phases, err) : status;
    free(phases);
    status = status == SP_OK ? grow(x->workspace, x, err) : status;
    return status == SP_OK ? settle(x, err) : status;
}

sp_status sp_cuda_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                          sp_executable **out, sp_error *err) {
    *out = NULL;
    sp_status status = check_bindings(spec, bindings, err);
    if (status != SP_OK) {
        return status;
    }
    cuda_executable *x = calloc(1, sizeof *x);
    if (!x) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    x->workspace = (cuda_workspace *)(void *)workspace;
    x->ops = x->workspace->ops;
    x->work = spec->flops;
    sp_spec own;
    status = sp_plan_only_rows(spec, &own, err);
    plan p = {.workspace = x->workspace, .spec = &own, .bindings = bindings, .weights = weights};
    if (status == SP_OK) {
        status = prepare(&p, x, err);
    }
    free(own.tensors);
    free(p.roots);
    free(p.ops);
    free(p.fusions);
    free(p.ids);
    free(p.uses);
    free(p.used_by);
    free(p.tables);
    if (status != SP_OK) {
        sp_cuda_executable_close((sp_executable *)(void *)x);
        return status;
    }
    *out = (sp_executable *)(void *)x;
    return SP_OK;
}

/* Into the staging memory, which guests can't reach, and checked there. */
static sp_status take_ids(const cuda_executable *x, k_copy *copies, sp_error *err) {
    uint8_t *staging = x->workspace->staging;
    for (uint32_t i = 0; i < x->n_copies; i++) {
        memcpy(staging + x->copies[i].offset, x->copies[i].from, x->copies[i].size);
        copies[i] = (k_copy){x->workspace->at + x->copies[i].offset, (uint64_t)(uintptr_t)staging + x->copies[i].offset, x->copies[i].size};
    }
    for (uint32_t i = 0; i < x->n_checks; i++) {
        sp_spec one = {.n_tensors = 1, .tensors = (sp_spec_tensor *)(uintptr_t)&x->checks[i].shape};
        sp_status status = sp_spec_check_index(&one, &x->checks[i].rule, staging + x->copies[x->checks[i].copy].offset, err);
        if (status != SP_OK) {
            return status;
        }
    }
    return SP_OK;
}

static void on_write(void *user, uint64_t from, uint64_t to) {
    const written *w = user;
    sp_cuda_wants(w->memory, w->offset + from, w->offset + to);
}

/* What is about to be written must be nobody else's. The ids in the staging memory are checked. */
static sp_status own_writes(const cuda_executable *x, sp_error *err) {
    sp_status status = SP_OK;
    pthread_mutex_lock(&x->workspace->device->lock);
    for (uint32_t i = 0; i < x->n_writes; i++) {
        written *w = &x->writes[i];
        w->memory->echo_from = w->memory->echo_to = 0;
        if (w->memory->shares) {
            const uint8_t *staging = x->workspace->staging;
            sp_spec_each_write(&w->write, w->write.row_bytes ? staging + x->copies[w->ids].offset : NULL, on_write, w);
        }
    }
    for (uint32_t i = 0; i < x->n_writes && status == SP_OK; i++) {
        status = sp_cuda_own(x->writes[i].memory, err);
    }
    pthread_mutex_unlock(&x->workspace->device->lock);
    return status;
}

sp_status sp_cuda_execute(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err) {
    cuda_executable *x = (cuda_executable *)(void *)executable;
    sp_status status = grow(x->workspace, x, err);
    if (status == SP_OK && x->generation != x->workspace->generation) {
        status = settle(x, err);
    }
    k_copy few[K_MAX_COPIES], *copies = x->n_copies > K_MAX_COPIES ? calloc(x->n_copies, sizeof *copies) : few;
    if (!copies) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    status = status == SP_OK ? take_ids(x, copies, err) : status;
    status = status == SP_OK ? own_writes(x, err) : status;
    if (status == SP_OK) {
        const cuda_command command = {.copies = copies,
                                      .n_copies = x->n_copies,
                                      .take = true,
                                      .alone = x->alone,
                                      .small = x->small,
                                      .schedule = x->at,
                                      .work = x->work,
                                      .answer = x->echoes ? x->echoes->echo : NULL,
                                      .answer_bytes = (uint32_t)(x->echo_to - x->echo_from),
                                      .meanwhile = meanwhile,
                                      .user = user};
        status = sp_cuda_command(x->workspace->device, &command, err);
        if (status == SP_OK) {
            sp_cuda_phases_take(x->workspace->device, &x->phases, x->n_phases);
        }
        if (status == SP_OK && x->echoes) {
            x->echoes->echo_from = x->echo_from;
            x->echoes->echo_to = x->echo_to;
        }
        x->generation = status == SP_OK ? x->generation : 0; /* counters may stand anywhere: it is written anew */
    }
    if (copies != few) {
        free(copies);
    }
    return status;
}

void sp_cuda_executable_close(sp_executable *executable) {
    cuda_executable *x = (cuda_executable *)(void *)executable;
    if (x->phases) {
        const k_phase *list = (const k_phase *)(const void *)(x->bytes + x->phases_at);
        sp_cuda_phases_tell(x->phases, list, x->n_phases, (const k_op *)(const void *)(list + x->n_phases));
    }
    sp_cuda_release(x->workspace->device, x->at);
    free(x->bytes);
    free(x->copies);
    free(x->checks);
    free(x->writes);
    free(x);
}
