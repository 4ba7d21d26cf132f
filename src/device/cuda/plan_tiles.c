/*
 * Products by tiles: what is made halves before them, by operations of their own that products share; and into how many pieces rows are cut so that
 * all blocks have work.
 */
#include "base/error.h"
#include "device/cuda/plan.h"

enum {
    MOST_STAGES = 5,
    LEAST_STEPS = 4,        /* of a piece */
    MOST_LEFT = 256u << 20, /* bytes of a left side as halves: what is larger goes another way */
    KEPT_BY_A_LANE = 32,    /* elements of a row */
    LONG_ROW = 8192,        /* elements: columns so long leave the other way (kernel_product.h) little room for several */
};

static uint64_t planes_of(const sp_spec_tensor *t) {
    return (uint64_t)t->ne[2] * (uint64_t)t->ne[3];
}

/* Bytes of a tensor's rows as halves, without their scales. */
static uint64_t halves_bytes(const sp_spec_tensor *t) {
    return planes_of(t) * k_halves_steps((uint32_t)t->ne[0]) * k_halves_rows((uint32_t)t->ne[1]) * K_TILE_K * 2;
}

/* Weights that tiles read as they are. */
static bool is_read_directly(const sp_spec_tensor *t) {
    bool quants = (t->type == SP_TYPE_Q4_0 || t->type == SP_TYPE_Q8_0) && t->ne[0] % 256 == 0;
    return t->kind == SP_TENSOR_WEIGHT && (t->type == SP_TYPE_F16 || quants);
}

/* Matrices of floats have a precision that halves have not. */
bool sp_plan_tiles(const plan *p, uint32_t t) {
    const sp_spec_tensor *o = plan_tensor(p, t);
    if (o->kind != SP_TENSOR_OP || o->op != SP_OP_MUL_MAT || o->ne[1] < 2 || o->nb[0] != sizeof(float)) {
        return false;
    }
    const sp_spec_tensor *left = plan_tensor(p, o->src[0]);
    if (o->ne[1] < K_TILES_FROM) {
        return is_read_directly(left) && left->ne[0] >= LONG_ROW;
    }
    return left->type != SP_TYPE_F32 && (is_read_directly(left) || halves_bytes(left) <= MOST_LEFT);
}

bool sp_plan_tiles_gate(const plan *p, uint32_t t) {
    const sp_spec_tensor *left = plan_tensor(p, plan_tensor(p, t)->src[0]);
    return sp_plan_tiles(p, t) && is_read_directly(left) && left->ne[0] % 8 == 0;
}

/* ---- halves ---- */

/* The rows of t as halves, made by an operation of its own unless there are some already. f: the product that has them at its right, with what it
 * takes in before; NULL: they are at the left. beside: a tensor that must be there too, so that what depends on nothing is not made long before it is
 * needed. */
static sp_status make_halves(plan *p, uint32_t t, const plan_fusion *f, uint32_t beside, uint32_t *root, sp_error *err) {
    const sp_spec_tensor *s = plan_tensor(p, t);
    uint32_t *made = f ? &p->fusions[t].halves : &p->fusions[t].left_halves;
    if (*made != PLAN_NONE) {
        *root = *made;
        return SP_OK;
    }
    plan_op *o = sp_plan_new_op(p, K_OP_HALVES);
    uint64_t bytes = halves_bytes(s), rows = planes_of(s) * k_halves_rows((uint32_t)s->ne[1]);
    o->op.params[K_HALVES_LEFT] = !f;
    uint32_t team = 1;
    while (team < 8 && team * 32 * KEPT_BY_A_LANE < s->ne[0]) {
        team *= 2;
    }
    *root = sp_plan_new_root(p, bytes + rows * sizeof(float));
    o->writes = *root;
    o->op.dst = (k_tensor){.data = plan_at_root(*root)};
    o->op.scratch = o->op.dst.data + bytes;
    o->op.params[K_HALVES_TEAM] = team;
    sp_status status = sp_plan_set_src(p, o, 0, f && f->before ? f->right : t, !f, err);
    if (status == SP_OK && f) {
        status = sp_plan_take_before(p, o, f, K_HALVES_EPS, err);
    }
    if (beside != PLAN_NONE) {
        sp_plan_reads(p, o, beside);
    }
    for (int i = 0; i < 4; i++) {
        o->op.dst.ne[i] = (int32_t)s->ne[i];
    }
    o->work = (double)rows * (double)s->ne[0] * (s->type == SP_TYPE_F32 ? 8 : 64);
    o->most_parts = rows < 65536 ? (uint32_t)rows : 65536;
    *made = sp_plan_is_constant(p, t) ? *root : PLAN_NONE;
    return status;
}

