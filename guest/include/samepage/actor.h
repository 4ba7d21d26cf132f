/*
 * What most actors need: regions, messages as text, errors that stop with a reason. Header-only.
 *
 *     #include "samepage/actor.h"
 *     int32_t sp_step(void) {
 *         char line[100];
 *         int32_t n = sp_actor_receive(line, sizeof line);   // -1: no message
 *         if (n < 0) return SP_IDLE;
 *         sp_send(line, (uint32_t)n);
 *         return SP_AGAIN;
 *     }
 */
#ifndef SAMEPAGE_ACTOR_H
#define SAMEPAGE_ACTOR_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "samepage/abi.h"

/* Prints what failed and why, and traps: the host tells the user. For guests that can't go on. */
static inline int32_t sp_actor_check(int32_t result, const char *what) {
    if (result < 0) {
        char why[256];
        int32_t n = sp_last_error(why, sizeof why);
        fprintf(stderr, "%s: %.*s\n", what, n < 0 ? 0 : n < (int32_t)sizeof why ? n : (int32_t)sizeof why, why);
        __builtin_trap();
    }
    return result;
}

/* Zeroed memory of at least `bytes` bytes that starts and ends where a region may; *length is what it really has. NULL: no memory. */
static inline void *sp_actor_pages(uint32_t bytes, uint32_t *length) {
    uint32_t page = sp_page_size();
    *length = (bytes + page - 1) / page * page;
    void *at = aligned_alloc(page, *length);
    if (at) {
        memset(at, 0, *length);
    }
    return at;
}

/* The next message, ended by a NUL and cut at capacity - 1 bytes; its length, or -1 if there is none. */
static inline int32_t sp_actor_receive(char *out, uint32_t capacity) {
    int32_t size = sp_receive(NULL, 0);
    if (size < 0) {
        return -1;
    }
    char *whole = malloc((uint32_t)size + 1);
    if (!whole) {
        __builtin_trap();
    }
    if (size > 0) {
        sp_receive(whole, (uint32_t)size);
    }
    uint32_t n = (uint32_t)size < capacity - 1 ? (uint32_t)size : capacity - 1;
    memcpy(out, whole, n);
    out[n] = 0;
    free(whole);
    return (int32_t)n;
}

/* Sends a text as a message. */
static inline void sp_actor_say(const char *text) {
    sp_send(text, (uint32_t)strlen(text));
}

#endif
