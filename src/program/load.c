/*
 * The first check: the bytes. Everything that can be known without symbol values: counts, enums, references only backward, names, limits.
 * The bytes are copied first: what is checked is what is used.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "program/program_impl.h"

static sp_status bad(sp_error *err, const char *what) {
    return sp_fail(err, SP_ERR_FORMAT, "malformed program: %s", what);
}

static bool is_zero(const uint32_t *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (words[i]) {
            return false;
        }
    }
    return true;
}

/* Sets the section pointers; the sum of the sections must be the size exactly. */
static sp_status place_sections(sp_program *p, uint64_t size, sp_error *err) {
    const sp_program_header *h = p->header;
    if (h->magic != SP_PROGRAM_MAGIC) {
        return bad(err, "it does not begin with SPRG");
    }
    if (h->version != SP_PROGRAM_VERSION) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the program has format version %u; this build reads version %u", h->version, SP_PROGRAM_VERSION);
    }
    if (h->size != size || size % 8 || h->strings_size % 8 || !is_zero(h->reserved, 7)) {
        return bad(err, "the header's sizes do not fit the bytes");
    }
    if (h->flags & ~(uint32_t)SP_PROGRAM_ROWS_ALONE) {
        return bad(err, "its flags are not known");
    }
    if (h->n_symbols > SP_PROGRAM_MAX_SYMBOLS || h->n_slots > SP_PROGRAM_MAX_SLOTS || h->n_tensors > SP_PROGRAM_MAX_TENSORS || h->n_tensors == 0 ||
        h->n_exprs > 1u << 20) {
        return sp_fail(err, SP_ERR_LIMIT, "the program has %u symbols, %u slots, %u tensors, %u expressions; at most %d, %d, 1 to %d, %d are allowed",
                       h->n_symbols, h->n_slots, h->n_tensors, h->n_exprs, SP_PROGRAM_MAX_SYMBOLS, SP_PROGRAM_MAX_SLOTS, SP_PROGRAM_MAX_TENSORS,
                       1 << 20);
    }
    uint64_t at = sizeof *h;
    p->symbols = (const void *)((const uint8_t *)h + at);
    at += h->n_symbols * sizeof *p->symbols;
    p->exprs = (const void *)((const uint8_t *)h + at);
    at += h->n_exprs * sizeof *p->exprs;
    p->slots = (const void *)((const uint8_t *)h + at);
    at += h->n_slots * sizeof *p->slots;
    p->tensors = (const void *)((const uint8_t *)h + at);
    at += h->n_tensors * sizeof *p->tensors;
    p->strings = (const char *)h + at;
    return at + h->strings_size == size ? SP_OK : bad(err, "the sections do not add up to the size");
}

/* A name that ends inside the strings, is neither empty nor too long, and holds printable characters. */
static bool name_ok(const sp_program *p, uint32_t name) {
    uint32_t size = p->header->strings_size;
    if (name >= size) {
        return false;
    }
    const char *text = p->strings + name;
    size_t length = strnlen(text, size - name);
    if (length == 0 || length == size - name || length >= SP_PROGRAM_MAX_NAME) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)text[i], next = (unsigned char)text[i + 1];
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next < 0xa0)) { /* the last: more control characters, as UTF-8 */
            return false;
        }
    }
    return true;
}

static sp_status check_tables(const sp_program *p, sp_error *err) {
    for (uint32_t i = 0; i < p->header->n_symbols; i++) {
        const sp_program_symbol *s = &p->symbols[i];
        if (!name_ok(p, s->name) || s->reserved || s->min > s->max || s->max > INT32_MAX) {
            return sp_fail(err, SP_ERR_FORMAT, "malformed program: symbol %u has no good name or range", i);
        }
    }
    for (uint32_t i = 0; i < p->header->n_exprs; i++) {
        const sp_program_expr *e = &p->exprs[i];
        bool constant = e->symbol == SP_PROGRAM_NONE;
        if (e->reserved || (constant ? e->a != 0 : e->symbol >= p->header->n_symbols)) {
            return sp_fail(err, SP_ERR_FORMAT, "malformed program: expression %u names no symbol", i);
        }
    }
    const uint32_t all = SP_SLOT_READ | SP_SLOT_WRITE | SP_SLOT_STATE | SP_SLOT_OUTPUT;
    for (uint32_t i = 0; i < p->header->n_slots; i++) {
        uint32_t flags = p->slots[i].flags;
        bool state_ok = !(flags & SP_SLOT_STATE) || (flags & (SP_SLOT_READ | SP_SLOT_WRITE)) == (SP_SLOT_READ | SP_SLOT_WRITE);
        bool output_ok = !(flags & SP_SLOT_OUTPUT) || (flags & SP_SLOT_WRITE);
        if (!name_ok(p, p->slots[i].name) || flags & ~all || flags == 0 || !state_ok || !output_ok) {
            return sp_fail(err, SP_ERR_FORMAT, "malformed program: slot %u has no good name or flags", i);
        }
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(p->strings + p->slots[i].name, p->strings + p->slots[j].name) == 0) {
                return sp_fail(err, SP_ERR_FORMAT, "malformed program: two slots are called %s", p->strings + p->slots[i].name);
            }
        }
    }
    return SP_OK;
}

