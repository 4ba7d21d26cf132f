/* Freezing, thawing and forking actors. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "abi/rewrite.h"
#include "actor/actor.h"
#include "memory/os.h"

/* ---- whose session it is ---- */

static sp_status identify(const sp_module *module, sp_model *const *models, size_t n_models, sp_log_identity *out, sp_error *err) {
    *out = (sp_log_identity){.n_models = (uint32_t)n_models};
    if (n_models > SP_SESSION_MODELS_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "%zu models; a session names at most %d", n_models, SP_SESSION_MODELS_MAX);
    }
    memcpy(out->module, module->id, sizeof out->module);
    for (size_t i = 0; i < n_models; i++) {
        const char *text = sp_model_fingerprint(models[i]);
        sodium_hex2bin(out->models[i], sizeof out->models[i], text, strlen(text), NULL, NULL, NULL);
    }
    return SP_OK;
}

sp_status sp_session_create(const char *path, const sp_module *module, sp_model *const *models, size_t n_models, sp_session **out, sp_error *err) {
    *out = NULL;
    sp_log_identity identity;
    sp_status status = sp_module_check_freeze(module, err);
    status = status ? status : identify(module, models, n_models, &identity, err);
    return status ? status : sp_log_create(path, &identity, out, err);
}

/* Is the session one of this module and these models? */
static sp_status check_identity(const sp_session *session, const sp_module *module, sp_model *const *models, size_t n_models, sp_error *err) {
    const sp_log_identity *theirs = sp_log_get_identity(session);
    sp_log_identity ours;
    sp_status status = identify(module, models, n_models, &ours, err);
    char expected[65], found[65];
    if (status) {
        return status;
    }
    if (memcmp(ours.module, theirs->module, sizeof ours.module) != 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the session is of another module: it expects %s and found %s",
                       sodium_bin2hex(expected, sizeof expected, theirs->module, 32), module->id_text);
    }
    if (theirs->n_models != ours.n_models) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the session expects %u models and found %u", theirs->n_models, ours.n_models);
    }
    for (uint32_t i = 0; i < ours.n_models; i++) {
        if (memcmp(ours.models[i], theirs->models[i], sizeof ours.models[i]) != 0) {
            return sp_fail(err, SP_ERR_ARGUMENT, "the session is of another model: it expects the fingerprint %s and found %s",
                           sodium_bin2hex(expected, sizeof expected, theirs->models[i], 16), sodium_bin2hex(found, sizeof found, ours.models[i], 16));
        }
    }
    return SP_OK;
}

static sp_status check_at_rest(const sp_actor *actor, sp_error *err) {
    sp_status status = sp_module_check_freeze(actor->module, err);
    if (!status && (actor->dead || actor->in_guest)) {
        status = sp_fail(err, SP_ERR_STATE, actor->dead ? "the actor is dead" : "the actor is in the middle of a step");
    }
    if (!status && sp_memory_is_lost(actor->memory)) {
        status = sp_fail(err, SP_ERR_IO, "the actor's memory is lost: the session's file was truncated by somebody else, or its disk failed");
    }
    return status;
}

/* ---- which pages changed ---- */

static uint64_t host_pages(const sp_actor *actor) {
    return sp_memory_size(actor->memory) / sp_os_page_size();
}

/* A bit for each host page that may differ from the actor's anchor (from zeros, where nothing was ever mapped); NULL: it can't be told. */
static uint64_t *changed_pages(const sp_actor *actor) {
    uint64_t *bits = calloc(host_pages(actor) / 64 + 1, sizeof *bits);
    if (bits && sp_memory_written_pages(actor->memory, 0, sp_memory_size(actor->memory), bits, NULL)) {
        free(bits);
        return NULL;
    }
    for (uint64_t i = 0; bits && actor->changed && i < actor->changed_pages / 64 + 1; i++) {
        bits[i] |= actor->changed[i];
    }
    return bits;
}

/* The pages are about to be mapped anew: what they would have told is kept. */
static bool keep_changed(sp_actor *actor) {
    uint64_t *bits = changed_pages(actor);
    if (!bits) {
        return false;
    }
    free(actor->changed);
    actor->changed = bits;
    actor->changed_pages = host_pages(actor);
    return true;
}

