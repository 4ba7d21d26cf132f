/* A fork that never begins.
 * expect: fork LIMIT --limit-step-ms
 * limits: step_ms=100 */
#include "hostile.h"

int32_t sp_step(void) {
    return SP_IDLE;
}

void sp_resumed(uint64_t seed, int32_t reason) {
    (void)seed, (void)reason;
    for (volatile int i = 0;; i++) {
    }
}
