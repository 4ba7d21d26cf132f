/* Applies the rule of an operation to one tensor: types, layouts, conditions, parameters, then the result's type and shape. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "program/shapes.h"

static const char *say(spec_build *build, const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *say(spec_build *build, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(build->reason, sizeof build->reason, format, args);
    va_end(args);
    return build->reason;
}

static const char *check_sources(spec_build *build, const sp_spec_tensor *t, const sp_rule *rule) {
    static const char *const layouts[] = {"any layout", "elements of a row side by side",       "rows side by side at one distance",
                                          "contiguous", "contiguous, dimensions of size 1 too", "contiguous"};
    for (uint32_t i = 0; i < t->n_src; i++) {
        const sp_spec_tensor *s = sp_build_source(build, t, i);
        if (s && !(sp_type_class(s->type) & rule->src[i].types)) {
            return say(build, "%s has type %s, which the operation does not take", rule->src[i].name, sp_type_get(s->type)->name);
        }
        if (s && !sp_has_layout(s, rule->src[i].layout)) {
            return say(build, "%s must be laid out with %s", rule->src[i].name, layouts[rule->src[i].layout]);
        }
    }
    return NULL;
}

static const char *check_conditions(spec_build *build, const sp_spec_tensor *t, const sp_rule *rule) {
    for (const sp_rule_cond *c = rule->conds; c->relation != C_END; c++) {
        const sp_spec_tensor *l = sp_build_source(build, t, c->left);
        const sp_spec_tensor *r = c->relation == C_CONST ? l : sp_build_source(build, t, c->right);
        if (!l || !r) {
            continue;
        }
        const int64_t left = l->ne[c->left_dim], right = c->relation == C_CONST ? c->right : r->ne[c->right_dim];
        const bool holds = c->relation == C_GE ? left >= right : c->relation == C_MULTIPLE ? left % right == 0 : left == right;
        if (holds) {
            continue;
        }
        const char *words = c->relation == C_GE ? "at least" : c->relation == C_MULTIPLE ? "a multiple of" : "equal to";
        if (c->relation == C_CONST) {
            return say(build, "%s.ne%d is %" PRId64 "; it must be %" PRId64, rule->src[c->left].name, c->left_dim, left, right);
        }
        return say(build, "%s.ne%d is %" PRId64 "; it must be %s %s.ne%d, which is %" PRId64, rule->src[c->left].name, c->left_dim, left, words,
                   rule->src[c->right].name, c->right_dim, right);
    }
    return NULL;
}

static bool param_ok(const sp_rule_param *p, uint32_t word) {
    const float value = sp_param_float(word);
    switch (p->kind) {
    case P_FINITE:
        return isfinite(value);
    case P_NUMBER:
        return !isnan(value);
    case P_NOT_NEGATIVE:
        return isfinite(value) && value >= 0;
    case P_POSITIVE:
        return isfinite(value) && value > 0;
    case P_RANGE:
        return (int32_t)word >= p->min && (int32_t)word <= p->max;
    default:
        return word == 0 || word == 10;
    }
}

static const char *check_params(spec_build *build, const sp_spec_tensor *t, const sp_rule *rule) {
    for (int i = 0; i < rule->n_params; i++) {
        const sp_rule_param *p = &rule->params[i];
        if (param_ok(p, t->params[i])) {
            continue;
        }
        if (p->kind == P_RANGE) {
            return say(build, "%s is %d; it must be %d to %d", p->name, (int32_t)t->params[i], p->min, p->max);
        }
        if (p->kind == P_PREC) {
            return say(build, "%s is %u; it must be 0 (default) or 10 (f32)", p->name, t->params[i]);
        }
        static const char *const kinds[] = {"finite", "a number", "finite and not negative", "finite and above 0"};
        return say(build, "%s is %g; it must be %s", p->name, (double)sp_param_float(t->params[i]), kinds[p->kind]);
    }
    return NULL;
}

static uint16_t result_type(spec_build *build, const sp_spec_tensor *t, const sp_rule *rule) {
    const sp_spec_tensor *a = sp_build_source(build, t, 0);
    switch (rule->result_type) {
    case R_A:
        return a->type;
    case R_B:
        return sp_build_source(build, t, 1)->type;
    case R_I32:
        return SP_TYPE_I32;
    case R_FIELD:
        return build->wire->type;
    case R_ROWS:
        return a->type == SP_TYPE_I32 ? SP_TYPE_I32 : SP_TYPE_F32;
    default:
        return SP_TYPE_F32;
    }
}

static const char *infer_shape(spec_build *build, sp_spec_tensor *t, const sp_rule *rule) {
    if (rule->shape) {
        return rule->shape(build, t);
    }
    t->type = result_type(build, t, rule);
    for (int i = 0; i < 4; i++) {
        const uint8_t from = rule->result_ne[i];
        t->ne[i] = from == R_ONE ? 1 : sp_build_source(build, t, from / 4)->ne[from % 4];
    }
    return NULL;
}

const char *sp_rule_apply(spec_build *build, sp_spec_tensor *t) {
    const sp_rule *rule = sp_rule_get(t->op);
    const char *reason = check_sources(build, t, rule);
    reason = reason ? reason : check_conditions(build, t, rule);
    reason = reason ? reason : check_params(build, t, rule);
    reason = reason ? reason : infer_shape(build, t, rule);
    reason = reason ? reason : sp_check_shape(t);
    reason = reason || !rule->extra ? reason : rule->extra(build, t);
    if (reason) {
        return reason;
    }
    if (rule->view == V_VIEW) {
        return sp_check_strides(t);
    }
    if (rule->view != V_NONE) {
        memcpy(t->nb, sp_build_source(build, t, rule->view == V_WRITES_B)->nb, sizeof t->nb);
        return NULL;
    }
    sp_contiguous_strides(t);
    return NULL;
}
