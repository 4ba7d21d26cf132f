/* See kept.h. */
#include "cli/kept.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "program/program.h"

struct sp_kept {
    char store[SP_STORE_PATH_MAX], path[SP_STORE_PATH_MAX], name[SP_STORE_NAME_MAX + 1];
    sp_session *session; /* NULL: not made yet */
    sp_note note;        /* of the commit that the actor continues */
    char model[SP_STORE_PATH_MAX];
    uint8_t *config; /* of the thawed actor: sp_llm_config and what follows it */
    size_t config_size;
    char *strings[128]; /* that settings point to */
    size_t n_strings;
};

sp_status sp_kept_open(const char *store, const char *name, sp_kept **out, sp_error *err) {
    *out = NULL;
    sp_kept *kept = calloc(1, sizeof *kept);
    if (!kept) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = sp_store_path("", name, kept->path, err); /* the name first: nothing is made for a wrong one */
    status = status ? status : sp_store_open(store, true, kept->store, err);
    status = status ? status : sp_store_path(kept->store, name, kept->path, err);
    if (status == SP_OK) {
        snprintf(kept->name, sizeof kept->name, "%s", name);
        sp_error why;
        status = sp_session_open(kept->path, false, &kept->session, &why);
        if (status == SP_ERR_BUSY) {
            status = sp_fail(err, status, "session %s is in use: %s", name, why.message);
        } else if (status == SP_ERR_NOT_FOUND) {
            status = SP_OK;
        } else if (status != SP_OK) {
            status = sp_fail(err, status, "session %s: %s", name, why.message);
        }
    }
    if (status != SP_OK) {
        sp_kept_close(kept);
        return status;
    }
    if (!sp_kept_is_new(kept)) {
        sp_note_read(sp_session_get(kept->session, 0), &kept->note);
    }
    *out = kept;
    return SP_OK;
}

void sp_kept_close(sp_kept *kept) {
    if (kept) {
        sp_session_close(kept->session);
        for (size_t i = 0; i < kept->n_strings; i++) {
            free(kept->strings[i]);
        }
        free(kept->config);
        free(kept);
    }
}

bool sp_kept_is_new(const sp_kept *kept) {
    return !kept->session || !sp_session_get(kept->session, 0);
}

sp_session *sp_kept_session(sp_kept *kept) {
    return kept->session;
}

/* ---- settings of a thawed actor ---- */

static void on_config(void *user, const void *bytes, size_t size) {
    sp_kept *kept = user;
    uint32_t kind = 0;
    memcpy(&kind, bytes, size < sizeof kind ? size : sizeof kind);
    if (kind == SP_LLM_CONFIG && size >= sizeof(sp_llm_config) && !kept->config) {
        kept->config = malloc(size);
        kept->config_size = kept->config ? size : 0;
        if (kept->config) {
            memcpy(kept->config, bytes, size);
        }
    }
}

static void keep_string(sp_kept *kept, sp_option_list *list, char *text) {
    if (text && kept->n_strings < sizeof kept->strings / sizeof kept->strings[0] && list->n < sizeof list->items / sizeof list->items[0]) {
        kept->strings[kept->n_strings++] = text;
        list->items[list->n++] = text;
    } else {
        free(text);
    }
}

/* Biases and stop strings as a command line would have them. The guest wrote them: lengths are checked. */
static void restore_lists(sp_kept *kept, const sp_llm_config *config, bool biases, bool stops, sp_llm_settings *s) {
    const uint8_t *at = kept->config + sizeof *config, *end = kept->config + kept->config_size;
    for (uint32_t i = 0; i < config->n_bias && end - at >= (ptrdiff_t)sizeof(sp_llm_bias); i++, at += sizeof(sp_llm_bias)) {
        sp_llm_bias bias;
        memcpy(&bias, at, sizeof bias);
        char text[64];
        snprintf(text, sizeof text, "%d%+.9g", bias.token, (double)bias.bias);
        if (biases) {
            keep_string(kept, &s->biases, strdup(text));
        }
    }
    for (uint32_t i = 0; i < config->n_stop && end - at >= (ptrdiff_t)sizeof(uint32_t); i++) {
        uint32_t length;
        memcpy(&length, at, sizeof length);
        at += sizeof length;
        if (length > (size_t)(end - at)) {
            return;
        }
        if (stops) {
            keep_string(kept, &s->stops, strndup((const char *)at, length));
        }
        at += length;
    }
}

