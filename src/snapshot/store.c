/*
 * Files of one folder that share pages. A file that others use has a second, hidden name made of its id; whoever uses it opens it by that name, so
 * that it may be removed or replaced under the name that people know. Nothing counts the users: a hidden name that no file's header lists is removed.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

#define HIDDEN ".base-"

static char *folder_of(const char *path) {
    char *copy = strdup(path), *folder = copy ? strdup(dirname(copy)) : NULL;
    free(copy);
    return folder;
}

/* The hidden name of a file in the folder of path; NULL: no memory. */
static char *hidden_path(const char *path, const uint8_t id[16]) {
    char *folder = folder_of(path), *out = folder ? malloc(strlen(folder) + sizeof HIDDEN + 40) : NULL, hex[33];
    if (out) {
        sprintf(out, "%s/" HIDDEN "%s", folder, sodium_bin2hex(hex, sizeof hex, id, 16));
    }
    free(folder);
    return out;
}

static sp_status open_base(sp_log *log, uint32_t index, sp_error *err) {
    const sp_log_base *base = &log->bases[index];
    char *path = hidden_path(log->path, base->id);
    if (!path) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_log_header h;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    log->base_fds[index] = fd;
    sp_status status = SP_OK;
    if (fd < 0) {
        status = sp_fail(err, sp_log_status_of(errno), "%s shares pages with %s, which can't be opened: %s", log->path, path, strerror(errno));
    } else if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < base->end || !sp_log_read_at(fd, &h, sizeof h, 0) ||
               sp_log_check_header(path, &h, NULL) || memcmp(h.id, base->id, sizeof h.id) != 0) {
        status = sp_fail(err, SP_ERR_FORMAT, "%s shares pages with %s, which is damaged, truncated or another file", log->path, path);
    }
    free(path);
    return status;
}

sp_status sp_log_open_bases(sp_log *log, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; !status && i < log->n_bases; i++) {
        status = open_base(log, i, err);
    }
    return status;
}

sp_status sp_log_publish(const sp_log *log, sp_error *err) {
    char *hidden = hidden_path(log->path, log->id);
    if (!hidden) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    struct stat own, other;
    bool made = !sp_snapshot_io.link(log->path, hidden);
    int problem = errno;
    /* The path may name another file by now, and a copy of this one may have got the name: then there is nothing to share. */
    bool same = (made || problem == EEXIST) && !fstat(log->fd, &own) && !stat(hidden, &other) && sp_log_same_file(&own, &other);
    if (made && !same) {
        unlink(hidden);
    }
    free(hidden);
    return same ? SP_OK
                : sp_fail(err, SP_ERR_UNSUPPORTED, "%s: its pages can't be shared: %s", log->path, made ? "it was replaced" : strerror(problem));
}

int sp_log_lock_folder(const char *path, sp_error *err) {
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    free(folder);
    while (fd >= 0 && flock(fd, LOCK_EX)) {
        if (errno != EINTR) {
            int problem = errno;
            close(fd);
            errno = problem;
            fd = -1;
        }
    }
    if (fd < 0) {
        sp_fail(err, SP_ERR_IO, "%s: its folder can't be locked: %s", path, strerror(errno));
    }
    return fd;
}

bool sp_log_same_folder(const char *a, const char *b) {
    struct stat x, y;
    char *one = folder_of(a), *two = folder_of(b);
    bool same = one && two && !stat(one, &x) && !stat(two, &y) && sp_log_same_file(&x, &y);
    free(one);
    free(two);
    return same;
}

/* Reads the header of a file in a folder. 1: it is a session's; 0: it is none; -1: it can't be told. */
static int peek(int folder, const char *name, sp_log_header *h) {
    struct stat st;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return errno == ENOENT || errno == ELOOP ? 0 : -1; /* gone meanwhile, or a symbolic link */
    }
    int result = 0;
    if (fstat(fd, &st)) {
        result = -1;
    } else if (S_ISREG(st.st_mode) && st.st_size >= (off_t)sizeof *h) {
        bool read = sp_log_read_at(fd, h, sizeof *h, 0);
        result = !read ? -1 : memcmp(h->magic, "SPSNAP\r\n", 8) != 0 ? 0 : sp_log_check_header(name, h, NULL) ? -1 : 1;
    }
    close(fd);
    return result;
}

/* Calls each for the entries of the folder that a file is in. False: the folder can't be read, or not to its end. */
static bool for_entries(const char *path, void (*each)(void *user, int folder, const char *name), void *user) {
    char *folder = folder_of(path);
    DIR *dir = folder ? opendir(folder) : NULL;
    free(folder);
    if (!dir) {
        return false;
    }
    struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(dir);
        if (entry) {
            each(user, dirfd(dir), entry->d_name);
        }
    } while (entry);
    bool whole = errno == 0;
    closedir(dir);
    return whole;
}

