/* The system's calls behind the table that tests replace. */
#include "snapshot/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int sync_file(int fd) {
#ifdef F_FULLFSYNC
    return fcntl(fd, F_FULLFSYNC);
#else
    return fdatasync(fd);
#endif
}

sp_io sp_snapshot_io = {pwrite, sync_file, fsync, ftruncate, rename, link};