/* The actor's own settings, and over them what the command line says. */
static sp_status merge_settings(sp_kept *kept, const sp_kept_line *line, sp_error *err) {
    sp_llm_settings *s = line->settings;
    sp_llm_config config;
    if (!kept->config) {
        return sp_fail(err, SP_ERR_GUEST, "session %s: its actor does not tell its settings", kept->name);
    }
    memcpy(&config, kept->config, sizeof config);
    if (s->n_ctx && (uint32_t)s->n_ctx != config.n_ctx) {
        return sp_fail(err, SP_ERR_ARGUMENT,
                       "session %s has a context of %u tokens, and -c %d can't change it: leave -c out, or begin another session", kept->name,
                       config.n_ctx, s->n_ctx);
    }
    if (s->n_batch && (uint32_t)s->n_batch != config.n_batch) {
        return sp_fail(err, SP_ERR_ARGUMENT,
                       "session %s evaluates %u tokens at once, and -b %d can't change it: leave -b out, or begin another session", kept->name,
                       config.n_batch, s->n_batch);
    }
    bool biases = s->biases.n == 0, stops = s->stops.n == 0;
    s->max_tokens = config.max_tokens;
    s->temperature = config.temperature;
    s->top_k = config.top_k;
    s->top_p = config.top_p;
    s->min_p = config.min_p;
    s->repeat_penalty = config.repeat_penalty;
    s->presence_penalty = config.presence_penalty;
    s->frequency_penalty = config.frequency_penalty;
    s->repeat_last_n = config.repeat_last_n;
    s->ignore_end = config.ignore_end;
    s->biases.n = s->stops.n = s->adapters.n = s->scaled_adapters.n = 0;
    const sp_type_traits *k = sp_type_get(config.type_k), *v = sp_type_get(config.type_v);
    const char *type_k = k ? k->name : "?", *type_v = v ? v->name : "?";
    s->type_k = type_k;
    s->type_v = type_v;
    sp_options_parse(line->table, "", "", "", line->argc, line->argv); /* went well before */
    if (strcmp(s->type_k, type_k) != 0 || strcmp(s->type_v, type_v) != 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "session %s has a cache of %s and %s, and --cache-type-k and -v can't change it: begin another session",
                       kept->name, type_k, type_v);
    }
    restore_lists(kept, &config, biases, stops, s);
    return SP_OK;
}

/* ---- beginning and continuing ---- */

/* " --lora FILE --lora-scaled FILE:SCALE", as far as it fits; "": none. */
static void name_adapters(const sp_llm_settings *s, char *out, size_t capacity) {
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < s->adapters.n && n < capacity; i++) {
        n += (size_t)snprintf(out + n, capacity - n, " --lora %s", s->adapters.items[i]);
    }
    for (size_t i = 0; i < s->scaled_adapters.n && n < capacity; i++) {
        n += (size_t)snprintf(out + n, capacity - n, " --lora-scaled %s", s->scaled_adapters.items[i]);
    }
}

static sp_status check_identity(const sp_kept *kept, sp_llm_client *client, const sp_llm_settings *s, sp_error *err) {
    sp_session_info info;
    sp_session_get_info(kept->session, &info);
    const char *model = s->model ? s->model : "the embedded model", *found = sp_model_fingerprint(sp_llm_model(client));
    const char *module = sp_module_hash(sp_llm_module(client));
    if (strcmp(info.module, module) != 0) {
        return sp_fail(
            err, SP_ERR_ARGUMENT,
            "session %s was made by another version of the language-model guest (expected module %.16s, this samepage has %.16s): continue it "
            "with the samepage that made it",
            kept->name, info.module, module);
    }
    char adapters[sizeof kept->note.adapters];
    name_adapters(s, adapters, sizeof adapters);
    if (info.n_models == 1 && strcmp(info.models[0], found) != 0 && (*adapters || kept->note.adapters[0])) {
        return sp_fail(err, SP_ERR_ARGUMENT,
                       "session %s belongs to another model or other LoRA adapters (expected fingerprint %s, made with%s; %s with%s has %s)",
                       kept->name, info.models[0], kept->note.adapters[0] ? kept->note.adapters : " none", model, *adapters ? adapters : " none",
                       found);
    }
    if (info.n_models != 1 || strcmp(info.models[0], found) != 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "session %s belongs to another model (expected fingerprint %s, %s has %s): name the right file with -m",
                       kept->name, info.n_models ? info.models[0] : "of none", model, found);
    }
    return SP_OK;
}

