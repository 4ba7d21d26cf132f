/* A step that does not end.
 * expect: step LIMIT --limit-step-ms
 * limits: step_ms=100 */
#include "hostile.h"

int32_t sp_step(void) {
    for (volatile int i = 0;; i++) {
    }
}
