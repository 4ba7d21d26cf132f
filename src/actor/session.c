/* Declared first, so that what stands on it can be built: each is replaced by its implementation. */
#include "base/error.h"

const char *sp_module_hash(const sp_module *module) {
    (void)module;
    return "";
}

sp_status sp_module_check_freeze(const sp_module *module, sp_error *err) {
    (void)module;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_create(const char *path, const sp_module *module, sp_model *const *models, size_t n_models, sp_session **out, sp_error *err) {
    (void)path;
    (void)module;
    (void)models;
    (void)n_models;
    (void)out;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_open(const char *path, bool read_only, sp_session **out, sp_error *err) {
    (void)path;
    (void)read_only;
    (void)out;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

void sp_session_close(sp_session *session) {
    (void)session;
}

void sp_session_get_info(const sp_session *session, sp_session_info *out) {
    (void)session;
    (void)out;
}

void sp_session_set_progress(sp_session *session, sp_progress progress, void *user) {
    (void)session;
    (void)progress;
    (void)user;
}

uint64_t sp_session_count(const sp_session *session) {
    (void)session;
    return 0;
}

const sp_commit *sp_session_at(const sp_session *session, uint64_t index) {
    (void)session;
    (void)index;
    return NULL;
}

const sp_commit *sp_session_get(const sp_session *session, uint64_t number) {
    (void)session;
    (void)number;
    return NULL;
}

const sp_commit *sp_session_find(const sp_session *session, const char *name) {
    (void)session;
    (void)name;
    return NULL;
}

sp_status sp_session_set_head(sp_session *session, uint64_t number, sp_error *err) {
    (void)session;
    (void)number;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_set_name(sp_session *session, uint64_t number, const char *name, sp_error *err) {
    (void)session;
    (void)number;
    (void)name;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_actor_freeze(sp_actor *actor, sp_session *session, const sp_freeze_options *options, uint64_t *number, sp_error *err) {
    (void)actor;
    (void)session;
    (void)options;
    (void)number;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_actor_thaw(sp_host *host, sp_module *module, const sp_actor_options *options, sp_session *session, uint64_t number, sp_actor **out,
                        sp_error *err) {
    (void)host;
    (void)module;
    (void)options;
    (void)session;
    (void)number;
    (void)out;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_actor_fork(sp_actor *actor, const sp_actor_options *options, sp_actor **out, sp_error *err) {
    (void)actor;
    (void)options;
    (void)out;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_fork(sp_session *session, uint64_t number, const char *path, sp_error *err) {
    (void)session;
    (void)number;
    (void)path;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_compact(sp_session *session, sp_error *err) {
    (void)session;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_verify(sp_session *session, sp_error *err) {
    (void)session;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_export(sp_session *session, const char *path, const sp_export_options *options, sp_error *err) {
    (void)session;
    (void)path;
    (void)options;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_import(const char *exported, const char *path, const char *passphrase, sp_progress progress, void *progress_user,
                            sp_error *err) {
    (void)exported;
    (void)path;
    (void)passphrase;
    (void)progress;
    (void)progress_user;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}

sp_status sp_session_remove(const char *path, sp_error *err) {
    (void)path;
    return sp_fail(err, SP_ERR_UNSUPPORTED, "not built yet");
}
