/*
 * Every mapping call of the system, and what the system says about pages. One implementation per system: os_linux.c, os_darwin.c.
 * Addresses and lengths are multiples of sp_os_page_size() unless stated. Functions that return bool leave errno set on false.
 */
#ifndef SP_MEMORY_OS_H
#define SP_MEMORY_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Bytes. Asked of the system once; tests force a larger one with the environment variable SAMEPAGE_PAGE_SIZE (16384, 65536). */
uint64_t sp_os_page_size(void);

/* Reserves address space that faults on any access; NULL on failure. */
void *sp_os_reserve(uint64_t length);
/* Makes reserved pages readable and writable; they read as zeros. */
bool sp_os_commit(void *at, uint64_t length);
/* Replaces [at, at + length) by zeros, readable and writable. Async-signal-safe. */
bool sp_os_map_zeros(void *at, uint64_t length);
/* Gives back pages and address space. */
void sp_os_release(void *at, uint64_t length);
/* Replaces [at, at + length) by a private, writable mapping of fd from offset on. */
bool sp_os_map_file(void *at, uint64_t length, int fd, uint64_t offset);
/* The same, shared: what is written goes to the file, and to whoever maps it. */
bool sp_os_map_shared(void *at, uint64_t length, int fd, uint64_t offset);
/* Maps a file's first length bytes read-only anywhere; NULL on failure. length need not be a multiple of the page size. */
const void *sp_os_map_readonly(int fd, uint64_t length);
/* The same in place of reserved pages from `at` on. */
bool sp_os_map_readonly_at(void *at, int fd, uint64_t length);
void sp_os_unmap(const void *at, uint64_t length);
/* An unnamed file in memory, or -1. */
int sp_os_anonymous_file(const char *label, uint64_t length);

/* Reads size bytes; fewer only at the file's end. How many, or -1 with errno. */
int64_t sp_os_read_at(int fd, void *bytes, uint64_t size, uint64_t offset);
/* Writes all of the bytes. False, with errno. By what does as pwrite, which may write less than it is told; or by pwrite. */
typedef ssize_t sp_os_write(int fd, const void *bytes, size_t size, off_t offset);
bool sp_os_write_by(sp_os_write *write_at, int fd, const void *bytes, uint64_t size, uint64_t offset);
bool sp_os_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset);

/* Makes a file that long, with room on the disk for all of it. */
bool sp_os_allocate(int fd, uint64_t length);

/* Takes a file's clean pages out of the system's memory, for measurements. False, with errno, where the system can't. */
bool sp_os_drop_cached(int fd);

/* Cores that compute on their own (a core's second thread adds nothing to what keeps its units busy), at most as many as this process may use. */
int sp_os_cores(void);

/* Resident memory of this process in bytes; 0 if it can't be told. Proportional (shared pages divided) and private+shared. */
uint64_t sp_os_resident_bytes(void);
uint64_t sp_os_proportional_bytes(void);
/* The physical frame behind an address that is mapped and touched; 0 where the user may not see it or the system can't tell. */
uint64_t sp_os_physical_frame(const void *at);
/* Sets bit i for each page i of the range that is private to this process and was written. False where the system can't tell. */
bool sp_os_written_pages(const void *at, uint64_t length, uint64_t *bitmap);

#endif