/* The attention that this product alone has at its right, if it can put its results as halves; NULL: it can't. */
static plan_op *only_attended(plan *p, uint32_t product) {
    const sp_spec_tensor *right = plan_tensor(p, plan_tensor(p, product)->src[1]);
    uint32_t t = p->fusions[product].before ? SP_PROGRAM_NONE : sp_plan_only_source(p, plan_tensor(p, product)->src[1], product);
    for (uint32_t i = p->n_ops; t != SP_PROGRAM_NONE && i-- > 0;) {
        const k_tensor *out = &p->ops[i].op.dst;
        if (p->ops[i].op.op == K_OP_ATTEND && p->ops[i].writes == t) {
            bool rows = out->ne[3] == 1 && planes_of(right) == 1 && right->ne[0] == (int64_t)out->ne[0] * out->ne[1] && right->ne[1] == out->ne[2];
            return rows ? &p->ops[i] : NULL;
        }
    }
    return NULL;
}

/* The product's right side, which is what attention found, as halves: it makes them itself. */
static void halve_attended(plan *p, plan_op *attention, const sp_spec_tensor *s, uint32_t *root) {
    uint32_t lines = k_halves_rows((uint32_t)s->ne[1]);
    *root = sp_plan_new_root(p, halves_bytes(s) + lines * sizeof(float));
    attention->writes = *root;
    attention->op.dst.data = plan_at_root(*root);
    attention->op.extra[1].data = attention->op.dst.data + halves_bytes(s);
    attention->op.params[K_ATTEND_LINES] = lines;
}

/* ---- the shape of the work ---- */

/* What tiles read a left side as; false: it must be made halves first. */
static bool is_readable(const k_tensor *a, uint32_t *by) {
    uint64_t places = a->data | (uint64_t)(a->nb[1] | a->nb[2] | a->nb[3]);
    *by = a->type == K_TYPE_Q4_0_SPLIT ? K_BY_Q4 : a->type == K_TYPE_Q8_0_SPLIT ? K_BY_Q8 : K_BY_F16;
    for (int i = 1; i < 4; i++) {
        places |= a->ne[i] > 1 && a->nb[i] <= 0; /* maps don't take those */
    }
    return *by != K_BY_F16 || (a->type == SP_TYPE_F16 && places % 16 == 0 && a->ne[0] % 8 == 0);
}

/* How many blocks share each of the tiles that are left where every block has had as many (k_tiles_alone). tiles: of all products that share the
 * right side, since they run together. In cycles, about: a step, a tile beside its steps, putting together what several blocks found. */
static uint32_t choose_split(uint32_t blocks, uint64_t tiles, uint32_t steps) {
    enum { STEP = 800, TILE = 2500, PIECE = 2500 };
    uint64_t least = UINT64_MAX, rest = tiles % blocks;
    uint32_t best = 1;
    for (uint32_t split = 1; split <= 8 && (split == 1 || steps / split >= LEAST_STEPS); split *= 2) {
        uint64_t cost =
            (rest * split + blocks - 1) / blocks * ((steps + split - 1) / split * STEP + TILE + (split > 1 ? PIECE * (1 + split / 2) : 0));
        best = cost < least ? split : best;
        least = cost < least ? cost : least;
    }
    return best;
}

static uint64_t tiles_of(uint64_t rows, uint32_t each, const sp_spec_tensor *t) {
    return (rows + each - 1) / each * (((uint64_t)t->ne[1] + K_TILE_N - 1) / K_TILE_N) * planes_of(t);
}

static sp_status set_shape(plan *p, plan_op *o, const sp_spec_tensor *t, uint64_t rows, sp_error *err) {
    const sp_cuda_driver *driver = p->workspace->device->driver;
    k_op *op = &o->op;
    uint64_t tiles = tiles_of((uint64_t)t->ne[0], k_tile_rows(op), t);
    uint32_t steps = k_halves_steps((uint32_t)op->src[0].ne[0]), by = op->params[K_TILES_BY];
    uint32_t stages = (driver->shared - K_BEFORE_WORK - 1024) / k_tile_stage_bytes(by);
    op->params[K_TILES_STAGES] = stages < MOST_STAGES ? stages : MOST_STAGES;
    op->split = choose_split(driver->blocks, tiles_of(rows, K_TILE_M, t), steps);
    o->most_parts = tiles * op->split < 65536 ? (uint32_t)(tiles * op->split) : 65536;
    o->work = (double)tiles * K_TILE_N * K_TILE_M * steps * K_TILE_K / 256;
    if (op->split == 1) {
        return SP_OK;
    }
    uint64_t shared = tiles < driver->blocks ? tiles : driver->blocks; /* at most */
    o->scratch = sp_plan_new_root(p, shared * op->split * K_TILE_N * K_TILE_M * sizeof(float));
    op->scratch = plan_at_root(o->scratch);
    return sp_plan_new_table(p, shared * 2, &op->table, err);
}

/* ---- the product ---- */

