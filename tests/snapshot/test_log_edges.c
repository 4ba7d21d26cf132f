/*
 * The log at its edges: arguments that can't be, files that somebody else changes while they are open, what is shared and goes missing, and calls of
 * the system that fail where no other test lets them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

enum { SIZE = 128 * SP_LOG_PAGE };
static char folder[48], path[64], other[64], third[64];
static const sp_log_identity identity = {.module = {1}, .n_models = 1};
static sp_io system_io;
static sp_error said;
static uint8_t memory[SIZE] __attribute__((aligned(65536)));

/* What the tested code calls instead of the system's: something happens just before. */
static void (*before_flock)(void), (*before_pread)(int fd, off_t offset);
int flock(int fd, int operation) {
    if (before_flock) {
        before_flock();
    }
    return (int)syscall(SYS_flock, fd, operation);
}
static int fail_read; /* the nth from now on; 0: none */
ssize_t pread(int fd, void *bytes, size_t size, off_t offset) {
    if (fail_read && --fail_read == 0) {
        errno = EIO;
        return -1;
    }
    if (before_pread) {
        before_pread(fd, offset);
    }
    return syscall(SYS_pread64, fd, bytes, size, offset);
}

static bool no_mappings; /* of files */
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    if (no_mappings && fd >= 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
static bool of_others; /* processes belong to somebody else */
int kill(pid_t pid, int signal) {
    errno = EPERM;
    return of_others ? -1 : (int)syscall(SYS_kill, pid, signal);
}
static const char *vanishing; /* before it is opened by this name */
int openat(int dir, const char *name, int flags, ...) {
    if (vanishing && strcmp(name, vanishing) == 0) {
        unlinkat(dir, name, 0);
    }
    return (int)syscall(SYS_openat, dir, name, flags, 0600);
}

static void empty(void) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (unlinkat(dirfd(dir), e->d_name, 0) && e->d_name[0] != '.') {
            unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
}

static sp_status commit(sp_session *log, uint64_t parent, const char *name) {
    const sp_log_commit_input input = {.parent = parent, .base = memory, .size = SIZE, .name = name};
    return sp_log_commit(log, &input, NULL, &said);
}

/* A log of one long run and a page that differs in each commit. */
static sp_session *fresh(const char *name, uint64_t commits) {
    sp_session *log;
    memset(memory, 7, SIZE);
    assert_int_equal(sp_log_create(name, &identity, &log, &said), SP_OK);
    for (uint64_t i = 1; i <= commits; i++) {
        memory[5] = (uint8_t)i;
        assert_int_equal(commit(log, i - 1, NULL), SP_OK);
    }
    return log;
}

static sp_session *opened(const char *name) {
    sp_session *log;
    if (sp_session_open(name, false, &log, &said)) {
        fail_msg("%s", said.message);
    }
    return log;
}

static void says(sp_status got, sp_status status, const char *words) {
    if (got != status || (status && !strstr(said.message, words))) {
        fail_msg("%s: \"%s\"; should be %s: \"%s\"", sp_status_name(got), said.message, sp_status_name(status), words);
    }
}

static void write_file(const char *name, const void *bytes, size_t size, off_t offset) {
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && pwrite(fd, bytes, size, offset) == (ssize_t)size);
    close(fd);
}

/* ---- arguments ---- */