/* ---- freezing ---- */

static void anchor_at(sp_actor *actor, const sp_session *session, uint64_t number) {
    actor->anchor = sp_log_get_anchor(session, number);
    free(actor->changed);
    actor->changed = NULL;
    actor->changed_pages = 0;
}

static sp_status commit(sp_actor *actor, sp_session *session, const sp_freeze_options *options, const sp_log_blobs *blobs, uint64_t *number,
                        sp_error *err) {
    uint64_t parent = sp_log_find_anchor(session, &actor->anchor);
    /* Bits speak of the anchor; without one, of zeros, unless something was mapped. */
    bool known = parent || (!actor->anchor.number && !actor->mapped);
    uint64_t *written = known ? changed_pages(actor) : NULL;
    sp_log_commit_input input = {.parent = parent,
                                 .base = sp_memory_base(actor->memory),
                                 .size = sp_memory_size(actor->memory),
                                 .written = written,
                                 .side = blobs->side,
                                 .side_size = blobs->side_size,
                                 .meta = blobs->meta,
                                 .meta_size = blobs->meta_size,
                                 .name = options->name,
                                 .note = options->note,
                                 .note_size = options->note_bytes,
                                 .memory = actor->memory};
    sp_status status = sp_log_commit(session, &input, number, err);
    free(written);
    return status;
}

sp_status sp_actor_freeze(sp_actor *actor, sp_session *session, const sp_freeze_options *options, uint64_t *number, sp_error *err) {
    const sp_freeze_options none = {0};
    sp_log_blobs blobs = {0};
    uint64_t made = 0;
    sp_status status = check_at_rest(actor, err);
    status = status ? status : check_identity(session, actor->module, actor->models, actor->n_models, err);
    status = status ? status : sp_abi_bring_back(actor, err);
    status = status ? status : sp_state_save(actor, &blobs, err);
    status = status ? status : commit(actor, session, options ? options : &none, &blobs, &made, err);
    sp_state_free(&blobs);
    if (sp_memory_is_lost(actor->memory)) {
        actor->dead = true;
    }
    if (status) {
        return status;
    }
    anchor_at(actor, session, made);
    if (!sp_device_pins_pages(actor->device)) {
        sp_abi_let_go(actor);
        sp_log_remap(session, made, actor->memory);
        actor->mapped = true;
    }
    if (number) {
        *number = made;
    }
    return SP_OK;
}

/* ---- thawing ---- */

static sp_status restore(sp_actor *actor, sp_session *session, uint64_t number, sp_error *err) {
    sp_log_blobs blobs;
    uint64_t used = sp_memory_size(actor->memory); /* by the module's data */
    sp_status status = sp_state_grow(actor, sp_session_get(session, number)->memory_bytes, err);
    status = status ? status : sp_log_read_blobs(session, number, &blobs, err);
    if (status) {
        return status;
    }
    status = sp_log_map(session, number, actor->memory, used, err);
    status = status ? status : sp_state_load(actor, &blobs, err);
    sp_state_free(&blobs);
    actor->mapped = true;
    anchor_at(actor, session, number);
    return status;
}

sp_status sp_actor_thaw(sp_host *host, sp_module *module, const sp_actor_options *options, sp_session *session, uint64_t number, sp_actor **out,
                        sp_error *err) {
    *out = NULL;
    const sp_commit *known = sp_session_get(session, number);
    sp_status status = sp_module_check_freeze(module, err);
    status = status ? status : check_identity(session, module, options->models, options->n_models, err);
    if (!status && !known) {
        status = number ? sp_fail(err, SP_ERR_NOT_FOUND, "there is no commit %llu in the session, which has %llu", (unsigned long long)number,
                                  (unsigned long long)sp_session_count(session))
                        : sp_fail(err, SP_ERR_NOT_FOUND, "the session has no commit yet");
    }
    sp_actor *actor = NULL;
    status = status ? status : sp_actor_create(host, module, options, false, &actor, err);
    status = status ? status : restore(actor, session, known->number, err);
    status = status ? status : sp_actor_resume(actor, SP_RESUMED_THAW, err);
    if (status) {
        sp_actor_close(actor);
        return status;
    }
    *out = actor;
    return SP_OK;
}

