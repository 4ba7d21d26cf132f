/* What os.h has that is the same on all systems. */
#include <errno.h>
#include <unistd.h>

#include "memory/os.h"

int64_t sp_os_read_at(int fd, void *bytes, uint64_t size, uint64_t offset) {
    uint64_t done = 0;
    while (done < size) {
        const ssize_t n = pread(fd, (uint8_t *)bytes + done, size - done, (off_t)(offset + done));
        if (n == 0) {
            break;
        }
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        done += n > 0 ? (uint64_t)n : 0;
    }
    return (int64_t)done;
}

bool sp_os_write_by(sp_os_write *write_at, int fd, const void *bytes, uint64_t size, uint64_t offset) {
    for (uint64_t done = 0; done < size;) {
        const ssize_t n = write_at(fd, (const uint8_t *)bytes + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n ? errno : EIO;
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

bool sp_os_write_at(int fd, const void *bytes, uint64_t size, uint64_t offset) {
    return sp_os_write_by(pwrite, fd, bytes, size, offset);
}
