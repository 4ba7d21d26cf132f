/* `samepage sessions list`, `show`, `tree`: what there is. Only lists of commits and their notes are read: no model, no guest, no pages. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "cli/kept.h"
#include "cli/sessions.h"

/* A session of the store, as far as it can be read. */
typedef struct entry {
    char *name;
    sp_error problem; /* why it can't be read, where its status isn't SP_OK; then there is nothing else */
    sp_session_info info;
    uint64_t count;                     /* of commits */
    sp_note note;                       /* of the head */
    char parent[SP_STORE_NAME_MAX + 1]; /* whom it branched from; "": from none */
    uint64_t parent_commit;
    uint64_t time_ns; /* of the newest commit */
    bool drawn;
} entry;

/* Returns the session, for who wants to know more than the entry has; NULL: it can't be read. */
static sp_session *read_entry(const char *store, entry *e) {
    sp_session *session;
    if (sp_sessions_open(store, e->name, true, &session, &e->problem) != SP_OK) {
        return NULL;
    }
    e->problem.status = SP_OK;
    sp_session_get_info(session, &e->info);
    const sp_commit *head = sp_session_get(session, 0);
    e->count = sp_session_count(session);
    if (head) {
        sp_note_read(head, &e->note);
        e->time_ns = sp_session_at(session, e->count - 1)->time_ns;
    }
    bool others = e->note.session[0] && strcmp(e->note.session, e->name) != 0;
    memcpy(e->parent, others ? e->note.session : e->note.origin, sizeof e->parent);
    e->parent_commit = others ? e->note.commit : e->note.origin_commit;
    return session;
}

static sp_status read_store(const char *folder, char store[SP_STORE_PATH_MAX], entry **out, size_t *n, sp_error *err) {
    char **names = NULL;
    *out = NULL;
    *n = 0;
    sp_status status = sp_store_open(folder, false, store, err);
    if (status == SP_ERR_NOT_FOUND && !folder) {
        return SP_OK; /* nobody has kept anything yet */
    }
    status = status ? status : sp_store_list(store, &names, n, err);
    *out = status ? NULL : calloc(*n + 1, sizeof **out);
    for (size_t i = 0; *out && i < *n; i++) {
        (*out)[i].name = names[i];
        sp_session_close(read_entry(store, &(*out)[i])); /* not all open at once: a process may have few files open */
    }
    free(names);
    return status;
}

static void free_entries(entry *entries, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(entries[i].name);
    }
    free(entries);
}

/* "now", "5 min", "3 h", "2 d"; "-": never */
static void age_text(char out[16], uint64_t time_ns) {
    int64_t age = (int64_t)time(NULL) - (int64_t)(time_ns / 1000000000u);
    if (!time_ns) { /* no commit yet */
        snprintf(out, 16, "-");
    } else if (age < 60) {
        snprintf(out, 16, "now");
    } else if (age < 3600) {
        snprintf(out, 16, "%d min", (int)(age / 60));
    } else if (age < 86400) {
        snprintf(out, 16, "%d h", (int)(age / 3600));
    } else {
        snprintf(out, 16, "%d d", (int)(age / 86400));
    }
}

static const char *model_name(const sp_note *note) {
    const char *base = strrchr(note->model, '/');
    return base ? base + 1 : *note->model ? note->model : "pocket";
}

static const char *last_line(const sp_note *note) {
    return *note->answer ? note->answer : note->user;
}

static json_t *entry_json(const entry *e) {
    if (e->problem.status) {
        return json_pack("{s:s, s:s}", "name", e->name, "problem", e->problem.message);
    }
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:s, s:s, s:s?, s:I, s:f, s:s, s:s}", "name", e->name, "id", e->info.id,
                     "commits", (json_int_t)e->count, "head", (json_int_t)e->info.head, "own_bytes", (json_int_t)e->info.own_bytes, "shared_bytes",
                     (json_int_t)e->info.shared_bytes, "tokens", (int)e->note.tokens, "context", (int)e->note.context, "turns", (int)e->note.turns,
                     "model", *e->note.model ? e->note.model : "pocket", "fingerprint", e->info.n_models ? e->info.models[0] : "", "parent",
                     *e->parent ? e->parent : NULL, "parent_commit", (json_int_t)e->parent_commit, "time", (double)e->time_ns * 1e-9, "last_user",
                     e->note.user, "last_answer", e->note.answer);
}

