/* 100,000 damaged logs whose checksums were made right again, so that the damage reaches what is behind them: nothing may crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "snapshot/record.h"

#define SIZE (1u << 18)
static uint64_t random_state = 1;
static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

/* Changes one field of 8 bytes, or one byte, in the part of the record that has meaning. */
static void damage(uint8_t *bytes, uint64_t size) {
    static const uint64_t values[] = {0, 1, 4096, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 4095};
    uint64_t at = next_random() % (size - 8), value = next_random() % 2 ? values[next_random() % 7] : next_random() % 1024;
    if (next_random() % 2) {
        memcpy(bytes + at / 8 * 8, &value, 8);
    } else {
        bytes[at] ^= (uint8_t)(1u << next_random() % 8);
    }
}

static void mended(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/tmp/samepage-corrupt-%ld", (long)getpid());
    unlink(path);
    static uint8_t pages[SIZE];
    sp_log *log;
    sp_memory *memory;
    assert_int_equal(sp_log_create(path, &(sp_log_identity){.n_models = 1}, &log, NULL), SP_OK);
    for (uint64_t t = 1; t <= 2; t++) {
        memset(pages + t * 20480, (int)t, 70000);
        assert_int_equal(sp_log_commit(log,
                                       &(sp_log_commit_input){.parent = t - 1,
                                                              .base = pages,
                                                              .size = SIZE,
                                                              .side = pages,
                                                              .side_size = 4096,
                                                              .meta = "meta",
                                                              .meta_size = 4,
                                                              .name = "name",
                                                              .note = "note",
                                                              .note_size = 4},
                                       NULL, NULL),
                         SP_OK);
    }
    uint64_t offset = log->commits[1].offset, size = log->commits[1].bytes, accepted = 0, refused = 0;
    int fd = open(path, O_RDWR);
    uint8_t *good = malloc(size), *bad = malloc(size);
    assert_true(sp_log_read_at(fd, good, size, offset));
    for (int i = 0; i < 100000; i++) {
        memcpy(bad, good, size);
        sp_log_record *record = (sp_log_record *)bad;
        damage(bad, sizeof *record + 24 * record->n_entries + 4);
        uint64_t told = record->bytes;
        uint8_t checksum[16];
        uint64_t hashed = told <= size ? told : size;
        memset(record->checksum, 0, 16);
        sp_log_checksum(log->seed, bad, hashed, checksum);
        memcpy(record->checksum, checksum, 16);
        assert_int_equal(pwrite(fd, bad, size, (off_t)offset), (ssize_t)size);
        sp_log *damaged;
        flock(log->fd, LOCK_UN);                                               /* this log stays open for its seed alone */
        assert_int_equal(sp_session_open(path, false, &damaged, NULL), SP_OK); /* the first commit stands */
        if (sp_session_count(damaged) == 2) {
            accepted++;
            assert_int_equal(sp_memory_create(SIZE, SIZE, 65536, &memory, NULL), SP_OK);
            sp_log_map(damaged, 2, memory, SIZE, NULL);
            sp_session_verify(damaged, NULL);
            sp_memory_destroy(memory);
        } else {
            refused++;
        }
        sp_session_close(damaged);
    }
    assert_true(accepted > 100 && refused > 100);
    free(good);
    free(bad);
    close(fd);
    sp_session_close(log);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(mended)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
