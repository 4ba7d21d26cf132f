/* A result that sp_step can't have.
 * expect: step GUEST sp_step returned -7 */
#include "hostile.h"

int32_t sp_step(void) {
    return -7;
}
