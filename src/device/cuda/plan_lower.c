/* Each operation of a program becomes an entry of the schedule: where its
 * tensors lie, what it needs beside, what it reads and writes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/plan.h"

static uint32_t as_word(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static k_tensor shape_of(const sp_spec_tensor *t, uint64_t data) {
    k_tensor k = {.data = data, .type = t->type};
    for (int i = 0; i < 4; i++) {
        k.ne[i] = (int32_t)t->ne[i];
        k.nb[i] = (int64_t)t->nb[i];
    }
    return k;
}

static bool is_view(const sp_spec_tensor *t) {
    return t->op == SP_OP_VIEW || t->op == SP_OP_RESHAPE || t->op == SP_OP_PERMUTE || t->op == SP_OP_TRANSPOSE;
}

/* Where a window lies; row ids have a copy among the temporaries. */
sp_status sp_plan_window_address(const plan *p, uint32_t t, uint64_t *out, sp_error *err) {
    const sp_spec_tensor *w = plan_tensor(p, t);
    if (w->index) {
        *out = PLAN_TEMPORARY | (p->ids[t] - 1);
        return SP_OK;
    }
    const sp_slot_binding *b = &p->bindings[w->slot];
    const cuda_memory *m = (const cuda_memory *)(const void *)b->memory;
    uint64_t offset = b->offset + w->offset;
    if (offset % 16) {
        return sp_fail(err, SP_ERR_ARGUMENT,
                       "slot %s: the window at %llu bytes of the region is not a "
                       "multiple of %s's 16",
                       p->spec->slots[w->slot].name, (unsigned long long)offset, p->workspace->device->info.name);
    }
    *out = m->beside + offset;
    return SP_OK;
}

/* A tensor as kernels see it. split: weights may come in the layout for
 * products. */
static sp_status locate(plan *p, uint32_t t, bool split, k_tensor *out, sp_error *err) {
    const sp_spec_tensor *s = plan_tensor(p, t);
    if (s->kind == SP_TENSOR_WEIGHT) {
        return sp_cuda_weight(p->weights[s->slot], s->weight, split, out, err);
    }
    uint64_t address = 0;
    if (s->kind == SP_TENSOR_MEMORY) {
        sp_status status = sp_plan_window_address(p, t, &address, err);
        *out = shape_of(s, address);
        return status;
    }
    if (s->alias == t) {
        sp_status status = s->dst == SP_PROGRAM_NONE ? SP_OK : sp_plan_window_address(p, s->dst, &address, err);
        *out = shape_of(s, s->dst == SP_PROGRAM_NONE ? plan_at_root(t) : address);
        return status;
    }
    sp_status status = locate(p, s->alias, false, out, err);
    if (status == SP_OK && out->type != s->type) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "tensor %u: %s can't make views of weights of type %s", t, p->workspace->device->info.name,
                       sp_type_get(s->type)->name);
    }
    *out = shape_of(s, out->data + s->start);
    return status;
}

/* ---- entries ---- */

plan_op *sp_plan_new_op(plan *p, uint32_t kind) {
    plan_op *o = &p->ops[p->n_ops++];
    memset(o, 0, sizeof *o);
    o->op.op = kind;
    o->writes = PLAN_NONE;
    o->scratch = PLAN_NONE;
    o->most_parts = 1;
    return o;
}

void sp_plan_reads(const plan *p, plan_op *o, uint32_t t) {
    uint32_t root = plan_tensor(p, t)->alias;
    if (plan_tensor(p, root)->kind == SP_TENSOR_OP && plan_tensor(p, root)->dst != SP_PROGRAM_NONE) {
        root = plan_tensor(p, root)->dst;
    }
    o->reads[o->n_reads++] = root;
}

uint32_t sp_plan_written_root(const plan *p, uint32_t t) {
    const sp_spec_tensor *s = plan_tensor(p, t);
    uint32_t root = s->alias;
    return plan_tensor(p, root)->kind == SP_TENSOR_OP && plan_tensor(p, root)->dst != SP_PROGRAM_NONE ? plan_tensor(p, root)->dst : root;
}