/* References into other tables, for every kind of tensor. */
static const char *check_references(const sp_program *p, uint32_t index) {
    const sp_program_tensor *t = &p->tensors[index];
    if (t->reserved || !is_zero(t->reserved2, 2)) {
        return "reserved words are not zero";
    }
    if (t->name != SP_PROGRAM_NONE && !name_ok(p, t->name)) {
        return "its name lies outside of the strings";
    }
    for (int i = 0; i < SP_PROGRAM_MAX_SRC; i++) {
        if (t->src[i] != SP_PROGRAM_NONE && (i >= t->n_src || t->src[i] >= index)) {
            return "a source is not a tensor before it";
        }
    }
    uint32_t exprs[8] = {t->ne[0], t->ne[1], t->ne[2], t->ne[3], t->nb[0], t->nb[1], t->nb[2], t->offset};
    for (int i = 0; i < 8; i++) {
        if (exprs[i] != SP_PROGRAM_NONE && exprs[i] >= p->header->n_exprs) {
            return "a dimension names no expression";
        }
    }
    bool all_nb = t->nb[0] != SP_PROGRAM_NONE && t->nb[1] != SP_PROGRAM_NONE && t->nb[2] != SP_PROGRAM_NONE;
    bool no_nb = t->nb[0] == SP_PROGRAM_NONE && t->nb[1] == SP_PROGRAM_NONE && t->nb[2] == SP_PROGRAM_NONE;
    bool all_ne = true, no_ne = true;
    for (int i = 0; i < 4; i++) {
        all_ne &= t->ne[i] != SP_PROGRAM_NONE;
        no_ne &= t->ne[i] == SP_PROGRAM_NONE;
    }
    return (all_nb || no_nb) && (all_ne || no_ne) ? NULL : "some of its dimensions or strides are missing";
}

static const char *check_operation(const sp_program *p, const sp_program_tensor *t) {
    const sp_rule *rule = sp_rule_get(t->op);
    if (!rule) {
        return "there is no such operation";
    }
    if (t->n_src < rule->min_src || t->n_src > rule->max_src || t->slot) {
        return "it has the wrong number of sources";
    }
    for (int i = 0; i < rule->min_src; i++) {
        if (t->src[i] == SP_PROGRAM_NONE) {
            return "a source is missing";
        }
    }
    if (!is_zero(t->params + rule->n_params, SP_PROGRAM_MAX_PARAMS - rule->n_params)) {
        return "it has parameters that its operation does not take";
    }
    bool takes_type = t->op == SP_OP_CAST, needs_ne = t->op == SP_OP_VIEW || t->op == SP_OP_RESHAPE || t->op == SP_OP_REPEAT;
    bool takes_ne = needs_ne || t->op == SP_OP_CONT;
    if (takes_type ? !sp_type_get(t->type) : t->type != 0) {
        return "its type is not one that its operation takes";
    }
    bool has_ne = t->ne[0] != SP_PROGRAM_NONE, has_nb = t->nb[0] != SP_PROGRAM_NONE || t->offset != SP_PROGRAM_NONE;
    if ((has_ne && !takes_ne) || (!has_ne && needs_ne) || (has_nb && t->op != SP_OP_VIEW)) {
        return "its dimensions are not those that its operation takes";
    }
    if (t->dst != SP_PROGRAM_NONE) {
        const uint32_t index = (uint32_t)(t - p->tensors);
        if (t->dst >= index || p->tensors[t->dst].kind != SP_TENSOR_MEMORY) {
            return "its destination is not a memory window before it";
        }
    }
    return NULL;
}

