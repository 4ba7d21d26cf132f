/*
 * Session files whose checksums are right: damage must be found by the bounds. The input describes a small log, records with entries and blobs, and
 * what to break in it: fields of the header and of records get other values before the checksums are computed. What opens is mapped, read, verified,
 * moved about and committed to.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "snapshot/record.h"

enum { ROOM = 1 << 18, MEMORY = 1 << 18 };

typedef struct input {
    const uint8_t *at, *end;
} input;

static uint32_t next(input *in) {
    return in->at < in->end ? *in->at++ : 0;
}

/* Numbers at edges, or eight bytes that follow. */
static uint64_t value(input *in, uint64_t now, uint64_t size) {
    const uint64_t values[] = {0,          1,           now + 1,           now - 1,         now + 4096, now - 4096, now * 2,
                               size,       size + 4096, size - 4096,       size / 4096,     1ull << 24, 1ull << 18, UINT32_MAX,
                               UINT64_MAX, 1ull << 63,  UINT64_MAX - 4095, UINT64_MAX / 24, 1ull << 40, 64};
    uint32_t kind = next(in);
    if (kind < sizeof values / sizeof values[0]) {
        return values[kind];
    }
    uint64_t v = 0;
    for (int i = 0; kind >= 128 && i < 8; i++) {
        v |= (uint64_t)next(in) << (8 * i);
    }
    return kind >= 128 ? v : kind;
}

/* Breaks up to three fields of [bytes, bytes + size): 4 or 8 bytes wide. */
static void damage(input *in, uint8_t *bytes, size_t size, uint64_t file_size) {
    for (uint32_t n = next(in) % 4; n; n--) {
        uint32_t where = next(in), width = where & 1 ? 4 : 8;
        size_t at = (where >> 1) * 4 % (size - 8);
        uint64_t now = 0;
        memcpy(&now, bytes + at, width);
        now = value(in, now, file_size);
        memcpy(bytes + at, &now, width);
    }
}

/* A record that would be right, at offset; the pages that it adds are filled. Its length with them. */
static uint64_t make_record(input *in, uint8_t *file, uint64_t offset, uint64_t number, const sp_log_header *header, const uint8_t previous[16]) {
    sp_log_record *r = (sp_log_record *)(void *)(file + offset);
    uint32_t shape = next(in), n_entries = shape % 4, note = next(in) % 32, meta = next(in) % 64, side = shape >> 4 & 3;
    bool mark = (shape >> 6) == 3;
    *r = (sp_log_record){.bytes = SP_LOG_PAGE, .offset = offset, .number = number, .parent = number - 1, .time_ns = number};
    memcpy(r->magic, mark ? "SPMARKED" : "SPCOMMIT", 8);
    memcpy(r->previous, previous, 16);
    uint64_t pages = 0, first = offset / SP_LOG_PAGE + 1;
    if (mark) {
        r->marks = 1 + (shape & 1);
        r->number = 1;
        r->parent = 0;
    } else {
        r->memory_bytes = MEMORY / 2;
        r->side_bytes = (uint64_t)side * SP_LOG_PAGE;
        r->n_entries = n_entries;
        r->note_bytes = note;
        r->meta_bytes = meta;
    }
    r->name_bytes = shape & 8 ? 3 : 0;
    memcpy(r->name, "abc", r->name_bytes);
    sp_log_entry *entry = sp_log_entries(r);
    uint64_t page = 0;
    for (uint64_t i = 0; i < r->n_entries; i++, entry++) {
        uint32_t what = next(in), count = 1 + (what & 3);
        bool old = what & 4 && offset > SP_LOG_PAGE;
        page += what >> 4;
        *entry = (sp_log_entry){.page = page, .file_page = old ? 1 : first + pages, .count = count, .file = 0};
        pages += old ? 0 : count;
        page += count;
    }
    r->end = offset + SP_LOG_PAGE + pages * SP_LOG_PAGE;
    memset(file + offset + SP_LOG_PAGE, (int)number, pages * SP_LOG_PAGE);
    sp_log_checksum(header->seed, file + offset + SP_LOG_PAGE, pages * SP_LOG_PAGE, r->data_checksum);
    damage(in, (uint8_t *)r, sizeof *r + r->n_entries % 4 * sizeof *entry, r->end);
    const uint64_t whole = r->bytes <= ROOM - offset ? r->bytes : SP_LOG_PAGE;
    const uint64_t said = r->bytes;
    r->bytes = whole;
    uint8_t checksum[16];
    /* The checksum is over as much as there is; a length that lies reaches the bounds all the same. */
    sp_log_record_checksum(header->seed, r, checksum);
    r->bytes = said;
    memcpy(r->checksum, checksum, 16);
    return SP_LOG_PAGE + pages * SP_LOG_PAGE;
}

