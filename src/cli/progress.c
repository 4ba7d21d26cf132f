/* See progress.h. */
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void sp_progress_start(sp_progress_line *line) {
    line->since = seconds();
}

void sp_progress_show(void *user, const char *what, double fraction) {
    sp_progress_line *line = user;
    if (isatty(STDERR_FILENO) && seconds() - line->since > 0.5) {
        fprintf(stderr, "\r%s: %3.0f %%\033[K", what, fraction * 100);
        line->shown = true;
    }
}

void sp_progress_show_seconds(sp_progress_line *line, const char *what) {
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r%s: %.0f s\033[K", what, seconds() - line->since);
        line->shown = true;
    }
}

void sp_progress_hide(sp_progress_line *line) {
    if (line->shown) {
        fputs("\r\033[K", stderr);
        line->shown = false;
    }
}
