/* See open_device.h. */
#include "cli/open_device.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What the thread that counts shares with the one that opens. */
typedef struct waiting {
    const char *name;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool end;
} waiting;

static void *count(void *user) {
    waiting *w = user;
    const char *why = strncmp(w->name, "cuda:", 5) == 0 ? " (the first time its driver compiles the kernels)" : "";
    struct timespec next;
    clock_gettime(CLOCK_REALTIME, &next);
    pthread_mutex_lock(&w->lock);
    int seconds = 0;
    for (;;) {
        next.tv_sec++;
        while (!w->end && pthread_cond_timedwait(&w->ended, &w->lock, &next) != ETIMEDOUT) {
        }
        if (w->end) {
            break;
        }
        fprintf(stderr, "\ropening %s%s: %d s\033[K", w->name, why, ++seconds);
    }
    pthread_mutex_unlock(&w->lock);
    if (seconds) {
        fputs("\r\033[K", stderr);
    }
    return NULL;
}

sp_status sp_cli_open_device(const char *name, int threads, sp_device **out, sp_error *err) {
    waiting w = {.name = name, .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
    pthread_t counter;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the thread that opens */
    const bool counts = isatty(STDERR_FILENO) && pthread_create(&counter, NULL, count, &w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sp_status status = sp_device_open(name, threads, out, err);
    if (counts) {
        pthread_mutex_lock(&w.lock);
        w.end = true;
        pthread_cond_signal(&w.ended);
        pthread_mutex_unlock(&w.lock);
        pthread_join(counter, NULL);
    }
    return status;
}