static void arguments(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1);
    char name[SP_COMMIT_NAME_MAX + 2];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    const struct {
        sp_log_commit_input input;
        sp_status status;
        const char *words;
    } bad[] = {
        {{.parent = 2}, SP_ERR_NOT_FOUND, "there is no commit 2, the last is 1"},
        {{.base = memory, .size = 100}, SP_ERR_ARGUMENT, "whole pages, not 100"},
        {{.side = memory, .side_size = 100}, SP_ERR_ARGUMENT, "whole pages"},
        {{.name = name}, SP_ERR_ARGUMENT, "name at most"},
        {{.note = memory, .note_size = SP_COMMIT_NOTE_MAX + 1}, SP_ERR_ARGUMENT, "note at most"},
        {{.base = memory, .size = ((uint64_t)SP_LOG_PAGES_MAX + 16) * SP_LOG_PAGE}, SP_ERR_LIMIT, "more than the format has"},
        {{.side = memory, .side_size = ((uint64_t)SP_LOG_SIDE_MAX + 1) * SP_LOG_PAGE}, SP_ERR_LIMIT, "more than the format has"},
        {{.meta = memory, .meta_size = SP_LOG_META_MAX + 1}, SP_ERR_LIMIT, "more than the format has"},
        {{.size = SIZE}, SP_ERR_ARGUMENT, "without a memory"},
        {{.side_size = SP_LOG_PAGE}, SP_ERR_ARGUMENT, "without a memory"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        says(sp_log_commit(log, &bad[i].input, NULL, &said), bad[i].status, bad[i].words);
    }
    sp_log_identity many = {.n_models = SP_SESSION_MODELS_MAX + 1};
    sp_session *none;
    says(sp_log_create(other, &many, &none, &said), SP_ERR_ARGUMENT, "can be named");
    says(sp_session_set_head(log, 2, &said), SP_ERR_NOT_FOUND, "there is no commit 2");
    says(sp_session_set_name(log, 0, name, &said), SP_ERR_ARGUMENT, "name has at most");
    says(sp_session_set_name(log, 0, "it", &said), SP_OK, "");
    assert_non_null(sp_session_find(log, "it"));
    assert_true(!sp_session_find(log, "") && !sp_session_find(log, "that"));
    assert_true(sp_session_get(log, 0) == sp_session_at(log, 0) && !sp_session_at(log, 1) && !sp_session_get(log, 2));
    sp_log_blobs blobs;
    says(sp_log_read_blobs(log, 2, &blobs, &said), SP_ERR_NOT_FOUND, "there is no commit 2");
    sp_session_close(log);
    says(sp_session_open(folder, true, &log, &said), SP_ERR_FORMAT, "no ordinary file");
    says(sp_session_open(other, true, &log, &said), SP_ERR_NOT_FOUND, "No such file");
    says(sp_session_import(other, third, NULL, NULL, NULL, &said), SP_ERR_NOT_FOUND, "No such file");
    says(sp_session_remove(other, &said), SP_ERR_NOT_FOUND, "No such file");
    assert_int_equal(sp_session_remove(other, NULL), SP_ERR_NOT_FOUND);
    assert_int_equal(symlink(path, other), 0);
    says(sp_session_open(other, true, &log, &said), SP_ERR_IO, "a symbolic link");
    unlink(other);
    write_file(other, "Dear Ada, how do you do?", 24, 0);
    says(sp_session_remove(other, &said), SP_ERR_FORMAT, "no session");
    assert_int_equal(sp_log_create_on(path, &identity, NULL, 0, &log, &said), SP_ERR_STATE);
}

/* A session without a commit is one. */
static void without_commits(void **state) {
    (void)state;
    sp_session *log = fresh(path, 0);
    sp_log_blobs blobs;
    assert_null(sp_session_get(log, 0));
    says(sp_log_read_blobs(log, 0, &blobs, &said), SP_ERR_NOT_FOUND, "there is no commit yet");
    says(sp_session_set_head(log, 0, &said), SP_ERR_NOT_FOUND, "there is no commit");
    says(sp_session_fork(log, 0, other, &said), SP_ERR_NOT_FOUND, "there is no commit");
    says(sp_session_fork(log, 0, "/tmp/samepage-none", &said), SP_ERR_NOT_FOUND, "there is no commit yet"); /* in another folder */
    says(sp_session_compact(log, &said), SP_OK, "");
    says(sp_session_export(log, other, NULL, &said), SP_OK, "");
    sp_session_close(log);
    sp_session_close(opened(other));
}

static void anchors(void **state) {
    (void)state;
    sp_session *log = fresh(path, 3), *second = fresh(other, 1);
    sp_log_anchor head = sp_log_get_anchor(log, 0), two = sp_log_get_anchor(log, 2), none = head;
    none.number = 9;
    assert_int_equal(head.number, 3);
    assert_true(sp_log_find_anchor(log, &two) == 2 && sp_log_find_anchor(log, &none) == 0 && sp_log_find_anchor(second, &two) == 0);
    assert_int_equal(sp_session_compact(log, &said), SP_OK);
    assert_true(sp_log_find_anchor(log, &head) == 1 && sp_log_find_anchor(log, &two) == 0 && sp_log_find_anchor(log, &none) == 0);
    sp_log_anchor foreign = sp_log_get_anchor(second, 1);
    assert_int_equal(sp_log_find_anchor(log, &foreign), 0);
    sp_session_close(log);
    sp_session_close(second);
}