static sp_status resume(sp_kept *kept, sp_llm_client *client, const sp_kept_line *line, sp_error *err) {
    sp_status status = check_identity(kept, client, line->settings, err);
    status = status ? status : sp_llm_thaw(client, kept->session, 0, err);
    sp_llm_simple tell = {.kind = SP_LLM_HISTORY};
    sp_llm_events events = {.on_other = on_config, .user = kept};
    status = status ? status : sp_llm_ask_bytes(client, &tell, sizeof tell, &events, NULL, err);
    status = status ? status : merge_settings(kept, line, err);
    status = status ? status : sp_llm_configure(client, line->settings, err);
    line->settings->seed.given = false; /* it was for now; what is thawed later has a generator of its own */
    return status;
}

static sp_status begin(sp_kept *kept, sp_llm_client *client, const sp_kept_line *line, sp_error *err) {
    sp_status status = sp_llm_spawn(client, line->settings, err);
    sp_model *model = sp_llm_model(client);
    if (status == SP_OK && !kept->session) {
        status = sp_session_create(kept->path, sp_llm_module(client), &model, 1, &kept->session, err);
    } else if (status == SP_OK) { /* a file that never got a commit */
        status = check_identity(kept, client, line->settings, err);
    }
    line->settings->seed.given = false;
    name_adapters(line->settings, kept->note.adapters, sizeof kept->note.adapters);
    sp_kept_turn turn = {.kind = "begin", .user = "", .answer = ""};
    return status ? status : sp_kept_commit(kept, client, &turn, err);
}

sp_status sp_kept_start(sp_kept *kept, const sp_kept_line *line, sp_llm_client **out, sp_error *err) {
    sp_llm_settings *s = line->settings;
    bool is_new = sp_kept_is_new(kept), hinted = !is_new && !s->model && kept->note.model[0];
    if (hinted) {
        snprintf(kept->model, sizeof kept->model, "%s", kept->note.model);
        s->model = kept->model;
    }
    sp_status status = sp_llm_prepare(s, out, err);
    if (hinted && status == SP_ERR_NOT_FOUND) {
        return sp_fail(err, status, "session %s was last continued with the model %s, which is not there: say where it is now with -m", kept->name,
                       kept->note.model);
    }
    if (status != SP_OK) {
        return status;
    }
    char *whole = s->model ? realpath(s->model, NULL) : NULL;
    bool fits = whole && strlen(whole) < sizeof kept->note.model;
    snprintf(kept->note.model, sizeof kept->note.model, "%s", fits ? whole : "");
    free(whole);
    status = is_new ? begin(kept, *out, line, err) : resume(kept, *out, line, err);
    if (status != SP_OK) {
        sp_llm_close(*out);
        *out = NULL;
    }
    return status;
}

/* ---- commits ---- */

/* Under which names the next commit goes. A session whose commits bear another's name branched from there. */
static void name_note(sp_kept *kept) {
    sp_note *note = &kept->note;
    if (note->session[0] && strcmp(note->session, kept->name) != 0) {
        memcpy(note->origin, note->session, sizeof note->origin);
        note->origin_commit = note->commit;
    }
    snprintf(note->session, sizeof note->session, "%s", kept->name);
    note->commit = sp_session_count(kept->session) + 1;
}

/* After a failed sync what is on the disk is unknown until it is read anew. */
static sp_status reopen(sp_kept *kept, sp_error *err) {
    sp_session_close(kept->session);
    kept->session = NULL;
    return sp_session_open(kept->path, false, &kept->session, err);
}

static sp_status freeze(sp_kept *kept, sp_llm_client *client, const char *note, sp_error *err) {
    sp_freeze_options options = {.note = note, .note_bytes = strlen(note)};
    return sp_actor_freeze(sp_llm_actor(client), kept->session, &options, NULL, err);
}

