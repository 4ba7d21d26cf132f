/*
 * Writes a session file whose every byte of memory is known, and says whether one is what it should be. Needs the memory and snapshot layers alone,
 * so that test_machines.sh can build it for another machine and hand files from one to the other.
 *
 *   session-file write FILE          three commits, the third a branch from the first, the second named and the head
 *   session-file append FILE         one commit more, on top of the head
 *   session-file fork FILE OTHER     OTHER shares the pages of FILE's head
 *   session-file compact FILE        the head and what is named
 *   session-file version FILE N      as a later version of the format would be: another number, and a checksum that is right
 *   session-file check FILE T...     the commits are those of turns T..., in this order
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/record.h"

enum { PAGES = 512, SIDE_PAGES = 2, SIZE = PAGES * SP_LOG_PAGE, LONG_RUN = 64, LONG_RUN_END = 192, OWN = 200 };

static uint8_t memory[SIZE + SIDE_PAGES * SP_LOG_PAGE] __attribute__((aligned(65536)));

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        printf("%s: %s\n", sp_status_name(status), err->message);
        exit(1);
    }
}

static void fill(uint64_t page, uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + page + 1;
    for (uint64_t i = 0; i < SP_LOG_PAGE; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memory[page * SP_LOG_PAGE + i] = (uint8_t)x;
    }
}

/* The memory at a turn: its first page is its own, a long run never changes, each turn brought a page, the rest is zeros; and the side. */
static void remember(uint64_t turn) {
    memset(memory, 0, sizeof memory);
    fill(0, turn);
    for (uint64_t page = LONG_RUN; page < LONG_RUN_END; page++) {
        fill(page, 1000);
    }
    for (uint64_t t = 1; t <= turn; t++) {
        fill(OWN + 2 * t, t);
    }
    fill(PAGES, 2000);
    fill(PAGES + 1, turn);
}

static uint64_t commit(sp_session *log, uint64_t turn, uint64_t parent, const char *name) {
    sp_error err;
    uint64_t number;
    remember(turn);
    sp_log_commit_input input = {.parent = parent,
                                 .base = memory,
                                 .size = SIZE,
                                 .side = memory + SIZE,
                                 .side_size = SIDE_PAGES * SP_LOG_PAGE,
                                 .meta = &turn,
                                 .meta_size = sizeof turn,
                                 .name = name,
                                 .note = "from another machine",
                                 .note_size = 20};
    must(sp_log_commit(log, &input, &number, &err), &err);
    return number;
}

static sp_session *open_log(const char *path, bool read_only) {
    sp_session *log;
    sp_error err;
    must(sp_session_open(path, read_only, &log, &err), &err);
    return log;
}

static void write_file(const char *path) {
    const sp_log_identity identity = {.module = {1, 2, 3}, .n_models = 1, .models = {{9}}};
    sp_session *log;
    sp_error err;
    must(sp_log_create(path, &identity, &log, &err), &err);
    commit(log, 1, 0, NULL);
    commit(log, 2, 1, "second");
    commit(log, 3, 1, NULL);
    must(sp_session_set_head(log, 2, &err), &err);
    sp_session_close(log);
}

static void append(const char *path) {
    sp_session *log = open_log(path, false);
    commit(log, sp_session_count(log) + 1, sp_session_get(log, 0)->number, NULL);
    sp_session_close(log);
}

static int set_version(const char *path, uint32_t version) {
    sp_log_header h;
    FILE *file = fopen(path, "r+b");
    bool done = file && fread(&h, sizeof h, 1, file) == 1;
    h.version = version;
    sp_log_checksum(0, &h, sizeof h - sizeof h.checksum, h.checksum);
    done = done && fseek(file, 0, SEEK_SET) == 0 && fwrite(&h, sizeof h, 1, file) == 1;
    done = file && fclose(file) == 0 && done;
    return done ? 0 : 1;
}

/* Is commit number that of the turn, mapped and read? */
static bool is_turn(sp_session *log, uint64_t number, uint64_t turn) {
    sp_memory *mapped;
    sp_log_blobs blobs;
    sp_error err;
    must(sp_memory_create(SIZE, SIZE, 65536, &mapped, &err), &err);
    must(sp_log_map(log, number, mapped, 0, &err), &err);
    must(sp_log_read_blobs(log, number, &blobs, &err), &err);
    remember(turn);
    const sp_commit *info = sp_session_get(log, number);
    bool same = memcmp(sp_memory_base(mapped), memory, SIZE) == 0 && blobs.side_size == SIDE_PAGES * SP_LOG_PAGE &&
                memcmp(blobs.side, memory + SIZE, blobs.side_size) == 0 && blobs.meta_size == sizeof turn &&
                memcmp(blobs.meta, &turn, sizeof turn) == 0 && info->note_bytes == 20 && memcmp(info->note, "from another machine", 20) == 0;
    free(blobs.meta);
    free(blobs.side);
    sp_memory_destroy(mapped);
    return same;
}

static int check(const char *path, char **turns, int n) {
    sp_session *log = open_log(path, true);
    sp_error err;
    must(sp_session_verify(log, &err), &err);
    const sp_log_identity *identity = sp_log_get_identity(log);
    bool right = sp_session_count(log) == (uint64_t)n && identity->n_models == 1 && identity->module[2] == 3 && identity->models[0][0] == 9;
    for (int i = 0; right && i < n; i++) {
        right = is_turn(log, (uint64_t)i + 1, strtoull(turns[i], NULL, 10));
    }
    printf("%s: %llu commits, %s\n", path, (unsigned long long)sp_session_count(log), right ? "as they were written" : "NOT as they were written");
    sp_session_close(log);
    return right ? 0 : 1;
}

int main(int argc, char **argv) {
    const char *what = argc > 2 ? argv[1] : "";
    sp_error err;
    if (strcmp(what, "write") == 0) {
        write_file(argv[2]);
    } else if (strcmp(what, "append") == 0) {
        append(argv[2]);
    } else if (strcmp(what, "fork") == 0 && argc == 4) {
        sp_session *log = open_log(argv[2], true);
        must(sp_session_fork(log, 0, argv[3], &err), &err);
        sp_session_close(log);
    } else if (strcmp(what, "compact") == 0) {
        sp_session *log = open_log(argv[2], false);
        must(sp_session_compact(log, &err), &err);
        sp_session_close(log);
    } else if (strcmp(what, "version") == 0 && argc == 4) {
        return set_version(argv[2], (uint32_t)strtoul(argv[3], NULL, 10));
    } else if (strcmp(what, "check") == 0) {
        return check(argv[2], argv + 3, argc - 3);
    } else {
        fprintf(stderr, "usage: session-file write|append|fork|compact|version|check FILE ...\n");
        return 2;
    }
    return 0;
}
