/* The Linux side of os.h. */
#include "memory/os.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Bits of an entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_FILE (1ull << 61)
#define PAGE_FRAME ((1ull << 55) - 1)

uint64_t sp_os_page_size(void) {
    static uint64_t size; /* idempotent: a race writes the same value */
    if (!size) {
        uint64_t native = (uint64_t)sysconf(_SC_PAGESIZE);
        const char *forced = getenv("SAMEPAGE_PAGE_SIZE");
        uint64_t wanted = forced ? strtoull(forced, NULL, 10) : 0;
        bool usable = wanted > native && (wanted & (wanted - 1)) == 0 && wanted <= 65536;
        size = usable ? wanted : native;
    }
    return size;
}

void *sp_os_reserve(uint64_t length) {
    /* mmap aligns to the native page; a forced larger page needs the base aligned to it too. */
    uint64_t page = sp_os_page_size(), slack = page - (uint64_t)sysconf(_SC_PAGESIZE);
    uint8_t *at = mmap(NULL, length + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    uint64_t lead = (page - (uintptr_t)at % page) % page;
    if (lead) {
        munmap(at, lead);
    }
    if (slack - lead) {
        munmap(at + lead + length, slack - lead);
    }
    return at + lead;
}

bool sp_os_commit(void *at, uint64_t length) {
    return length == 0 || mprotect(at, length, PROT_READ | PROT_WRITE) == 0;
}

bool sp_os_map_zeros(void *at, uint64_t length) {
    return mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

void sp_os_release(void *at, uint64_t length) {
    munmap(at, length);
}

bool sp_os_map_file(void *at, uint64_t length, int fd, uint64_t offset) {
    return mmap(at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, (off_t)offset) != MAP_FAILED;
}

bool sp_os_map_shared(void *at, uint64_t length, int fd, uint64_t offset) {
    return mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) != MAP_FAILED;
}

const void *sp_os_map_readonly(int fd, uint64_t length) {
    void *at = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

bool sp_os_map_readonly_at(void *at, int fd, uint64_t length) {
    return mmap(at, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
}

void sp_os_unmap(const void *at, uint64_t length) {
    munmap((void *)(uintptr_t)at, length);
}

int sp_os_anonymous_file(const char *label, uint64_t length) {
    int fd = memfd_create(label, MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)length) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Sum of one field of /proc/self/smaps_rollup, in bytes. */
static uint64_t rollup(const char *field) {
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    if (!file) {
        return 0;
    }
    char line[256];
    unsigned long long kib = 0;
    size_t length = strlen(field);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, field, length) == 0) {
            kib = strtoull(line + length, NULL, 10);
            break;
        }
    }
    fclose(file);
    return kib * 1024;
}

uint64_t sp_os_resident_bytes(void) {
    return rollup("Rss:");
}

uint64_t sp_os_proportional_bytes(void) {
    return rollup("Pss:");
}

/* Reads count entries of the page map for the native pages from `at` on. */
static bool read_pagemap(const void *at, uint64_t *entries, uint64_t count) {
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    uint64_t native = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t offset = (uintptr_t)at / native * sizeof *entries;
    uint64_t size = count * sizeof *entries, done = 0;
    while (done < size) {
        ssize_t n = pread(fd, (uint8_t *)entries + done, size - done, (off_t)(offset + done));
        if (n <= 0) {
            break;
        }
        done += (uint64_t)n;
    }
    close(fd);
    return done == size;
}

uint64_t sp_os_physical_frame(const void *at) {
    uint64_t entry = 0;
    return read_pagemap(at, &entry, 1) && (entry & PAGE_PRESENT) ? entry & PAGE_FRAME : 0;
}

/* PAGEMAP_SCAN of Linux 6.7 (linux/fs.h, which may be older than the kernel): finds pages by what they are, and passes over what was never touched.
 */
