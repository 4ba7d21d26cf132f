/* Shapes and checks that are special to an operation: what the table of rules refers to by function. */
#include "program/shapes.h"

#include <string.h>

#include "base/checked.h"

static void copy_shape(sp_spec_tensor *t, const sp_spec_tensor *a) {
    t->type = a->type;
    memcpy(t->ne, a->ne, sizeof t->ne);
}

float sp_param_float(uint32_t word) {
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* ---- shapes ---- */

const char *sp_shape_glu(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *b = sp_build_source(build, t, 1);
    copy_shape(t, a);
    if (b) {
        return !sp_same_shape(a, b) || a->type != b->type ? "b must have a's shape and type" : t->params[0] ? "with b, swapped must be 0" : NULL;
    }
    if (a->ne[0] % 2) {
        return "without b, a.ne0 must be even";
    }
    t->ne[0] = a->ne[0] / 2;
    return NULL;
}

/* The shape given, which must hold as many elements as a. */
static const char *take_given_shape(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0);
    t->type = a->type;
    memcpy(t->ne, build->ne, sizeof t->ne);
    const char *reason = sp_check_shape(t);
    return reason ? reason : sp_elements(t) != sp_elements(a) ? "ne must hold as many elements as a" : NULL;
}

const char *sp_shape_cont(spec_build *build, sp_spec_tensor *t) {
    if (build->has_ne) {
        return take_given_shape(build, t);
    }
    copy_shape(t, sp_build_source(build, t, 0));
    return NULL;
}

const char *sp_shape_reshape(spec_build *build, sp_spec_tensor *t) {
    const char *reason = take_given_shape(build, t);
    if (!reason) {
        sp_contiguous_strides(t);
    }
    return reason;
}

const char *sp_shape_view(spec_build *build, sp_spec_tensor *t) {
    t->type = sp_build_source(build, t, 0)->type;
    memcpy(t->ne, build->ne, sizeof t->ne);
    const char *reason = sp_check_shape(t);
    if (reason) {
        return reason;
    }
    sp_contiguous_strides(t);
    for (int i = 0; build->has_nb && i < 3; i++) {
        t->nb[i + 1] = (uint64_t)build->nb[i]; /* a negative one is too large for sp_check_strides */
    }
    if (build->offset < 0 || (uint64_t)build->offset % sp_type_get(t->type)->size) {
        return "offset must be a multiple of the type's size, and not negative";
    }
    t->offset = (uint64_t)build->offset;
    return NULL;
}

const char *sp_shape_permute(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0);
    unsigned seen = 0;
    t->type = a->type;
    for (int i = 0; i < 4; i++) {
        const uint32_t axis = t->params[i]; /* 0 to 3: the parameters were checked */
        seen |= 1u << axis;
        t->ne[axis] = a->ne[i];
        t->nb[axis] = a->nb[i];
    }
    if (seen != 15) {
        return "the axes must differ";
    }
    return sp_type_get(a->type)->quantised && t->params[0] != 0 ? "axis0 must be 0 where a is quantised" : NULL;
}

const char *sp_shape_transpose(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0);
    copy_shape(t, a);
    memcpy(t->nb, a->nb, sizeof t->nb);
    t->ne[0] = a->ne[1], t->ne[1] = a->ne[0];
    t->nb[0] = a->nb[1], t->nb[1] = a->nb[0];
    return NULL;
}

const char *sp_shape_repeat(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0);
    t->type = a->type;
    memcpy(t->ne, build->ne, sizeof t->ne);
    for (int i = 0; i < 4; i++) {
        if (t->ne[i] % a->ne[i]) {
            return "each ne must be a multiple of a's";
        }
    }
    return NULL;
}

const char *sp_shape_concat(spec_build *build, sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *b = sp_build_source(build, t, 1);
    copy_shape(t, a);
    if (a->type != b->type) {
        return "a and b must have one type";
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (i == t->params[0]) {
            t->ne[i] += b->ne[i];
        } else if (a->ne[i] != b->ne[i]) {
            return "a and b must agree in all dimensions but dim";
        }
    }
    return NULL;
}

const char *sp_shape_top_k(spec_build *build, sp_spec_tensor *t) {
    copy_shape(t, sp_build_source(build, t, 0));
    if (t->params[0] > t->ne[0]) {
        return "k must be at most a.ne0";
    }
    t->type = SP_TYPE_I32;
    t->ne[0] = t->params[0];
    return NULL;
}

/* ---- checks ---- */

const char *sp_extra_binary(spec_build *build, const sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *b = sp_build_source(build, t, 1);
    return b->type == a->type || b->type == SP_TYPE_F32 ? NULL : "b must have a's type or be f32";
}

const char *sp_extra_mul_mat(spec_build *build, const sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *b = sp_build_source(build, t, 1);
    if (t->params[1]) {
        const bool square = a->ne[0] == a->ne[1] && a->ne[2] == 1 && a->ne[3] == 1 && (a->ne[0] & (a->ne[0] - 1)) == 0;
        return !square                                            ? "with hint 1, a must be a square matrix whose size is a power of 2"
               : a->type != SP_TYPE_F32 || b->type != SP_TYPE_F32 ? "with hint 1, a and b must be f32"
                                                                  : NULL;
    }
    return b->type == a->type || b->type == SP_TYPE_F32 ? NULL : "b must be f32, or f16 or bf16 where a is";
}

