/* The log of a frozen memory: what goes in comes out, at every commit, and after every way in which writing can end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/io.h"
#include "snapshot/log.h"

#define SIZE (1u << 20)
static char path[64], other[80];
static const sp_log_identity identity = {.module = {1, 2, 3}, .n_models = 1, .models = {{9}}};
static sp_io system_io;
static int calls, fail_at, problem;
static bool torn, dead;

static bool fails(void) {
    bool now = dead || ++calls == fail_at;
    dead |= now && !problem;
    errno = problem ? problem : EIO;
    return now;
}
static ssize_t write_at(int fd, const void *bytes, size_t size, off_t offset) {
    bool was_dead = dead;
    if (!fails()) {
        return system_io.write_at(fd, bytes, size, offset);
    }
    if (torn && !was_dead) {
        system_io.write_at(fd, bytes, size / 2, offset);
        errno = problem ? problem : EIO;
    }
    return -1;
}
static int sync_fd(int fd) {
    return fails() ? -1 : system_io.sync(fd);
}
static int truncate_fd(int fd, off_t size) {
    return fails() ? -1 : system_io.truncate(fd, size);
}
static int rename_path(const char *from, const char *to) {
    return fails() ? -1 : system_io.rename(from, to);
}
static int link_path(const char *from, const char *to) {
    return fails() ? -1 : system_io.link(from, to);
}
static void inject(int at, int number, bool half) {
    calls = 0, fail_at = at, problem = number, torn = half, dead = false;
    sp_snapshot_io = (sp_io){write_at, sync_fd, truncate_fd, rename_path, link_path};
}
static void heal(void) {
    sp_snapshot_io = system_io;
}

static uint8_t memory[SIZE] __attribute__((aligned(65536)));
/* What the memory is at turn t: page 0 and one of its own differ, a long run came at turn 1, the rest is zeros. */
static void turn(uint64_t t) {
    memset(memory, 0, SIZE);
    memset(memory + 40960, 7, 200000);
    for (uint64_t i = 1; i <= t; i++) {
        memset(memory + 4096 * (100 + i), (int)i, 4096);
    }
    memory[5] = (uint8_t)t;
}
static sp_status commit(sp_session *log, uint64_t t, uint64_t parent, const char *name) {
    turn(t);
    sp_log_commit_input input = {.parent = parent,
                                 .base = memory,
                                 .size = SIZE,
                                 .side = memory + 40960, /* of the memory's pages: they lie in the file twice */
                                 .side_size = 8192,
                                 .meta = &t,
                                 .meta_size = sizeof t,
                                 .name = name,
                                 .note = "a note",
                                 .note_size = 6};
    return sp_log_commit(log, &input, NULL, NULL);
}
static void expect(sp_session *log, uint64_t number, uint64_t t) {
    sp_memory *m;
    sp_log_blobs blobs;
    assert_int_equal(sp_memory_create(SIZE, 2 * SIZE, 65536, &m, NULL), SP_OK);
    sp_memory_base(m)[SIZE - 1] = 1; /* as a data segment would */
    assert_int_equal(sp_log_map(log, number, m, NULL), SP_OK);
    turn(t);
    assert_memory_equal(sp_memory_base(m), memory, SIZE);
    sp_memory_base(m)[41000] = 99; /* of this memory alone */
    assert_int_equal(sp_log_read_blobs(log, number, &blobs, NULL), SP_OK);
    assert_int_equal(blobs.meta_size, sizeof t);
    assert_memory_equal(blobs.meta, &t, sizeof t);
    assert_int_equal(blobs.side_size, 8192);
    assert_true(blobs.side[0] == 7 && blobs.side[8191] == 7);
    assert_memory_equal(sp_session_get(log, number)->note, "a note", 6);
    free(blobs.meta);
    free(blobs.side);
    sp_memory_destroy(m);
}
static sp_session *fresh(uint64_t turns) {
    sp_session *log;
    unlink(path);
    unlink(other);
    assert_int_equal(sp_log_create(path, &identity, &log, NULL), SP_OK);
    for (uint64_t t = 1; t <= turns; t++) {
        assert_int_equal(commit(log, t, t - 1, t == 2 ? "two" : NULL), SP_OK);
    }
    return log;
}
static sp_session *reopen(sp_session *log) {
    sp_session_close(log);
    assert_int_equal(sp_session_open(path, false, &log, NULL), SP_OK);
    return log;
}

static void round_trip(void **state) {
    (void)state;
    struct stat st;
    sp_session *log = reopen(fresh(4)), *second;
    assert_int_equal(sp_session_count(log), 4);
    assert_int_equal(sp_session_open(path, false, &second, NULL), SP_ERR_BUSY);
    assert_int_equal(commit(log, 9, 2, "branch"), SP_OK);
    assert_int_equal(sp_session_find(log, "branch")->parent, 2);
    for (uint64_t t = 1; t <= 4; t++) {
        expect(log, t, t);
    }
    expect(log, 5, 9);
    assert_int_equal(sp_session_verify(log, NULL), SP_OK);
    assert_memory_equal(sp_log_get_identity(log), &identity, sizeof identity);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(st.st_blocks * 512 < 400000);
    sp_memory *mapped; /* which outlives the log, and must not hold its lock */
    assert_int_equal(sp_memory_create(SIZE, SIZE, 65536, &mapped, NULL), SP_OK);
    assert_int_equal(sp_log_map(log, 3, mapped, NULL), SP_OK);
    log = reopen(log);
    turn(3);
    assert_memory_equal(sp_memory_base(mapped), memory, SIZE);
    sp_memory_destroy(mapped);
    sp_session_close(log);
}