/* ---- forking ---- */

/* Does the image still hold what the memory holds? */
static bool image_is_current(const sp_actor *actor) {
    if (!actor->image || sp_image_size(actor->image) != sp_memory_size(actor->memory)) {
        return false;
    }
    if (sp_device_pins_pages(actor->device)) {
        return actor->image_step == actor->stats.steps;
    }
    uint64_t *bits = calloc(host_pages(actor) / 64 + 1, sizeof *bits);
    bool same = bits && !sp_memory_written_pages(actor->memory, 0, sp_memory_size(actor->memory), bits, NULL);
    for (uint64_t i = 0; same && i < host_pages(actor) / 64 + 1; i++) {
        same = !bits[i];
    }
    free(bits);
    return same;
}

/* Makes the image that forks share. Where no device holds the pages, the actor maps it too: then its own copies are given back. */
static sp_status need_image(sp_actor *actor, sp_error *err) {
    if (image_is_current(actor)) {
        return SP_OK;
    }
    sp_image_release(actor->image);
    actor->image = NULL;
    uint64_t size = sp_memory_size(actor->memory);
    sp_status status = sp_image_from_bytes(sp_memory_base(actor->memory), size, &actor->image, err);
    if (!status && !sp_device_pins_pages(actor->device) && keep_changed(actor)) {
        sp_abi_let_go(actor);
        status = sp_image_map(actor->image, 0, actor->memory, 0, size, err);
        actor->mapped = true;
    }
    actor->image_step = actor->stats.steps;
    return status;
}

static sp_status become(const sp_actor *parent, sp_actor *child, sp_error *err) {
    uint64_t size = sp_memory_size(parent->memory);
    sp_status status = sp_state_grow(child, size, err);
    status = status ? status : sp_image_map(parent->image, 0, child->memory, 0, size, err);
    child->mapped = true;
    child->anchor = parent->anchor;
    child->image = sp_image_retain(parent->image);
    child->image_step = parent->stats.steps;
    uint64_t *bits = status ? NULL : changed_pages(parent);
    if (bits) {
        child->changed = bits;
        child->changed_pages = host_pages(parent);
    } else {
        child->anchor = (sp_log_anchor){.number = 0}; /* everything may have changed */
    }
    status = status ? status : sp_state_copy(parent, child, err);
    return status ? status : sp_actor_resume(child, SP_RESUMED_FORK, err);
}

sp_status sp_actor_fork(sp_actor *actor, const sp_actor_options *options, sp_actor **out, sp_error *err) {
    *out = NULL;
    const sp_actor_options same = {.device = actor->device,
                                   .models = actor->models,
                                   .n_models = actor->n_models,
                                   .limits = actor->limits,
                                   .on_message = actor->on_message,
                                   .on_message_user = actor->on_message_user,
                                   .inherit_stdin = actor->inherit_stdin,
                                   .inherit_stdout = actor->inherit_stdout,
                                   .inherit_stderr = actor->inherit_stderr};
    options = options ? options : &same;
    sp_status status = check_at_rest(actor, err);
    if (!status && options->n_models != actor->n_models) {
        status = sp_fail(err, SP_ERR_ARGUMENT, "the actor has %u models, and its fork is given %zu", actor->n_models, options->n_models);
    }
    for (uint32_t i = 0; !status && i < actor->n_models; i++) {
        if (strcmp(sp_model_fingerprint(actor->models[i]), sp_model_fingerprint(options->models[i])) != 0) {
            status = sp_fail(err, SP_ERR_ARGUMENT, "the fork is given another model: %s was expected and %s found",
                             sp_model_fingerprint(actor->models[i]), sp_model_fingerprint(options->models[i]));
        }
    }
    status = status ? status : sp_abi_bring_back(actor, err);
    status = status ? status : need_image(actor, err);
    sp_actor *child = NULL;
    status = status ? status : sp_actor_create(actor->host, actor->module, options, false, &child, err);
    status = status ? status : become(actor, child, err);
    if (status) {
        sp_actor_close(child);
        return status;
    }
    *out = child;
    return SP_OK;
}
