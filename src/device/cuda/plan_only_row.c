/*
 * The only row. A program asks for the rows of the tokens whose logits are wanted, and decoding has but one token: `get_rows` of one row out of one
 * is that row, and here a view of it. So the products that end there take in what follows, as all others do. Its id is checked before each run
 * anyway.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/plan.h"

static bool is_row(const sp_spec_tensor *t) {
    return t->type == SP_TYPE_F32 && t->nb[0] == sizeof(float) && t->ne[1] * t->ne[2] * t->ne[3] == 1;
}

/* Of a result that is a temporary: nobody writes it again. */
static bool is_only_row(const sp_spec *spec, const sp_spec_tensor *t) {
    if (t->kind != SP_TENSOR_OP || t->op != SP_OP_GET_ROWS || t->dst != SP_PROGRAM_NONE || !is_row(t)) {
        return false;
    }
    const sp_spec_tensor *from = &spec->tensors[t->src[0]], *root = &spec->tensors[from->alias];
    return is_row(from) && root->kind == SP_TENSOR_OP && root->dst == SP_PROGRAM_NONE;
}

/* Who reads tensor i reads what it would have read. */
static void leave_out(sp_spec *spec, uint32_t i) {
    sp_spec_tensor *t = &spec->tensors[i];
    const uint32_t from = t->src[0];
    t->op = SP_OP_RESHAPE;
    t->n_src = 0;
    t->alias = spec->tensors[from].alias;
    t->start = spec->tensors[from].start;
    for (uint32_t j = i + 1; j < spec->n_tensors; j++) {
        sp_spec_tensor *later = &spec->tensors[j];
        for (int s = 0; s < later->n_src; s++) {
            later->src[s] = later->src[s] == i ? from : later->src[s];
        }
        if (later->alias == i) {
            later->alias = t->alias;
            later->start += t->start;
        }
    }
}

sp_status sp_plan_only_rows(const sp_spec *spec, sp_spec *out, sp_error *err) {
    *out = *spec;
    out->tensors = malloc((spec->n_tensors + 1) * sizeof *out->tensors);
    if (!out->tensors) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(out->tensors, spec->tensors, spec->n_tensors * sizeof *out->tensors);
    for (uint32_t i = 0; i < out->n_tensors; i++) {
        if (is_only_row(out, &out->tensors[i])) {
            leave_out(out, i);
        }
    }
    return SP_OK;
}