static bool is_hidden(const char *name) {
    return strncmp(name, HIDDEN, strlen(HIDDEN)) == 0;
}

/* Who uses the file with this id, by the headers of all sessions under the names that people know. */
typedef struct search {
    uint8_t id[16];
    uint32_t users;
    bool unknown; /* some file can't be told */
} search;

static void count_user(void *user, int folder, const char *name) {
    search *s = user;
    sp_log_header h = {.n_bases = 0};
    int kind = is_hidden(name) ? 0 : peek(folder, name, &h);
    s->unknown |= kind < 0;
    for (uint32_t i = 0; kind > 0 && i < h.n_bases; i++) {
        s->users += memcmp(h.bases[i].id, s->id, sizeof s->id) == 0;
    }
}

uint32_t sp_log_users(const char *path, const uint8_t id[16]) {
    search s = {.users = 0};
    memcpy(s.id, id, sizeof s.id);
    return for_entries(path, count_user, &s) && !s.unknown ? s.users : UINT32_MAX;
}

static void sweep(void *user, int folder, const char *name) {
    const char *path = user, *hex = name + strlen(HIDDEN);
    uint8_t id[16];
    size_t length = 0;
    bool base = is_hidden(name) && sodium_hex2bin(id, sizeof id, hex, strlen(hex), NULL, &length, NULL) == 0 && length == sizeof id;
    if (base && sp_log_users(path, id) == 0) {
        unlinkat(folder, name, 0);
    }
}

void sp_log_sweep(const char *path) {
    for_entries(path, sweep, (void *)(uintptr_t)path);
}

/* Is this the name of a temporary file whose process is gone? */
static bool is_left_behind(const char *name) {
    const char *at = strstr(name, SP_LOG_TEMPORARY);
    for (const char *next = at; next; next = strstr(next + 1, SP_LOG_TEMPORARY)) {
        at = next;
    }
    char *end;
    long pid = at && isdigit((unsigned char)at[strlen(SP_LOG_TEMPORARY)]) ? strtol(at + strlen(SP_LOG_TEMPORARY), &end, 10) : 0;
    return pid > 0 && (!*end || strcmp(end, "-2") == 0) && kill((pid_t)pid, 0) && errno == ESRCH;
}

/* Did this library write the file, and does nobody hold it, in a container that has its own process ids, say? */
static bool is_ours_and_free(int fd) {
    static const char starts[][5] = {"SPSN", "SPCR", "\x28\xb5\x2f\xfd"};
    struct stat st;
    char start[4] = {0};
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || flock(fd, LOCK_EX | LOCK_NB)) {
        return false;
    }
    int64_t n = sp_os_read_at(fd, start, sizeof start, 0);
    bool ours = n == 0;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        ours |= memcmp(start, starts[i], sizeof start) == 0;
    }
    return ours;
}

static void clear_temporary(void *user, int folder, const char *name) {
    (void)user;
    int fd = is_left_behind(name) ? openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (fd >= 0 && is_ours_and_free(fd)) {
        unlinkat(folder, name, 0);
    }
    sp_log_close_fd(fd);
}

void sp_log_clear_temporaries(const char *path) {
    for_entries(path, clear_temporary, NULL);
}

/* Opens what sp_session_remove is told to remove, locked; -1 with *err. A damaged session may go too. */
static int open_to_remove(const char *path, sp_error *err) {
    char start[8];
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        sp_fail(err, sp_log_status_of(errno), "%s: %s", path, strerror(errno));
        return -1;
    }
    if (!sp_log_read_at(fd, start, sizeof start, 0) || memcmp(start, "SPSNAP\r\n", 8) != 0) {
        sp_fail(err, SP_ERR_FORMAT, "%s: no session; it is left alone", path);
    } else if (flock(fd, LOCK_EX | LOCK_NB)) {
        sp_fail(err, SP_ERR_BUSY, "%s: another process uses it", path);
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

sp_status sp_session_remove(const char *path, sp_error *err) {
    sp_error own;
    err = err ? err : &own;
    int fd = open_to_remove(path, err);
    if (fd < 0) {
        return err->status;
    }
    int folder = sp_log_lock_folder(path, err);
    sp_status status = folder < 0 ? err->status : SP_OK;
    if (!status && unlink(path)) {
        status = sp_fail(err, SP_ERR_IO, "%s: can't be removed: %s", path, strerror(errno));
    }
    if (!status) {
        status = sp_log_sync_folder(path, err);
        sp_log_sweep(path);
    }
    sp_log_close_fd(folder);
    flock(fd, LOCK_UN);
    close(fd);
    return status;
}