/* The head is not the last commit, in what is copied and in what is compacted. */
static void heads(void **state) {
    (void)state;
    sp_session *log = fresh(path, 3), *copy;
    assert_int_equal(sp_session_set_name(log, 3, "kept", &said), SP_OK);
    assert_int_equal(sp_session_set_head(log, 1, &said), SP_OK);
    assert_int_equal(sp_session_export(log, other, NULL, &said), SP_OK);
    copy = opened(other);
    assert_int_equal(sp_session_get(copy, 0)->number, 1);
    sp_session_close(copy);
    assert_int_equal(sp_session_compact(log, &said), SP_OK);
    assert_true(sp_session_count(log) == 2 && sp_session_get(log, 0)->number == 1);
    sp_session_close(log);
}

/* More commits than the list begins with; a memory that is smaller than its parent; one that is smaller than what is thawed. */
static void sizes(void **state) {
    (void)state;
    sp_session *log = fresh(path, 20);
    const sp_log_commit_input small = {.parent = 20, .base = memory, .size = SIZE / 2};
    assert_int_equal(sp_log_commit(log, &small, NULL, &said), SP_OK);
    sp_memory *m;
    assert_int_equal(sp_memory_create(SIZE / 2, SIZE, 65536, &m, &said), SP_OK);
    says(sp_log_map(log, 20, m, 0, &said), SP_ERR_ARGUMENT, "a memory of");
    says(sp_log_map(log, 21, m, SIZE, &said), SP_ERR_ARGUMENT, "a memory of");
    says(sp_log_map(log, 21, m, SIZE / 2, &said), SP_OK, "");
    assert_memory_equal(sp_memory_base(m), memory, SIZE / 2);
    sp_memory_destroy(m);
    sp_session_close(log);
    log = opened(path);
    assert_int_equal(sp_session_count(log), 21);
    sp_session_close(log);
}

/* More runs than a process may map: those that are short are read. */
static void many_runs(void **state) {
    (void)state;
    enum { RUNS = 16390 };
    const uint64_t size = (2ull * RUNS + 16) / 16 * 16 * SP_LOG_PAGE;
    sp_memory *m, *thawed;
    sp_session *log;
    assert_int_equal(sp_memory_create(size, size, 65536, &m, &said), SP_OK);
    for (uint64_t i = 0; i < RUNS; i++) {
        sp_memory_base(m)[2 * i * SP_LOG_PAGE] = (uint8_t)(i % 255 + 1);
    }
    assert_int_equal(sp_log_create(path, &identity, &log, &said), SP_OK);
    const sp_log_commit_input input = {.base = sp_memory_base(m), .size = size};
    assert_int_equal(sp_log_commit(log, &input, NULL, &said), SP_OK);
    assert_int_equal(sp_memory_create(size, size, 65536, &thawed, &said), SP_OK);
    says(sp_log_map(log, 1, thawed, 0, &said), SP_OK, "");
    assert_memory_equal(sp_memory_base(m), sp_memory_base(thawed), size);
    sp_log_remap(log, 1, m); /* none is long enough: nothing changes */
    assert_memory_equal(sp_memory_base(m), sp_memory_base(thawed), size);
    sp_memory_destroy(thawed);
    sp_memory_destroy(m);
    sp_session_close(log);
}

/* ---- others change files while they are open ---- */

static void replaced(void) {
    rename(other, path);
    before_flock = NULL;
}

static off_t changed_at;
static int reads_left;
static void damaged(int fd, off_t offset) {
    (void)fd;
    if (offset == changed_at && --reads_left == 0) {
        write_file(path, "X", 1, changed_at + 100);
    }
}