/* Of what was made halves: a side as tiles read it; *scales: their inverse scales. */
static k_tensor read_halves(plan_op *o, uint32_t root, const sp_spec_tensor *s, k_tensor *scales) {
    k_tensor t = {.data = plan_at_root(root), .type = SP_TYPE_F16};
    *scales = (k_tensor){.data = t.data + halves_bytes(s)};
    for (int i = 0; i < 4; i++) {
        t.ne[i] = (int32_t)s->ne[i];
    }
    t.nb[0] = 2;
    t.nb[1] = (int64_t)k_halves_steps((uint32_t)s->ne[0]) * K_TILE_K * 2;
    t.nb[2] = t.nb[1] * k_halves_rows((uint32_t)s->ne[1]);
    t.nb[3] = t.nb[2] * s->ne[2];
    o->reads[o->n_reads++] = root;
    return t;
}

sp_status sp_plan_lower_tiles(plan *p, uint32_t product, uint32_t end, sp_error *err) {
    const sp_spec_tensor *t = plan_tensor(p, product);
    const plan_fusion *f = &p->fusions[product];
    plan_op o = {.op = {.op = K_OP_TILES}, .scratch = PLAN_NONE};
    uint32_t left = PLAN_NONE, right = PLAN_NONE, source = f->before ? f->right : t->src[1];
    sp_status status = sp_plan_set_dst(p, &o, end, err);
    status = status == SP_OK ? sp_plan_set_src(p, &o, 0, t->src[0], true, err) : status;
    plan_op *attention = only_attended(p, product);
    if (attention) {
        halve_attended(p, attention, plan_tensor(p, t->src[1]), &right);
    } else {
        status = status == SP_OK ? make_halves(p, t->src[1], f, PLAN_NONE, &right, err) : status;
    }
    if (status == SP_OK && !is_readable(&o.op.src[0], &o.op.params[K_TILES_BY])) {
        status = make_halves(p, t->src[0], NULL, source, &left, err);
        o.op.src[0] = read_halves(&o, left, plan_tensor(p, t->src[0]), &o.op.extra[0]);
    }
    if (status == SP_OK && p->fusions[end].after == K_AFTER_ADD) {
        o.op.after = K_AFTER_ADD;
        status = sp_plan_set_extra(p, &o, &o.op.extra[2], p->fusions[end].residual, err);
    } else if (status == SP_OK && p->fusions[end].after == K_AFTER_GLU) {
        o.op.after = K_AFTER_GLU;
        status = sp_plan_set_src(p, &o, 2, plan_tensor(p, p->fusions[end].second)->src[0], true, err);
    }
    if (status == SP_OK) {
        o.op.src[1] = read_halves(&o, right, plan_tensor(p, t->src[1]), &o.op.extra[1]);
        o.op.n_src = 2;
        status = set_shape(p, &o, t, p->fusions[t->src[1]].tile_rows, err);
    }
    *sp_plan_new_op(p, K_OP_TILES) = o;
    return status;
}

/* ---- maps ---- */

static sp_cuda_matrix matrix_of(const k_tensor *t, uint32_t element, uint32_t rows) {
    sp_cuda_matrix m = {.at = t->data, .element = element, .each = K_TILE_K, .rows = rows, .ordered = element == 2};
    for (int d = 0; d < 4; d++) {
        m.ne[d] = (uint64_t)t->ne[d];
        m.nb[d] = (uint64_t)t->nb[d];
    }
    return m;
}

/* Of quants the bytes: scales are behind them. */
static sp_cuda_matrix tile_matrix(const k_op *op, uint32_t i) {
    const k_tensor *a = &op->src[i % 2 && op->after == K_AFTER_GLU ? 2 : 0];
    uint32_t by = op->params[K_TILES_BY], n = (uint32_t)a->ne[0];
    sp_cuda_matrix m = matrix_of(a, by == K_BY_F16 ? 2 : 1, K_TILE_M / 2);
    if (by != K_BY_F16) {
        m.ne[0] = (by == K_BY_Q4 ? n / 2 : n) + n / 16;
        m.each = i >= 2 ? 16 : by == K_BY_Q4 ? K_TILE_K / 2 : K_TILE_K;
    }
    return m;
}

bool sp_plan_has_maps(const k_op *op) {
    return op->op == K_OP_TILES || op->op == K_OP_ATTEND;
}

sp_status sp_plan_map(sp_cuda_driver *driver, const k_op *op, uint8_t *maps, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; i < K_MAPS && status == SP_OK; i++) {
        const sp_cuda_matrix m = op->op == K_OP_TILES ? tile_matrix(op, i) : matrix_of(&op->src[1 + i % 2], 2, K_ATTEND_MOST);
        status = driver->ops->map_matrix(driver, &m, maps + i * K_MAP, err);
    }
    return status;
}
