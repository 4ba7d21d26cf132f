/* echo: the smallest actor. Every message comes back. */
#include "samepage/actor.h"

int32_t sp_step(void) {
    char text[4096];
    int32_t n = sp_actor_receive(text, sizeof text);
    if (n < 0) {
        return SP_IDLE;
    }
    sp_send(text, (uint32_t)n);
    return SP_AGAIN;
}
