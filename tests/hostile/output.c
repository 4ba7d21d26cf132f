/* A flood of output: an error for the guest once the limit is reached, and it lives on.
 * expect: done
 * limits: output_bytes=10000 */
#include "hostile.h"

#include <unistd.h>

int32_t sp_step(void) {
    static const char text[1000] = {0};
    int written = 0;
    while (written < 1000000) {
        ssize_t n = write(STDOUT_FILENO, text, sizeof text);
        if (n < 0) {
            break;
        }
        written += (int)n;
    }
    EXPECT(10000, written);
    EXPECT(-1, (int32_t)write(STDERR_FILENO, text, 1)); /* together */
    return SP_DONE;
}
