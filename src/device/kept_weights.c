/*
 * See kept_weights.h.
 *
 *     head | an entry for each weight | weights, each at a multiple of SP_KEPT_ALIGNMENT
 *
 * The head's digest covers head and entries, an entry's its weight: what a crash left of a file that was never forced to the disk is found by them.
 */
#include "device/kept_weights.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/os.h"

static const char magic[8] = {'S', 'P', 'W', 'E', 'I', 'G', 'H', 'T'}, ending[] = ".weights";
enum { VERSION = 1, MOST_WEIGHTS = 1 << 20, PATH_SIZE = 4400 };

typedef struct digest {
    uint64_t low, high;
} digest;

typedef struct head {
    char magic[8];
    uint32_t version, n;
    uint64_t size, key[2]; /* size: of the file */
    digest digest;         /* of the head, with zeros here, and the entries */
} head;

typedef struct entry {
    uint32_t index, layout;
    uint64_t offset, size;
    digest digest;
} entry;

struct sp_kept_weights {
    const uint8_t *base;
    uint64_t size;
};

static digest digest_of(const void *bytes, uint64_t size) {
    const XXH128_hash_t hash = XXH3_128bits(bytes, size);
    return (digest){hash.low64, hash.high64};
}

static bool same_digest(digest a, digest b) {
    return a.low == b.low && a.high == b.high;
}

/* Of a head and the entries behind it. */
static digest digest_of_table(const head *table) {
    XXH3_state_t *state = XXH3_createState();
    head bare = *table;
    bare.digest = (digest){0};
    XXH128_hash_t hash = {0};
    if (state) {
        XXH3_128bits_reset(state);
        XXH3_128bits_update(state, &bare, sizeof bare);
        XXH3_128bits_update(state, table + 1, table->n * sizeof(entry));
        hash = XXH3_128bits_digest(state);
    }
    XXH3_freeState(state);
    return (digest){hash.low64, hash.high64};
}

/* ---- reading ---- */

static bool is_whole(const sp_kept_weights *k, const uint64_t key[2]) {
    const head *h = (const head *)(const void *)k->base;
    if (k->size < sizeof *h || memcmp(h->magic, magic, sizeof magic) != 0 || h->version != VERSION || h->size != k->size || h->n > MOST_WEIGHTS ||
        sizeof *h + h->n * sizeof(entry) > k->size || memcmp(h->key, key, sizeof h->key) != 0 || !same_digest(h->digest, digest_of_table(h))) {
        return false;
    }
    const entry *entries = (const entry *)(const void *)(h + 1);
    for (uint32_t i = 0; i < h->n; i++) {
        if (entries[i].offset % SP_KEPT_ALIGNMENT || !sp_range_within(entries[i].offset, entries[i].size, k->size)) {
            return false;
        }
    }
    return true;
}

sp_kept_weights *sp_kept_weights_open(const char *path, const uint64_t key[2]) {
    sp_kept_weights *k = calloc(1, sizeof *k);
    const int fd = k ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    struct stat info;
    if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
        k->size = (uint64_t)info.st_size;
        k->base = sp_os_map_readonly(fd, k->size);
    }
    if (!k || !k->base || !is_whole(k, key)) {
        sp_kept_weights_close(k);
        k = NULL;
    } else {
        futimens(fd, NULL); /* used now: others give way before it */
    }
    if (fd >= 0) {
        close(fd);
    }
    return k;
}

void sp_kept_weights_close(sp_kept_weights *k) {
    if (k && k->base) {
        sp_os_unmap(k->base, k->size);
    }
    free(k);
}

const void *sp_kept_weights_find(const sp_kept_weights *k, uint32_t index, uint32_t layout, uint64_t size) {
    const head *h = (const head *)(const void *)k->base;
    const entry *entries = (const entry *)(const void *)(h + 1);
    for (uint32_t i = 0; i < h->n; i++) {
        if (entries[i].index == index && entries[i].layout == layout) {
            const uint8_t *at = k->base + entries[i].offset;
            return entries[i].size == size && same_digest(entries[i].digest, digest_of(at, size)) ? at : NULL;
        }
    }
    return NULL;
}

/* ---- making room ---- */

typedef struct oldest {
    char path[PATH_SIZE];
    struct timespec used;
} oldest;