static void forks_and_compaction(void **state) {
    (void)state;
    sp_session *log = fresh(4), *fork;
    assert_int_equal(sp_session_fork(log, 3, other, NULL), SP_OK);
    assert_int_equal(sp_session_fork(log, 3, other, NULL), SP_ERR_STATE);
    assert_int_equal(sp_session_open(other, false, &fork, NULL), SP_OK);
    expect(fork, 1, 3);
    sp_session_close(fork);
    assert_int_equal(sp_session_compact(log, NULL), SP_OK);
    log = reopen(log);
    assert_int_equal(sp_session_count(log), 2);
    expect(log, sp_session_find(log, "two")->number, 2);
    expect(log, 2, 4);
    assert_int_equal(sp_session_get(log, 2)->parent, 1);
    sp_session_close(log);
}

/* Power is lost (problem 0), or a call fails with an error, at each call of a commit; the commits before stand, and the log goes on. */
static void every_write_fails(void **state) {
    (void)state;
    int problems[] = {0, ENOSPC, EIO}, tried = 0;
    for (int k = 0; k < 6; k++) {
        for (int at = 1;; at++) {
            sp_session *log = fresh(2);
            inject(at, problems[k / 2], k % 2);
            sp_status status = commit(log, 3, 2, NULL);
            heal();
            if (calls < at && !status) {
                sp_session_close(log);
                break;
            }
            tried++;
            assert_int_not_equal(status, SP_OK);
            log = reopen(log);
            uint64_t n = sp_session_count(log);
            assert_true(n == 2 || n == 3);
            for (uint64_t t = 1; t <= n; t++) {
                expect(log, t, t);
            }
            assert_int_equal(commit(log, 5, n, NULL), SP_OK);
            log = reopen(log);
            expect(log, n + 1, 5);
            assert_int_equal(sp_session_verify(log, NULL), SP_OK);
            sp_session_close(log);
        }
    }
    assert_true(tried >= 24);
}

static void compaction_fails(void **state) {
    (void)state;
    for (int at = 1;; at++) {
        sp_session *log = fresh(3);
        inject(at, EIO, false);
        sp_status status = sp_session_compact(log, NULL);
        heal();
        log = reopen(log);
        uint64_t n = sp_session_count(log);
        assert_true(n == 2 || n == 3);
        expect(log, n, 3);
        sp_session_close(log);
        if (!status) {
            assert_true(at > 6);
            break;
        }
    }
}

/* Opens what may be damaged; true if it was refused or stops short of all commits. What is there must be right. */
static bool refused(uint64_t commits) {
    sp_session *log;
    if (sp_session_open(path, false, &log, NULL)) {
        return true;
    }
    uint64_t n = sp_session_count(log);
    for (uint64_t t = 1; t <= n; t++) {
        sp_log_blobs blobs;
        if (sp_log_read_blobs(log, t, &blobs, NULL)) {
            sp_session_close(log);
            return true;
        }
        assert_memory_equal(blobs.meta, &t, sizeof t);
        free(blobs.meta);
        free(blobs.side);
    }
    bool damaged = sp_session_verify(log, NULL) != SP_OK;
    sp_session_close(log);
    return damaged || n < commits;
}

static void flips_and_truncations(void **state) {
    (void)state;
    sp_session_close(fresh(3));
    int fd = open(path, O_RDWR);
    struct stat st;
    fstat(fd, &st);
    uint8_t *all = malloc((size_t)st.st_size), byte;
    assert_int_equal(pread(fd, all, (size_t)st.st_size, 0), st.st_size);
    assert_false(refused(3));
    for (off_t at = 0; at < st.st_size; at += SP_LOG_PAGE) {
        if (at && memcmp(all + at, "SPCOMMIT", 8)) {
            continue;
        }
        for (int bit = 0; bit < 8 * (int)SP_LOG_PAGE; bit++) {
            byte = (uint8_t)(all[at + bit / 8] ^ 1 << bit % 8);
            pwrite(fd, &byte, 1, at + bit / 8);
            assert_true(refused(3));
            pwrite(fd, all + at + bit / 8, 1, at + bit / 8);
        }
    }
    for (off_t size = st.st_size - 1; size >= 0; size -= size % 509 ? 509 : 1) {
        assert_int_equal(ftruncate(fd, size), 0);
        assert_true(refused(3));
    }
    free(all);
    close(fd);
}

static int start(void **state) {
    (void)state;
    system_io = sp_snapshot_io;
    snprintf(path, sizeof path, "/tmp/samepage-log-%ld", (long)getpid());
    snprintf(other, sizeof other, "%s-fork", path);
    return 0;
}
static int end(void **state) {
    (void)state;
    unlink(path);
    unlink(other);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(forks_and_compaction), cmocka_unit_test(every_write_fails),
                                       cmocka_unit_test(compaction_fails), cmocka_unit_test(flips_and_truncations)};
    return cmocka_run_group_tests(tests, start, end);
}
