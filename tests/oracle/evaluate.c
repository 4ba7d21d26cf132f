#include "oracle/evaluate.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/numbers.h"
#include "program/program_impl.h"

/* One line an operation. A test holds this table against the table of rules. */
static const eval_op table[] = {
    [SP_OP_MUL_MAT] = {eval_mul_mat, NULL},
    [SP_OP_MUL_MAT_ID] = {eval_mul_mat_id, NULL},
    [SP_OP_ADD] = {eval_binary, NULL},
    [SP_OP_SUB] = {eval_binary, NULL},
    [SP_OP_MUL] = {eval_binary, NULL},
    [SP_OP_DIV] = {eval_binary, NULL},
    [SP_OP_NORM] = {eval_norm, NULL},
    [SP_OP_RMS_NORM] = {eval_norm, NULL},
    [SP_OP_L2_NORM] = {eval_norm, NULL},
    [SP_OP_SUM_ROWS] = {eval_sum_rows, NULL},
    [SP_OP_ROPE_EXT] = {eval_rope, NULL},
    [SP_OP_SOFT_MAX_EXT] = {eval_soft_max, NULL},
    [SP_OP_FLASH_ATTN_EXT] = {eval_flash_attn, NULL},
    [SP_OP_GET_ROWS] = {eval_get_rows, NULL},
    [SP_OP_SET_ROWS] = {eval_set_rows, NULL},
    [SP_OP_CPY] = {eval_move, NULL},
    [SP_OP_CAST] = {eval_move, NULL},
    [SP_OP_CONT] = {eval_move, NULL},
    [SP_OP_REPEAT] = {eval_repeat, NULL},
    [SP_OP_CONCAT] = {eval_concat, NULL},
    [SP_OP_SCALE] = {eval_scale, NULL},
    [SP_OP_CLAMP] = {eval_clamp, NULL},
    [SP_OP_ARGSORT] = {eval_nothing, eval_check_argsort},
    [SP_OP_TOP_K] = {eval_nothing, eval_check_top_k},
    [SP_OP_ARGMAX] = {eval_nothing, eval_check_argmax},
    [SP_OP_SQR] = {eval_unary, NULL},
    [SP_OP_SQRT] = {eval_unary, NULL},
    [SP_OP_SILU] = {eval_unary, NULL},
    [SP_OP_GELU] = {eval_unary, NULL},
    [SP_OP_GELU_ERF] = {eval_unary, NULL},
    [SP_OP_GELU_QUICK] = {eval_unary, NULL},
    [SP_OP_TANH] = {eval_unary, NULL},
    [SP_OP_SIGMOID] = {eval_unary, NULL},
    [SP_OP_RELU] = {eval_unary, NULL},
    [SP_OP_SOFTPLUS] = {eval_unary, NULL},
    [SP_OP_EXP] = {eval_unary, NULL},
    [SP_OP_NEG] = {eval_unary, NULL},
    [SP_OP_REGLU] = {eval_glu, NULL},
    [SP_OP_GEGLU] = {eval_glu, NULL},
    [SP_OP_SWIGLU] = {eval_glu, NULL},
    [SP_OP_SWIGLU_OAI] = {eval_glu, NULL},
    [SP_OP_GEGLU_ERF] = {eval_glu, NULL},
    [SP_OP_GEGLU_QUICK] = {eval_glu, NULL},
    [SP_OP_ADD_ID] = {eval_add_id, NULL},
    [SP_OP_FILL] = {eval_fill, NULL},
    [SP_OP_SSM_CONV] = {eval_ssm_conv, NULL},
    [SP_OP_SSM_SCAN] = {eval_ssm_scan, NULL},
    [SP_OP_GATED_DELTA_NET] = {eval_gated_delta_net, NULL},
    [SP_OP_LIGHTNING_INDEXER] = {eval_lightning_indexer, NULL},
    [SP_OP_DSV4_HC_PRE] = {eval_dsv4_hc_pre, NULL},
    [SP_OP_SWIGLU_CLAMP] = {eval_glu, NULL},
    [SP_OP_RWKV_WKV6] = {eval_wkv, NULL},
    [SP_OP_RWKV_WKV7] = {eval_wkv, NULL},
};

