/* Commits of one log in a new one: forks, compaction, and what is exported. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

/* Files are numbered as in entries: 0 is the log itself. */
typedef struct copier {
    sp_log *from, *to;
    bool keep[1 + SP_LOG_BASES_MAX];       /* pages of this file stay where they are */
    uint32_t number[1 + SP_LOG_BASES_MAX]; /* of a kept file in the new log */
    uint64_t *where[1 + SP_LOG_BASES_MAX]; /* of others: the place in the new log of each page that was copied, 0: not yet */
} copier;

static void copier_free(copier *c) {
    for (uint32_t f = 0; f <= SP_LOG_BASES_MAX; f++) {
        free(c->where[f]);
    }
}

static sp_status copier_open(copier *c, sp_log *from, sp_error *err) {
    c->from = from;
    for (uint32_t f = 0; f <= from->n_bases; f++) {
        uint64_t pages = (f ? from->bases[f - 1].end : from->end) / SP_LOG_PAGE;
        c->where[f] = c->keep[f] ? NULL : calloc(pages + 1, sizeof(uint64_t));
        if (!c->keep[f] && !c->where[f]) {
            return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a table of %llu pages", (unsigned long long)pages);
        }
    }
    return SP_OK;
}

/* Where the pages of the old table are in the new log, as far as they are there. */
static void translate(const copier *c, const uint64_t *old, uint64_t *table, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        uint32_t f = sp_log_place_file(old[i]);
        uint64_t page = sp_log_place_page(old[i]);
        if (!old[i]) {
            table[i] = 0;
        } else if (c->keep[f]) {
            table[i] = sp_log_place(c->number[f], page);
        } else {
            table[i] = c->where[f][page] ? c->where[f][page] : SP_LOG_NEW_PAGE;
        }
    }
}

/* Appends commit number to the new log. */
static sp_status copy_commit(copier *c, uint64_t number, uint64_t parent, sp_error *err) {
    sp_log_record *record;
    sp_status status = sp_log_record_load(c->from, number, &record, err);
    if (status) {
        return status;
    }
    uint64_t n_pages = record->memory_bytes / SP_LOG_PAGE, n_side = record->side_bytes / SP_LOG_PAGE, n = n_pages + n_side;
    uint64_t *old = sp_log_table(record, n_pages, n_side), *table = calloc(n + 1, sizeof *table);
    if (!old || !table) {
        status = sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a table of %llu pages", (unsigned long long)n);
    } else {
        translate(c, old, table, n);
        sp_log_commit_input input = {.parent = parent,
                                     .size = record->memory_bytes,
                                     .side_size = record->side_bytes,
                                     .meta = sp_log_meta(record),
                                     .meta_size = record->meta_bytes,
                                     .name = c->from->commits[record->number - 1].info.name,
                                     .note = sp_log_note(record),
                                     .note_size = record->note_bytes};
        sp_log_draft draft = {
            .input = &input, .n_pages = n_pages, .n_side = n_side, .table = table, .from = c->from, .from_table = old, .time_ns = record->time_ns};
        status = sp_log_append(c->to, &draft, err);
        for (uint64_t i = 0; !status && i < n; i++) {
            if (old[i] && !c->keep[sp_log_place_file(old[i])]) {
                c->where[sp_log_place_file(old[i])][sp_log_place_page(old[i])] = table[i];
            }
        }
    }
    free(table);
    free(old);
    free(record);
    return status;
}

char *sp_log_temporary_path(const char *path) {
    char *name = malloc(strlen(path) + 40);
    sp_log_clear_temporaries(path);
    if (name) {
        sprintf(name, "%s" SP_LOG_TEMPORARY "%ld", path, (long)getpid());
        unlink(name); /* of a process that had this id and died */
    }
    return name;
}

