/* What a run writes, so that devices with memory of their own need not take it for everything that is bound. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "program/program_impl.h"

/* Are the rows that set_rows writes those of a plain list of ids in the host's pages? */
static bool has_plain_ids(const sp_spec *spec, const sp_spec_tensor *t) {
    const sp_spec_tensor *to = &spec->tensors[t->src[0]], *ids = &spec->tensors[t->src[2]];
    return ids->kind == SP_TENSOR_MEMORY && (to->ne[2] | to->ne[3] | ids->ne[1] | ids->ne[2] | ids->ne[3]) == 1;
}

/* False: it writes no window. */
static bool write_of(const sp_spec *spec, uint32_t index, sp_spec_write *out) {
    const sp_spec_tensor *t = &spec->tensors[index];
    bool in_place = t->op == SP_OP_SET_ROWS || t->op == SP_OP_CPY;
    uint32_t window = in_place ? t->alias : t->dst;
    if (t->kind != SP_TENSOR_OP || window == SP_PROGRAM_NONE) { /* else it is a window of memory: the check saw to that */
        return false;
    }
    const sp_spec_tensor *root = &spec->tensors[window];
    *out = (sp_spec_write){.slot = root->slot, .offset = root->offset + t->start};
    sp_extent(t, &out->length); /* was checked when the program was specialised */
    if (t->op == SP_OP_SET_ROWS && has_plain_ids(spec, t)) {
        const sp_spec_tensor *ids = &spec->tensors[t->src[2]];
        const sp_type_traits *traits = sp_type_get(t->type);
        out->row_bytes = (uint64_t)t->ne[0] / traits->block * traits->size;
        out->row_stride = t->nb[1];
        out->ids_slot = ids->slot;
        out->ids_offset = ids->offset;
        out->n_ids = (uint32_t)ids->ne[0];
        out->wide = ids->type == SP_TYPE_I64;
    }
    return true;
}

sp_status sp_spec_get_writes(const sp_spec *spec, sp_spec_write **out, uint32_t *n, sp_error *err) {
    *out = calloc((size_t)spec->n_tensors + 1, sizeof **out);
    *n = 0;
    if (!*out) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        *n += write_of(spec, i, &(*out)[*n]);
    }
    sp_spec_write *fitted = realloc(*out, ((size_t)*n + 1) * sizeof *fitted);
    *out = fitted ? fitted : *out;
    return SP_OK;
}

static int64_t id_at(const sp_spec_write *w, const void *ids, uint32_t i) {
    int64_t wide;
    int32_t narrow;
    if (w->wide) {
        memcpy(&wide, (const uint8_t *)ids + (size_t)i * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const uint8_t *)ids + (size_t)i * sizeof narrow, sizeof narrow);
    return narrow;
}

/* Neighbours go together. */
void sp_spec_each_write(const sp_spec_write *w, const void *ids, sp_on_range on_range, void *user) {
    if (!w->row_bytes) {
        on_range(user, w->offset, w->offset + w->length);
        return;
    }
    uint64_t end = w->offset + w->length;
    for (uint32_t i = 0; i < w->n_ids;) {
        const int64_t first = id_at(w, ids, i);
        uint64_t last = (uint64_t)first;
        for (i++; i < w->n_ids && (uint64_t)id_at(w, ids, i) == last + 1; i++) {
            last++;
        }
        if (first < 0 || last > w->length / w->row_stride) {
            on_range(user, w->offset, end); /* can't be, once the ids were checked */
            continue;
        }
        uint64_t from = w->offset + (uint64_t)first * w->row_stride, to = w->offset + last * w->row_stride + w->row_bytes;
        on_range(user, from < end ? from : end, to < end ? to : end);
    }
}