bool eval_is_view(uint16_t op) {
    return sp_rule_get(op)->view == V_VIEW;
}

const eval_op *eval_op_get(uint32_t op) {
    return op < sizeof table / sizeof table[0] && table[op].run ? &table[op] : NULL;
}

/* The judge's own copy of all that the program sees. */
typedef struct judge {
    const eval_input *in;
    uint8_t **memory; /* by slot */
    uint8_t **base;   /* by tensor: its first byte */
    uint8_t **owned;  /* by tensor: the bytes of a temporary */
    uint32_t *seen;   /* by tensor: the window where its result was shown */
    double **hidden;  /* by tensor whose result was not shown: what it should be, and behind that how far off it may be */
    eval_result result;
} judge;

static uint64_t row_bytes(const sp_spec_tensor *t) {
    const sp_type_traits *traits = sp_type_get(t->type);
    return (uint64_t)t->ne[0] / traits->block * traits->size;
}

static uint64_t bytes_of(const sp_spec_tensor *t) {
    return row_bytes(t) * (uint64_t)(t->ne[1] * t->ne[2] * t->ne[3]);
}

/* The same elements without gaps. */
static sp_spec_tensor dense(const sp_spec_tensor *t) {
    sp_spec_tensor d = *t;
    d.nb[0] = sp_type_get(t->type)->size;
    d.nb[1] = row_bytes(t);
    d.nb[2] = d.nb[1] * (uint64_t)t->ne[1];
    d.nb[3] = d.nb[2] * (uint64_t)t->ne[2];
    return d;
}

static void blame(judge *j, uint32_t tensor, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void blame(judge *j, uint32_t tensor, const char *format, ...) {
    if (!j->result.ok) {
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(j->result.reason, sizeof j->result.reason, format, args);
    va_end(args);
    j->result.ok = false;
    j->result.tensor = tensor;
    j->result.op = tensor < j->in->spec->n_tensors ? j->in->spec->tensors[tensor].op : 0;
}

/* Where tensor i lies, once its sources do. */
static void find_base(judge *j, uint32_t i) {
    const sp_spec_tensor *t = &j->in->spec->tensors[i];
    if (t->kind == SP_TENSOR_MEMORY) {
        j->base[i] = j->memory[t->slot] + t->offset;
    } else if (t->kind == SP_TENSOR_WEIGHT) {
        j->base[i] = (uint8_t *)(uintptr_t)j->in->weight(j->in->context, t->weight); /* never written: it is no destination */
    } else if (eval_is_view(t->op)) {
        j->base[i] = j->base[t->src[0]] + (t->op == SP_OP_VIEW ? t->offset : 0);
    } else if (sp_rule_get(t->op)->view != V_NONE) {
        j->base[i] = j->base[t->src[sp_rule_get(t->op)->view == V_WRITES_B]];
    } else if (t->dst != SP_PROGRAM_NONE) {
        j->base[i] = j->base[t->dst];
    } else {
        j->base[i] = j->owned[i] = calloc(1, bytes_of(t));
    }
}

/* Puts the dense bytes of t's elements where t lies. */
static void scatter(const sp_spec_tensor *t, uint8_t *base, const uint8_t *from) {
    const sp_type_traits *traits = sp_type_get(t->type);
    for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
                for (int64_t i0 = 0; i0 < t->ne[0] / traits->block; i0++) {
                    memcpy(base + numbers_row_offset(t, i1, i2, i3) + (uint64_t)i0 * t->nb[0], from, traits->size);
                    from += traits->size;
                }
            }
        }
    }
}

/* Has the element no answer that every device must give: none at all, or one beyond what its type, or single precision, holds? */
static bool is_undefined(const sp_spec_tensor *t, double want, double tolerance, double block_max, bool exact) {
    const double largest = t->type == SP_TYPE_F16 ? 65504 : FLT_MAX;
    return isnan(want) || isnan(tolerance) || (!exact && (fabs(want) + tolerance >= 0.99 * largest || isinf(want) || !(block_max < 60000))) ||
           (t->type == SP_TYPE_I32 && fabs(want) >= 2147483648.0);
}