sp_status sp_log_appear(const char *temporary, const char *path, sp_error *err) {
    /* link, not rename: it doesn't replace what somebody else made meanwhile. */
    bool linked = !sp_snapshot_io.link(temporary, path);
    if (!linked && (errno == EPERM || errno == ENOTSUP || errno == EMLINK)) {
        linked = access(path, F_OK) ? !sp_snapshot_io.rename(temporary, path) : (errno = EEXIST, false);
    }
    if (!linked) {
        return sp_fail(err, errno == EEXIST ? SP_ERR_STATE : SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
    }
    unlink(temporary);
    sp_status status = sp_log_sync_folder(path, err);
    if (status) {
        unlink(path); /* who is told that it failed finds nothing there */
    }
    return status;
}

/* ---- forks ---- */

/* Keeps the files that the commit uses. False: there are too many. */
static bool list_bases(copier *c, sp_log_record *record, sp_log_base bases[SP_LOG_BASES_MAX], uint32_t *n) {
    bool used[1 + SP_LOG_BASES_MAX] = {false};
    const sp_log_entry *e = sp_log_entries(record);
    for (uint64_t i = 0; i < record->n_entries; i++, e++) {
        used[e->file] = true;
    }
    *n = 0;
    for (uint32_t f = 0; f <= c->from->n_bases; f++) {
        c->keep[f] = true;
        if (!used[f]) {
            continue;
        }
        if (*n == SP_LOG_BASES_MAX) {
            return false;
        }
        if (f) {
            bases[*n] = c->from->bases[f - 1];
        } else {
            bases[*n] = (sp_log_base){.end = c->from->end, .records = c->from->records};
            memcpy(bases[*n].id, c->from->id, 16);
            memcpy(bases[*n].checksum, c->from->previous, 16);
        }
        c->number[f] = ++*n;
    }
    return true;
}

/* A log that shares the commit's pages. SP_ERR_UNSUPPORTED: that can't be here. */
static sp_status fork_shared(sp_log *log, uint64_t number, const char *path, sp_log **out, sp_error *err) {
    sp_log_record *record;
    copier c = {.from = log};
    sp_log_base bases[SP_LOG_BASES_MAX];
    uint32_t n;
    sp_status status = sp_log_record_load(log, number, &record, err);
    if (status) {
        return status;
    }
    number = record->number;
    status = list_bases(&c, record, bases, &n) ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "too many shared files");
    free(record);
    status = status ? status : sp_log_publish(log, err);
    status = status ? status : sp_log_create_on(path, &log->identity, bases, n, out, err);
    c.to = *out;
    return status ? status : copy_commit(&c, number, 0, err);
}

sp_status sp_log_copy_alone(sp_log *log, uint64_t number, const char *path, sp_log **out, sp_error *err) {
    copier c = {.from = log};
    sp_status status = sp_log_create_on(path, &log->identity, NULL, 0, out, err);
    status = status ? status : copier_open(&c, log, err);
    c.to = *out;
    if (!status && number) {
        status = copy_commit(&c, number, 0, err);
    }
    for (uint64_t i = 1; !status && !number && i <= log->count; i++) {
        sp_log_tell(log, "copying", i - 1, log->count);
        status = copy_commit(&c, i, log->commits[i - 1].info.parent, err);
    }
    if (!status && !number && log->head != log->count) {
        status = sp_session_set_head(c.to, log->head, err);
    }
    copier_free(&c);
    return status;
}

sp_status sp_session_fork(sp_session *log, uint64_t number, const char *path, sp_error *err) {
    number = number ? number : log->head;
    char *temporary = sp_log_temporary_path(path);
    sp_log *copy = NULL;
    sp_error own;
    err = err ? err : &own;
    sp_status status = temporary ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    int folder = status ? -1 : sp_log_lock_folder(path, err);
    status = status ? status : folder < 0 ? err->status : SP_OK;
    if (!status) {
        status = sp_log_same_folder(log->path, path) ? fork_shared(log, number, temporary, &copy, err) : SP_ERR_UNSUPPORTED;
        if (status == SP_ERR_UNSUPPORTED) {
            status = number ? sp_log_copy_alone(log, number, temporary, &copy, err)
                            : sp_fail(err, SP_ERR_NOT_FOUND, "%s: there is no commit yet", log->path);
        }
    }
    status = status ? status : sp_log_appear(temporary, path, err);
    sp_log_discard(copy);
    if (status && folder >= 0) {
        sp_log_sweep(path); /* the parent's hidden name, where it has no other use */
    }
    sp_log_close_fd(folder);
    free(temporary);
    return status;
}