static void changed_by_others(void **state) {
    (void)state;
    sp_session *log = fresh(path, 2);
    uint64_t last = log->commits[1].offset;
    sp_session_close(log);
    sp_session_close(fresh(other, 1));
    before_flock = replaced;
    says(sp_session_open(path, false, &log, &said), SP_ERR_BUSY, "was replaced while it was opened");
    empty();
    /* A record changes between two looks at it, and after it was checked. */
    sp_session_close(fresh(path, 2));
    changed_at = (off_t)last, reads_left = 2, before_pread = damaged;
    assert_int_equal(sp_session_open(path, false, &log, &said), SP_OK);
    before_pread = NULL;
    assert_int_equal(sp_session_count(log), 1);
    sp_session_close(log);
    empty();
    log = fresh(path, 2);
    sp_log_blobs blobs;
    uint64_t bytes = 8192;
    write_file(path, &bytes, sizeof bytes, (off_t)last + 8);
    says(sp_log_read_blobs(log, 2, &blobs, &said), SP_ERR_FORMAT, "");
    sp_memory *m;
    assert_int_equal(sp_memory_create(SIZE, SIZE, 65536, &m, &said), SP_OK);
    assert_int_equal(truncate(path, (off_t)log->commits[0].offset + SP_LOG_PAGE), 0);
    says(sp_log_map(log, 1, m, 0, &said), SP_ERR_FORMAT, "shorter than it was");
    sp_log_remap(log, 2, m); /* of a record that can't be read: nothing changes */
    sp_memory_destroy(m);
    sp_session_close(log);
}

/* Each read of a thaw fails, once where files can be mapped and once where the process has no mapping left. */
static void failing_reads(void **state) {
    (void)state;
    sp_session *log = fresh(path, 2);
    memory[SIZE - 1] = 1; /* the long run between begins and ends within a larger page */
    assert_int_equal(commit(log, 2, NULL), SP_OK);
    sp_memory *m = NULL;
    for (int i = 0; i < 2; i++) {
        sp_status status = SP_ERR_IO;
        for (int nth = 1; status; nth++) {
            sp_memory_destroy(m);
            assert_int_equal(sp_memory_create(SIZE, SIZE, 65536, &m, &said), SP_OK);
            no_mappings = i, fail_read = nth;
            status = sp_log_map(log, 3, m, 0, &said);
            no_mappings = false, fail_read = 0;
            assert_true(!status || (said.message[0] && nth < 100));
        }
        assert_memory_equal(sp_memory_base(m), memory, SIZE);
    }
    sp_log_remap(log, 3, m); /* pages smaller than the host's stay as they are */
    assert_memory_equal(sp_memory_base(m), memory, SIZE);
    sp_memory_destroy(m);
    sp_session_close(log);
}

/* Pages of a file that was truncated under a memory are not taken for zeros that the guest wrote. */
static void lost_pages(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1), *second;
    sp_memory *m;
    assert_int_equal(sp_memory_create(SIZE, SIZE, 65536, &m, &said), SP_OK);
    says(sp_log_map(log, 1, m, 0, &said), SP_OK, "");
    assert_int_equal(truncate(path, SP_LOG_PAGE), 0);
    assert_int_equal(sp_log_create(other, &identity, &second, &said), SP_OK);
    const sp_log_commit_input input = {.base = sp_memory_base(m), .size = SIZE, .memory = m};
    volatile uint8_t *page = sp_memory_base(m) + 64 * SP_LOG_PAGE;
    assert_int_equal(*page, 0);
    *page = 1;
    says(sp_log_commit(second, &input, NULL, &said), SP_ERR_IO, "pages of the actor's memory are lost");
    sp_session_close(second);
    sp_session_close(log);
    sp_memory_destroy(m);
}

/* Who holds the lock is told where it can be; other kinds of locks are no holders. */
static void locked(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1), *second;
    write_file(other, "x", 1, 0);
    int fd = open(other, O_RDWR);
    struct flock whole = {.l_type = F_WRLCK};
    assert_int_equal(fcntl(fd, F_SETLK, &whole), 0);
    says(sp_session_open(path, false, &second, &said), SP_ERR_BUSY, "another process uses it");
    says(sp_session_remove(path, &said), SP_ERR_BUSY, "another process uses it");
    close(fd);
    sp_session_close(log);
}

/* ---- calls that fail ---- */

static int failing_sync(int fd) {
    (void)fd;
    errno = EIO;
    return -1;
}
static int failing_truncate(int fd, off_t size) {
    (void)fd, (void)size;
    errno = EIO;
    return -1;
}
static int link_problem;
static int failing_link(const char *from, const char *to) {
    (void)from, (void)to;
    errno = link_problem;
    return -1;
}
static int failing_hidden_link(const char *from, const char *to) {
    errno = EMLINK;
    return strstr(to, ".base-") ? -1 : system_io.link(from, to);
}
static int interruptions;
static ssize_t interrupted_write(int fd, const void *bytes, size_t size, off_t offset) {
    errno = EINTR;
    return interruptions++ % 3 == 0 ? -1 : system_io.write_at(fd, bytes, size > 1 ? size / 2 : size, offset);
}
static ssize_t empty_write(int fd, const void *bytes, size_t size, off_t offset) {
    (void)fd, (void)bytes, (void)size, (void)offset;
    return 0;
}

