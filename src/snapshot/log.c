/* Creating, opening, locking and listing a log. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

static const uint8_t magic[8] = {'S', 'P', 'S', 'N', 'A', 'P', '\r', '\n'};

/* Which process holds the lock of a file; 0 where the system doesn't tell. */
static long lock_holder(int fd) {
    struct stat st;
    long pid = 0, found = 0;
    unsigned long long inode;
    char line[256];
    FILE *locks = fstat(fd, &st) ? NULL : fopen("/proc/locks", "re");
    while (locks && fgets(line, sizeof line, locks)) {
        if (sscanf(line, "%*d: FLOCK %*s %*s %ld %*x:%*x:%llu", &pid, &inode) == 2 && inode == st.st_ino) {
            found = pid;
        }
    }
    if (locks) {
        fclose(locks);
    }
    return found;
}

static sp_log *new_log(const char *path) {
    sp_log *log = calloc(1, sizeof *log);
    char *name = strdup(path);
    if (!log || !name) {
        free(log);
        free(name);
        return NULL;
    }
    log->fd = -1;
    memset(log->base_fds, -1, sizeof log->base_fds);
    log->path = name;
    return log;
}

void sp_session_close(sp_session *log) {
    if (!log) {
        return;
    }
    flock(log->fd, LOCK_UN); /* memories that map the file keep its description, and with it the lock, past close */
    sp_log_close_fd(log->fd);
    for (uint32_t i = 0; i < SP_LOG_BASES_MAX; i++) {
        sp_log_close_fd(log->base_fds[i]);
    }
    for (uint64_t i = 0; i < log->count; i++) {
        free(log->commits[i].note);
    }
    free(log->commits);
    free(log->renumbered);
    free(log->path);
    free(log);
}

void sp_log_discard(sp_log *log) {
    if (log) {
        unlink(log->path);
        sp_session_close(log);
    }
}

sp_status sp_log_sync_folder(const char *path, sp_error *err) {
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool ok = fd >= 0 && !sp_snapshot_io.sync_folder(fd);
    int problem = errno;
    sp_log_close_fd(fd);
    free(copy);
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: the folder can't be synced: %s", path, strerror(problem));
}

/* ---- creating ---- */

static sp_status write_header(sp_log *log, sp_error *err) {
    sp_log_header h = {.version = SP_LOG_VERSION, .page = SP_LOG_PAGE, .n_models = log->identity.n_models, .n_bases = log->n_bases};
    memcpy(h.magic, magic, 8);
    randombytes_buf(&h.seed, sizeof h.seed);
    randombytes_buf(h.id, sizeof h.id);
    memcpy(h.module, log->identity.module, sizeof h.module);
    memcpy(h.models, log->identity.models, (size_t)log->identity.n_models * 16);
    memcpy(h.bases, log->bases, log->n_bases * sizeof *h.bases);
    sp_log_checksum(0, &h, sizeof h - 16, h.checksum);
    log->seed = h.seed;
    log->end = sizeof h;
    memcpy(log->id, h.id, sizeof h.id);
    memcpy(log->previous, h.checksum, 16);
    if (!sp_log_write_at(log->fd, &h, sizeof h, 0) || sp_snapshot_io.sync(log->fd)) {
        return sp_fail(err, SP_ERR_IO, "%s: the header can't be written: %s", log->path, strerror(errno));
    }
    sp_log_note_written(log);
    return SP_OK;
}

