/* Grammars of an actor: handles, and the way from guest pointers to the model layer. They are not part of a frozen actor. */
#include "abi/abi.h"

static sp_open_grammar *find(sp_actor *actor, int32_t handle, sp_error *err) {
    if (handle < 0 || handle >= SP_MAX_GRAMMARS || !actor->grammars[handle].grammar) {
        sp_fail(err, SP_ERR_NOT_FOUND, "there is no grammar %d", handle);
        return NULL;
    }
    return &actor->grammars[handle];
}

int64_t sp_abi_grammar_open(sp_actor *actor, sp_model *model, uint32_t kind, uint32_t text, uint32_t length, sp_error *err) {
    const char *bytes = sp_guest_range(actor, text, length, err);
    if (!bytes) {
        return SP_ERR_RANGE;
    }
    int32_t handle = 0;
    while (handle < SP_MAX_GRAMMARS && actor->grammars[handle].grammar) {
        handle++;
    }
    if (handle == SP_MAX_GRAMMARS) {
        return sp_fail(err, SP_ERR_LIMIT, "%d grammars are open: that is the limit", SP_MAX_GRAMMARS);
    }
    sp_status status = sp_grammar_open(model, kind, bytes, length, &actor->grammars[handle].grammar, err);
    actor->grammars[handle].model = model;
    return status == SP_OK ? handle : status;
}

int64_t sp_abi_grammar_close(sp_actor *actor, int32_t handle, sp_error *err) {
    sp_open_grammar *g = find(actor, handle, err);
    if (!g) {
        return SP_ERR_NOT_FOUND;
    }
    sp_grammar_close(g->grammar);
    g->grammar = NULL;
    return SP_OK;
}

int64_t sp_abi_grammar_accept(sp_actor *actor, int32_t handle, uint32_t tokens, uint32_t count, sp_error *err) {
    sp_open_grammar *g = find(actor, handle, err);
    const int32_t *ids = g ? sp_guest_range(actor, tokens, (uint64_t)count * sizeof *ids, err) : NULL;
    if (!ids) {
        return err->status;
    }
    if (tokens % sizeof *ids) {
        return sp_fail(err, SP_ERR_ARGUMENT, "token ids lie at multiples of 4");
    }
    return sp_grammar_accept(g->grammar, g->model, ids, count, err);
}

int64_t sp_abi_grammar_allows(sp_actor *actor, int32_t handle, int32_t token, sp_error *err) {
    sp_open_grammar *g = find(actor, handle, err);
    bool allows = false;
    if (!g) {
        return SP_ERR_NOT_FOUND;
    }
    sp_status status = sp_grammar_allows(g->grammar, g->model, token, &allows, err);
    return status == SP_OK ? allows : status;
}

int64_t sp_abi_grammar_mask(sp_actor *actor, int32_t handle, uint32_t logits, uint32_t count, sp_error *err) {
    sp_open_grammar *g = find(actor, handle, err);
    float *values = g ? sp_guest_range(actor, logits, (uint64_t)count * sizeof *values, err) : NULL;
    if (!values) {
        return err->status;
    }
    if (logits % sizeof *values) {
        return sp_fail(err, SP_ERR_ARGUMENT, "logits lie at multiples of 4");
    }
    return sp_grammar_mask(g->grammar, g->model, values, count, err);
}

void sp_abi_release_grammars(sp_actor *actor) {
    for (int i = 0; i < SP_MAX_GRAMMARS; i++) {
        sp_grammar_close(actor->grammars[i].grammar);
        actor->grammars[i].grammar = NULL;
    }
}
