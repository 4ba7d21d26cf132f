/* proc_exit where a fork begins.
 * expect: fork GUEST exit */
#include "hostile.h"

#include <stdlib.h>

int32_t sp_step(void) {
    return SP_IDLE;
}

void sp_resumed(uint64_t seed, int32_t reason) {
    (void)seed, (void)reason;
    exit(3);
}