sp_status sp_log_create_on(const char *path, const sp_log_identity *identity, const sp_log_base *bases, uint32_t n_bases, sp_log **out,
                           sp_error *err) {
    *out = NULL;
    if (identity->n_models > SP_SESSION_MODELS_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%u models, at most %u can be named", identity->n_models, SP_SESSION_MODELS_MAX);
    }
    sp_log *log = sodium_init() < 0 ? NULL : new_log(path);
    if (!log) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory to create %s", path);
    }
    log->identity = *identity;
    log->n_bases = n_bases;
    if (n_bases) {
        memcpy(log->bases, bases, n_bases * sizeof *bases);
    }
    log->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0) {
        sp_status status = sp_fail(err, errno == EEXIST ? SP_ERR_STATE : SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
        sp_session_close(log);
        return status;
    }
    sp_status status =
        flock(log->fd, LOCK_EX | LOCK_NB) ? sp_fail(err, SP_ERR_BUSY, "%s: can't be locked: %s", path, strerror(errno)) : sp_log_open_bases(log, err);
    status = status ? status : write_header(log, err);
    if (status) {
        sp_log_discard(log);
        return status;
    }
    *out = log;
    return SP_OK;
}

/* Under a temporary name first: whoever is killed on the way leaves no file without a header, which could not be opened. */
sp_status sp_log_create(const char *path, const sp_log_identity *identity, sp_session **out, sp_error *err) {
    *out = NULL;
    sp_log *log = NULL;
    char *temporary = sp_log_temporary_path(path), *name = strdup(path);
    sp_status status = temporary && name ? sp_log_create_on(temporary, identity, NULL, 0, &log, err)
                                         : sp_fail(err, SP_ERR_NO_MEMORY, "no memory to create %s", path);
    status = status ? status : sp_log_appear(temporary, path, err);
    free(temporary);
    if (status) {
        sp_log_discard(log);
        free(name);
        return status;
    }
    free(log->path);
    log->path = name;
    *out = log;
    return SP_OK;
}

/* ---- opening ---- */

sp_status sp_log_check_header(const char *path, const sp_log_header *h, sp_error *err) {
    uint8_t checksum[16];
    if (memcmp(h->magic, magic, 8)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: no session: its first bytes are not those of one", path);
    }
    sp_log_checksum(0, h, sizeof *h - 16, checksum);
    if (memcmp(checksum, h->checksum, 16)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: the header's checksum is wrong: the file is damaged; restore it from a copy", path);
    }
    if (h->version != SP_LOG_VERSION) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s: version %u of the format; this build reads version %u: a newer samepage wrote it", path,
                       h->version, SP_LOG_VERSION);
    }
    if (h->page != SP_LOG_PAGE || h->n_models > SP_SESSION_MODELS_MAX || h->n_bases > SP_LOG_BASES_MAX) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: pages of %u bytes, %u models and %u shared files; expected %u, at most %u and at most %u", path,
                       h->page, h->n_models, h->n_bases, SP_LOG_PAGE, SP_SESSION_MODELS_MAX, SP_LOG_BASES_MAX);
    }
    for (uint32_t i = 0; i < h->n_bases; i++) {
        if (h->bases[i].end % SP_LOG_PAGE || !h->bases[i].end) {
            return sp_fail(err, SP_ERR_FORMAT, "%s: a shared file that ends at %llu", path, (unsigned long long)h->bases[i].end);
        }
    }
    return SP_OK;
}

static sp_status read_header(sp_log *log, uint64_t file_size, sp_error *err) {
    sp_log_header h;
    if (file_size < sizeof h || !sp_log_read_at(log->fd, &h, sizeof h, 0)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: no session: it has %llu bytes, a header has %zu", log->path, (unsigned long long)file_size, sizeof h);
    }
    sp_status status = sp_log_check_header(log->path, &h, err);
    if (status) {
        return status;
    }
    log->identity.n_models = h.n_models;
    memcpy(log->identity.module, h.module, sizeof h.module);
    memcpy(log->identity.models, h.models, sizeof h.models);
    memcpy(log->id, h.id, sizeof h.id);
    memcpy(log->bases, h.bases, sizeof h.bases);
    log->n_bases = h.n_bases;
    log->seed = h.seed;
    log->end = sizeof h;
    memcpy(log->previous, h.checksum, 16);
    return sp_log_open_bases(log, err);
}

