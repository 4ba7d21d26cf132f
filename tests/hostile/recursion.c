/* Recursion without an end.
 * expect: step GUEST call stack exhausted */
#include "hostile.h"

static volatile int depth_left = 1 << 30;

__attribute__((noinline)) static int dive(int x) {
    return depth_left-- ? dive(x + 1) + depth_left : sp_region_close(x);
}

int32_t sp_step(void) {
    return dive(0) ? SP_DONE : SP_IDLE;
}