static void failing_calls(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1);
    memory[5] = 99;
    sp_snapshot_io.write_at = interrupted_write;
    says(commit(log, 1, NULL), SP_OK, "");
    sp_snapshot_io.write_at = empty_write;
    says(commit(log, 2, NULL), SP_ERR_IO, "can't be written");
    sp_snapshot_io = system_io;
    assert_int_equal(ftruncate(log->fd, (off_t)log->end + 5), 0);
    sp_log_note_written(log);
    sp_snapshot_io.truncate = failing_truncate;
    says(commit(log, 2, NULL), SP_ERR_IO, "can't be cut off");
    sp_snapshot_io = system_io;
    sp_snapshot_io.sync = failing_sync;
    says(commit(log, 2, NULL), SP_ERR_IO, "can't be synced");
    sp_snapshot_io = system_io;
    says(commit(log, 2, NULL), SP_ERR_STATE, "a sync failed before");
    says(sp_session_compact(log, &said), SP_ERR_STATE, "a sync failed before");
    sp_session_close(log);
    sp_session_close(opened(path));
}

/* File systems without links, and with few. */
static void without_links(void **state) {
    (void)state;
    sp_session *log = fresh(path, 2), *made;
    sp_session_info info;
    const int problems[] = {EPERM, ENOTSUP, EMLINK};
    sp_snapshot_io.link = failing_link;
    for (int i = 0; i < 3; i++) {
        link_problem = problems[i];
        says(sp_session_export(log, other, NULL, &said), SP_OK, "");
        says(sp_session_export(log, other, NULL, &said), SP_ERR_STATE, "File exists");
        unlink(other);
    }
    sp_snapshot_io.link = failing_hidden_link; /* the pages can't be shared, so they are copied */
    says(sp_session_fork(log, 1, other, &said), SP_OK, "");
    sp_snapshot_io = system_io;
    made = opened(other);
    sp_session_get_info(made, &info);
    assert_int_equal(info.shared_bytes, 0);
    sp_session_close(made);
    unlink(other);
    /* The name is another file's by now: what is shared must be this one. */
    assert_int_equal(unlink(path), 0);
    sp_session_close(fresh(path, 1));
    says(sp_session_fork(log, 1, other, &said), SP_OK, "");
    made = opened(other);
    sp_session_get_info(made, &info);
    assert_int_equal(info.shared_bytes, 0);
    sp_session_close(made);
    sp_session_close(log);
}

/* ---- shared pages ---- */

static void hidden_name(const sp_session *log, char *name, size_t size) {
    char hex[33];
    snprintf(name, size, "%s/.base-%s", folder, sodium_bin2hex(hex, sizeof hex, log->id, sizeof log->id));
}

/* A fork whose parent lives keeps its pages there when it is compacted; pages that several commits use count once. */
static void compacted_fork(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1), *made;
    sp_session_info before, after;
    assert_int_equal(sp_session_set_name(log, 1, "root", &said), SP_OK); /* a mark in the shared file */
    assert_int_equal(sp_session_fork(log, 1, other, &said), SP_OK);
    made = opened(other);
    memory[SP_LOG_PAGE] = 1;
    assert_int_equal(commit(made, 1, NULL), SP_OK);
    sp_session_get_info(made, &before);
    assert_int_equal(before.shared_bytes, SIZE);
    assert_int_equal(sp_session_compact(made, &said), SP_OK);
    sp_session_get_info(made, &after);
    assert_int_equal(after.shared_bytes, SIZE); /* the name came along, and with it its commit */
    says(sp_session_verify(made, &said), SP_OK, "");
    sp_session_close(made);
    made = opened(other);
    says(sp_session_verify(made, &said), SP_OK, "");
    write_file(other, "X", 1, (off_t)made->commits[0].offset + 100);
    sp_session_get_info(made, &after); /* what can't be read is not counted */
    assert_int_equal(after.shared_bytes, 0);
    sp_session_close(made);
    /* The parent is removed, and another fork still uses its pages. */
    assert_int_equal(sp_session_fork(log, 1, third, &said), SP_OK);
    sp_session_close(log);
    assert_int_equal(unlink(other), 0);
    assert_int_equal(sp_session_fork((log = opened(path)), 1, other, &said), SP_OK);
    sp_session_close(log);
    assert_int_equal(sp_session_remove(path, &said), SP_OK);
    made = opened(other);
    assert_int_equal(sp_session_compact(made, &said), SP_OK);
    assert_int_equal(made->n_bases, 1);
    assert_int_equal(unlink(third), 0);
    assert_int_equal(sp_session_compact(made, &said), SP_OK); /* now it is the only one, and takes them over */
    assert_int_equal(made->n_bases, 0);
    sp_session_close(made);
}

