/* Commits of one log in a new one: forks and compaction. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

/* Appends commit number of from to to. Pages equal to the parent's are found by comparing. */
static sp_status copy_commit(sp_log *from, uint64_t number, sp_log *to, uint64_t parent, sp_error *err) {
    sp_log_record *record;
    sp_status status = sp_log_record_load(from, number, &record, err);
    if (status) {
        return status;
    }
    struct stat st;
    uint64_t n_pages = record->memory_bytes / SP_LOG_PAGE, *table = sp_log_table(record, n_pages), mapped = record->end;
    const uint8_t **source = calloc(n_pages ? n_pages : 1, sizeof *source);
    const uint8_t *file = !fstat(from->fd, &st) && (uint64_t)st.st_size >= mapped ? sp_os_map_readonly(from->fd, mapped) : NULL;
    if (!table || !source || !file) {
        status = sp_fail(err, file ? SP_ERR_NO_MEMORY : SP_ERR_IO, "%s: no memory, or the file was truncated", from->path);
    } else {
        for (uint64_t i = 0; i < n_pages; i++) {
            source[i] = table[i] ? file + table[i] * SP_LOG_PAGE : NULL;
        }
        sp_log_commit_input input = {.parent = parent,
                                     .size = record->memory_bytes,
                                     .meta = sp_log_entries(record) + record->n_entries,
                                     .meta_size = record->meta_bytes,
                                     .name = record->name};
        status = sp_log_append(to, &input, source, record->time_ns, NULL, err);
    }
    if (file) {
        sp_os_unmap(file, mapped);
    }
    free(source);
    free(table);
    free(record);
    return status;
}

static char *temporary_path(const char *path) {
    char *name = malloc(strlen(path) + 40);
    if (name) {
        sprintf(name, "%s.new-%ld", path, (long)getpid());
        unlink(name); /* of a process that had this id and died */
    }
    return name;
}

sp_status sp_log_fork(sp_log *log, uint64_t number, const char *path, sp_error *err) {
    char *temporary = temporary_path(path);
    sp_log *copy = NULL;
    sp_status status = temporary ? sp_log_create(temporary, &log->identity, &copy, err) : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a path");
    status = status ? status : copy_commit(log, number, copy, 0, err);
    /* link, not rename: it doesn't replace what somebody else made meanwhile. */
    if (!status && link(temporary, path)) {
        status = sp_fail(err, errno == EEXIST ? SP_ERR_STATE : SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
    }
    if (copy) {
        sp_log_discard(copy);
    }
    free(temporary);
    return status ? status : sp_log_sync_folder(path, err);
}

static sp_status copy_kept(sp_log *log, sp_log *copy, sp_error *err) {
    uint64_t *kept = calloc(log->count + 1, sizeof *kept); /* by old number: the new one, or that of the nearest kept ancestor */
    sp_status status = kept ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for %llu commits", (unsigned long long)log->count);
    for (uint64_t i = 1; !status && i <= log->count; i++) {
        const sp_log_commit_info *info = &log->commits[i - 1].info;
        kept[i] = kept[info->parent];
        if (info->name[0] || i == log->count) {
            status = copy_commit(log, i, copy, kept[i], err);
            kept[i] = copy->count;
        }
    }
    free(kept);
    return status;
}

sp_status sp_log_compact(sp_log *log, sp_error *err) {
    char *temporary = temporary_path(log->path);
    sp_log *copy = NULL;
    sp_status status = temporary ? sp_log_create(temporary, &log->identity, &copy, err) : sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a path");
    status = status ? status : copy_kept(log, copy, err);
    if (!status && sp_snapshot_io.rename(temporary, log->path)) {
        status = sp_fail(err, SP_ERR_IO, "%s: can't be replaced: %s", log->path, strerror(errno));
    }
    free(temporary);
    if (status) {
        if (copy) {
            sp_log_discard(copy);
        }
        return status;
    }
    /* The new file, with its lock, takes the old one's place in the handle. */
    sp_log old = *log;
    *log = *copy;
    log->path = old.path;
    old.path = copy->path;
    *copy = old;
    sp_log_close(copy);
    return sp_log_sync_folder(log->path, err);
}
