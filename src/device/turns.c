/* See turns.h: start-time fair queueing. */
#include "device/turns.h"

#include <stddef.h>

void sp_turns_init(sp_turns *turns) {
    *turns = (sp_turns){0};
    pthread_mutex_init(&turns->lock, NULL);
    pthread_cond_init(&turns->changed, NULL);
}

void sp_turns_destroy(sp_turns *turns) {
    pthread_cond_destroy(&turns->changed);
    pthread_mutex_destroy(&turns->lock);
}

static void grant(sp_turns *turns, sp_turn *who) {
    turns->busy = true;
    turns->level = who->used;
    who->granted = true;
}

void sp_turns_enter(sp_turns *turns, sp_turn *who) {
    pthread_mutex_lock(&turns->lock);
    who->used = who->used < turns->level ? turns->level : who->used;
    who->granted = false;
    who->next = NULL;
    if (!turns->busy) {
        grant(turns, who);
    } else {
        sp_turn **end = &turns->waiting;
        while (*end) {
            end = &(*end)->next;
        }
        *end = who;
    }
    while (!who->granted) {
        pthread_cond_wait(&turns->changed, &turns->lock);
    }
    pthread_mutex_unlock(&turns->lock);
}

void sp_turns_leave(sp_turns *turns, sp_turn *who, uint64_t took_ns) {
    pthread_mutex_lock(&turns->lock);
    who->used += took_ns;
    turns->busy = false;
    sp_turn **least = &turns->waiting; /* of equals, the first to arrive */
    for (sp_turn **at = least; *at; at = &(*at)->next) {
        least = (*at)->used < (*least)->used ? at : least;
    }
    if (*least) {
        sp_turn *next = *least;
        *least = next->next;
        grant(turns, next);
        pthread_cond_broadcast(&turns->changed);
    }
    pthread_mutex_unlock(&turns->lock);
}