static sp_status read_commits(sp_log *log, uint64_t file_size, sp_error *err) {
    sp_log_record *record;
    sp_status status;
    while (!(status = sp_log_record_next(log, file_size, log->end, true, &record, err)) && record) {
        bool ok = sp_log_remember(log, record);
        free(record);
        if (!ok) {
            return sp_fail(err, SP_ERR_NO_MEMORY, "%s: no memory for the list of commits", log->path);
        }
    }
    log->ignored = file_size - log->end;
    /* A torn tail has no whole record in it. If there is one, an acknowledged commit before it is damaged: say so rather than lose it. */
    for (uint64_t at = log->end; !status && (at = sp_log_next_data(log->fd, at + SP_LOG_PAGE, file_size)) < file_size;) {
        status = sp_log_record_next(log, file_size, at, false, &record, err);
        if (record) {
            free(record);
            return sp_fail(err, SP_ERR_FORMAT, "%s: the record at %llu is damaged, though a whole one follows at %llu; restore the file from a copy",
                           log->path, (unsigned long long)log->end, (unsigned long long)at);
        }
    }
    return status;
}

static sp_status lock(sp_log *log, struct stat *st, sp_error *err) {
    struct stat named;
    if (fstat(log->fd, st) || !S_ISREG(st->st_mode)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: no ordinary file", log->path);
    }
    if (log->read_only) {
        return SP_OK;
    }
    if (flock(log->fd, LOCK_EX | LOCK_NB)) {
        long holder = lock_holder(log->fd);
        return holder ? sp_fail(err, SP_ERR_BUSY, "%s: another process uses it (pid %ld)", log->path, holder)
                      : sp_fail(err, SP_ERR_BUSY, "%s: another process uses it", log->path);
    }
    if (fstat(log->fd, st) || stat(log->path, &named) || !sp_log_same_file(&named, st)) {
        return sp_fail(err, SP_ERR_BUSY, "%s: was replaced while it was opened; try again", log->path);
    }
    return SP_OK;
}

sp_status sp_session_open(const char *path, bool read_only, sp_session **out, sp_error *err) {
    *out = NULL;
    struct stat st;
    sp_log *log = new_log(path);
    if (!log) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory to open %s", path);
    }
    log->read_only = read_only;
    log->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    sp_status status = log->fd >= 0 ? SP_OK
                                    : sp_fail(err, sp_log_status_of(errno), "%s: %s", path,
                                              errno == ELOOP ? "a symbolic link, which is not followed" : strerror(errno));
    status = status ? status : lock(log, &st, err);
    status = status ? status : read_header(log, (uint64_t)st.st_size, err);
    status = status ? status : read_commits(log, (uint64_t)st.st_size, err);
    if (status) {
        sp_session_close(log);
        return status;
    }
    sp_log_note_written(log);
    *out = log;
    return SP_OK;
}

/* ---- telling ---- */

const sp_log_identity *sp_log_get_identity(const sp_log *log) {
    return &log->identity;
}

uint64_t sp_session_count(const sp_session *log) {
    return log->count;
}

const sp_commit *sp_session_at(const sp_session *log, uint64_t index) {
    return index < log->count ? &log->commits[index].info : NULL;
}

const sp_commit *sp_session_get(const sp_session *log, uint64_t number) {
    number = number ? number : log->head;
    return number ? sp_session_at(log, number - 1) : NULL;
}

const sp_commit *sp_session_find(const sp_session *log, const char *name) {
    for (uint64_t i = log->count; *name && i--;) {
        if (!strcmp(log->commits[i].info.name, name)) {
            return &log->commits[i].info;
        }
    }
    return NULL;
}

void sp_session_set_progress(sp_session *log, sp_progress progress, void *user) {
    log->progress = progress;
    log->progress_user = user;
}

void sp_log_tell(const sp_log *log, const char *what, uint64_t done, uint64_t total) {
    if (log->progress) {
        log->progress(log->progress_user, what, (double)done / (double)total);
    }
}

