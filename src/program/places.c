/*
 * Where tensors lie: windows in slots, views in other tensors, results in temporaries or windows; what each operation reads and writes there; and
 * where row ids come from.
 *
 * A byte of a writable slot belongs to one window at most, so two tensors share memory exactly if they have one root. An operation never reads what
 * it writes, but for the operations that work element by element on exactly the destination. Between operations the program's order holds.
 */
#include <string.h>

#include "base/checked.h"
#include "program/program_impl.h"

static bool writable(const spec_build *build, const sp_spec_tensor *window) {
    return build->spec->slots[window->slot].flags & SP_SLOT_WRITE;
}

static bool overlap(const spec_place *a, const spec_place *b) {
    return a->root == b->root && a->start < b->start + b->extent && b->start < a->start + a->extent;
}

const char *sp_place_leaf(spec_build *build, sp_spec_tensor *t) {
    spec_place *place = &build->places[build->index];
    *place = (spec_place){.root = build->index};
    t->alias = build->index;
    const char *reason = sp_check_strides(t);
    if (reason) {
        return reason;
    }
    if (!sp_extent(t, &place->extent)) {
        return "it is larger than 2^40 bytes";
    }
    if (t->kind != SP_TENSOR_MEMORY) {
        return NULL;
    }
    if (build->offset < 0 || build->offset % 32 || build->offset > (int64_t)SP_MAX_BYTES) {
        return "the offset must be a multiple of 32, 0 to 2^40";
    }
    t->offset = (uint64_t)build->offset;
    sp_spec_slot *slot = &build->spec->slots[t->slot];
    if (t->offset + place->extent > slot->size) {
        slot->size = t->offset + place->extent;
    }
    return NULL;
}

static const char *place_view(spec_build *build, sp_spec_tensor *t) {
    spec_place *place = &build->places[build->index];
    *place = build->places[t->src[0]];
    t->alias = build->spec->tensors[t->src[0]].alias;
    place->start += t->offset; /* at most SP_MAX_BYTES and 2^63 - 1 */
    if (!sp_extent(t, &place->extent) || place->start + place->extent > build->places[place->root].extent) {
        return "the view reaches out of the tensor that it is a view of";
    }
    return NULL;
}

/* set_rows and cpy: the source that is written. */
static const char *place_write(spec_build *build, sp_spec_tensor *t, uint32_t target) {
    const spec_place *place = &build->places[t->src[target]];
    const sp_spec_tensor *root = &build->spec->tensors[build->spec->tensors[t->src[target]].alias];
    if (root->kind != SP_TENSOR_MEMORY || !writable(build, root)) {
        return "what it writes must be a window of a slot with WRITE, or a view of one";
    }
    for (uint32_t i = 0; i < t->n_src; i++) {
        if (i != target && overlap(&build->places[t->src[i]], place)) {
            return "it reads what it writes";
        }
    }
    build->places[build->index] = *place;
    t->alias = build->spec->tensors[t->src[target]].alias;
    build->written[root->slot] = true;
    return NULL;
}

/* Does tensor `source`, which lies in window `dst` (and so has its type), lie exactly where that does, element on element? */
static bool is_exactly(const spec_build *build, uint32_t source, uint32_t dst) {
    const sp_spec_tensor *s = &build->spec->tensors[source], *d = &build->spec->tensors[dst];
    return build->places[source].start == 0 && sp_same_shape(s, d) && sp_has_layout(s, L_PACKED);
}

/*
 * Devices fuse an operation with the one before (rms_norm and mul): then the sources of the one before are still read while the result is written.
 */
static const char *check_fused(const spec_build *build, uint32_t source, uint32_t dst) {
    const sp_spec_tensor *s = &build->spec->tensors[source];
    for (uint32_t i = 0; s->kind == SP_TENSOR_OP && s->dst == SP_PROGRAM_NONE && i < s->n_src; i++) {
        if (s->src[i] != SP_PROGRAM_NONE && build->places[s->src[i]].root == dst && !is_exactly(build, s->src[i], dst)) {
            return "its destination is read in another shape by the operation before it";
        }
    }
    return NULL;
}

static const char *place_result(spec_build *build, sp_spec_tensor *t, const sp_rule *rule) {
    spec_place *place = &build->places[build->index];
    *place = (spec_place){.root = build->index, .no_nan = t->op == SP_OP_CLAMP && t->dst == SP_PROGRAM_NONE};
    place->no_nan |= t->op == SP_OP_CONT && t->dst == SP_PROGRAM_NONE && build->places[t->src[0]].no_nan;
    t->alias = build->index;
    sp_extent(t, &place->extent); /* it is contiguous, and its shape was checked */
    if (t->dst == SP_PROGRAM_NONE) {
        return NULL;
    }
    const sp_spec_tensor *window = &build->spec->tensors[t->dst];
    if (!writable(build, window) || window->type != t->type || !sp_same_shape(window, t) || !sp_has_layout(window, L_PACKED)) {
        return "its destination must be a contiguous window of the result's type and shape, in a slot with WRITE";
    }
    place->root = t->dst;
    for (uint32_t i = 0; i < t->n_src; i++) {
        if (t->src[i] == SP_PROGRAM_NONE) {
            continue;
        }
        if (build->places[t->src[i]].root == t->dst && !(rule->in_place && i == 0 && is_exactly(build, t->src[i], t->dst))) {
            return "its destination is also its source";
        }
        const char *reason = check_fused(build, t->src[i], t->dst);
        if (reason) {
            return reason;
        }
    }
    build->written[window->slot] = true;
    return NULL;
}