/* Positions in several dimensions: sections of a row turn by one of four each. */
static const char *check_sections(const sp_spec_tensor *t, const sp_spec_tensor *a, const sp_spec_tensor *positions) {
    const uint32_t mode = t->params[1], *s = t->params + 9;
    const bool sections = mode == 8 || mode == 40;
    if (!sections && mode != 0 && mode != 2) {
        return "mode must be 0 (normal), 2 (neox), 8 (sections) or 40 (sections, interleaved)";
    }
    if (positions->ne[0] != (sections ? 4 : 1) * a->ne[2]) {
        return sections ? "positions.ne0 must be four times a.ne2" : "positions.ne0 must be a.ne2";
    }
    if (!sections) {
        return s[0] || s[1] || s[2] || s[3] ? "sections must be 0 in this mode" : NULL;
    }
    if (!s[0] && !s[1] && !s[2]) {
        return "one of the first three sections must be above 0";
    }
    return (int64_t)s[0] + s[1] + s[2] + s[3] > a->ne[0] ? "the sections together must be at most a.ne0" : NULL;
}

const char *sp_extra_rope(spec_build *build, const sp_spec_tensor *t) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0), *factors = sp_build_source(build, t, 2);
    const char *reason = check_sections(t, a, sp_build_source(build, t, 1));
    if (reason) {
        return reason;
    }
    if (t->params[0] % 2 || t->params[13] % 2 || (int64_t)t->params[0] + t->params[13] > a->ne[0] || a->ne[0] % 2) {
        return "n_dims, offset and a.ne0 must be even, and offset + n_dims at most a.ne0";
    }
    return factors && factors->ne[0] < a->ne[0] / 2 ? "freq_factors.ne0 must be at least a.ne0 / 2" : NULL;
}

static const char *bias_needs_mask(const sp_spec_tensor *mask, uint32_t max_bias) {
    return !mask && sp_param_float(max_bias) > 0 ? "max_bias above 0 needs a mask" : NULL;
}

const char *sp_extra_soft_max(spec_build *build, const sp_spec_tensor *t) {
    return bias_needs_mask(sp_build_source(build, t, 1), t->params[1]);
}

const char *sp_extra_flash_attn(spec_build *build, const sp_spec_tensor *t) {
    return bias_needs_mask(sp_build_source(build, t, 3), t->params[1]);
}

/* Which copies ggml_compute_forward_dup knows, and gets right: it counts elements in 32 bits, and takes a quantised row's elements for blocks. */
static const char *check_copy(const sp_spec_tensor *from, const sp_spec_tensor *to) {
    const unsigned a = sp_type_class(from->type), b = sp_type_class(to->type);
    const bool numbers = (a & T_FLOAT && b & T_FLOAT) || (a == T_F32 && b == T_I32) || (a == T_I32 && b == T_F32);
    const bool packing = (a & T_FLOAT) && b == T_Q, unpacking = (a & T_QUANT) && b == T_F32;
    if (sp_elements(from) != sp_elements(to)) {
        return "a and b must hold as many elements";
    }
    if (sp_elements(from) > SP_MAX_ROWS) {
        return "at most 2^31-2^20-1 elements can be copied at once";
    }
    if (from->type != to->type && !numbers && !packing && !unpacking) {
        return "there is no copy between these two types";
    }
    if (!((a | b) & T_QUANT)) {
        return NULL;
    }
    if (from->type == to->type && sp_has_layout(from, L_CONTIGUOUS) && sp_has_layout(to, L_CONTIGUOUS)) {
        return NULL;
    }
    if (!sp_has_layout(from, L_ROWS) || !sp_has_layout(to, L_ROWS) || !sp_same_shape(from, to)) {
        return "where one is quantised, a and b must have rows side by side and one shape";
    }
    return packing && !sp_has_layout(to, L_CONTIGUOUS) ? "what is quantised must be written to a contiguous tensor" : NULL;
}

const char *sp_extra_copy(spec_build *build, const sp_spec_tensor *t) {
    return check_copy(sp_build_source(build, t, 0), sp_build_source(build, t, 1));
}

const char *sp_extra_cast(spec_build *build, const sp_spec_tensor *t) {
    sp_spec_tensor to = *t; /* its strides are not set yet */
    sp_contiguous_strides(&to);
    return check_copy(sp_build_source(build, t, 0), &to);
}

const char *sp_extra_clamp(spec_build *build, const sp_spec_tensor *t) {
    (void)build;
    return sp_param_float(t->params[0]) <= sp_param_float(t->params[1]) ? NULL : "min must be at most max";
}

/* libstdc++'s sort leaves its range where comparisons contradict each other, as they do with NaN. */
const char *sp_extra_sort(spec_build *build, const sp_spec_tensor *t) {
    return build->places[t->src[0]].no_nan ? NULL : "a may hold NaN: sort a result of clamp (-infinity to infinity changes nothing else)";
}