static void print_entry(const entry *e) {
    if (e->problem.status) {
        printf("%-20s %s\n", e->name, e->problem.message);
        return;
    }
    char own[16], shared[16], age[16], line[64], model[20];
    sp_size_text(own, e->info.own_bytes);
    sp_size_text(shared, e->info.shared_bytes);
    age_text(age, e->time_ns);
    sp_one_line(line, sizeof line, last_line(&e->note), strlen(last_line(&e->note)));
    sp_one_line(model, sizeof model, model_name(&e->note), strlen(model_name(&e->note)));
    printf("%-20s %10s %10s %7u %5u  %-19s %7s  %s\n", e->name, own, shared, e->note.tokens, e->note.turns, model, age, line);
}

static void print_json(json_t *root) {
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

int sp_sessions_list(int argc, char **argv) {
    const char *folder = NULL;
    bool json = false;
    const sp_option table[] = {sp_sessions_store_row(&folder), {0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON"}, {0}};
    int at = sp_options_parse(
        table, "sessions list", "[--json] [--store DIR]",
        "Lists the sessions of a store: bytes on the disk that are its own and that it shares, tokens in its context, turns, the model, when\n"
        "it was last changed, its last line.",
        argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("sessions list", "%s: list takes no names; show does", argv[at]);
    }
    char store[SP_STORE_PATH_MAX];
    entry *entries;
    size_t n;
    sp_error err;
    if (read_store(folder, store, &entries, &n, &err) != SP_OK) {
        return sp_sessions_failed(&err);
    }
    json_t *list = json_array();
    if (!json && n) {
        printf("%-20s %10s %10s %7s %5s  %-19s %7s  %s\n", "session", "own", "shared", "tokens", "turns", "model", "changed", "last line");
    } else if (!json) {
        puts("no sessions yet; samepage chat --session NAME begins one");
    }
    for (size_t i = 0; i < n; i++) {
        if (json) {
            json_array_append_new(list, entry_json(&entries[i]));
        } else {
            print_entry(&entries[i]);
        }
    }
    if (json) {
        print_json(json_pack("{s:s, s:O}", "store", store, "sessions", list));
    }
    json_decref(list);
    free_entries(entries, n);
    return SP_EXIT_OK;
}

/* ---- one session ---- */

static json_t *commits_json(const sp_session *session) {
    json_t *list = json_array();
    for (uint64_t i = 0; i < sp_session_count(session); i++) {
        const sp_commit *c = sp_session_at(session, i);
        sp_note note;
        sp_note_read(c, &note);
        json_t *name = json_string(c->name);
        json_array_append_new(list, json_pack("{s:I, s:I, s:f, s:I, s:I, s:o, s:s, s:i, s:s, s:s}", "number", (json_int_t)c->number, "parent",
                                              (json_int_t)c->parent, "time", (double)c->time_ns * 1e-9, "memory_bytes", (json_int_t)c->memory_bytes,
                                              "file_bytes", (json_int_t)c->file_bytes, "name", name ? name : json_null(), "kind", note.kind, "tokens",
                                              (int)note.tokens, "user", note.user, "answer", note.answer));
    }
    return list;
}

static void print_details(const entry *e, const sp_session *session, uint64_t most) {
    char own[16], shared[16], age[16];
    sp_size_text(own, e->info.own_bytes);
    sp_size_text(shared, e->info.shared_bytes);
    age_text(age, e->time_ns);
    printf("session   %s%s%s, changed %s%s\n", e->name, *e->parent ? ", branched from " : "", e->parent, age,
           *age >= '0' && *age <= '9' ? " ago" : "");
    printf("size      %s own, %s shared%s\n", own, shared, e->info.is_shared ? "; others share its pages" : "");
    printf("context   %u of %u tokens, %u turn%s\n", e->note.tokens, e->note.context, e->note.turns, e->note.turns == 1 ? "" : "s");
    printf("model     %s, fingerprint %s\n", *e->note.model ? e->note.model : "pocket", e->info.n_models ? e->info.models[0] : "none");
    printf("module    %.16s\n", e->info.module);
    if (e->info.ignored_bytes) {
        printf("ignored   %llu bytes behind the last commit: a crash left them\n", (unsigned long long)e->info.ignored_bytes);
    }
    putchar('\n');
    sp_kept_print_log(session, most);
    if (*e->note.user || *e->note.answer) {
        printf("\n> %s\n%s\n", e->note.user, e->note.answer);
    }
}

int sp_sessions_show(int argc, char **argv) {
    const char *folder = NULL;
    bool json = false;
    int32_t most = 20;
    const sp_option table[] = {sp_sessions_store_row(&folder),
                               {'n', "commits", SP_OPT_INT, &most, 0, 1e9, "N", "how many commits, the newest; 0: all (default: 20)"},
                               {0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON, with all commits"},
                               {0}};
    int at = sp_options_parse(table, "sessions show", "[OPTION...] NAME", "Shows a session: where it is, its commits, its last lines.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (argc - at != 1) {
        return sp_usage_error("sessions show", "name one session");
    }
    char store[SP_STORE_PATH_MAX];
    sp_error err;
    if (sp_store_open(folder, false, store, &err) != SP_OK) {
        return sp_sessions_failed(&err);
    }
    entry e = {.name = argv[at]};
    sp_session *session = read_entry(store, &e);
    if (!session) {
        return sp_sessions_failed(&e.problem);
    }
    if (json) {
        json_t *root = entry_json(&e);
        json_object_set_new(root, "commit_list", commits_json(session));
        print_json(root);
    } else {
        print_details(&e, session, (uint64_t)most);
    }
    sp_session_close(session);
    return SP_EXIT_OK;
}

/* ---- trees ---- */

enum { DEPTH_MAX = 64 };

/* What stands before a line: a bar for each ancestor that has more children; `first`: the line is where the branch begins. */
static void print_branch(const bool more[DEPTH_MAX], int depth, bool first) {
    for (int i = 1; i < depth + !first; i++) {
        fputs(more[i] ? "│  " : "   ", stdout);
    }
    if (depth && first) {
        fputs(more[depth] ? "├─ " : "└─ ", stdout);
    }
}

static bool is_child(const entry *e, const char *parent) {
    return !e->drawn && strcmp(e->parent, parent) == 0 && strcmp(e->name, parent) != 0;
}

static void draw_session(entry *entries, size_t n, entry *e, bool more[DEPTH_MAX], int depth) {
    char line[64];
    e->drawn = true;
    print_branch(more, depth, true);
    sp_one_line(line, sizeof line, last_line(&e->note), strlen(last_line(&e->note)));
    printf("%s", e->name);
    if (depth) {
        printf(" (from commit %llu)", (unsigned long long)e->parent_commit);
    }
    if (e->problem.status) {
        puts(", can't be read");
    } else {
        printf(", %u turn%s: %s\n", e->note.turns, e->note.turns == 1 ? "" : "s", line);
    }
    for (size_t i = 0; i < n && depth + 1 < DEPTH_MAX; i++) {
        if (is_child(&entries[i], e->name)) {
            more[depth + 1] = false;
            for (size_t j = i + 1; j < n; j++) {
                more[depth + 1] = more[depth + 1] || is_child(&entries[j], e->name);
            }
            draw_session(entries, n, &entries[i], more, depth + 1);
        }
    }
}

static bool is_there(const entry *entries, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(entries[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static void draw_store(entry *entries, size_t n) {
    bool more[DEPTH_MAX] = {0};
    for (size_t i = 0; i < n; i++) {
        if (!*entries[i].parent || !is_there(entries, n, entries[i].parent)) {
            if (*entries[i].parent) {
                printf("%s, removed\n", entries[i].parent);
                draw_session(entries, n, &entries[i], more, 1);
            } else {
                draw_session(entries, n, &entries[i], more, 0);
            }
        }
    }
    for (size_t i = 0; i < n; i++) { /* what names its parents in a circle */
        if (!entries[i].drawn) {
            draw_session(entries, n, &entries[i], more, 0);
        }
    }
}

static void draw_commit(const sp_session *session, const sp_commit *c, bool more[DEPTH_MAX], int depth) {
    uint64_t count = sp_session_count(session), children = 0;
    bool first = true;
    while (c) { /* an only child stands below its parent, without a step to the right */
        sp_note note;
        char user[48], answer[64], name[SP_COMMIT_NAME_MAX + 1];
        sp_note_read(c, &note);
        sp_one_line(name, sizeof name, c->name, strlen(c->name));
        sp_one_line(user, sizeof user, note.user, strlen(note.user));
        sp_one_line(answer, sizeof answer, note.answer, strlen(note.answer));
        print_branch(more, depth, first);
        first = false;
        printf("%llu%s%s%s%s  ", (unsigned long long)c->number, c == sp_session_get(session, 0) ? "*" : "", *name ? " [" : "", name,
               *name ? "]" : "");
        if (*user) {
            printf("%s -> %s\n", user, answer);
        } else {
            printf("(%s)\n", note.kind[0] ? note.kind : "no note");
        }
        const sp_commit *only = NULL;
        children = 0;
        for (uint64_t i = 0; i < count; i++) {
            bool child = sp_session_at(session, i)->parent == c->number;
            only = child ? sp_session_at(session, i) : only;
            children += child;
        }
        if (children != 1 || depth + 1 >= DEPTH_MAX) {
            break;
        }
        c = only;
    }
    for (uint64_t i = 0, seen = 0; children > 1 && depth + 1 < DEPTH_MAX && i < count; i++) {
        if (sp_session_at(session, i)->parent == c->number) {
            more[depth + 1] = ++seen < children;
            draw_commit(session, sp_session_at(session, i), more, depth + 1);
        }
    }
}

static int draw_commits(const char *store, const char *name) {
    bool more[DEPTH_MAX] = {0};
    sp_session *session;
    sp_error err;
    if (sp_sessions_open(store, name, true, &session, &err) != SP_OK) {
        return sp_sessions_failed(&err);
    }
    for (uint64_t i = 0; i < sp_session_count(session); i++) {
        if (!sp_session_at(session, i)->parent) {
            draw_commit(session, sp_session_at(session, i), more, 0);
        }
    }
    sp_session_close(session);
    return SP_EXIT_OK;
}

int sp_sessions_tree(int argc, char **argv) {
    const char *folder = NULL;
    const sp_option table[] = {sp_sessions_store_row(&folder), {0}};
    int at =
        sp_options_parse(table, "sessions tree", "[--store DIR] [NAME]", "Draws who branched from whom; of one session, its commits.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (argc - at > 1) {
        return sp_usage_error("sessions tree", "one name at most");
    }
    char store[SP_STORE_PATH_MAX];
    entry *entries;
    size_t n;
    sp_error err;
    if (at < argc) {
        return sp_store_open(folder, false, store, &err) == SP_OK ? draw_commits(store, argv[at]) : sp_sessions_failed(&err);
    }
    if (read_store(folder, store, &entries, &n, &err) != SP_OK) {
        return sp_sessions_failed(&err);
    }
    draw_store(entries, n);
    free_entries(entries, n);
    return SP_EXIT_OK;
}
