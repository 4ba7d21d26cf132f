/* Creating, opening, locking and listing a log. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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
    if (log) {
        log->fd = -1;
        log->path = strdup(path);
        if (!log->path) {
            free(log);
            return NULL;
        }
    }
    return log;
}

void sp_log_close(sp_log *log) {
    if (!log) {
        return;
    }
    if (log->fd >= 0) {
        flock(log->fd, LOCK_UN); /* memories that map the file keep its description, and with it the lock, past close */
        close(log->fd);
    }
    free(log->commits);
    free(log->path);
    free(log);
}

void sp_log_discard(sp_log *log) {
    unlink(log->path);
    sp_log_close(log);
}

sp_status sp_log_sync_folder(const char *path, sp_error *err) {
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    bool ok = fd >= 0 && !sp_snapshot_io.sync(fd);
    int problem = errno;
    if (fd >= 0) {
        close(fd);
    }
    free(copy);
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: the folder can't be synced: %s", path, strerror(problem));
}

static sp_status write_header(sp_log *log, const sp_log_identity *identity, sp_error *err) {
    sp_log_header h = {.version = SP_LOG_VERSION, .page = SP_LOG_PAGE, .n_models = identity->n_models};
    memcpy(h.magic, magic, 8);
    randombytes_buf(&h.seed, sizeof h.seed);
    memcpy(h.module, identity->module, sizeof h.module);
    memcpy(h.models, identity->models, (size_t)identity->n_models * 16);
    sp_log_checksum(0, &h, sizeof h - 16, h.checksum);
    log->identity = *identity;
    log->seed = h.seed;
    log->end = sizeof h;
    memcpy(log->previous, h.checksum, 16);
    if (!sp_log_write_at(log->fd, &h, sizeof h, 0) || sp_snapshot_io.sync(log->fd)) {
        return sp_fail(err, SP_ERR_IO, "%s: the header can't be written: %s", log->path, strerror(errno));
    }
    return sp_log_sync_folder(log->path, err);
}

sp_status sp_log_create(const char *path, const sp_log_identity *identity, sp_log **out, sp_error *err) {
    *out = NULL;
    if (identity->n_models > SP_LOG_MODELS_MAX || sodium_init() < 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%u models, at most %u can be named", identity->n_models, SP_LOG_MODELS_MAX);
    }
    sp_log *log = new_log(path);
    if (!log) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory to create %s", path);
    }
    log->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0) {
        sp_status status = sp_fail(err, errno == EEXIST ? SP_ERR_STATE : SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
        sp_log_close(log);
        return status;
    }
    sp_status status = flock(log->fd, LOCK_EX | LOCK_NB) ? sp_fail(err, SP_ERR_BUSY, "%s: can't be locked: %s", path, strerror(errno))
                                                         : write_header(log, identity, err);
    if (status) {
        sp_log_discard(log);
        return status;
    }
    *out = log;
    return SP_OK;
}

static sp_status read_header(sp_log *log, uint64_t file_size, sp_error *err) {
    sp_log_header h;
    uint8_t checksum[16];
    if (file_size < sizeof h || !sp_log_read_at(log->fd, &h, sizeof h, 0) || memcmp(h.magic, magic, 8)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: no snapshot file: its first bytes are not those of one", log->path);
    }
    sp_log_checksum(0, &h, sizeof h - 16, checksum);
    if (memcmp(checksum, h.checksum, 16)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: the header's checksum is wrong: damaged, or of another version than %u", log->path, SP_LOG_VERSION);
    }
    if (h.version != SP_LOG_VERSION) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "%s: version %u of the format; this build reads %u", log->path, h.version, SP_LOG_VERSION);
    }
    if (h.page != SP_LOG_PAGE || h.n_models > SP_LOG_MODELS_MAX || h.zero) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: pages of %u bytes and %u models; expected %u and at most %u", log->path, h.page, h.n_models,
                       SP_LOG_PAGE, SP_LOG_MODELS_MAX);
    }
    log->identity.n_models = h.n_models;
    memcpy(log->identity.module, h.module, sizeof h.module);
    memcpy(log->identity.models, h.models, sizeof h.models);
    log->seed = h.seed;
    log->end = sizeof h;
    memcpy(log->previous, h.checksum, 16);
    return SP_OK;
}

static sp_status read_commits(sp_log *log, uint64_t file_size, sp_error *err) {
    sp_log_record *record;
    while ((record = sp_log_record_next(log, file_size, log->end, true))) {
        bool ok = sp_log_remember(log, record);
        free(record);
        if (!ok) {
            return sp_fail(err, SP_ERR_NO_MEMORY, "%s: no memory for the list of commits", log->path);
        }
    }
    log->ignored = file_size - log->end;
    /* A torn tail has no whole record in it. If there is one, an acknowledged commit before it is damaged: say so rather than lose it. */
    for (uint64_t at = log->end + SP_LOG_PAGE; at < file_size; at += SP_LOG_PAGE) {
        if ((record = sp_log_record_next(log, file_size, at, false))) {
            free(record);
            return sp_fail(err, SP_ERR_FORMAT, "%s: the record at %llu is damaged, though a whole one follows at %llu; restore the file from a copy",
                           log->path, (unsigned long long)log->end, (unsigned long long)at);
        }
    }
    return SP_OK;
}

static sp_status lock(sp_log *log, struct stat *st, sp_error *err) {
    struct stat named;
    if (fstat(log->fd, st) || !S_ISREG(st->st_mode)) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: no ordinary file", log->path);
    }
    if (flock(log->fd, LOCK_EX | LOCK_NB)) {
        return sp_fail(err, SP_ERR_BUSY, "%s: another process uses it (pid %ld)", log->path, lock_holder(log->fd));
    }
    if (fstat(log->fd, st) || stat(log->path, &named) || named.st_ino != st->st_ino || named.st_dev != st->st_dev) {
        return sp_fail(err, SP_ERR_BUSY, "%s: was replaced while it was opened; try again", log->path);
    }
    return SP_OK;
}

sp_status sp_log_open(const char *path, sp_log **out, sp_error *err) {
    *out = NULL;
    struct stat st;
    sp_log *log = new_log(path);
    if (!log) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory to open %s", path);
    }
    log->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    sp_status status = log->fd >= 0 ? SP_OK : sp_fail(err, errno == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO, "%s: %s", path, strerror(errno));
    status = status ? status : lock(log, &st, err);
    status = status ? status : read_header(log, (uint64_t)st.st_size, err);
    status = status ? status : read_commits(log, (uint64_t)st.st_size, err);
    if (status) {
        sp_log_close(log);
        return status;
    }
    *out = log;
    return SP_OK;
}

const sp_log_identity *sp_log_get_identity(const sp_log *log) {
    return &log->identity;
}

uint64_t sp_log_ignored_bytes(const sp_log *log) {
    return log->ignored;
}

uint64_t sp_log_count(const sp_log *log) {
    return log->count;
}

const sp_log_commit_info *sp_log_at(const sp_log *log, uint64_t index) {
    return index < log->count ? &log->commits[index].info : NULL;
}

const sp_log_commit_info *sp_log_by_number(const sp_log *log, uint64_t number) {
    return number ? sp_log_at(log, number - 1) : NULL;
}

const sp_log_commit_info *sp_log_by_name(const sp_log *log, const char *name) {
    for (uint64_t i = log->count; *name && i--;) {
        if (!strcmp(log->commits[i].info.name, name)) {
            return &log->commits[i].info;
        }
    }
    return NULL;
}
