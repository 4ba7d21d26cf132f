/* See faults.h. */
#include "faults/faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

/* Renamed calls land here; nobody declares them. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

static atomic_uint_fast64_t calls, armed_at;
static fault_kind armed_kind;
static _Atomic(const char *) failed, interrupted;

void faults_arm(uint64_t nth, fault_kind kind) {
    armed_kind = kind;
    atomic_store(&failed, NULL);
    atomic_store(&interrupted, NULL);
    atomic_store(&calls, 0);
    atomic_store(&armed_at, nth);
}

uint64_t faults_disarm(void) {
    atomic_store(&interrupted, NULL);
    atomic_store(&armed_at, 0);
    return atomic_load(&calls);
}

const char *faults_failed(void) {
    return atomic_load(&failed);
}

/* Is this call the one? */
static bool hit(const char *name) {
    uint64_t at = atomic_load(&armed_at), n = atomic_fetch_add(&calls, 1) + 1;
    const char *before = atomic_load(&failed);
    bool stays = armed_kind == FAULT_STAYS && at && before && strcmp(before, name) == 0;
    if (n != at && !stays) {
        return false;
    }
    atomic_store(&failed, name);
    return true;
}

static bool fails(const char *name, int error) {
    if (!hit(name) || armed_kind == FAULT_SHORT) {
        return false;
    }
    errno = error;
    return true;
}

static size_t part(size_t n) {
    return n > 1 ? n / 2 : n;
}

/* In part: the call is interrupted, and the next of its name transfers a part. */
static bool is_next_part(const char *name) {
    const char *before = atomic_load(&interrupted);
    if (!before || strcmp(before, name) != 0) {
        return false;
    }
    atomic_store(&interrupted, NULL);
    return true;
}

#define FAULTY(type, name, params, args, failure, error)                                                                                             \
    type faulty_##name params {                                                                                                                      \
        return fails(#name, error) ? failure : name args;                                                                                            \
    }