/* A fork of a fork of a fork: each keeps pages of its own, until there are more files than a header has room for; then they are copied. */
static void long_chain(void **state) {
    (void)state;
    char name[80], next[80];
    sp_session_info info;
    uint64_t shared = 0;
    sp_session_close(fresh(path, 1));
    snprintf(name, sizeof name, "%s", path);
    for (int i = 1; i <= (int)SP_LOG_BASES_MAX + 2; i++) {
        sp_session *log = opened(name);
        memory[(size_t)i * SP_LOG_PAGE] = (uint8_t)i; /* one more page that is in this file alone */
        assert_int_equal(commit(log, sp_session_count(log), NULL), SP_OK);
        snprintf(next, sizeof next, "%s/chain-%u", folder, (unsigned)i & 255);
        says(sp_session_fork(log, 0, next, &said), SP_OK, "");
        sp_session_get_info(log, &info);
        shared = info.shared_bytes > shared ? info.shared_bytes : shared;
        sp_session_close(log);
        memcpy(name, next, sizeof name);
    }
    sp_session *log = opened(name);
    sp_session_get_info(log, &info);
    assert_true(shared && log->n_bases < 3);
    says(sp_session_verify(log, &said), SP_OK, "");
    /* A commit that uses nothing of the first file: its fork does not name it. */
    memset(memory, 9, SIZE);
    assert_int_equal(commit(log, sp_session_count(log), NULL), SP_OK);
    assert_int_equal(sp_session_fork(log, 0, third, &said), SP_OK);
    sp_session_close(log);
    log = opened(third);
    assert_int_equal(log->n_bases, 1);
    sp_session_close(log);
}

/* The shared file is replaced by something else, or damaged. */
static void bad_bases(void **state) {
    (void)state;
    sp_session *log = fresh(path, 2), *made;
    char hidden[128], kept[160], page[SP_LOG_PAGE];
    hidden_name(log, hidden, sizeof hidden);
    snprintf(kept, sizeof kept, "%s-kept", third);
    assert_int_equal(sp_session_fork(log, 2, other, &said), SP_OK);
    sp_session_close(log);
    assert_int_equal(rename(hidden, kept), 0);
    says(sp_session_open(other, false, &made, &said), SP_ERR_NOT_FOUND, "which can't be opened");
    assert_int_equal(mkdir(hidden, 0700), 0);
    says(sp_session_open(other, false, &made, &said), SP_ERR_FORMAT, "damaged, truncated or another file");
    assert_int_equal(rmdir(hidden), 0);
    write_file(hidden, "short", 5, 0);
    says(sp_session_open(other, false, &made, &said), SP_ERR_FORMAT, "damaged, truncated or another file");
    assert_int_equal(truncate(hidden, 1 << 20), 0); /* long enough, and no session */
    says(sp_session_open(other, false, &made, &said), SP_ERR_FORMAT, "damaged, truncated or another file");
    unlink(hidden);
    sp_session_close(fresh(third, 2));
    assert_int_equal(truncate(third, 1 << 21), 0);
    assert_int_equal(rename(third, hidden), 0); /* a session, and another one */
    says(sp_session_open(other, false, &made, &said), SP_ERR_FORMAT, "damaged, truncated or another file");
    unlink(hidden);
    assert_int_equal(rename(kept, hidden), 0);
    /* A record of it is damaged: what is mapped still opens, and verifying says so. */
    made = opened(other);
    says(sp_session_verify(made, &said), SP_OK, "");
    int fd = open(hidden, O_RDONLY);
    assert_int_equal(syscall(SYS_pread64, fd, page, sizeof page, SP_LOG_PAGE), SP_LOG_PAGE);
    close(fd);
    write_file(hidden, "X", 1, SP_LOG_PAGE + 60);
    says(sp_session_verify(made, &said), SP_ERR_FORMAT, "commit 1 of a file that it shares pages with is damaged");
    write_file(hidden, page, sizeof page, SP_LOG_PAGE);
    says(sp_session_verify(made, &said), SP_OK, "");
    /* It is whole, and not what it was when it was forked. */
    made->bases[0].records++;
    says(sp_session_verify(made, &said), SP_ERR_FORMAT, "is not what it was");
    made->bases[0].records--, made->bases[0].checksum[0] ^= 1;
    says(sp_session_verify(made, &said), SP_ERR_FORMAT, "is not what it was");
    sp_session_close(made);
}

