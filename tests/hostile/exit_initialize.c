/* proc_exit while it is made.
 * expect: spawn GUEST proc_exit(0) */
#include "hostile.h"

__attribute__((constructor)) static void leave(void) {
    exit(0);
}

int32_t sp_step(void) {
    return SP_DONE;
}