static const char *check_tensor(const sp_program *p, uint32_t index) {
    const sp_program_tensor *t = &p->tensors[index];
    const char *reason = check_references(p, index);
    if (reason) {
        return reason;
    }
    if (t->kind == SP_TENSOR_OP) {
        return check_operation(p, t);
    }
    if (t->op || t->n_src || t->dst != SP_PROGRAM_NONE || !is_zero(t->params, SP_PROGRAM_MAX_PARAMS)) {
        return "it is no operation and has an operation's fields";
    }
    if (t->kind == SP_TENSOR_MEMORY) {
        if (t->slot >= p->header->n_slots || !sp_type_get(t->type) || t->ne[0] == SP_PROGRAM_NONE) {
            return "the window has no slot, type or shape";
        }
        return NULL;
    }
    if (t->kind == SP_TENSOR_WEIGHT) {
        if (t->name == SP_PROGRAM_NONE || t->type || t->ne[0] != SP_PROGRAM_NONE || t->nb[0] != SP_PROGRAM_NONE || t->offset != SP_PROGRAM_NONE) {
            return "a weight has a name and no shape of its own";
        }
        return NULL;
    }
    return "there is no such kind of tensor";
}

static sp_status check_tensors(sp_program *p, const sp_weight_source *weights, sp_error *err) {
    for (uint32_t i = 0; i < p->header->n_tensors; i++) {
        const char *reason = check_tensor(p, i);
        const sp_program_tensor *t = &p->tensors[i];
        if (reason) {
            const char *op = t->kind == SP_TENSOR_OP && sp_op_name(t->op) ? sp_op_name(t->op) : "tensor";
            return sp_fail(err, SP_ERR_FORMAT, "malformed program: %s %u: %s", op, i, reason);
        }
        if (t->kind != SP_TENSOR_WEIGHT) {
            continue;
        }
        const char *name = p->strings + t->name;
        if (!weights || !weights->find(weights->context, t->slot, name, &p->weights[i])) {
            return sp_fail(err, SP_ERR_NOT_FOUND, "the program uses weight %s of model %u, which there is not", name, t->slot);
        }
        if (!sp_type_get(p->weights[i].type)) {
            return sp_fail(err, SP_ERR_UNSUPPORTED, "weight %s has type %u, which programs can't use", name, p->weights[i].type);
        }
    }
    return SP_OK;
}

sp_status sp_program_load(const void *bytes, uint64_t size, const sp_weight_source *weights, sp_program **out, sp_error *err) {
    *out = NULL;
    if (size < sizeof(sp_program_header)) {
        return bad(err, "it is shorter than its header");
    }
    if (size > UINT32_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "the program has %llu bytes; at most 2^32-1 are allowed", (unsigned long long)size);
    }
    sp_program *p = calloc(1, sizeof *p);
    if (p) {
        p->header = malloc(size);
    }
    if (!p || !p->header) {
        sp_program_free(p);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(p->header, bytes, size);
    sp_status status = place_sections(p, size, err);
    if (status == SP_OK) {
        p->weights = calloc(p->header->n_tensors, sizeof *p->weights);
        status = p->weights ? check_tables(p, err) : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    if (status == SP_OK) {
        status = check_tensors(p, weights, err);
    }
    if (status != SP_OK) {
        sp_program_free(p);
        return status;
    }
    *out = p;
    return SP_OK;
}

void sp_program_free(sp_program *program) {
    if (program) {
        free(program->header);
        free(program->weights);
        free(program);
    }
}

const sp_program_header *sp_program_get_header(const sp_program *program) {
    return program->header;
}
const sp_program_symbol *sp_program_symbols(const sp_program *program) {
    return program->symbols;
}
const sp_program_expr *sp_program_exprs(const sp_program *program) {
    return program->exprs;
}
const sp_program_slot *sp_program_slots(const sp_program *program) {
    return program->slots;
}
const sp_program_tensor *sp_program_tensors(const sp_program *program) {
    return program->tensors;
}
const char *sp_program_name(const sp_program *program, uint32_t name) {
    return name == SP_PROGRAM_NONE ? "" : program->strings + name;
}