/* Is the difference between a right result and the device's one that its arithmetic may make? */
static void compare(judge *j, uint32_t index, const eval_call *call, const double *got) {
    const sp_spec_tensor *t = call->t;
    const uint32_t block = sp_type_get(t->type)->block, from = call->s[sp_rule_get(t->op)->view == V_WRITES_A]->type; /* what is moved */
    for (int64_t i = 0; i < sp_elements(t); i++) {
        const double want = call->out[i];
        double block_max = 0;
        for (int64_t k = i / block * block; block > 1 && k < i / block * block + block; k++) {
            block_max = isnan(block_max) || fabs(call->out[k]) <= block_max ? block_max : fabs(call->out[k]);
        }
        const bool exact = call->tolerance[i] == 0 && t->type == from;
        j->result.elements++;
        if ((j->in->wild && !exact) || (exact && got[i] == want)) {
            continue;
        }
        if (is_undefined(t, want, call->tolerance[i], block_max, exact)) {
            j->result.undefined++;
            continue;
        }
        const double allowed = exact ? 0 : call->tolerance[i] + number_rounding(t->type, want, block_max) * 1.01 + 1e-37;
        const double error = fabs(got[i] - want);
        if (!(error <= allowed)) {
            blame(j, index, "element %lld is %.9g; it should be %.9g, give or take %.3g", (long long)i, got[i], want, allowed);
            return;
        }
        if (allowed > 0 && error / allowed > j->result.worst) {
            j->result.worst = error / allowed;
            j->result.worst_op = t->op;
        }
    }
}

/* Reads the sources of an operation as numbers; false when out of memory. */
static bool read_sources(const judge *j, const sp_spec_tensor *t, eval_call *call) {
    for (int s = 0; s < t->n_src; s++) {
        if (t->src[s] == SP_PROGRAM_NONE) {
            continue;
        }
        call->s[s] = &j->in->spec->tensors[t->src[s]];
        const size_t n = (size_t)sp_elements(call->s[s]);
        call->x[s] = malloc(n * sizeof(double));
        if (!call->x[s]) {
            return false;
        }
        if (j->hidden[t->src[s]]) {
            memcpy(call->x[s], j->hidden[t->src[s]], n * sizeof(double));
        } else {
            numbers_read(call->s[s], j->base[t->src[s]], call->x[s]);
        }
    }
    return true;
}

static bool has_hidden_source(const judge *j, const sp_spec_tensor *t) {
    for (int s = 0; s < t->n_src; s++) {
        if (t->src[s] != SP_PROGRAM_NONE && j->hidden[t->src[s]]) {
            return true;
        }
    }
    return false;
}

/*
 * How far a result may be off because a source that nobody saw may be: it is computed again from sources at the ends of what they may be, all higher,
 * all lower, all larger, all smaller, and by chance, and twice the largest difference is allowed. Where one element depends on one (sums, products,
 * activations) the ends are the worst that there is; where it depends on a pair or a row, all at their worst at once is not what rounding does.
 */
