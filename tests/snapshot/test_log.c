/* The log of a frozen memory: what goes in comes out, at every commit, and after every way in which writing can end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/io.h"
#include "snapshot/record.h"

#define SIZE (1u << 20)
static char folder[48], elsewhere[64], path[64], other[64], exported[64], packed[64];
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
static int sync_folder(int fd) {
    return fails() ? -1 : system_io.sync_folder(fd);
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
    sp_snapshot_io = (sp_io){write_at, sync_fd, sync_folder, truncate_fd, rename_path, link_path};
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
    assert_int_equal(sp_log_map(log, number, m, SIZE, NULL), SP_OK);
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
/* Removes what a test may have left: the log, what was made of it, and what was shared. */
static void clear(void) {
    unlink(path);
    unlink(other);
    unlink(elsewhere);
    sp_log_sweep(path);
}
static sp_session *fresh(uint64_t turns) {
    sp_session *log;
    clear();
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
    assert_int_equal(sp_log_map(log, 3, mapped, 0, NULL), SP_OK);
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

/* ---- what else writes: each of its calls fails, in each way ---- */

static sp_error said;
static sp_status fork_here(sp_session *log) {
    return sp_session_fork(log, 3, other, &said);
}
static sp_status fork_elsewhere(sp_session *log) { /* another folder: copied */
    return sp_session_fork(log, 3, elsewhere, &said);
}
static sp_status export_plain(sp_session *log) {
    return sp_session_export(log, other, NULL, &said);
}
static sp_status export_packed(sp_session *log) {
    return sp_session_export(log, other, &(sp_export_options){.compression = 1}, &said);
}
static sp_status import_plain(sp_session *log) {
    (void)log;
    return sp_session_import(exported, other, NULL, NULL, NULL, &said);
}
static sp_status import_packed(sp_session *log) {
    (void)log;
    return sp_session_import(packed, other, NULL, NULL, NULL, &said);
}
static sp_status compact(sp_session *log) {
    return sp_session_compact(log, &said);
}
static sp_status move_head(sp_session *log) {
    return sp_session_set_head(log, 2, &said);
}
static sp_status give_name(sp_session *log) {
    return sp_session_set_name(log, 3, "three", &said);
}

static const struct action {
    const char *name;
    sp_status (*go)(sp_session *log);
    const char *makes; /* the file that is there afterwards; NULL: none */
    bool packed, keeps_two;
} actions[] = {
    {"fork", fork_here, other, false, false},      {"fork elsewhere", fork_elsewhere, elsewhere, false, false},
    {"export", export_plain, other, false, false}, {"compressed export", export_packed, other, true, false},
    {"import", import_plain, other, false, false}, {"import of a compressed one", import_packed, other, false, false},
    {"compaction", compact, NULL, false, true},    {"head", move_head, NULL, false, false},
    {"name", give_name, NULL, false, false},
};

static int files(void) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    }
    closedir(dir);
    return n;
}

/* The log has what it had, or, after a compaction, its head and what is named. */
static void expect_whole(sp_session *log, const struct action *a) {
    uint64_t n = sp_session_count(log);
    assert_true(n == 3 || (a->keeps_two && n == 2));
    expect(log, n, 3);
    expect(log, sp_session_find(log, "two")->number, 2);
    assert_int_equal(sp_session_verify(log, NULL), SP_OK);
}

/* One call of an action fails. False: there is no such call any more. */
static bool one_call_fails(const struct action *a, int at, int number, bool half) {
    sp_session *log = fresh(3), *made;
    int before = files();
    inject(at, number, half);
    said.message[0] = 0;
    sp_status status = a->go(log);
    heal();
    bool failed = calls >= at;
    if (!failed && status) {
        fail_msg("%s: %s", a->name, said.message);
    }
    if (status) { /* the log that is open is not lost for it, or says to open it again */
        assert_true(said.message[0] && said.status == status);
        if (files() != before || (a->makes && !access(a->makes, F_OK))) {
            fail_msg("%s leaves a file when call %d fails: %s", a->name, at, said.message);
        }
        expect_whole(log, a);
    }
    log = reopen(log);
    expect_whole(log, a);
    assert_int_equal(status ? a->go(log) : SP_OK, SP_OK);
    if (a->makes && !a->packed) {
        assert_int_equal(sp_session_open(a->makes, false, &made, NULL), SP_OK);
        expect(made, sp_session_count(made), 3);
        assert_int_equal(sp_session_verify(made, NULL), SP_OK);
        sp_session_close(made);
    }
    sp_session_close(log);
    return failed;
}

