/* A trap where a fork begins.
 * expect: fork GUEST unreachable */
#include "hostile.h"

int32_t sp_step(void) {
    return SP_IDLE;
}

void sp_resumed(uint64_t seed, int32_t reason) {
    (void)seed, (void)reason;
    __builtin_trap();
}