/* ---- compaction ---- */

/* Pages of files that only this one uses any longer are taken over; those of others stay shared. */
static void keep_shared(copier *c, const sp_log *log, sp_log_base bases[SP_LOG_BASES_MAX], uint32_t *n) {
    *n = 0;
    for (uint32_t i = 0; i < log->n_bases; i++) {
        struct stat st;
        bool alive = fstat(log->base_fds[i], &st) || st.st_nlink > 1 || sp_log_users(log->path, log->bases[i].id) > 1;
        if (alive) {
            c->keep[i + 1] = true;
            bases[*n] = log->bases[i];
            c->number[i + 1] = ++*n;
        }
    }
}

/* renumbered[old] is the new number of a commit, 0 if it is dropped. */
static sp_status copy_kept(copier *c, uint64_t *renumbered, sp_error *err) {
    sp_log *log = c->from;
    uint64_t *ancestor = calloc(log->count + 1, sizeof *ancestor); /* the new number of the commit, or of its nearest kept ancestor */
    sp_status status = ancestor ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for %llu commits", (unsigned long long)log->count);
    for (uint64_t i = 1; !status && i <= log->count; i++) {
        const sp_commit *info = &log->commits[i - 1].info;
        ancestor[i] = ancestor[info->parent];
        if (info->name[0] || i == log->head) {
            sp_log_tell(log, "compacting", i - 1, log->count);
            status = copy_commit(c, i, ancestor[i], err);
            renumbered[i] = ancestor[i] = c->to->count;
        }
    }
    if (!status && log->head && renumbered[log->head] != c->to->count) {
        status = sp_session_set_head(c->to, renumbered[log->head], err);
    }
    free(ancestor);
    return status;
}

static sp_status write_compacted(sp_log *log, const char *temporary, uint64_t *renumbered, sp_log **out, sp_error *err) {
    copier c = {.from = log};
    sp_log_base bases[SP_LOG_BASES_MAX];
    uint32_t n;
    keep_shared(&c, log, bases, &n);
    sp_status status = sp_log_create_on(temporary, &log->identity, bases, n, out, err);
    status = status ? status : copier_open(&c, log, err);
    c.to = *out;
    status = status ? status : copy_kept(&c, renumbered, err);
    copier_free(&c);
    if (!status && sp_snapshot_io.rename(temporary, log->path)) {
        status = sp_fail(err, SP_ERR_IO, "%s: can't be replaced: %s", log->path, strerror(errno));
    }
    return status;
}

/* The new file, with its lock, takes the old one's place in the handle. */
static void take_over(sp_log *log, sp_log *copy, uint64_t *renumbered) {
    sp_log old = *log;
    *log = *copy;
    log->path = old.path;
    log->progress = old.progress;
    log->progress_user = old.progress_user;
    memcpy(log->old_id, old.id, sizeof log->old_id);
    log->renumbered = renumbered;
    log->old_count = old.count;
    old.path = copy->path;
    *copy = old;
    sp_session_close(copy);
}

sp_status sp_session_compact(sp_session *log, sp_error *err) {
    sp_error own;
    err = err ? err : &own;
    sp_status status = sp_log_check_write(log, NULL, err);
    if (status) {
        return status;
    }
    char *temporary = sp_log_temporary_path(log->path);
    uint64_t *renumbered = calloc(log->count + 1, sizeof *renumbered);
    sp_log *copy = NULL;
    status = temporary && renumbered ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    int folder = status ? -1 : sp_log_lock_folder(log->path, err);
    status = status ? status : folder < 0 ? err->status : write_compacted(log, temporary, renumbered, &copy, err);
    if (status) {
        sp_log_discard(copy);
        free(renumbered);
    } else {
        take_over(log, copy, renumbered);
        status = sp_log_sync_folder(log->path, err);
        sp_log_sweep(log->path);
    }
    sp_log_close_fd(folder);
    free(temporary);
    return status;
}
