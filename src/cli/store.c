/* See store.h. */
#include "cli/store.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

static const char suffix[] = ".session";

/* ---- the folder ---- */

static sp_status make_folders(char *path, sp_error *err) {
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash) {
            *slash = 0;
        }
        bool failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        if (failed) {
            return sp_fail(err, SP_ERR_IO, "%s: can't make this folder: %s", path, strerror(errno));
        }
        if (!slash) {
            return SP_OK;
        }
        *slash = '/';
    }
}

sp_status sp_store_open(const char *folder, bool make, char path[SP_STORE_PATH_MAX], sp_error *err) {
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n;
    if (folder) {
        n = snprintf(path, SP_STORE_PATH_MAX, "%s", folder);
    } else if (data && *data == '/') {
        n = snprintf(path, SP_STORE_PATH_MAX, "%s/samepage/sessions", data);
    } else if (home && *home == '/') {
        n = snprintf(path, SP_STORE_PATH_MAX, "%s/.local/share/samepage/sessions", home);
    } else {
        return sp_fail(err, SP_ERR_NOT_FOUND, "neither XDG_DATA_HOME nor HOME is set: say where sessions are with --store DIR");
    }
    if (n <= 0 || n >= SP_STORE_PATH_MAX - SP_STORE_NAME_MAX - 16) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the store's path is %s", n <= 0 ? "empty" : "too long");
    }
    struct stat st;
    if (stat(path, &st) == 0) {
        return S_ISDIR(st.st_mode) ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: not a folder", path);
    }
    if (!make && errno == ENOENT) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "%s: no such store; samepage chat --session NAME begins one%s", path,
                       folder ? "" : ", and --store names another");
    }
    return make && errno == ENOENT ? make_folders(path, err) : sp_fail(err, SP_ERR_IO, "%s: %s", path, strerror(errno));
}

/* ---- names ---- */

static bool is_name(const char *name) {
    size_t n = strlen(name);
    bool good = n > 0 && n <= SP_STORE_NAME_MAX && *name != '.' && *name != '-';
    for (size_t i = 0; good && i < n; i++) {
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
    }
    return good;
}

sp_status sp_store_path(const char *store, const char *name, char path[SP_STORE_PATH_MAX], sp_error *err) {
    if (!is_name(name)) {
        char shown[64];
        sp_one_line(shown, sizeof shown, name, strlen(name));
        return sp_fail(err, SP_ERR_ARGUMENT, "\"%s\" can't name a session: letters, digits, '.', '_' and '-', 1 to %d of them, not '.' or '-' first",
                       shown, SP_STORE_NAME_MAX);
    }
    int n = snprintf(path, SP_STORE_PATH_MAX, "%s/%s%s", store, name, suffix);
    return n < SP_STORE_PATH_MAX ? SP_OK : sp_fail(err, SP_ERR_ARGUMENT, "the store's path is too long");
}

void sp_store_split(char *text, const char **name, const char **commit) {
    char *at = strchr(text, '@');
    *name = text;
    *commit = at ? at + 1 : NULL;
    if (at) {
        *at = 0;
    }
}

sp_status sp_store_find(const sp_session *session, const char *commit, uint64_t *number, sp_error *err) {
    char *end;
    unsigned long long n = strtoull(commit, &end, 10);
    bool is_number = isdigit((unsigned char)*commit) && !*end;
    const sp_commit *found = strcmp(commit, "head") == 0 ? sp_session_get(session, 0) : sp_session_find(session, commit);
    found = found || !is_number || n == 0 ? found : sp_session_get(session, n);
    if (!found) {
        char shown[64];
        sp_one_line(shown, sizeof shown, commit, strlen(commit));
        return sp_fail(err, SP_ERR_NOT_FOUND, "there is no commit %s: there are %llu, and what bears a name", shown,
                       (unsigned long long)sp_session_count(session));
    }
    *number = found->number;
    return SP_OK;
}

