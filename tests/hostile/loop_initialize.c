/* _initialize does not end.
 * expect: spawn LIMIT --limit-step-ms
 * limits: step_ms=100 */
#include "hostile.h"

__attribute__((constructor)) static void forever(void) {
    for (volatile int i = 0;; i++) {
    }
}

int32_t sp_step(void) {
    return SP_DONE;
}
