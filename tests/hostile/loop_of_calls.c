/* A step that does not end and calls the host all the time.
 * expect: step LIMIT --limit-step-ms
 * limits: step_ms=100 */
#include "hostile.h"

int32_t sp_step(void) {
    for (;;) {
        sp_region_close(5);
    }
}