#define FAULTY_TRANSFER(name, params, args, part_args, error)                                                                                        \
    ssize_t faulty_##name params {                                                                                                                   \
        const bool now = hit(#name);                                                                                                                 \
        if (is_next_part(#name)) {                                                                                                                   \
            return name part_args;                                                                                                                   \
        }                                                                                                                                            \
        if (!now) {                                                                                                                                  \
            return name args;                                                                                                                        \
        }                                                                                                                                            \
        atomic_store(&interrupted, armed_kind == FAULT_SHORT ? #name : NULL);                                                                        \
        errno = armed_kind == FAULT_SHORT ? EINTR : error;                                                                                           \
        return -1;                                                                                                                                   \
    }

FAULTY(void *, malloc, (size_t n), (n), NULL, ENOMEM)
FAULTY(void *, calloc, (size_t a, size_t b), (a, b), NULL, ENOMEM)
FAULTY(void *, realloc, (void *p, size_t n), (p, n), NULL, ENOMEM)
FAULTY(char *, strdup, (const char *s), (s), NULL, ENOMEM)
FAULTY(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t offset), (at, n, prot, flags, fd, offset), MAP_FAILED, ENOMEM)
FAULTY(int, mprotect, (void *at, size_t n, int prot), (at, n, prot), -1, ENOMEM)
FAULTY(int, memfd_create, (const char *name, unsigned flags), (name, flags), -1, EMFILE)
FAULTY(int, fdatasync, (int fd), (fd), -1, EIO)
FAULTY(int, fsync, (int fd), (fd), -1, EIO)
FAULTY(int, ftruncate, (int fd, off_t size), (fd, size), -1, ENOSPC)
FAULTY(int, rename, (const char *from, const char *to), (from, to), -1, EIO)
FAULTY(int, link, (const char *from, const char *to), (from, to), -1, EMLINK)
FAULTY(int, fstat, (int fd, struct stat *info), (fd, info), -1, EIO)
FAULTY(int, stat, (const char *path, struct stat *info), (path, info), -1, EIO)
FAULTY(int, lstat, (const char *path, struct stat *info), (path, info), -1, EIO)
FAULTY(int, mkdir, (const char *path, mode_t mode), (path, mode), -1, ENOSPC)
FAULTY(int, mkostemp, (char *path, int flags), (path, flags), -1, ENOSPC)
FAULTY(int, dup, (int fd), (fd), -1, EMFILE)
FAULTY(off_t, lseek, (int fd, off_t offset, int whence), (fd, offset, whence), -1, EIO)
FAULTY(FILE *, fopen, (const char *path, const char *mode), (path, mode), NULL, EMFILE)
FAULTY(FILE *, fdopen, (int fd, const char *mode), (fd, mode), NULL, ENOMEM)
FAULTY(int, fflush, (FILE * file), (file), EOF, ENOSPC)
FAULTY(DIR *, opendir, (const char *path), (path), NULL, EMFILE)
FAULTY(struct dirent *, readdir, (DIR * dir), (dir), NULL, EIO)
FAULTY(int, access, (const char *path, int mode), (path, mode), -1, EIO)
FAULTY(int, unlink, (const char *path), (path), -1, EIO)
FAULTY(int, kill, (pid_t pid, int signal), (pid, signal), -1, EPERM)
FAULTY(int, sodium_init, (void), (), -1, EIO)
FAULTY(XXH3_state_t *, XXH3_createState, (void), (), NULL, ENOMEM)
FAULTY(ZSTD_CCtx *, ZSTD_createCCtx, (void), (), NULL, ENOMEM)
FAULTY(ZSTD_DCtx *, ZSTD_createDCtx, (void), (), NULL, ENOMEM)
FAULTY(int, pthread_create, (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *user), (thread, attributes, run, user),
       EAGAIN, EAGAIN)
FAULTY(int, getentropy, (void *bytes, size_t n), (bytes, n), -1, EIO)
FAULTY(int, sigaction, (int signal, const struct sigaction *action, struct sigaction *old), (signal, action, old), -1, EINVAL)
FAULTY_TRANSFER(read, (int fd, void *bytes, size_t n), (fd, bytes, n), (fd, bytes, part(n)), EIO)
FAULTY_TRANSFER(write, (int fd, const void *bytes, size_t n), (fd, bytes, n), (fd, bytes, part(n)), ENOSPC)
FAULTY_TRANSFER(pread, (int fd, void *bytes, size_t n, off_t offset), (fd, bytes, n, offset), (fd, bytes, part(n), offset), EIO)
FAULTY_TRANSFER(pwrite, (int fd, const void *bytes, size_t n, off_t offset), (fd, bytes, n, offset), (fd, bytes, part(n), offset), ENOSPC)

/* Buffered files end here. */
int faulty_fclose(FILE *file) {
    const bool failing = fails("fclose", ENOSPC);
    return fclose(file) == 0 && !failing ? 0 : EOF;
}

int faulty_close(int fd) {
    const bool failing = fails("close", EIO);
    return close(fd) == 0 && !failing ? 0 : -1;
}

int faulty_flock(int fd, int operation) {
    if (!hit("flock")) {
        return flock(fd, operation);
    }
    errno = armed_kind == FAULT_SHORT ? EINTR : ENOLCK;
    return -1;
}

int faulty_posix_fallocate(int fd, off_t offset, off_t length) {
    return fails("posix_fallocate", 0) ? ENOSPC : posix_fallocate(fd, offset, length);
}

/* A key that costs nothing, so that each position can be tried. */
int faulty_crypto_pwhash(unsigned char *key, unsigned long long size, const char *passphrase, unsigned long long length, const unsigned char *salt,
                         unsigned long long opslimit, size_t memlimit, int algorithm) {
    (void)opslimit, (void)memlimit;
    return fails("crypto_pwhash", ENOMEM)
               ? -1
               : crypto_pwhash(key, size, passphrase, length, salt, crypto_pwhash_OPSLIMIT_MIN, crypto_pwhash_MEMLIMIT_MIN, algorithm);
}

int faulty_openat(int folder, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails("openat", EMFILE) ? -1 : openat(folder, path, flags, mode);
}

int faulty_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails("open", EMFILE) ? -1 : open(path, flags, mode);
}

int faulty_fcntl(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    void *argument = va_arg(args, void *);
    va_end(args);
    return fails("fcntl", EMFILE) ? -1 : fcntl(fd, command, argument);
}