static void everything_else_fails(void **state) {
    (void)state;
    sp_session *log = fresh(3);
    assert_int_equal(sp_session_export(log, exported, NULL, NULL), SP_OK);
    assert_int_equal(sp_session_export(log, packed, &(sp_export_options){.compression = 1}, NULL), SP_OK);
    sp_session_close(log);
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        int tried = 0;
        for (int k = 0; k < 4; k++) {
            for (int at = 1; one_call_fails(&actions[i], at, k / 2 ? ENOSPC : EIO, k % 2); at++) {
                tried++;
            }
        }
        print_message("%s: %d failures\n", actions[i].name, tried);
        assert_true(tried >= 8);
    }
    unlink(exported);
    unlink(packed);
}

static uint8_t *read_whole(const char *name, size_t *size) {
    struct stat st = {0};
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    *size = (size_t)st.st_size;
    uint8_t *bytes = malloc(*size);
    assert_int_equal(read(fd, bytes, *size), st.st_size);
    close(fd);
    return bytes;
}

/* A file of these bytes is refused with these words, and nothing stays behind. */
static void expect_no_import(const void *bytes, size_t size, const char *passphrase, const char *words) {
    int fd = open(exported, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    close(fd);
    assert_int_not_equal(sp_session_import(exported, other, passphrase, NULL, NULL, &said), SP_OK);
    if (!strstr(said.message, words)) {
        fail_msg("says \"%s\"; should say \"%s\"", said.message, words);
    }
    assert_int_equal(access(other, F_OK), -1);
}

/* One number of the header of an encrypted file set to another. */
static void expect_bad_header(const uint8_t *good, size_t size, size_t at, uint64_t value, size_t width, const char *words) {
    uint8_t *bytes = malloc(size);
    memcpy(bytes, good, size);
    memcpy(bytes + at, &value, width);
    expect_no_import(bytes, size, "open sesame", words);
    free(bytes);
}

static void damaged_exports(void **state) {
    (void)state;
    sp_session *log = fresh(3);
    const sp_export_options bad[] = {{.compression = -1}, {.compression = 20}, {.passphrase = ""}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(sp_session_export(log, exported, &bad[i], &said), SP_ERR_ARGUMENT);
    }
    assert_int_equal(sp_session_export(log, exported, &(sp_export_options){.passphrase = "open sesame"}, &said), SP_OK);
    assert_int_equal(sp_session_export(log, packed, &(sp_export_options){.compression = 1}, &said), SP_OK);
    sp_session_close(log);
    size_t size, small;
    uint8_t *good = read_whole(exported, &size), *zstd = read_whole(packed, &small);
    assert_true(size > 3 * 65536); /* several chunks */
    assert_int_equal(sp_session_import(exported, other, "open sesame", NULL, NULL, &said), SP_OK);
    unlink(other);
    expect_no_import(good, 40, "open sesame", "the encrypted file is cut");
    expect_no_import(good, size, NULL, "a passphrase is needed");
    expect_bad_header(good, size, 8, 2, 4, "version 2 of encrypted files");
    expect_bad_header(good, size, 12, 1, 4, "of encrypted files");
    expect_bad_header(good, size, 16, 0, 8, "more than is sensible");
    expect_bad_header(good, size, 16, 17, 8, "more than is sensible");
    expect_bad_header(good, size, 24, 1, 8, "more than is sensible");
    expect_bad_header(good, size, 24, UINT64_C(1) << 40, 8, "more than is sensible");
    expect_bad_header(good, size, size / 2, 0, 8, "damaged or cut");
    expect_no_import(good, size - 1, "open sesame", "damaged or cut");
    uint8_t *longer = malloc(size + 65536);
    memcpy(longer, good, size);
    memset(longer + size, 0, 65536);
    expect_no_import(longer, size + 65536, "open sesame", "damaged or cut");
    free(longer);
    expect_no_import(zstd, small - 1, NULL, "the file is cut");
    memset(zstd + small / 2, 0xff, 16);
    expect_no_import(zstd, small, NULL, "damaged");
    expect_no_import("", 0, NULL, "");
    assert_int_equal(sp_session_import("/", other, NULL, NULL, NULL, &said), SP_ERR_FORMAT);
    free(good);
    free(zstd);
    unlink(exported);
    unlink(packed);
}

/* What a process that was killed left of a fork or an import is cleared away by the next; what is in use, or not ours, stays. */
static void left_behind(void **state) {
    (void)state;
    pid_t gone = fork();
    if (gone == 0) {
        _exit(0);
    }
    waitpid(gone, NULL, 0);
    sp_session *log = fresh(3);
    char stale[128], second[128], foreign[128], alive[128];
    snprintf(stale, sizeof stale, "%s.new-%d", other, (int)gone);
    snprintf(second, sizeof second, "%s.new-%d-2", path, (int)gone);
    snprintf(foreign, sizeof foreign, "%s/letter.new-%d", folder, (int)gone);
    snprintf(alive, sizeof alive, "%s.new-%d", path, (int)getppid());
    assert_int_equal(link(path, stale), 0); /* which is locked, as long as the log is open */
    assert_int_equal(symlink(path, alive), 0);
    FILE *file = fopen(foreign, "w");
    fputs("Dear Ada", file);
    fclose(file);
    file = fopen(second, "w");
    fclose(file);
    assert_int_equal(sp_session_fork(log, 0, other, NULL), SP_OK);
    assert_true(!access(stale, F_OK) && !access(foreign, F_OK) && access(second, F_OK));
    sp_session_close(log);
    assert_int_equal(sp_session_import(path, elsewhere, NULL, NULL, NULL, NULL), SP_OK); /* another folder: this one is left alone */
    assert_int_equal(access(stale, F_OK), 0);
    unlink(elsewhere);
    unlink(other);
    assert_int_equal(sp_session_import(path, other, NULL, NULL, NULL, NULL), SP_OK);
    assert_true(access(stale, F_OK) && !access(foreign, F_OK));
    unlink(foreign);
    unlink(alive);
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

/* A tail of a terabyte of nothing, which a stranger can make for free, is not read page by page. */
static void huge_tail(void **state) {
    (void)state;
    sp_session *log = fresh(2);
    sp_session_info info;
    sp_session_close(log);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    if (truncate(path, st.st_size + (1ll << 40))) {
        skip(); /* this file system has no files as large */
    }
    assert_int_equal(sp_session_open(path, false, &log, NULL), SP_OK);
    sp_session_get_info(log, &info);
    assert_true(info.ignored_bytes == 1ull << 40 && sp_session_count(log) == 2);
    assert_int_equal(commit(log, 3, 2, NULL), SP_OK);
    log = reopen(log);
    expect(log, 3, 3);
    sp_session_close(log);
}

/* Every bit of the header, of every commit's record and of a mark's. */
static void every_bit(void **state) {
    (void)state;
    if (getenv("SAMEPAGE_PAGE_SIZE")) {
        skip(); /* done without it: opening a file does not ask for the host's pages */
    }
    sp_session *log = fresh(2);
    assert_int_equal(sp_session_set_name(log, 1, "one", NULL), SP_OK);
    assert_int_equal(commit(log, 3, 2, NULL), SP_OK);
    sp_session_close(log);
    int fd = open(path, O_RDWR), flips = 0;
    struct stat st;
    fstat(fd, &st);
    uint8_t *all = malloc((size_t)st.st_size), byte;
    assert_int_equal(pread(fd, all, (size_t)st.st_size, 0), st.st_size);
    assert_false(refused(3));
    for (off_t at = 0; at < st.st_size; at += SP_LOG_PAGE) {
        if (at && memcmp(all + at, "SPCOMMIT", 8) && memcmp(all + at, "SPMARKED", 8)) {
            continue;
        }
        for (int bit = 0; bit < 8 * (int)SP_LOG_PAGE; bit++, flips++) {
            byte = (uint8_t)(all[at + bit / 8] ^ 1 << bit % 8);
            pwrite(fd, &byte, 1, at + bit / 8);
            assert_true(refused(3));
            pwrite(fd, all + at + bit / 8, 1, at + bit / 8);
        }
    }
    assert_int_equal(flips, 5 * 8 * SP_LOG_PAGE);
    assert_false(refused(3));
    free(all);
    close(fd);
}

/* Every length from the whole down to nothing: no commit that isn't whole is there, and those that are there are right. */
static void every_length(void **state) {
    (void)state;
    if (getenv("SAMEPAGE_PAGE_SIZE")) {
        skip(); /* done without it: opening a file does not ask for the host's pages */
    }
    enum { SMALL = 65536 };
    sp_session *log = fresh(0);
    uint64_t ends[3] = {SP_LOG_PAGE};
    struct stat st;
    for (uint64_t t = 1; t <= 2; t++) {
        memset(memory, 0, SMALL);
        memset(memory + t * 8192, (int)t, 5000);
        sp_log_commit_input input = {.parent = t - 1, .base = memory, .size = SMALL, .meta = &t, .meta_size = sizeof t};
        assert_int_equal(sp_log_commit(log, &input, NULL, NULL), SP_OK);
        assert_int_equal(sp_session_set_name(log, t, "it", NULL), SP_OK); /* a mark behind each commit */
        assert_int_equal(stat(path, &st), 0);
        ends[t] = (uint64_t)st.st_size - SP_LOG_PAGE;
    }
    sp_session_close(log);
    for (off_t size = st.st_size - 1; size >= 0; size--) {
        assert_int_equal(truncate(path, size), 0);
        sp_status status = sp_session_open(path, true, &log, NULL);
        if (status) {
            assert_true(status == SP_ERR_FORMAT && size < (off_t)SP_LOG_PAGE);
            continue;
        }
        uint64_t n = sp_session_count(log), whole = ((uint64_t)size >= ends[1]) + ((uint64_t)size >= ends[2]);
        assert_int_equal(n, whole);
        assert_int_equal(size % 64 ? SP_OK : sp_session_verify(log, NULL), SP_OK);
        sp_session_close(log);
    }
    print_message("%lld lengths\n", (long long)st.st_size);
}

static int start(void **state) {
    (void)state;
    system_io = sp_snapshot_io;
    /* In memory where there is such a folder: thousands of syncs, and what a disk does is not what is tested. */
    snprintf(folder, sizeof folder, "%s/samepage-log-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/s", folder);
    snprintf(other, sizeof other, "%s/fork", folder);
    snprintf(exported, sizeof exported, "%s/exported", folder);
    snprintf(packed, sizeof packed, "%s/packed", folder);
    snprintf(elsewhere, sizeof elsewhere, "%s-elsewhere", folder);
    return 0;
}
static int end(void **state) {
    (void)state;
    clear();
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),        cmocka_unit_test(forks_and_compaction),
        cmocka_unit_test(every_write_fails), cmocka_unit_test(everything_else_fails),
        cmocka_unit_test(left_behind),       cmocka_unit_test(huge_tail),
        cmocka_unit_test(every_bit),         cmocka_unit_test(every_length),
        cmocka_unit_test(damaged_exports),
    };
    return cmocka_run_group_tests(tests, start, end);
}
