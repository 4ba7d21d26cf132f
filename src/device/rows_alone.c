/*
 * Programs with SP_PROGRAM_ROWS_ALONE on ggml's CPU code, which chooses among kernels by the number of rows: attention of one query sums its keys in
 * as many parts as there are threads, that of several does not; a product of floats with one row sums in another order than one with more. Such
 * operations become one for each row, whose results are put together. Products with quantised weights are left as they are: most have kernels that
 * keep to one order for a few rows, and who relies on it compares.
 */
#include "base/error.h"
#include "device/device_impl.h"

enum { MOST_ROWS = 64, MOST_NODES = 1 << 16, NODES_A_ROW = 4 };

/* The dimension of the result that counts its rows, where each is to be computed alone; -1: all at once. */
static int rows_dimension(const sp_spec *spec, const sp_spec_tensor *t) {
    if (t->kind != SP_TENSOR_OP) {
        return -1;
    }
    const int dimension = t->op == SP_OP_FLASH_ATTN_EXT ? 2 : t->op == SP_OP_MUL_MAT && t->params[1] == 0 ? 1 : -1;
    if (dimension < 0 || t->ne[dimension] < 2 || t->ne[dimension] > MOST_ROWS) {
        return -1;
    }
    if (dimension == 1) {
        return sp_type_get(spec->tensors[t->src[0]].type)->quantised ? -1 : 1;
    }
    const sp_spec_tensor *mask = t->n_src > 3 && t->src[3] != SP_PROGRAM_NONE ? &spec->tensors[t->src[3]] : NULL;
    return mask && (mask->ne[2] > 1 || mask->ne[3] > 1) ? -1 : 2; /* ggml wants a contiguous mask, so one for all heads */
}

sp_status sp_rows_alone_nodes(const sp_spec *spec, uint64_t *nodes, sp_error *err) {
    *nodes = 0;
    for (uint32_t i = 0; spec->rows_alone && i < spec->n_tensors; i++) {
        const int dimension = rows_dimension(spec, &spec->tensors[i]);
        *nodes += dimension < 0 ? 0 : (uint64_t)spec->tensors[i].ne[dimension] * NODES_A_ROW;
    }
    return *nodes <= MOST_NODES ? SP_OK
                                : sp_fail(err, SP_ERR_LIMIT, "computing each row alone takes %llu operations; the limit is %d",
                                          (unsigned long long)*nodes, MOST_NODES);
}

/* Row i of dimension 1. */
static struct ggml_tensor *row_of(struct ggml_context *c, struct ggml_tensor *t, int64_t i) {
    return ggml_view_4d(c, t, t->ne[0], 1, t->ne[2], t->ne[3], t->nb[1], t->nb[2], t->nb[3], (size_t)i * t->nb[1]);
}

static struct ggml_tensor *compute_row(struct ggml_context *c, const sp_spec_tensor *t, struct ggml_tensor *const *sources, int64_t i) {
    struct ggml_tensor *of_row[SP_PROGRAM_MAX_SRC];
    const int with_rows[2] = {t->op == SP_OP_MUL_MAT ? 1 : 0, t->op == SP_OP_MUL_MAT ? 1 : 3}; /* b; or q and the mask */
    for (int s = 0; s < SP_PROGRAM_MAX_SRC; s++) {
        of_row[s] = sources[s] && (s == with_rows[0] || s == with_rows[1]) ? row_of(c, sources[s], i) : sources[s];
    }
    return sp_lower_op(c, t, of_row);
}

struct ggml_tensor *sp_lower_rows_alone(struct ggml_context *c, const sp_spec *spec, const sp_spec_tensor *t, struct ggml_tensor *const *sources) {
    const int dimension = spec->rows_alone ? rows_dimension(spec, t) : -1;
    if (dimension < 0) {
        return NULL;
    }
    struct ggml_tensor *parts[MOST_ROWS];
    int64_t n = t->ne[dimension];
    for (int64_t i = 0; i < n; i++) {
        parts[i] = compute_row(c, t, sources, i);
    }
    for (; n > 1; n = (n + 1) / 2) { /* in pairs: each row is copied as often as their number has digits */
        for (int64_t i = 0; i < n; i += 2) {
            parts[i / 2] = i + 1 < n ? ggml_concat(c, parts[i], parts[i + 1], dimension) : parts[i];
        }
    }
    return parts[0];
}
