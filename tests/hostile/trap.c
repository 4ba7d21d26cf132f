/* A trap in a step.
 * expect: step GUEST unreachable */
#include "hostile.h"

int32_t sp_step(void) {
    __builtin_trap();
}
