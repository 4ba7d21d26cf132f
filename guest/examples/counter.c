/*
 * counter: an actor with state. "add N" adds, "get" tells, "stop" ends it. The state is a variable: it lies in linear memory like everything else, so
 * whoever keeps the memory keeps the count.
 */
#include "samepage/actor.h"

static long long count;

int32_t sp_step(void) {
    char text[64], answer[64];
    if (sp_actor_receive(text, sizeof text) < 0) {
        return SP_IDLE;
    }
    if (strncmp(text, "add ", 4) == 0) {
        count += strtoll(text + 4, NULL, 10);
    } else if (strcmp(text, "stop") == 0) {
        return SP_DONE;
    } else if (strcmp(text, "get") != 0) {
        sp_actor_say("say \"add N\", \"get\" or \"stop\"");
        return SP_AGAIN;
    }
    snprintf(answer, sizeof answer, "%lld", count);
    sp_actor_say(answer);
    return SP_AGAIN;
}