static bool widen(const judge *j, const sp_spec_tensor *t, eval_call *call) {
    enum { ROUNDS = 8 };
    const size_t n = (size_t)sp_elements(t);
    double *right = malloc(n * sizeof *right), *own = malloc(n * sizeof *own), *kept[SP_PROGRAM_MAX_SRC] = {0};
    bool ok = right && own;
    uint64_t random = 88172645463325252U;
    if (ok) {
        memcpy(right, call->out, n * sizeof *right);
        memcpy(own, call->tolerance, n * sizeof *own);
    }
    for (int s = 0; ok && s < t->n_src; s++) {
        if (t->src[s] != SP_PROGRAM_NONE && j->hidden[t->src[s]]) {
            kept[s] = call->x[s];
            call->x[s] = malloc((size_t)sp_elements(call->s[s]) * sizeof(double));
            ok = call->x[s] != NULL;
        }
    }
    for (int round = 0; ok && round < ROUNDS; round++) {
        for (int s = 0; s < t->n_src; s++) {
            const size_t m = kept[s] ? (size_t)sp_elements(call->s[s]) : 0;
            const double *slack = kept[s] ? j->hidden[t->src[s]] + m : NULL;
            for (size_t i = 0; i < m; i++) {
                random ^= random << 13, random ^= random >> 7, random ^= random << 17; /* Marsaglia's xorshift */
                const bool up = round < 2 ? round == 0 : round < 4 ? (kept[s][i] > 0) == (round == 2) : random & 1;
                call->x[s][i] = kept[s][i] + (up ? slack[i] : -slack[i]);
            }
        }
        memset(call->tolerance, 0, n * sizeof *call->tolerance);
        eval_op_get(t->op)->run(call);
        for (size_t i = 0; i < n; i++) {
            const double off = 2 * fabs(call->out[i] - right[i]);
            own[i] = isnan(off) || isnan(own[i]) || isnan(call->tolerance[i]) ? NAN : fmax(own[i], off + call->tolerance[i]);
        }
    }
    if (ok) {
        memcpy(call->out, right, n * sizeof *right);
        memcpy(call->tolerance, own, n * sizeof *own);
    }
    for (int s = 0; s < SP_PROGRAM_MAX_SRC; s++) {
        if (kept[s]) {
            free(call->x[s]);
            call->x[s] = kept[s];
        }
    }
    free(right);
    free(own);
    return ok;
}

/* What nobody sees is as it should be, give or take what it may be off. */
static void remember(judge *j, uint32_t index, const eval_call *call) {
    const sp_spec_tensor *t = call->t;
    const size_t n = (size_t)sp_elements(t);
    j->hidden[index] = malloc(2 * n * sizeof(double));
    for (size_t i = 0; j->hidden[index] && i < n; i++) {
        const double want = call->out[i], tolerance = call->tolerance[i];
        j->hidden[index][i] = want;
        j->hidden[index][n + i] = is_undefined(t, want, tolerance, 0, false) ? NAN : tolerance + number_rounding(t->type, want, 0);
    }
}

static void judge_shown(judge *j, uint32_t index, const eval_call *call) {
    const sp_spec_tensor *t = call->t, *shown = &j->in->spec->tensors[j->seen[index]], flat = dense(t);
    const eval_op *op = eval_op_get(t->op);
    const uint8_t *bytes = j->in->after[shown->slot] + shown->offset;
    double *got = malloc((size_t)sp_elements(t) * sizeof *got);
    if (!got) {
        blame(j, index, "out of memory");
        return;
    }
    numbers_read(&flat, bytes, got);
    const char *wrong = op->check && !j->in->wild ? op->check(call, got) : NULL;
    if (wrong) {
        blame(j, index, "%s", wrong);
    } else if (!op->check) {
        compare(j, index, call, got);
    }
    scatter(t, j->base[index], bytes);
    free(got);
}

static void judge_operation(judge *j, uint32_t index) {
    const sp_spec_tensor *t = &j->in->spec->tensors[index];
    const eval_op *op = eval_op_get(t->op);
    const bool hidden = j->seen[index] == SP_PROGRAM_NONE;
    if (!op || (hidden && (op->check || sp_rule_get(t->op)->view != V_NONE || t->dst != SP_PROGRAM_NONE))) {
        blame(j, index, op ? "its result is not shown" : "there is no evaluator for it");
        return;
    }
    const size_t n = (size_t)sp_elements(t);
    eval_call call = {.t = t, .loose = j->in->loose, .out = calloc(n, sizeof(double)), .tolerance = calloc(n, sizeof(double))};
    bool ok = read_sources(j, t, &call) && call.out && call.tolerance;
    if (ok) {
        call.before = call.x[t->op == SP_OP_CPY];
        op->run(&call);
        ok = !has_hidden_source(j, t) || widen(j, t, &call);
    }
    if (ok && hidden) {
        remember(j, index, &call);
        ok = j->hidden[index] != NULL;
    } else if (ok) {
        judge_shown(j, index, &call);
    }
    if (!ok) {
        blame(j, index, "out of memory");
    }
    for (int s = 0; s < SP_PROGRAM_MAX_SRC; s++) {
        free(call.x[s]);
    }
    free(call.out);
    free(call.tolerance);
}

