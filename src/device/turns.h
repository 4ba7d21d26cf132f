/*
 * Fair turns of the actors that share a device, which computes one graph at a time. Whoever has had the least device time goes next, so an actor
 * with long runs delays another by the run that is under way and no more. Having been idle earns nothing: who comes back starts level.
 */
#ifndef SP_DEVICE_TURNS_H
#define SP_DEVICE_TURNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* One that takes turns. Zeros are a good start. */
typedef struct sp_turn {
    uint64_t used; /* virtual time: nanoseconds on the device, raised to the level of those that were there when it came */
    bool granted;
    struct sp_turn *next;
} sp_turn;

typedef struct sp_turns {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sp_turn *waiting; /* in order of arrival */
    bool busy;
    uint64_t level; /* `used` of whoever was granted last, at its start */
} sp_turns;

void sp_turns_init(sp_turns *turns);
void sp_turns_destroy(sp_turns *turns);
/* Returns when it is who's turn. */
void sp_turns_enter(sp_turns *turns, sp_turn *who);
/* Ends the turn, which took that long. */
void sp_turns_leave(sp_turns *turns, sp_turn *who, uint64_t took_ns);

#endif