sp_status sp_plan_set_dst(plan *p, plan_op *o, uint32_t t, sp_error *err) {
    sp_status status = locate(p, t, false, &o->op.dst, err);
    o->writes = sp_plan_written_root(p, t);
    const sp_spec_tensor *s = plan_tensor(p, t);
    if (s->alias == t && s->dst == SP_PROGRAM_NONE) {
        p->roots[t].bytes = s->nb[3] * (uint64_t)s->ne[3];
    }
    return status;
}

sp_status sp_plan_set_src(plan *p, plan_op *o, int at, uint32_t t, bool split, sp_error *err) {
    if (t == SP_PROGRAM_NONE) {
        return SP_OK;
    }
    sp_plan_reads(p, o, t);
    o->op.n_src = (uint32_t)at + 1;
    return locate(p, t, split, &o->op.src[at], err);
}

static uint32_t parts_for(double n, double each) {
    double parts = ceil(n / each);
    return parts < 1 ? 1 : parts > 65536 ? 65536 : (uint32_t)parts;
}

uint32_t sp_plan_new_root(plan *p, uint64_t bytes) {
    p->roots[p->n_roots] = (plan_root){.bytes = bytes, .written = -1, .read = -1, .born = -1, .dies = -1};
    return p->n_roots++;
}

/* ---- what operations need beside ---- */

