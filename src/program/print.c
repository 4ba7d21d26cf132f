/* Programs for people: a listing, one line a tensor, and a Graphviz graph. Works on what sp_program_load has checked. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "program/shapes.h"

static void print_expr(const sp_program *p, uint32_t expr, FILE *out) {
    const sp_program_expr *e = &p->exprs[expr];
    if (e->symbol == SP_PROGRAM_NONE) {
        fprintf(out, "%" PRId64, e->b);
        return;
    }
    if (e->a != 1) {
        fprintf(out, "%" PRId64 "*", e->a);
    }
    fputs(sp_program_name(p, p->symbols[e->symbol].name), out);
    if (e->b) {
        fprintf(out, "%+" PRId64, e->b);
    }
}

/* "[128, 7, 1, 1] nb [512, 3584, 3584] at 64", as much of it as there is. */
static void print_dims(const sp_program *p, const sp_program_tensor *t, FILE *out) {
    for (int i = 0; i < 4 && t->ne[0] != SP_PROGRAM_NONE; i++) {
        fputs(i == 0 ? " [" : ", ", out);
        print_expr(p, t->ne[i], out);
    }
    fputs(t->ne[0] != SP_PROGRAM_NONE ? "]" : "", out);
    for (int i = 0; i < 3 && t->nb[0] != SP_PROGRAM_NONE; i++) {
        fputs(i == 0 ? " nb [" : ", ", out);
        print_expr(p, t->nb[i], out);
    }
    fputs(t->nb[0] != SP_PROGRAM_NONE ? "]" : "", out);
    if (t->offset != SP_PROGRAM_NONE) {
        fputs(" at ", out);
        print_expr(p, t->offset, out);
    }
}

static void print_param(const sp_rule_param *param, uint32_t word, FILE *out) {
    if (param->kind == P_RANGE || param->kind == P_PREC) {
        fprintf(out, "%s=%" PRId32, param->name, (int32_t)word);
    } else {
        fprintf(out, "%s=%.9g", param->name, (double)sp_param_float(word));
    }
}

static void print_operation(const sp_program *p, const sp_program_tensor *t, FILE *out) {
    const sp_rule *rule = sp_rule_get(t->op);
    fprintf(out, "%s(", sp_op_name(t->op));
    for (int i = 0; i < t->n_src; i++) {
        if (t->src[i] == SP_PROGRAM_NONE) {
            fputs(", -", out); /* never the first */
        } else {
            fprintf(out, "%s%%%" PRIu32, i ? ", " : "", t->src[i]);
        }
    }
    for (int i = 0; i < rule->n_params; i++) {
        fputs(", ", out);
        print_param(&rule->params[i], t->params[i], out);
    }
    fputs(")", out);
    if (t->op == SP_OP_CAST) {
        fprintf(out, " %s", sp_type_get(t->type)->name);
    }
    print_dims(p, t, out);
    if (t->dst != SP_PROGRAM_NONE) {
        fprintf(out, " -> %%%" PRIu32, t->dst);
    }
}

static void print_tensor(const sp_program *p, uint32_t index, FILE *out) {
    const sp_program_tensor *t = &p->tensors[index];
    fprintf(out, "%%%" PRIu32 " = ", index);
    if (t->kind == SP_TENSOR_OP) {
        print_operation(p, t, out);
    } else if (t->kind == SP_TENSOR_MEMORY) {
        fprintf(out, "memory %s %s", sp_program_name(p, p->slots[t->slot].name), sp_type_get(t->type)->name);
        print_dims(p, t, out);
    } else {
        const sp_weight_info *w = &p->weights[index];
        fprintf(out, "weight %s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] of model %" PRIu32, sp_type_get(w->type)->name, w->ne[0],
                w->ne[1], w->ne[2], w->ne[3], t->slot);
    }
    if (t->name != SP_PROGRAM_NONE) {
        fprintf(out, "  ; %s", sp_program_name(p, t->name));
    }
    fputs("\n", out);
}

static sp_status finish(FILE *out, sp_error *err) {
    return fflush(out) == 0 && !ferror(out) ? SP_OK : sp_fail(err, SP_ERR_IO, "the listing could not be written");
}

sp_status sp_program_print(const sp_program *p, FILE *out, sp_error *err) {
    static const char *const flags[] = {"read", "write", "state", "output"};
    const sp_program_header *h = p->header;
    fprintf(out, "program, version %" PRIu32 ": %" PRIu32 " symbols, %" PRIu32 " slots, %" PRIu32 " tensors, %" PRIu32 " bytes%s\n", h->version,
            h->n_symbols, h->n_slots, h->n_tensors, h->size, h->flags & SP_PROGRAM_ROWS_ALONE ? ", rows alone" : "");
    for (uint32_t i = 0; i < h->n_symbols; i++) {
        fprintf(out, "symbol %s: %" PRIu64 " to %" PRIu64 "\n", sp_program_name(p, p->symbols[i].name), p->symbols[i].min, p->symbols[i].max);
    }
    for (uint32_t i = 0; i < h->n_slots; i++) {
        fprintf(out, "slot %s:", sp_program_name(p, p->slots[i].name));
        for (int f = 0; f < 4; f++) {
            fprintf(out, "%s%s", p->slots[i].flags >> f & 1 ? " " : "", p->slots[i].flags >> f & 1 ? flags[f] : "");
        }
        fputs("\n", out);
    }
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        print_tensor(p, i, out);
    }
    return finish(out, err);
}

/* A name as it may stand in a quoted Graphviz string. */
static void print_quoted(const char *text, FILE *out) {
    for (; *text; text++) {
        fprintf(out, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    }
}

sp_status sp_program_print_dot(const sp_program *p, FILE *out, sp_error *err) {
    fputs("digraph program {\n  node [shape=box, fontname=monospace];\n", out);
    for (uint32_t i = 0; i < p->header->n_tensors; i++) {
        const sp_program_tensor *t = &p->tensors[i];
        const char *what = t->kind == SP_TENSOR_OP ? sp_op_name(t->op) : t->kind == SP_TENSOR_WEIGHT ? "weight" : "memory";
        const char *fill = t->kind == SP_TENSOR_OP ? "white" : t->kind == SP_TENSOR_WEIGHT ? "lightgrey" : "lightblue";
        fprintf(out, "  t%" PRIu32 " [style=filled, fillcolor=%s, label=\"%s", i, fill, what);
        if (t->kind == SP_TENSOR_MEMORY || t->name != SP_PROGRAM_NONE) {
            fputs("\\n", out);
            print_quoted(t->kind == SP_TENSOR_MEMORY ? sp_program_name(p, p->slots[t->slot].name) : sp_program_name(p, t->name), out);
        }
        fputs("\"];\n", out);
        for (int s = 0; s < t->n_src; s++) {
            if (t->src[s] != SP_PROGRAM_NONE) {
                fprintf(out, "  t%" PRIu32 " -> t%" PRIu32 ";\n", t->src[s], i);
            }
        }
        if (t->dst != SP_PROGRAM_NONE) {
            fprintf(out, "  t%" PRIu32 " -> t%" PRIu32 " [style=dashed, constraint=false];\n", i, t->dst);
        }
    }
    fputs("}\n", out);
    return finish(out, err);
}