sp_status sp_kept_commit(sp_kept *kept, sp_llm_client *client, const sp_kept_turn *turn, sp_error *err) {
    sp_note before = kept->note, *note = &kept->note;
    sp_status status = kept->session ? SP_OK : reopen(kept, err);
    if (status != SP_OK) {
        return status;
    }
    name_note(kept);
    snprintf(note->kind, sizeof note->kind, "%s", turn->kind);
    note->turns = strcmp(turn->kind, "turn") == 0 ? note->turns + 1 : strcmp(turn->kind, "regenerate") == 0 ? note->turns : 0;
    note->tokens = turn->tokens;
    note->context = sp_llm_ready_info(client)->n_ctx;
    if (turn->user) {
        sp_one_line(note->user, sizeof note->user, turn->user, strlen(turn->user));
    }
    if (turn->answer) {
        sp_one_line(note->answer, sizeof note->answer, turn->answer, strlen(turn->answer));
    }
    char *text = sp_note_write(note);
    if (!text) {
        *note = before;
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    status = freeze(kept, client, text, err);
    if (status == SP_ERR_STATE) {
        status = reopen(kept, err);
        status = status ? status : freeze(kept, client, text, err);
    }
    free(text);
    if (status != SP_OK) {
        *note = before;
    }
    return status;
}

sp_status sp_kept_goto(sp_kept *kept, sp_llm_client *client, uint64_t number, sp_error *err) {
    const sp_commit *commit = sp_session_get(kept->session, number);
    if (!commit) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no commit %llu", (unsigned long long)number);
    }
    sp_note note;
    sp_note_read(commit, &note);
    memcpy(note.model, kept->note.model, sizeof note.model);
    uint64_t before = sp_session_get(kept->session, 0)->number;
    sp_status status = sp_session_set_head(kept->session, number, err);
    if (status != SP_OK) {
        return status;
    }
    status = sp_llm_thaw(client, kept->session, number, err);
    if (status != SP_OK) {
        sp_session_set_head(kept->session, before, NULL);
        return status;
    }
    kept->note = note;
    return SP_OK;
}

sp_status sp_kept_undo(sp_kept *kept, sp_llm_client *client, uint32_t n, sp_error *err) {
    const sp_commit *at = sp_session_get(kept->session, 0);
    for (uint32_t i = 0; at && i < n; i++) {
        const sp_commit *before = at->parent ? sp_session_get(kept->session, at->parent) : NULL;
        if (!before) {
            return i ? sp_fail(err, SP_ERR_ARGUMENT, "only %u step%s can be undone from here", i, i == 1 ? "" : "s")
                     : sp_fail(err, SP_ERR_ARGUMENT, "nothing to undo: this is where the session begins");
        }
        at = before;
    }
    return at ? sp_kept_goto(kept, client, at->number, err) : sp_fail(err, SP_ERR_NOT_FOUND, "there is no commit yet");
}

sp_status sp_kept_fork(sp_kept *kept, const char *name, sp_error *err) {
    char path[SP_STORE_PATH_MAX];
    sp_status status = sp_store_path(kept->store, name, path, err);
    status = status ? status : sp_session_fork(kept->session, 0, path, err);
    return status == SP_ERR_STATE ? sp_fail(err, status, "there is a session %s already: choose another name, or samepage sessions rm %s", name, name)
                                  : status;
}

/* ---- showing ---- */

static void print_commit(const sp_commit *commit, uint64_t head) {
    sp_note note;
    sp_note_read(commit, &note);
    char from[24] = "-", when[32] = "?", name[SP_COMMIT_NAME_MAX + 1], user[48], answer[64];
    if (commit->parent) {
        snprintf(from, sizeof from, "%llu", (unsigned long long)commit->parent);
    }
    time_t seconds = (time_t)(commit->time_ns / 1000000000u);
    struct tm local;
    if (localtime_r(&seconds, &local)) {
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &local);
    }
    sp_one_line(name, sizeof name, commit->name, strlen(commit->name));
    sp_one_line(user, sizeof user, note.user, strlen(note.user));
    sp_one_line(answer, sizeof answer, note.answer, strlen(note.answer));
    bool talk = strcmp(note.kind, "turn") == 0 || strcmp(note.kind, "regenerate") == 0;
    printf("%c%6llu %6s  %s %7u  %s%s%s", commit->number == head ? '*' : ' ', (unsigned long long)commit->number, from, when, note.tokens,
           *name ? "[" : "", name, *name ? "] " : "");
    if (talk) {
        printf("%s -> %s\n", user, answer);
    } else {
        printf("(%s)\n", note.kind[0] ? note.kind : "no note");
    }
}

void sp_kept_print_log(const sp_session *session, uint64_t most) {
    uint64_t count = sp_session_count(session), first = most && count > most ? count - most : 0;
    const sp_commit *head = sp_session_get(session, 0);
    printf(" commit   from  %-19s  tokens\n", "when");
    for (uint64_t i = first; i < count; i++) {
        print_commit(sp_session_at(session, i), head ? head->number : 0);
    }
    if (first) {
        printf("(the newest %llu of %llu)\n", (unsigned long long)most, (unsigned long long)count);
    }
}
