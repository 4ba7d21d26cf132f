/* A trap while it is made.
 * expect: spawn GUEST out of bounds memory access */
#include "hostile.h"

__attribute__((constructor)) static void stray(void) {
    *(volatile int *)at(UINT32_MAX - 3) = 1;
}

int32_t sp_step(void) {
    return SP_DONE;
}