struct page_region {
    uint64_t start, end, categories;
};
struct scan_argument {
    uint64_t size, flags, start, end, walk_end, regions, n_regions, max_pages, inverted, all_of, any_of, returned;
};
enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4, IS_ZERO_PAGE = 1 << 5 };
#define SCAN _IOWR('f', 16, struct scan_argument)

/*
 * sp_os_written_pages where the kernel has the call; false: it has not. The bitmap is zeros. The page of zeros that the kernel shows where nothing
 * but reads were is left out: whoever freezes reads all of a memory once, and would look at all of it ever after.
 */
static bool scan_written_pages(const void *at, uint64_t length, uint64_t *bitmap) {
    struct page_region regions[256];
    uint64_t page = sp_os_page_size(), base = (uintptr_t)at;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), n = 0;
    struct scan_argument scan = {.size = sizeof scan,
                                 .end = base + length,
                                 .walk_end = base,
                                 .regions = (uintptr_t)regions,
                                 .n_regions = sizeof regions / sizeof regions[0],
                                 .inverted = IS_FILE | IS_ZERO_PAGE,
                                 .all_of = IS_FILE | IS_ZERO_PAGE,
                                 .any_of = IS_PRESENT | IS_SWAPPED,
                                 .returned = IS_PRESENT | IS_SWAPPED};
    while (fd >= 0 && n >= 0 && scan.walk_end < scan.end) {
        scan.start = scan.walk_end;
        n = ioctl(fd, SCAN, &scan);
        n = scan.walk_end > scan.start ? n : -1;
        for (int i = 0; i < n; i++) {
            for (uint64_t p = (regions[i].start - base) / page; p * page < regions[i].end - base; p++) {
                bitmap[p / 64] |= 1ull << (p % 64);
            }
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0 && n >= 0;
}

bool sp_os_written_pages(const void *at, uint64_t length, uint64_t *bitmap) {
    enum { CHUNK = 8192 };
    uint64_t native = (uint64_t)sysconf(_SC_PAGESIZE), page = sp_os_page_size(), per_page = page / native;
    uint64_t count = length / native;
    memset(bitmap, 0, (length / page + 63) / 64 * 8);
    if (scan_written_pages(at, length, bitmap)) {
        return true;
    }
    uint64_t *entries = malloc(CHUNK * sizeof *entries);
    bool ok = entries != NULL;
    for (uint64_t first = 0; ok && first < count; first += CHUNK) {
        uint64_t n = count - first < CHUNK ? count - first : CHUNK;
        ok = read_pagemap((const uint8_t *)at + first * native, entries, n);
        for (uint64_t i = 0; ok && i < n; i++) {
            /* In a private mapping, a page in memory that is no page of the file is a copy that was made by a write. */
            bool in_use = entries[i] & (PAGE_PRESENT | PAGE_SWAPPED);
            if (in_use && !(entries[i] & PAGE_FILE)) {
                uint64_t at_page = (first + i) / per_page;
                bitmap[at_page / 64] |= 1ull << (at_page % 64);
            }
        }
    }
    free(entries);
    return ok;
}

bool sp_os_allocate(int fd, uint64_t length) {
    do {
        errno = posix_fallocate(fd, 0, (off_t)length);
    } while (errno == EINTR);
    return errno == 0;
}

bool sp_os_drop_cached(int fd) {
    errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return errno == 0;
}

int sp_os_cores(void) {
    const long online = sysconf(_SC_NPROCESSORS_CONF);
    cpu_set_t allowed;
    int cores = 0;
    for (long i = 0; i < online; i++) {
        char path[96];
        long first = -1;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%ld/topology/thread_siblings_list", i);
        FILE *file = fopen(path, "re");
        if (file) {
            cores += fscanf(file, "%ld", &first) == 1 && first == i; /* each core is counted at its first thread */
            fclose(file);
        }
    }
    const int usable = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    cores = cores > 0 && cores < usable ? cores : usable;
    return cores > 0 ? cores : 1;
}
