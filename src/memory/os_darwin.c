/* The Darwin side of os.h: no memfd, no /proc, pages of 16 KiB on Apple silicon. */
#include "memory/os.h"

#include <errno.h>
#include <fcntl.h>
#include <mach/mach.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysctl.h>
#include <unistd.h>

uint64_t sp_os_page_size(void) {
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

void *sp_os_reserve(uint64_t length) {
    void *at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
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
    (void)label;
    const char *folder = getenv("TMPDIR");
    char path[1024];
    snprintf(path, sizeof path, "%s/samepage-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) {
        return -1;
    }
    unlink(path);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (ftruncate(fd, (off_t)length) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

uint64_t sp_os_resident_bytes(void) {
    mach_task_basic_info_data_t info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    kern_return_t result = task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &count);
    return result == KERN_SUCCESS ? info.resident_size : 0;
}

uint64_t sp_os_proportional_bytes(void) {
    return 0;
}

uint64_t sp_os_physical_frame(const void *at) {
    (void)at;
    return 0;
}

bool sp_os_written_pages(const void *at, uint64_t length, uint64_t *bitmap) {
    (void)at, (void)length, (void)bitmap;
    errno = ENOTSUP;
    return false;
}

bool sp_os_allocate(int fd, uint64_t length) {
    fstore_t store = {.fst_flags = F_ALLOCATEALL, .fst_posmode = F_PEOFPOSMODE, .fst_length = (off_t)length};
    return fcntl(fd, F_PREALLOCATE, &store) != -1 && ftruncate(fd, (off_t)length) == 0;
}

bool sp_os_drop_cached(int fd) {
    (void)fd;
    errno = ENOTSUP;
    return false;
}

int sp_os_cores(void) {
    int cores = 0;
    size_t size = sizeof cores;
    return sysctlbyname("hw.physicalcpu", &cores, &size, NULL, 0) == 0 && cores > 0 ? cores : 1;
}
