/* `samepage sessions`: what its commands share. cmd_sessions.c changes sessions, sessions_show.c shows them. */
#ifndef SP_CLI_SESSIONS_H
#define SP_CLI_SESSIONS_H

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/store.h"

/* A command of `sessions`: argv[0] is its name; store is where sessions are. Returns the exit code. */
int sp_sessions_list(int argc, char **argv);
int sp_sessions_show(int argc, char **argv);
int sp_sessions_tree(int argc, char **argv);

/* The row for --store in a table of options. */
sp_option sp_sessions_store_row(const char **store);

/* Opens a session of a store by name, its errors with the name before them. */
sp_status sp_sessions_open(const char *store, const char *name, bool read_only, sp_session **out, sp_error *err);

/* Says what failed; SP_ERR_ARGUMENT is a wrong command line. */
int sp_sessions_failed(const sp_error *err);

#endif
