/* Well-behaved actors that generate text on threads of their own, and tell whether it is the text that they generated alone. */
#ifndef TESTS_VICTIMS_H
#define TESTS_VICTIMS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "samepage.h"

enum { VICTIMS = 3, VICTIM_TOKENS = 24, VICTIM_TIMES = 1 << 16 };

/* What all actors of the test share. */
typedef struct shared {
    sp_host *host;
    sp_device *device;
    sp_model *model;
    sp_module *llm;
} shared;

typedef struct victim {
    const shared *with;
    int number;
    sp_actor *actor;
    pthread_t thread;
    atomic_bool *stop;
    int32_t tokens[VICTIM_TOKENS], alone[VICTIM_TOKENS];
    int n_tokens;
    bool finished;
    char problem[500];
    uint64_t last_ns, *times; /* nanoseconds from token to token */
    size_t n_times;
    unsigned passes, differences;
} victim;

/* Opens an actor for each and generates alone what will be compared. False, with the reason in problem. */
bool victims_open(victim victims[VICTIMS], const shared *with);
void victims_close(victim victims[VICTIMS]);

/* Lets them generate again and again, until stop is set and each has done it once at least. */
void victims_start(victim victims[VICTIMS], atomic_bool *stop);
void victims_join(victim victims[VICTIMS]);

/* The time per token that 99 of 100 don't exceed, over all of them, in nanoseconds; forgets the times. */
uint64_t victims_p99(victim victims[VICTIMS]);

#endif
