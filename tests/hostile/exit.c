/* proc_exit in a step.
 * expect: step GUEST proc_exit(3) */
#include "hostile.h"

int32_t sp_step(void) {
    exit(3);
}