/* Is tensor i a copy for the judge? */
static bool is_show(const sp_spec *spec, uint32_t i) {
    const sp_spec_tensor *t = &spec->tensors[i];
    if (t->kind != SP_TENSOR_OP || t->op != SP_OP_CPY) {
        return false;
    }
    const sp_spec_tensor *to = &spec->tensors[t->src[1]];
    return to->kind == SP_TENSOR_MEMORY && strcmp(spec->slots[to->slot].name, EVAL_SEEN) == 0;
}

static bool prepare(judge *j) {
    const sp_spec *spec = j->in->spec;
    j->memory = calloc(spec->n_slots + 1, sizeof *j->memory);
    j->base = calloc(spec->n_tensors, sizeof *j->base);
    j->owned = calloc(spec->n_tensors, sizeof *j->owned);
    j->seen = malloc(spec->n_tensors * sizeof *j->seen);
    j->hidden = calloc(spec->n_tensors, sizeof *j->hidden);
    bool ok = j->memory && j->base && j->owned && j->seen && j->hidden;
    for (uint32_t i = 0; ok && i < spec->n_slots; i++) {
        j->memory[i] = malloc(spec->slots[i].size + 1);
        ok = j->memory[i] != NULL;
        if (ok) {
            memcpy(j->memory[i], j->in->before[i], spec->slots[i].size);
        }
    }
    for (uint32_t i = 0; ok && i < spec->n_tensors; i++) {
        j->seen[i] = SP_PROGRAM_NONE;
        if (is_show(spec, i)) {
            j->seen[spec->tensors[i].src[0]] = spec->tensors[i].src[1];
        }
    }
    return ok;
}

/* Every byte that no operation wrote is as it was, and what was written last is there. */
static void compare_memory(judge *j) {
    const sp_spec *spec = j->in->spec;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        for (uint64_t at = 0; at < spec->slots[i].size && j->result.ok; at++) {
            if (j->memory[i][at] != j->in->after[i][at]) {
                blame(j, UINT32_MAX, "byte %llu of slot %s is 0x%02x; it should be 0x%02x", (unsigned long long)at, spec->slots[i].name,
                      j->in->after[i][at], j->memory[i][at]);
            }
        }
    }
}

eval_result eval_judge(const eval_input *input) {
    judge j = {.in = input, .result = {.ok = true}};
    const sp_spec *spec = input->spec;
    if (!prepare(&j)) {
        blame(&j, UINT32_MAX, "out of memory");
    }
    for (uint32_t i = 0; j.result.ok && i < spec->n_tensors; i++) {
        find_base(&j, i);
        if (spec->tensors[i].kind != SP_TENSOR_OP || eval_is_view(spec->tensors[i].op)) {
            continue;
        }
        if (is_show(spec, i)) {
            const sp_spec_tensor *to = &spec->tensors[spec->tensors[i].src[1]];
            memcpy(j.base[i], input->after[to->slot] + to->offset, bytes_of(to));
        } else {
            judge_operation(&j, i);
        }
    }
    if (j.result.ok) {
        compare_memory(&j);
    }
    for (uint32_t i = 0; j.memory && i < spec->n_slots; i++) {
        free(j.memory[i]);
    }
    for (uint32_t i = 0; j.owned && i < spec->n_tensors; i++) {
        free(j.owned[i]);
    }
    for (uint32_t i = 0; j.hidden && i < spec->n_tensors; i++) {
        free(j.hidden[i]);
    }
    free(j.hidden);
    free(j.memory);
    free(j.base);
    free(j.owned);
    free(j.seen);
    return j.result;
}
