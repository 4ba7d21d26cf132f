/* What moves elements: rows by id, copies, repetition, concatenation. Conversion is exact here; the result's own rounding is allowed by the judge. */
#include <math.h>

#include "oracle/evaluate.h"

void eval_move(const eval_call *call) {
    const int64_t *n = call->t->ne;
    for (int64_t i = 0; i < n[0] * n[1] * n[2] * n[3]; i++) {
        const double x = call->x[0][i];
        call->out[i] = call->t->type == SP_TYPE_I32 && call->s[0]->type == SP_TYPE_F32 ? trunc(x) : x;
    }
}

void eval_get_rows(const eval_call *call) {
    const int64_t *n = call->t->ne;
    for (int64_t i3 = 0, i = 0; i3 < n[3]; i3++) {
        for (int64_t i2 = 0; i2 < n[2]; i2++) {
            for (int64_t i1 = 0; i1 < n[1]; i1++) {
                const int64_t id = (int64_t)eval_at(call, 1, i1, i2, i3, 0);
                for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                    call->out[i] = eval_at(call, 0, i0, id, i2, i3);
                    call->tolerance[i] = 0x1p-22 * fabs(call->out[i]); /* a block's scale times its element, in single precision */
                }
            }
        }
    }
}

/* Was this row written by another id of the same list before? Which of them stands is not defined. */
static bool is_named_twice(const eval_call *call, int64_t i1, int64_t i2, int64_t i3) {
    const double id = eval_at(call, 2, i1, i2, i3, 0);
    for (int64_t i = 0; i < call->s[1]->ne[1]; i++) {
        if (i != i1 && eval_at(call, 2, i, i2, i3, 0) == id) {
            return true;
        }
    }
    return false;
}

void eval_set_rows(const eval_call *call) {
    const int64_t *n = call->t->ne, *b = call->s[1]->ne;
    for (int64_t i = 0; i < n[0] * n[1] * n[2] * n[3]; i++) {
        call->out[i] = call->before[i];
    }
    for (int64_t i3 = 0; i3 < b[3]; i3++) {
        for (int64_t i2 = 0; i2 < b[2]; i2++) {
            for (int64_t i1 = 0; i1 < b[1]; i1++) {
                const int64_t id = (int64_t)eval_at(call, 2, i1, i2, i3, 0), at = ((i3 * n[2] + i2) * n[1] + id) * n[0];
                const double unknown = is_named_twice(call, i1, i2, i3) ? NAN : 0;
                for (int64_t i0 = 0; i0 < n[0]; i0++) {
                    call->out[at + i0] = eval_at(call, 1, i0, i1, i2, i3);
                    call->tolerance[at + i0] = unknown;
                }
            }
        }
    }
}

void eval_repeat(const eval_call *call) {
    const int64_t *n = call->t->ne;
    for (int64_t i3 = 0, i = 0; i3 < n[3]; i3++) {
        for (int64_t i2 = 0; i2 < n[2]; i2++) {
            for (int64_t i1 = 0; i1 < n[1]; i1++) {
                for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                    call->out[i] = eval_at(call, 0, i0, i1, i2, i3);
                }
            }
        }
    }
}

void eval_concat(const eval_call *call) {
    const int64_t *n = call->t->ne, *a = call->s[0]->ne;
    const uint32_t dim = call->t->params[0];
    for (int64_t i3 = 0, i = 0; i3 < n[3]; i3++) {
        for (int64_t i2 = 0; i2 < n[2]; i2++) {
            for (int64_t i1 = 0; i1 < n[1]; i1++) {
                for (int64_t i0 = 0; i0 < n[0]; i0++, i++) {
                    int64_t at[4] = {i0, i1, i2, i3};
                    const int from = at[dim] >= a[dim];
                    at[dim] -= from ? a[dim] : 0;
                    call->out[i] = eval_at(call, from, at[0], at[1], at[2], at[3]);
                }
            }
        }
    }
}
