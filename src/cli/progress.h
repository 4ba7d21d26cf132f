/* Progress: a line on standard error, where that is a terminal, of what takes longer than half a second. */
#ifndef SP_CLI_PROGRESS_H
#define SP_CLI_PROGRESS_H

#include <stdbool.h>

typedef struct sp_progress_line {
    double since; /* seconds */
    bool shown;
} sp_progress_line;

/* Counts from now. */
void sp_progress_start(sp_progress_line *line);
/* An sp_progress; user: the sp_progress_line. */
void sp_progress_show(void *user, const char *what, double fraction);
/* For what can't say how far it is: for how many seconds it has gone on. */
void sp_progress_show_seconds(sp_progress_line *line, const char *what);
/* Takes the line away, if it is there. */
void sp_progress_hide(sp_progress_line *line);

#endif