static size_t make_file(input *in, uint8_t *file) {
    sp_log_header *header = (sp_log_header *)(void *)file;
    *header = (sp_log_header){.magic = {'S', 'P', 'S', 'N', 'A', 'P', '\r', '\n'}, .version = SP_LOG_VERSION, .page = SP_LOG_PAGE, .seed = 42};
    uint32_t n = 1 + next(in) % 4;
    damage(in, file, 512, SP_LOG_PAGE);
    sp_log_checksum(0, file, offsetof(sp_log_header, checksum), header->checksum);
    uint64_t offset = SP_LOG_PAGE;
    const uint8_t *previous = header->checksum;
    for (uint64_t i = 1; i <= n; i++) {
        uint64_t length = make_record(in, file, offset, i, header, previous);
        previous = ((const sp_log_record *)(const void *)(file + offset))->checksum;
        offset += length;
    }
    return offset - (next(in) == 7 ? next(in) * 16 : 0); /* a torn tail */
}

static void use(sp_session *log, sp_memory *memory) {
    sp_error err;
    const uint64_t size = sp_memory_size(memory);
    for (uint64_t i = 0; i < sp_session_count(log); i++) {
        const sp_commit *commit = sp_session_at(log, i);
        CHECK(commit->number == i + 1 && commit->parent < commit->number && strlen(commit->name) <= SP_COMMIT_NAME_MAX);
        sp_log_blobs blobs;
        if (sp_log_read_blobs(log, commit->number, &blobs, &err) == SP_OK) {
            free(blobs.meta);
            free(blobs.side);
        }
        if (commit->memory_bytes <= size && sp_log_map(log, commit->number, memory, size, &err) == SP_OK) {
            uint8_t sum = 0;
            for (uint64_t at = 0; at < size; at += SP_LOG_PAGE) {
                sum ^= sp_memory_base(memory)[at];
            }
            *(volatile uint8_t *)&(uint8_t){0} = sum;
        }
    }
    sp_session_verify(log, &err);
    sp_session_info info;
    sp_session_get_info(log, &info);
    CHECK(info.head <= sp_session_count(log));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[64];
    static uint8_t file[ROOM];
    static sp_memory *memory;
    static int fd;
    sp_error err = {0};
    if (!memory) {
        snprintf(path, sizeof path, "/dev/shm/samepage-fuzz-%d", (int)getpid());
        fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(fd >= 0 && sp_memory_create(MEMORY, MEMORY, 0, &memory, &err) == SP_OK);
    }
    input in = {.at = data, .end = data + size};
    size_t length = make_file(&in, file);
    CHECK(pwrite(fd, file, length, 0) == (ssize_t)length && ftruncate(fd, (off_t)length) == 0);
    sp_session *log = NULL;
    sp_status status = sp_session_open(path, true, &log, &err);
    CHECK((status == SP_OK) == (log != NULL) && (status == SP_OK || err.message[0]));
    if (log) {
        use(log, memory);
    }
    sp_session_close(log);
    return 0;
}