/* Strangers in the folder: nothing that may be in use is removed, and what can't be told counts as in use. */
static void strangers(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1);
    char name[128], page[SP_LOG_PAGE];
    assert_int_equal(sp_session_fork(log, 1, other, &said), SP_OK);
    assert_int_equal(sp_log_users(path, log->id), 1);
    snprintf(name, sizeof name, "%s/link", folder);
    assert_int_equal(symlink("/nowhere", name), 0);
    snprintf(name, sizeof name, "%s/.base-not-hex", folder);
    write_file(name, "x", 1, 0);
    snprintf(name, sizeof name, "%s/.base-abcd", folder);
    write_file(name, "x", 1, 0);
    sp_log_sweep(path);
    assert_int_equal(access(name, F_OK), 0);
    assert_int_equal(sp_log_users(path, log->id), 1);
    write_file(third, "x", 1, 0);
    vanishing = "third"; /* between two looks at the folder */
    assert_int_equal(sp_log_users(path, log->id), 1);
    vanishing = NULL;
    assert_int_equal(access(third, F_OK), -1);
    int fd = open(path, O_RDONLY);
    assert_int_equal(syscall(SYS_pread64, fd, page, sizeof page, 0), SP_LOG_PAGE);
    close(fd);
    page[100] ^= 1;
    write_file(third, page, sizeof page, 0); /* a session by its first bytes, and damaged */
    assert_int_equal(sp_log_users(path, log->id), UINT32_MAX);
    unlink(third);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", folder);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0); /* which can't be opened */
    assert_int_equal(sp_log_users(path, log->id), UINT32_MAX);
    close(fd);
    pid_t gone = fork();
    if (gone == 0) {
        _exit(0);
    }
    waitpid(gone, NULL, 0);
    snprintf(name, sizeof name, "%s.new-%d", path, (int)gone);
    write_file(name, "", 0, 0);
    of_others = true;
    sp_log_clear_temporaries(path);
    of_others = false;
    assert_int_equal(unlink(name), 0);
    assert_int_equal(mkdir(name, 0700), 0); /* named as a temporary file of a process that is gone */
    sp_log_clear_temporaries(path);
    assert_int_equal(rmdir(name), 0);
    snprintf(name, sizeof name, "%s.new-%dx", path, (int)gone);
    write_file(name, "", 0, 0);
    sp_log_clear_temporaries(path);
    assert_int_equal(access(name, F_OK), 0);
    sp_session_close(log);
}

/* ---- exports ---- */

static void heard(void *user, const char *what, double part) {
    assert_true(what && part >= 0 && part <= 1);
    ++*(int *)user;
}

/* Pages that don't compress, compressed and encrypted: pieces of all sizes, and progress. */
static void wrapped(void **state) {
    (void)state;
    sp_session *log = fresh(path, 1);
    randombytes_buf(memory, SIZE);
    assert_int_equal(commit(log, 1, NULL), SP_OK);
    int calls = 0, more = 0;
    sp_session_set_progress(log, heard, &calls);
    says(sp_session_export(log, other, &(sp_export_options){.compression = 1, .passphrase = "open"}, &said), SP_OK, "");
    sp_session_close(log);
    says(sp_session_import(other, third, "open", heard, &more, &said), SP_OK, "");
    assert_true(calls > 2 && more > 2);
    log = opened(third);
    says(sp_session_verify(log, &said), SP_OK, "");
    sp_session_close(log);
}

