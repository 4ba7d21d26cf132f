/* Sleeping, for which no limit of guest code would count, is refused; there is no folder and no network.
 * expect: done */
#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>
#include <wasi/api.h>

int32_t sp_step(void) {
    struct timespec year = {.tv_sec = 365 * 86400};
    EXPECT(-1, nanosleep(&year, NULL));
    __wasi_subscription_t forever[1] = {{.u = {.tag = __WASI_EVENTTYPE_CLOCK, .u.clock = {.id = __WASI_CLOCKID_MONOTONIC, .timeout = UINT64_MAX}}}};
    __wasi_event_t event;
    __wasi_size_t n;
    EXPECT(__WASI_ERRNO_NOTSUP, __wasi_poll_oneoff(forever, &event, 1, &n));
    EXPECT(-1, open("/etc/passwd", O_RDONLY));
    EXPECT(-1, open("x", O_CREAT | O_WRONLY, 0600));
    for (int fd = 3; fd < 20; fd++) {
        __wasi_prestat_t folder;
        EXPECT(__WASI_ERRNO_BADF, __wasi_fd_prestat_get(fd, &folder));
        EXPECT(-1, accept(fd, NULL, NULL));
    }
    EXPECT(0, getenv("HOME") != NULL || getenv("PATH") != NULL);
    return SP_DONE;
}