static bool ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool is_before(struct timespec a, struct timespec b) {
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

/* Bytes of all files in the folder but `own`, and the one that was not used for longest. */
static uint64_t look_around(const char *folder, const char *own, oldest *found) {
    uint64_t total = 0;
    DIR *dir = opendir(folder);
    found->path[0] = 0;
    for (struct dirent *it = dir ? readdir(dir) : NULL; it; it = readdir(dir)) {
        char path[PATH_SIZE];
        struct stat info;
        const int n = snprintf(path, sizeof path, "%s/%s", folder, it->d_name);
        if (!ends_with(it->d_name, ending) || n >= (int)sizeof path || strcmp(path, own) == 0 || lstat(path, &info) != 0) {
            continue;
        }
        total += (uint64_t)info.st_size;
#ifdef __APPLE__
        const struct timespec used = info.st_mtimespec;
#else
        const struct timespec used = info.st_mtim;
#endif
        if (!found->path[0] || is_before(used, found->used)) {
            memcpy(found->path, path, sizeof path);
            found->used = used;
        }
    }
    if (dir) {
        closedir(dir);
    }
    return total;
}

/* A file that is mapped stays with whoever maps it. */
static sp_status make_room(const char *path, uint64_t size, uint64_t limit, sp_error *err) {
    char folder[PATH_SIZE];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    if (size > limit) {
        return sp_fail(err, SP_ERR_LIMIT, "they take %" PRIu64 " MiB, and the limit is %" PRIu64, size >> 20, limit >> 20);
    }
    oldest found;
    while (look_around(folder, path, &found) + size > limit) {
        if (!found.path[0] || unlink(found.path) != 0) {
            return sp_fail(err, SP_ERR_IO, "no room can be made in %s", folder);
        }
    }
    return SP_OK;
}

/* ---- writing ---- */

/* The temporary file, emptied and held; -1: somebody else is at it (errno EWOULDBLOCK), or it can't be had. */
static int hold_temporary(const char *temporary) {
    const int fd = open(temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat ours, there;
    if (fd < 0) {
        return -1;
    }
    /* Between opening and locking, whoever held it may have renamed it: then it is the finished file, which others map. */
    const bool held = flock(fd, LOCK_EX | LOCK_NB) == 0;
    const bool same = held && fstat(fd, &ours) == 0 && stat(temporary, &there) == 0 && ours.st_ino == there.st_ino && ours.st_dev == there.st_dev;
    if (!same || ftruncate(fd, 0) != 0) {
        const int error = held && !same ? EWOULDBLOCK : errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static uint64_t aligned(uint64_t offset) {
    return (offset + SP_KEPT_ALIGNMENT - 1) / SP_KEPT_ALIGNMENT * SP_KEPT_ALIGNMENT;
}

static uint64_t size_of_file(const sp_kept_weight *weights, uint32_t n) {
    uint64_t end = sizeof(head) + n * sizeof(entry);
    for (uint32_t i = 0; i < n; i++) {
        end = aligned(end) + weights[i].size;
    }
    return end;
}

/* The head and its entries, malloc'ed. */
static head *make_table(const uint64_t key[2], const sp_kept_weight *weights, uint32_t n) {
    head *h = calloc(1, sizeof *h + n * sizeof(entry));
    if (!h) {
        return NULL;
    }
    entry *entries = (entry *)(void *)(h + 1);
    uint64_t end = sizeof *h + n * sizeof(entry);
    for (uint32_t i = 0; i < n; i++) {
        const sp_kept_weight *w = &weights[i];
        entries[i] = (entry){.index = w->index, .layout = w->layout, .offset = aligned(end), .size = w->size, .digest = digest_of(w->bytes, w->size)};
        end = entries[i].offset + w->size;
    }
    *h = (head){.version = VERSION, .n = n, .size = end, .key = {key[0], key[1]}};
    memcpy(h->magic, magic, sizeof magic);
    h->digest = digest_of_table(h);
    return h;
}

static bool write_all(int fd, const head *h, const sp_kept_weight *weights) {
    const entry *entries = (const entry *)(const void *)(h + 1);
    bool ok = sp_os_allocate(fd, h->size); /* a full disk is found before anything is written */
    for (uint32_t i = 0; ok && i < h->n; i++) {
        ok = sp_os_write_at(fd, weights[i].bytes, weights[i].size, entries[i].offset);
    }
    return ok && sp_os_write_at(fd, h, sizeof *h + h->n * sizeof(entry), 0);
}

sp_status sp_kept_weights_write(const char *path, const uint64_t key[2], const sp_kept_weight *weights, uint32_t n, uint64_t limit, sp_error *err) {
    char temporary[PATH_SIZE];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    sp_status status = make_room(path, size_of_file(weights, n), limit, err);
    const int fd = status == SP_OK ? hold_temporary(temporary) : -1;
    if (status == SP_OK && fd < 0 && errno != EWOULDBLOCK) {
        status = sp_fail(err, SP_ERR_IO, "%s: %s", temporary, strerror(errno));
    }
    if (fd >= 0) {
        head *h = make_table(key, weights, n);
        if (!h || !write_all(fd, h, weights) || rename(temporary, path) != 0) {
            status = sp_fail(err, SP_ERR_IO, "%s: %s", temporary, strerror(errno));
            unlink(temporary);
        }
        free(h);
        close(fd); /* and with it the lock */
    }
    return status;
}