/* An encrypted file of these chunks, with a key that costs nothing; the last is said to be the last, if final. */
static void encrypt(const size_t *sizes, int n, bool final, size_t cut, const char *end) {
    static uint8_t file[1 << 18];
    struct {
        uint8_t magic[8];
        uint32_t version, zero;
        uint64_t opslimit, memlimit;
        uint8_t salt[16], header[24];
    } head = {.magic = "SPCRYPT\n", .version = 1, .opslimit = 1, .memlimit = 8192};
    _Static_assert(sizeof head == 72, "as docs/snapshot.md has it");
    uint8_t key[32];
    crypto_secretstream_xchacha20poly1305_state stream;
    assert_int_equal(crypto_pwhash(key, 32, "open", 4, head.salt, 1, 8192, crypto_pwhash_ALG_ARGON2ID13), 0);
    crypto_secretstream_xchacha20poly1305_init_push(&stream, head.header, key);
    memcpy(file, &head, sizeof head);
    size_t at = sizeof head;
    for (int i = 0; i < n; i++) {
        unsigned long long size;
        bool last = final && i == n - 1;
        crypto_secretstream_xchacha20poly1305_push(&stream, file + at, &size, memory, sizes[i], i ? NULL : (const uint8_t *)&head,
                                                   i ? 0 : sizeof head, last ? crypto_secretstream_xchacha20poly1305_TAG_FINAL : 0);
        at += (size_t)size;
    }
    memcpy(file + at, end, strlen(end));
    at += strlen(end);
    unlink(other);
    write_file(other, file, at - cut, 0);
}

static void damaged_wraps(void **state) {
    (void)state;
    const size_t whole[] = {65536, 65536}, hole[] = {65536, 0};
    memset(memory, 7, SIZE);
    encrypt(whole, 1, true, 65536, "");
    says(sp_session_import(other, third, "open", NULL, NULL, &said), SP_ERR_ARGUMENT, "another passphrase");
    encrypt(whole, 1, true, 65540, "");
    says(sp_session_import(other, third, "open", NULL, NULL, &said), SP_ERR_ARGUMENT, "another passphrase");
    encrypt(whole, 2, true, 0, "X");
    says(sp_session_import(other, third, "open", NULL, NULL, &said), SP_ERR_FORMAT, "goes on after its end");
    encrypt(hole, 2, false, 0, "");
    says(sp_session_import(other, third, "open", NULL, NULL, &said), SP_ERR_FORMAT, "the file is cut");
    encrypt(whole, 2, true, 0, "");
    says(sp_session_import(other, third, "open", NULL, NULL, &said), SP_ERR_FORMAT, "no session");
    /* A zstd frame of one block of 128 KiB of one byte: more comes out at its end than fits at once. */
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0x03, 0x00, 0x10, 'x'};
    unlink(other);
    write_file(other, frame, sizeof frame, 0);
    says(sp_session_import(other, third, NULL, NULL, NULL, &said), SP_ERR_FORMAT, "no session");
    unlink(other);
    sp_session *log = fresh(path, 1);
    says(sp_session_export(log, other, NULL, &said), SP_OK, "");
    write_file(other, memory, SP_LOG_PAGE, (off_t)log->end);
    says(sp_session_import(other, third, NULL, NULL, NULL, &said), SP_ERR_FORMAT, "bytes at its end are no commit");
    sp_session_close(log);
    assert_int_equal(access(third, F_OK), -1);
}

static int start(void **state) {
    (void)state;
    system_io = sp_snapshot_io;
    snprintf(folder, sizeof folder, "%s/samepage-edges-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder) || sodium_init() < 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/s", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    snprintf(third, sizeof third, "%s/third", folder);
    return 0;
}
static int end(void **state) {
    (void)state;
    return rmdir(folder);
}
static int after_each(void **state) {
    (void)state;
    sp_snapshot_io = system_io;
    before_flock = NULL, before_pread = NULL;
    empty();
    return 0;
}

#define TEST(name) cmocka_unit_test_teardown(name, after_each)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(arguments),         TEST(without_commits), TEST(anchors),       TEST(heads),     TEST(sizes),         TEST(many_runs),
        TEST(changed_by_others), TEST(lost_pages),      TEST(failing_reads), TEST(locked),    TEST(failing_calls), TEST(without_links),
        TEST(compacted_fork),    TEST(long_chain),      TEST(bad_bases),     TEST(strangers), TEST(wrapped),       TEST(damaged_wraps),
    };
    return cmocka_run_group_tests(tests, start, end);
}
