/* See open_device.h. */
#include "cli/open_device.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/progress.h"

/* What the thread that counts shares with the one that opens. */
typedef struct waiting {
    const char *name;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool end;
} waiting;

static void *count(void *user) {
    waiting *w = user;
    char what[128];
    sp_progress_line line = {0};
    struct timespec next;
    snprintf(what, sizeof what, "opening %.40s%s", w->name,
             strncmp(w->name, "cuda:", 5) == 0 ? " (the first time its driver compiles the kernels)" : "");
    sp_progress_start(&line);
    clock_gettime(CLOCK_REALTIME, &next);
    next.tv_sec++;
    pthread_mutex_lock(&w->lock);
    while (!w->end) {
        if (pthread_cond_timedwait(&w->ended, &w->lock, &next) == ETIMEDOUT) {
            sp_progress_show_seconds(&line, what);
            next.tv_sec++;
        }
    }
    pthread_mutex_unlock(&w->lock);
    sp_progress_hide(&line);
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