sp_status sp_store_label(sp_session *session, uint64_t number, const char *label, sp_error *err) {
    char shown[SP_COMMIT_NAME_MAX + 1];
    json_t *text = json_string(label); /* NULL: no UTF-8 */
    bool good = text && (!*label || strspn(label, "0123456789") < strlen(label)) && strcmp(label, "head") != 0;
    json_decref(text);
    if (strlen(label) <= SP_COMMIT_NAME_MAX) {
        sp_one_line(shown, sizeof shown, label, strlen(label));
        good = good && strcmp(label, shown) == 0;
    }
    return good ? sp_session_set_name(session, number, label, err)
                : sp_fail(err, SP_ERR_ARGUMENT, "a name that is no number, not \"head\", and one line of UTF-8, please");
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static sp_status add_name(char ***names, size_t *count, const char *file, sp_error *err) {
    char name[SP_STORE_NAME_MAX + 1];
    size_t n = strlen(file), tail = strlen(suffix);
    if (n <= tail || n - tail > SP_STORE_NAME_MAX || strcmp(file + n - tail, suffix) != 0) {
        return SP_OK;
    }
    snprintf(name, sizeof name, "%.*s", (int)(n - tail), file);
    if (!is_name(name)) {
        return SP_OK;
    }
    char **grown = realloc(*names, (*count + 1) * sizeof *grown);
    char *copy = grown ? strdup(name) : NULL;
    *names = grown ? grown : *names;
    if (!copy) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    grown[(*count)++] = copy;
    return SP_OK;
}

sp_status sp_store_list(const char *store, char ***names, size_t *count, sp_error *err) {
    *names = NULL;
    *count = 0;
    DIR *folder = opendir(store);
    if (!folder) {
        return sp_fail(err, SP_ERR_IO, "%s: %s", store, strerror(errno));
    }
    sp_status status = SP_OK;
    for (struct dirent *e; status == SP_OK && (e = readdir(folder));) {
        status = add_name(names, count, e->d_name, err);
    }
    closedir(folder);
    if (*count) {
        qsort(*names, *count, sizeof **names, by_text);
    }
    return status;
}

/* ---- notes ---- */

static void read_text(const json_t *root, const char *key, char *out, size_t capacity) {
    const json_t *value = json_object_get(root, key);
    if (json_is_string(value)) {
        sp_one_line(out, capacity, json_string_value(value), json_string_length(value));
    }
}

static uint64_t read_number(const json_t *root, const char *key, uint64_t most) {
    json_int_t n = json_integer_value(json_object_get(root, key));
    return n > 0 && (uint64_t)n <= most ? (uint64_t)n : 0;
}

void sp_note_read(const sp_commit *commit, sp_note *out) {
    *out = (sp_note){0};
    json_t *root = commit->note_bytes ? json_loadb(commit->note, commit->note_bytes, 0, NULL) : NULL;
    read_text(root, "session", out->session, sizeof out->session);
    out->commit = read_number(root, "commit", INT64_MAX);
    read_text(root, "origin", out->origin, sizeof out->origin);
    out->origin_commit = read_number(root, "origin_commit", INT64_MAX);
    read_text(root, "kind", out->kind, sizeof out->kind);
    read_text(root, "model", out->model, sizeof out->model);
    read_text(root, "adapters", out->adapters, sizeof out->adapters);
    out->turns = (uint32_t)read_number(root, "turns", UINT32_MAX);
    out->tokens = (uint32_t)read_number(root, "tokens", UINT32_MAX);
    out->context = (uint32_t)read_number(root, "context", UINT32_MAX);
    read_text(root, "user", out->user, sizeof out->user);
    read_text(root, "answer", out->answer, sizeof out->answer);
    json_decref(root);
}

static void set_text(json_t *root, const char *key, const char *text) {
    if (*text) {
        json_object_set_new(root, key, json_string(text)); /* text that is no UTF-8 is left out */
    }
}

char *sp_note_write(const sp_note *note) {
    json_t *root = json_pack("{s:I, s:i, s:i, s:i}", "commit", (json_int_t)note->commit, "turns", (int)note->turns, "tokens", (int)note->tokens,
                             "context", (int)note->context);
    if (!root) {
        return NULL;
    }
    set_text(root, "session", note->session);
    set_text(root, "kind", note->kind);
    if (note->origin[0]) {
        set_text(root, "origin", note->origin);
        json_object_set_new(root, "origin_commit", json_integer((json_int_t)note->origin_commit));
    }
    set_text(root, "model", note->model);
    set_text(root, "adapters", note->adapters);
    set_text(root, "user", note->user);
    set_text(root, "answer", note->answer);
    char *text = json_dumps(root, JSON_COMPACT);
    if (text && strlen(text) > SP_COMMIT_NOTE_MAX) { /* full of what JSON escapes */
        json_object_del(root, "user");
        json_object_del(root, "answer");
        free(text);
        text = json_dumps(root, JSON_COMPACT);
    }
    json_decref(root);
    return text;
}

/* ---- text ---- */

void sp_one_line(char *out, size_t capacity, const char *text, size_t length) {
    bool cut = length > capacity - 1;
    size_t n = cut ? capacity - 1 - 3 : length;
    while (cut && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i], before = i ? (unsigned char)text[i - 1] : 0;
        bool c1 = before == 0xc2 && c >= 0x80 && c < 0xa0; /* the other control characters, as UTF-8 */
        out[i] = c < 0x20 || c == 0x7f || c1 ? ' ' : text[i];
        if (c1) {
            out[i - 1] = ' ';
        }
    }
    memcpy(out + n, cut ? "..." : "", cut ? 4 : 1);
}

void sp_size_text(char out[16], uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    int unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit < 3) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 16, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}