sp_status sp_plan_new_table(plan *p, uint64_t n, uint64_t *out, sp_error *err) {
    enum { MOST = 1 << 26, ALIGNED = 128 / sizeof(float) };
    uint64_t at = (p->n_tables + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (at + n > p->max_tables) {
        uint64_t more = (at + n) * 2;
        float *grown = more <= MOST ? realloc(p->tables, more * sizeof *grown) : NULL;
        if (!grown) {
            return sp_fail(err, SP_ERR_NO_MEMORY, "the program's tables take more memory than there is");
        }
        p->tables = grown;
        p->max_tables = (uint32_t)more;
    }
    memset(p->tables + p->n_tables, 0, (at + n - p->n_tables) * sizeof *p->tables);
    *out = PLAN_TABLE | at * sizeof(float);
    p->n_tables = (uint32_t)(at + n);
    return SP_OK;
}

/* Has attention the faster way (K_OP_ATTEND_HALVES)? */
static bool attends_halves(const k_op *op, const sp_spec_tensor *t) {
    const k_tensor *q = &op->src[0], *k = &op->src[1], *v = &op->src[2], *mask = &op->src[3];
    uint64_t strides = (uint64_t)(q->nb[1] | q->nb[2] | q->nb[3] | k->nb[1] | k->nb[2] | k->nb[3] | v->nb[1] | v->nb[2] | v->nb[3]);
    bool width = q->ne[0] == 64 || q->ne[0] == 128 || q->ne[0] == 256;
    bool masked = t->n_src > 3 && t->src[3] != SP_PROGRAM_NONE;
    return k->type == SP_TYPE_F16 && v->type == SP_TYPE_F16 && width && v->ne[0] == q->ne[0] && k->ne[2] == v->ne[2] &&
           (q->data | k->data | v->data | strides) % 16 == 0 && q->nb[0] == 4 && k->nb[0] == 2 && v->nb[0] == 2 && op->dst.nb[0] == 4 &&
           op->dst.nb[1] == 4ll * q->ne[0] && op->dst.nb[2] == op->dst.nb[1] * op->dst.ne[1] && op->dst.nb[3] == op->dst.nb[2] * op->dst.ne[2] &&
           (!masked || (mask->ne[2] == 1 && (mask->ne[3] == 1 || mask->ne[3] == q->ne[3]))) &&
           (strides | (uint64_t)(mask->nb[1] | mask->nb[3])) >> 32 == 0 && (double)q->ne[1] * q->ne[2] * q->ne[3] < K_HALVES_TASKS;
}

/* Is it what kernel_attend_one.h is for? Heads of 128 lie in the ring's memory, too. */
static bool attends_one(const k_op *op, uint32_t piece, bool ring) {
    const k_tensor *q = &op->src[0], *mask = &op->src[3];
    const uint32_t most = q->ne[0] == 64 ? K_ONE_MOST : q->ne[0] == 128 && ring ? K_ONE_MOST_WIDE : 0;
    return q->ne[1] * q->ne[3] == 1 && plan_float(op->params[1]) == 0 && plan_float(op->params[2]) == 0 && mask->data && mask->data % 4 == 0 &&
           op->src[1].ne[1] % K_FEW_TILE == 0 && piece <= most;
}

/* Of heads that share keys so many at once: a divisor of theirs. */
static uint32_t divisor_within(uint32_t shared, uint32_t most) {
    uint32_t heads = shared < most ? shared : most;
    while (shared % heads) {
        heads--;
    }
    return heads;
}

/* Heads at once where keys and values are read element by element: what they need must fit into a block's memory. */
static uint32_t heads_at_once(const k_op *op, uint32_t shared) {
    uint64_t each = (uint64_t)op->src[0].ne[0] + K_ATTENTION_CHUNK + (op->dst.ne[0] > K_CARD_THREADS ? op->dst.ne[0] : K_CARD_THREADS);
    uint32_t heads = op->src[1].ne[2] == op->src[2].ne[2] ? shared : 1;
    while (heads > 1 && (heads > K_ATTENTION_HEADS || shared % heads || heads * each * sizeof(float) > K_WORK - 1024)) {
        heads--;
    }
    return heads;
}

/* Can attention of many tokens to halves go over tensor cores (k_do_attend)? */
static bool attends_by_tiles(const k_op *op, const sp_spec_tensor *t) {
    const k_tensor *q = &op->src[0], *mask = &op->src[3];
    bool plain = plan_float(t->params[0]) > 0 && plan_float(t->params[1]) == 0 && plan_float(t->params[2]) == 0 &&
                 (t->n_src < 5 || t->src[4] == SP_PROGRAM_NONE);
    return plain && q->ne[1] >= K_TILES_FROM && q->ne[0] <= 128 && q->nb[0] == 4 && op->dst.nb[0] == 4 && (!mask->data || mask->nb[0] == 2);
}

/* Over tensor cores, with a map of the mask, which is made before (and stands before it) unless there is one. */
static sp_status lower_attend(plan *p, plan_op *o, const sp_spec_tensor *t, sp_error *err) {
    const k_tensor *q = &o->op.src[0], *k = &o->op.src[1];
    uint32_t shared = (uint32_t)(q->ne[2] / k->ne[2]);
    sp_status status = SP_OK;
    o->op.op = K_OP_ATTEND;
    o->most_parts = parts_for(ceil(ceil(q->ne[1] / 16.0) * shared * 32 / K_CARD_THREADS) * (double)k->ne[2] * q->ne[3], 1);
    o->work = (double)q->ne[1] * q->ne[3] * q->ne[2] * k->ne[1] * q->ne[0] / 64;
    if (!o->op.src[3].data) {
        return SP_OK;
    }
    plan_fusion *f = &p->fusions[t->src[3]];
    const k_tensor mask = o->op.src[3];
    uint32_t map = f->map_tokens == (uint32_t)q->ne[1] ? f->map : PLAN_NONE;
    if (map == PLAN_NONE) {
        uint32_t rows = ((uint32_t)q->ne[1] + 15) / 16 * (uint32_t)mask.ne[3],
                 columns = (uint32_t)(mask.ne[0] + K_MAP_POSITIONS - 1) / K_MAP_POSITIONS;
        plan_op *attend = sp_plan_new_op(p, K_OP_ATTEND);
        *attend = *o;
        *o = (plan_op){.op = {.op = K_OP_MASK_MAP}, .scratch = PLAN_NONE, .most_parts = parts_for((double)rows * columns, 8)};
        map = sp_plan_new_root(p, (uint64_t)rows * columns);
        o->op.dst = (k_tensor){.data = plan_at_root(map), .ne = {(int32_t)columns, (int32_t)rows, 1, 1}};
        o->op.params[K_MAP_TOKENS] = (uint32_t)attend->op.src[0].ne[1];
        o->writes = map;
        o->work = (double)plan_elements(&mask);
        status = sp_plan_set_src(p, o, 0, t->src[3], false, err);
        f->map = sp_plan_is_constant(p, t->src[3]) ? map : PLAN_NONE;
        f->map_tokens = o->op.params[K_MAP_TOKENS];
        o = attend;
    }
    o->op.scratch = plan_at_root(map);
    o->reads[o->n_reads++] = map;
    return status;
}

/* Positions of a piece of the cache, so that all blocks have some. Pieces cost: those of halves are worth it from some tiles of each warp on. */
static uint32_t positions_of_piece(const k_tensor *k, double tasks, uint32_t blocks, bool halves) {
    enum { HALVES_LEAST = 256 };
    uint32_t positions = (uint32_t)k->ne[1], step = halves ? 16 : 32, least = halves ? HALVES_LEAST : step;
    double split = blocks / tasks < 1 ? 1 : floor(blocks / tasks);
    uint32_t piece = ((uint32_t)ceil(positions / split) + step - 1) / step * step;
    piece = piece < least ? least : piece;
    return !halves && piece > K_ATTENTION_CHUNK ? K_ATTENTION_CHUNK : piece;
}

static sp_status lower_attention(plan *p, plan_op *o, const sp_spec_tensor *t, sp_error *err) {
    k_op *op = &o->op;
    const k_tensor *q = &op->src[0], *k = &op->src[1];
    uint32_t shared = (uint32_t)(q->ne[2] / k->ne[2]), positions = (uint32_t)k->ne[1];
    bool halves = attends_halves(op, t);
    if (halves && attends_by_tiles(op, t)) {
        return lower_attend(p, o, t, err);
    }
    uint32_t heads = halves ? divisor_within(shared, K_HALVES_HEADS) : heads_at_once(op, shared);
    double tasks = (double)q->ne[1] * q->ne[3] * q->ne[2] / heads;
    uint32_t piece = positions_of_piece(k, tasks, p->workspace->device->driver->blocks, halves);
    op->op = halves ? K_OP_ATTEND_HALVES : op->op;
    o->decodes = halves ? K_DOES_ATTEND : K_DOES_ANY;
    op->params[4] = piece;
    op->params[5] = heads;
    op->params[6] = (uint32_t)q->ne[2] / heads;
    op->split = (positions + piece - 1) / piece;
    op->params[8] = (uint32_t)tasks * op->split;
    op->params[9] = as_word(1.0f / (float)op->split);
    op->params[10] = as_word(1.0f / (float)op->params[6]);
    op->params[11] = as_word((float)heads / (float)shared);
    op->params[12] = as_word(1.0f / (float)q->ne[1]);
    op->params[13] = halves && attends_one(op, piece, p->workspace->device->driver->ring);
    op->src[3].nb[3] = op->src[3].ne[3] == 1 ? 0 : op->src[3].nb[3];
    o->most_parts = parts_for(tasks * op->split, 1);
    o->work = tasks * heads * positions * (q->ne[0] + op->dst.ne[0]) / 4;
    if (op->split == 1) {
        return SP_OK;
    }
    uint64_t rows = (uint64_t)q->ne[1] * (uint64_t)q->ne[2] * (uint64_t)q->ne[3];
    op->params[7] = (heads * (uint32_t)op->dst.ne[0] / 4 + op->split - 1) / op->split;
    o->scratch = sp_plan_new_root(p, rows * op->split * ((uint64_t)op->dst.ne[0] + K_ATTEND_VALUES) * sizeof(float));
    op->scratch = plan_at_root(o->scratch);
    return halves ? SP_OK : sp_plan_new_table(p, rows / heads, &op->table, err);
}

/* Copies of one type between contiguous tensors are of bytes; into quants, of
 * blocks. */
static void lower_copy(plan_op *o, const sp_spec_tensor *from, const sp_spec_tensor *to) {
    const sp_type_traits *traits = sp_type_get(to->type);
    bool flat = true;
    for (int i = 0; i < 4; i++) {
        const sp_spec_tensor *both[] = {from, to};
        for (int j = 0; j < 2; j++) {
            uint64_t below = i == 0   ? traits->size
                             : i == 1 ? both[j]->nb[0] * (uint64_t)both[j]->ne[0] / traits->block
                                      : both[j]->nb[i - 1] * (uint64_t)both[j]->ne[i - 1];
            flat &= both[j]->nb[i] == below || (both[j]->ne[i] == 1 && !traits->quantised);
        }
    }
    o->op.params[15] = traits->size;
    if (from->type == to->type && (flat || traits->quantised)) {
        uint64_t bytes = (uint64_t)(to->ne[0] * to->ne[1] * to->ne[2] * to->ne[3]) / traits->block * traits->size;
        o->op.params[14] = (uint32_t)bytes;
        o->op.params[13] = (uint32_t)(bytes >> 32);
    }
}

static bool is_reduction(uint32_t op) {
    return op == SP_OP_NORM || op == SP_OP_RMS_NORM || op == SP_OP_L2_NORM || op == SP_OP_SUM_ROWS || op == SP_OP_SOFT_MAX_EXT;
}

static void size_op(plan_op *o) {
    k_op *op = &o->op;
    if (op->op == SP_OP_MUL_MAT || op->op == SP_OP_MUL_MAT_ID) {
        o->work = (double)op->src[0].nb[1] * op->dst.ne[0] * ceil((double)op->dst.ne[1] * op->dst.ne[2] * op->dst.ne[3] / K_COLUMNS);
        o->most_parts = parts_for(op->dst.ne[0], 8);
    } else if (is_reduction(op->op)) {
        o->work = (double)plan_elements(&op->src[0]) * 16;
        o->most_parts = parts_for((double)op->src[0].ne[1] * op->src[0].ne[2] * op->src[0].ne[3], 1);
    } else if (op->op == SP_OP_ARGSORT || op->op == SP_OP_TOP_K) {
        o->work = (double)plan_elements(&op->src[0]) * op->src[0].ne[0];
        o->most_parts = parts_for((double)plan_elements(&op->src[0]), 256);
    } else if (op->op == SP_OP_SSM_SCAN || op->op == SP_OP_GATED_DELTA_NET || op->op == SP_OP_RWKV_WKV6 || op->op == SP_OP_RWKV_WKV7) {
        o->work = (double)plan_elements(&op->dst) * 64;
        o->most_parts = parts_for((double)plan_elements(&op->dst), 64);
    } else {
        const k_tensor *t = op->op == SP_OP_SET_ROWS ? &op->src[1] : &op->dst;
        o->work = (double)plan_elements(t) * 8;
        o->most_parts = parts_for((double)plan_elements(t), 256);
    }
}

/* Elements of integers are moved, not computed with: by their bits. */
static void move_bits(k_op *op) {
    if (op->dst.type == SP_TYPE_I32) {
        op->dst.type = op->src[0].type = SP_TYPE_F32;
        op->src[1].type = op->op == SP_OP_CONCAT ? SP_TYPE_F32 : op->src[1].type;
    }
}

/* Another tensor that an operation reads, if there is one. */
sp_status sp_plan_set_extra(plan *p, plan_op *o, k_tensor *out, uint32_t t, sp_error *err) {
    if (t == SP_PROGRAM_NONE) {
        return SP_OK;
    }
    sp_plan_reads(p, o, t);
    return locate(p, t, false, out, err);
}

sp_status sp_plan_take_before(plan *p, plan_op *o, const plan_fusion *f, int at, sp_error *err) {
    uint32_t *params = o->op.params + at;
    o->op.before = f->before;
    if (f->before == K_BEFORE_RMS_NORM) {
        params[0] = f->from->params[0];
        return sp_plan_set_extra(p, o, &o->op.extra[0], f->norm_weight, err);
    }
    if (f->before == K_BEFORE_GLU) {
        params[1] = f->from->op, params[2] = f->from->params[1], params[3] = f->from->params[2];
        return sp_plan_set_extra(p, o, &o->op.extra[1], f->other, err);
    }
    return SP_OK;
}

/* The product, with what is fused before it, ending in result (itself, or the
 * addition of residual). */
static sp_status lower_product(plan *p, uint32_t product, uint32_t result, uint32_t residual, sp_error *err) {
    const sp_spec_tensor *t = plan_tensor(p, product);
    const plan_fusion *f = &p->fusions[product];
    plan_op *o = sp_plan_new_op(p, t->op);
    k_op *op = &o->op;
    sp_status status = sp_plan_set_dst(p, o, result, err);
    status = status == SP_OK ? sp_plan_set_src(p, o, 0, t->src[0], true, err) : status;
    status = status == SP_OK ? sp_plan_set_src(p, o, 1, f->before ? f->right : t->src[1], false, err) : status;
    if (status == SP_OK && t->op == SP_OP_MUL_MAT_ID) {
        status = sp_plan_set_src(p, o, 2, t->src[2], false, err);
    }
    status = status == SP_OK ? sp_plan_take_before(p, o, f, 8, err) : status;
    if (status == SP_OK && residual != PLAN_NONE) {
        op->after = K_AFTER_ADD;
        status = sp_plan_set_extra(p, o, &op->extra[2], residual, err);
    }
    size_op(o);
    return status;
}

/* What a streamed product ends in. */
static sp_status lower_ending(plan *p, plan_op *o, uint32_t end, const plan_fusion *f, sp_error *err) {
    k_op *op = &o->op;
    sp_status status = SP_OK;
    if (f->after & K_AFTER_ADD) {
        status = sp_plan_set_extra(p, o, &op->extra[2], f->residual, err);
    }
    if (f->after & K_AFTER_GLU) {
        const sp_spec_tensor *gate = plan_tensor(p, end);
        op->params[K_GLU_KIND] = gate->op, op->params[K_GLU_ALPHA] = gate->params[1], op->params[K_GLU_LIMIT] = gate->params[2];
        status = status == SP_OK ? sp_plan_set_src(p, o, K_SRC_LEFT2, plan_tensor(p, f->second)->src[0], true, err) : status;
    }
    if (f->after & K_AFTER_ROPE) {
        const sp_spec_tensor *rope = plan_tensor(p, f->rope);
        op->params[K_UNIT] = 2, op->params[K_ROPE_DIMS] = rope->params[0], op->params[K_ROPE_HEAD] = (uint32_t)rope->ne[0];
    }
    if (status == SP_OK && f->after & K_AFTER_SET_ROW) {
        status = sp_plan_set_src(p, o, K_SRC_IDS, plan_tensor(p, end)->src[2], false, err);
    }
    return status;
}

/* Elements of the column that a warp holds in registers (k_held). */
static int64_t held_at_once(const sp_spec_tensor *left) {
    return left->type == SP_TYPE_F16 ? K_HELD_HALVES : K_HELD_BYTES;
}

/* Into so many segments, as a power of two, a row is cut: a warp holds its segment of the column. */
static uint32_t segments_of(const sp_spec_tensor *left) {
    uint32_t segments = 0;
    while (segments < 3 && left->ne[0] / sp_plan_slices(left) > held_at_once(left) << segments) {
        segments++;
    }
    return segments;
}

/* Rows of more halves than warps hold of a column elsewhere: they come one by one, or in slices, which don't lie together. */
static bool is_long(const sp_spec_tensor *left) {
    return left->type == SP_TYPE_F16 && left->ne[0] > held_at_once(left) * K_CARD_WARPS;
}

/* Rows that a card's warps take at once. */
static uint32_t rows_at_once(const sp_spec_tensor *left, uint32_t segments) {
    return (uint32_t)(left->type == SP_TYPE_Q4_0 ? K_ROWS_OF_NIBBLES : K_ROWS_OF_OTHERS) * (K_CARD_WARPS >> segments);
}

/* What decoding does with it, where blocks have a ring. Warps that bring the column for themselves know nothing of its norm. */
static uint32_t decodes(const sp_spec_tensor *left, const k_op *op) {
    if (is_long(left) && left->ne[0] <= K_LONGEST_HALVES && left->nb[1] <= K_SLOT && op->before == K_BEFORE_NONE) {
        return K_DOES_LONG;
    }
    const uint32_t segments = op->params[K_SEGMENTS];
    const bool one_round = op->params[K_TILE_ROWS] == rows_at_once(left, segments) && left->ne[0] <= held_at_once(left) << segments;
    return !one_round ? K_DOES_STREAM : left->type == SP_TYPE_Q4_0 ? K_DOES_Q4 : left->type == SP_TYPE_Q8_0 ? K_DOES_Q8 : K_DOES_F16;
}

/* A product whose weights are streamed; it ends in `end`, itself or another operation. */
static sp_status lower_stream(plan *p, uint32_t product, uint32_t end, sp_error *err) {
    const sp_spec_tensor *t = plan_tensor(p, product), *left = plan_tensor(p, t->src[0]);
    const plan_fusion *before = &p->fusions[product], *f = &p->fusions[end];
    const uint32_t slices = sp_plan_slices(left);
    uint32_t tile_rows = is_long(left) ? 1 : 64, turns = PLAN_NONE;
    sp_status status = f->after & K_AFTER_ROPE ? sp_plan_turns(p, plan_tensor(p, f->rope), &turns, err) : SP_OK;
    if (status != SP_OK) {
        return status;
    }
    plan_op *o = sp_plan_new_op(p, K_OP_STREAM);
    k_op *op = &o->op;
    op->params[K_SLICES] = slices;
    op->params[K_SEGMENTS] = segments_of(left);
    while (tile_rows > 1 && (tile_rows * left->nb[1] > K_SLOT || tile_rows > rows_at_once(left, op->params[K_SEGMENTS]))) {
        tile_rows /= 2;
    }
    op->params[K_TILE_ROWS] = tile_rows;
    op->params[K_UNIT] = 1;
    op->after = f->product == PLAN_NONE ? K_AFTER_NONE : f->after;
    status = sp_plan_set_dst(p, o, end, err);
    status = status == SP_OK ? sp_plan_set_src(p, o, K_SRC_LEFT, t->src[0], true, err) : status;
    status = status == SP_OK ? sp_plan_set_src(p, o, K_SRC_RIGHT, before->before ? before->right : t->src[1], false, err) : status;
    status = status == SP_OK ? sp_plan_take_before(p, o, before, K_EPS, err) : status;
    o->decodes = p->workspace->device->driver->ring ? decodes(left, op) : K_DOES_STREAM;
    status = status == SP_OK && op->after ? lower_ending(p, o, end, f, err) : status;
    if (turns != PLAN_NONE) {
        op->src[K_SRC_TURNS].data = plan_at_root(turns);
        o->reads[o->n_reads++] = turns;
    }
    o->work = (double)left->nb[1] * (double)left->ne[1] * (op->after & K_AFTER_GLU ? 2 : 1);
    o->most_parts = parts_for((double)left->ne[1] / op->params[K_UNIT], 4);
    return status;
}

static sp_status lower_op(plan *p, uint32_t index, sp_error *err) {
    const sp_spec_tensor *t = plan_tensor(p, index);
    uint32_t product = p->fusions[index].product != PLAN_NONE ? p->fusions[index].product : index;
    if (sp_plan_streams(p, product)) {
        return lower_stream(p, product, index, err);
    }
    if (sp_plan_tiles(p, product)) {
        return sp_plan_lower_tiles(p, product, index, err);
    }
    if (plan_tensor(p, product)->op == SP_OP_MUL_MAT || plan_tensor(p, product)->op == SP_OP_MUL_MAT_ID) {
        return lower_product(p, product, index, p->fusions[index].residual, err);
    }
    if (t->op == SP_OP_SET_ROWS && p->fusions[index].rope != PLAN_NONE) {
        return sp_plan_lower_turned_rows(p, index, err);
    }
    sp_status status = SP_OK;
    if (t->op == SP_OP_ARGMAX && sp_plan_join_argmax(p, index, &status, err)) {
        return status;
    }
    plan_op *o = sp_plan_new_op(p, t->op);
    k_op *op = &o->op;
    status = sp_plan_set_dst(p, o, index, err);
    for (int s = 0; status == SP_OK && s < t->n_src && s < K_MAX_SRC; s++) {
        status = sp_plan_set_src(p, o, s, t->src[s], t->op == SP_OP_GET_ROWS && s == 0, err);
    }
    memcpy(op->params, t->params, sizeof op->params);
    if (status != SP_OK) {
        return status;
    }
    size_op(o);
    switch (t->op) {
    case SP_OP_ROPE_EXT:
        op->op = op->src[0].type == SP_TYPE_F32 && op->src[0].nb[0] == 4 && op->dst.nb[0] == 4 ? K_OP_ROPE : op->op;
        return sp_plan_rope_table(p, op, t, err);
    case SP_OP_FLASH_ATTN_EXT:
        return lower_attention(p, o, t, err);
    case SP_OP_ARGMAX:
        return sp_plan_lower_argmax(p, o, err);
    case SP_OP_CPY:
    case SP_OP_CAST:
    case SP_OP_CONT:
        lower_copy(o, plan_tensor(p, t->src[0]), t);
        return SP_OK;
    case SP_OP_SET_ROWS:
        op->params[15] = sp_type_get(t->type)->size;
        return SP_OK;
    case SP_OP_REPEAT:
    case SP_OP_CONCAT:
    case SP_OP_GET_ROWS:
        move_bits(op);
        return SP_OK;
    default:
        sp_plan_choose_flat(op);
        return SP_OK;
    }
}

/* What this device has kernels for; the table in docs/cuda.md says the same. */
static bool is_known(uint32_t op) {
    return op <= SP_OP_DSV4_HC_PRE;
}

/* Types of windows that kernels don't read: as weights they are converted. */
static bool is_readable(const sp_spec_tensor *t) {
    switch (t->type) {
    case SP_TYPE_IQ1_S:
    case SP_TYPE_IQ1_M:
    case SP_TYPE_IQ2_XXS:
    case SP_TYPE_IQ2_XS:
    case SP_TYPE_IQ2_S:
    case SP_TYPE_IQ3_XXS:
    case SP_TYPE_IQ3_S:
        return t->kind == SP_TENSOR_WEIGHT;
    default:
        return true;
    }
}

sp_status sp_plan_lower(plan *p, sp_error *err) {
    const char *device = p->workspace->device->info.name;
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < p->spec->n_tensors; i++) {
        const sp_spec_tensor *t = plan_tensor(p, i);
        if (!is_readable(t)) {
            status =
                sp_fail(err, SP_ERR_UNSUPPORTED, "tensor %u: %s reads %s of a model alone, not of memory", i, device, sp_type_get(t->type)->name);
        } else if (t->kind == SP_TENSOR_OP && !is_known(t->op)) {
            status = sp_fail(err, SP_ERR_UNSUPPORTED, "tensor %u: %s can't do %s", i, device, sp_op_name(t->op));
        } else if (t->kind == SP_TENSOR_OP && !is_view(t) && !p->fusions[i].skip) {
            status = lower_op(p, i, err);
        }
    }
    return status;
}
