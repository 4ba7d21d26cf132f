/*
 * Every call that changes a snapshot file or its folder goes through this table, so that a test can make the nth one
 * fail or stop, and see what a power loss at that point leaves behind.
 */
#ifndef SP_SNAPSHOT_IO_H
#define SP_SNAPSHOT_IO_H

#include <stdint.h>
#include <sys/types.h>

/* Each is the system call of its name: -1 and errno on failure; write_at may write less than it was told. */
typedef struct sp_io {
    ssize_t (*write_at)(int fd, const void *bytes, size_t size, off_t offset);
    int (*sync)(int fd); /* of a file: what it takes to read its bytes again, not its times */
    int (*sync_folder)(int fd);
    int (*truncate)(int fd, off_t size);
    int (*rename)(const char *from, const char *to);
    int (*link)(const char *from, const char *to);
} sp_io;

/* The system's. Tests may replace it while no log is in use by another thread. */
extern sp_io sp_snapshot_io;

#endif