/* What is read from a slot was there before the run, or was written in it. */
static const char *check_reads(const spec_build *build, const sp_spec_tensor *t, const sp_rule *rule) {
    for (uint32_t i = 0; i < t->n_src; i++) {
        const bool target = (rule->view == V_WRITES_A && i == 0) || (rule->view == V_WRITES_B && i == 1);
        if (target || t->src[i] == SP_PROGRAM_NONE) {
            continue;
        }
        const sp_spec_tensor *root = &build->spec->tensors[build->places[t->src[i]].root];
        if (root->kind == SP_TENSOR_MEMORY && !(build->spec->slots[root->slot].flags & SP_SLOT_READ) && !build->written[root->slot]) {
            return "it reads a slot that has no READ, and that nothing was written to before";
        }
    }
    return NULL;
}

const char *sp_place_operation(spec_build *build, sp_spec_tensor *t) {
    const sp_rule *rule = sp_rule_get(t->op);
    if (rule->view == V_VIEW) {
        return t->dst == SP_PROGRAM_NONE ? place_view(build, t) : "a view has no destination";
    }
    const char *reason = check_reads(build, t, rule);
    if (reason) {
        return reason;
    }
    if (rule->view != V_NONE) {
        return t->dst == SP_PROGRAM_NONE ? place_write(build, t, rule->view == V_WRITES_B)
                                         : "it has a destination already: the source that it writes";
    }
    return place_result(build, t, rule);
}

/* ---- row ids ---- */

/*
 * Do rows of `view` lie within rows of `root`, so that what differs within a row there differs within a row here? For ids of two dimensions whose
 * rows lie side by side, as those of operations whose ids must differ are by their rule.
 */
static bool keeps_rows(const spec_build *build, uint32_t view, const sp_spec_tensor *root) {
    const sp_spec_tensor *t = &build->spec->tensors[view];
    const uint64_t row = root->nb[1], length = (uint64_t)t->ne[0] * t->nb[0];
    return (t->ne[1] == 1 || t->nb[1] % row == 0) && build->places[view].start % row + length <= row;
}

/* argsort and top_k give positions in a row of their source, each once, whatever the source holds. */
static const char *computed_ids(const spec_build *build, uint32_t tensor, const sp_spec_tensor *root, int64_t bound, bool distinct) {
    if (root->op == SP_OP_CONT && root->dst == SP_PROGRAM_NONE && !distinct) { /* a copy of some */
        root = &build->spec->tensors[build->spec->tensors[root->src[0]].alias];
    }
    if ((root->op != SP_OP_ARGSORT && root->op != SP_OP_TOP_K) || root->dst != SP_PROGRAM_NONE) {
        return "row ids must be a window of memory, or a result of argsort or top_k, or a view or (where they may repeat) a cont of one";
    }
    if (build->spec->tensors[root->src[0]].ne[0] > bound) {
        return "row ids from argsort or top_k can be larger than there are rows";
    }
    return distinct && !keeps_rows(build, tensor, root) ? "row ids of one token must come from one row of argsort or top_k" : NULL;
}

const char *sp_index_note(spec_build *build, uint32_t tensor, int64_t bound, bool distinct) {
    sp_spec *spec = build->spec;
    const uint32_t at = spec->tensors[tensor].alias;
    sp_spec_tensor *root = &spec->tensors[at];
    if (root->kind == SP_TENSOR_OP) {
        return computed_ids(build, tensor, root, bound, distinct);
    }
    if (root->kind != SP_TENSOR_MEMORY || (spec->slots[root->slot].flags & SP_SLOT_WRITE)) {
        return "row ids must lie in a slot without WRITE";
    }
    if (!sp_has_layout(root, L_PACKED)) {
        return "row ids must lie in a contiguous window";
    }
    if (distinct && (root->ne[0] > SP_MAX_DISTINCT || root->ne[0] > bound || !keeps_rows(build, tensor, root))) {
        return "row ids of one token must be one row of their window, at most 256 and no more than there are rows";
    }
    uint32_t n = build->index_of[at];
    if (n == 0) {
        spec->indices[spec->n_indices++] = (sp_spec_index){.tensor = at, .bound = bound, .distinct_rows = distinct};
        build->index_of[at] = spec->n_indices;
        root->index = true;
        return NULL;
    }
    sp_spec_index *index = &spec->indices[n - 1];
    index->bound = bound < index->bound ? bound : index->bound;
    index->distinct_rows |= distinct;
    return NULL;
}
