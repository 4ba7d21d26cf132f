/* Prints the table of rules per operation as the section of docs/program.md that it is; a test compares the two. */
#include <inttypes.h>
#include <stdio.h>

#include "program/program_impl.h"

static void print_types(unsigned types) {
    static const struct {
        unsigned types;
        const char *name;
    } names[] = {{T_ANY, "any type"}, {T_MATRIX, "float or quantised"},
                 {T_FLOAT, "float"},  {T_F32, "f32"},
                 {T_F16, "f16"},      {T_BF16, "bf16"},
                 {T_I32, "i32"},      {T_I64, "i64"},
                 {T_Q, "cacheable"},  {T_WQ, "weights only"}};
    const char *separator = "";
    for (size_t i = 0; types && i < sizeof names / sizeof names[0]; i++) {
        if ((types & names[i].types) == names[i].types) {
            printf("%s%s", separator, names[i].name);
            separator = ", ";
            types &= ~names[i].types;
        }
    }
}

static void print_sources(const sp_rule *rule) {
    static const char *const layouts[] = {"", "rows", "flat", "contiguous", "packed", "dense"};
    for (int i = 0; i < rule->max_src; i++) {
        const sp_rule_source *s = &rule->src[i];
        printf("- `%s`%s: ", s->name, i >= rule->min_src ? " (optional)" : "");
        print_types(s->types);
        printf("%s%s%s\n", *layouts[s->layout] ? "; " : "", layouts[s->layout], i == rule->index.source && i ? "; row ids" : "");
    }
}

static void print_params(const sp_rule *rule) {
    static const char *const kinds[] = {"finite", "not NaN", "finite, >= 0", "finite, > 0", "", "0 or 10"};
    for (int i = 0; i < rule->n_params; i++) {
        const sp_rule_param *p = &rule->params[i];
        if (p->kind != P_RANGE) {
            printf("%s`%s` (%s)", i ? ", " : "- params: ", p->name, kinds[p->kind]);
        } else if (p->min == p->max) {
            printf("%s`%s` (%d)", i ? ", " : "- params: ", p->name, p->min);
        } else if (p->max == INT32_MAX) {
            printf("%s`%s` (>= %d)", i ? ", " : "- params: ", p->name, p->min);
        } else {
            printf("%s`%s` (%d to %d)", i ? ", " : "- params: ", p->name, p->min, p->max);
        }
    }
    printf("%s", rule->n_params ? "\n" : "");
}

static void print_conditions(const sp_rule *rule) {
    static const char *const relations[] = {"", "=", ">=", "multiple of", "="};
    const char *separator = "- requires: ";
    for (const sp_rule_cond *c = rule->conds; c->relation != C_END; c++) {
        printf("%s%s.ne%d %s ", separator, rule->src[c->left].name, c->left_dim, relations[c->relation]);
        if (c->relation == C_CONST) {
            printf("%d", c->right);
        } else {
            printf("%s.ne%d", rule->src[c->right].name, c->right_dim);
        }
        separator = "; ";
    }
    if (rule->extra_text) {
        printf("%s%s", separator, rule->extra_text);
        separator = "; ";
    }
    printf("%s", *separator == ';' ? "\n" : "");
}

static void print_result(const sp_rule *rule) {
    static const char *const types[] = {"a's type", "b's type", "f32", "i32", "the tensor's `type`", "i32 if a is i32, else f32"};
    printf("- result: ");
    if (rule->shape_text) {
        printf("%s", rule->shape_text);
    } else {
        printf("%s; [", types[rule->result_type]);
        for (int i = 0; i < 4; i++) {
            const uint8_t from = rule->result_ne[i];
            printf("%s", i ? "; " : "");
            if (from == R_ONE) {
                printf("1");
            } else {
                printf("%s.ne%d", rule->src[from / 4].name, from % 4);
            }
        }
        printf("]");
    }
    static const char *const views[] = {"", "; a view of a", "; a view of a, whose rows it writes", "; a view of b, which it writes"};
    printf("%s%s\n", views[rule->view], rule->in_place ? "; may go exactly where a lies" : "");
}

int main(void) {
    for (uint32_t op = 1; sp_rule_get(op); op++) {
        const sp_rule *rule = sp_rule_get(op);
        printf("#### %" PRIu32 " `%s`\n\n", op, sp_op_name(op));
        print_sources(rule);
        print_params(rule);
        print_conditions(rule);
        print_result(rule);
        printf("%s", sp_rule_get(op + 1) ? "\n" : "");
    }
    return 0;
}