/* Bytes of pages in other files that a commit of this one uses, each counted once. */
static uint64_t shared_bytes(const sp_log *log) {
    uint64_t total = 0;
    for (uint32_t f = 0; f < log->n_bases; f++) {
        uint64_t pages = log->bases[f].end / SP_LOG_PAGE;
        uint64_t *seen = calloc(pages / 64 + 1, sizeof *seen);
        for (uint64_t c = 1; seen && c <= log->count; c++) {
            sp_log_record *record;
            if (sp_log_record_load(log, c, &record, NULL)) {
                break;
            }
            const sp_log_entry *e = sp_log_entries(record);
            for (uint64_t i = 0; i < record->n_entries; i++, e++) {
                for (uint64_t k = e->file_page; e->file == f + 1 && k < e->file_page + e->count; k++) {
                    total += seen[k / 64] >> (k % 64) & 1 ? 0 : SP_LOG_PAGE;
                    seen[k / 64] |= 1ull << (k % 64);
                }
            }
            free(record);
        }
        free(seen);
    }
    return total;
}

void sp_session_get_info(const sp_session *log, sp_session_info *out) {
    struct stat st;
    *out = (sp_session_info){.n_models = log->identity.n_models, .head = log->head, .ignored_bytes = log->ignored, .read_only = log->read_only};
    sodium_bin2hex(out->id, sizeof out->id, log->id, sizeof log->id);
    sodium_bin2hex(out->module, sizeof out->module, log->identity.module, sizeof log->identity.module);
    for (uint32_t i = 0; i < log->identity.n_models; i++) {
        sodium_bin2hex(out->models[i], sizeof out->models[i], log->identity.models[i], 16);
    }
    if (!fstat(log->fd, &st)) {
        out->own_bytes = (uint64_t)st.st_blocks * 512;
        out->is_shared = st.st_nlink > 1;
    }
    out->shared_bytes = shared_bytes(log);
}

sp_log_anchor sp_log_get_anchor(const sp_session *log, uint64_t number) {
    sp_log_anchor anchor = {.number = number ? number : log->head};
    memcpy(anchor.file, log->id, sizeof anchor.file);
    return anchor;
}

uint64_t sp_log_find_anchor(const sp_session *log, const sp_log_anchor *anchor) {
    if (!memcmp(anchor->file, log->id, sizeof log->id)) {
        return anchor->number <= log->count ? anchor->number : 0;
    }
    bool before = log->renumbered && !memcmp(anchor->file, log->old_id, sizeof log->old_id) && anchor->number <= log->old_count;
    return before ? log->renumbered[anchor->number] : 0;
}

/* ---- marks ---- */

static sp_status mark(sp_log *log, uint64_t number, uint64_t what, const char *name, sp_error *err) {
    sp_status status = sp_log_check_write(log, NULL, err);
    if (status) {
        return status;
    }
    number = number ? number : log->head;
    if (!number || number > log->count) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit %llu, the last is %llu", log->path, (unsigned long long)number,
                       (unsigned long long)log->count);
    }
    if (strlen(name) > SP_COMMIT_NAME_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT, "a commit's name has at most %d bytes", SP_COMMIT_NAME_MAX);
    }
    sp_log_record *r = calloc(1, SP_LOG_PAGE);
    if (!r) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    memcpy(r->magic, "SPMARKED", 8);
    r->bytes = SP_LOG_PAGE, r->offset = log->end, r->end = log->end + SP_LOG_PAGE, r->number = number, r->marks = what;
    r->name_bytes = (uint32_t)strlen(name);
    memcpy(r->name, name, r->name_bytes);
    memcpy(r->previous, log->previous, 16);
    status = sp_log_write_record(log, r, err);
    free(r);
    return status;
}

sp_status sp_session_set_head(sp_session *log, uint64_t number, sp_error *err) {
    return mark(log, number, SP_LOG_MARK_HEAD, "", err);
}

sp_status sp_session_set_name(sp_session *log, uint64_t number, const char *name, sp_error *err) {
    return mark(log, number, SP_LOG_MARK_NAME, name, err);
}
