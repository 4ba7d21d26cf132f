/* A language-model client whose actor is kept in a session: begun or continued, committed after each turn, taken back to any commit. */
#ifndef SP_CLI_KEPT_H
#define SP_CLI_KEPT_H

#include "cli/llm_client.h"
#include "cli/store.h"

typedef struct sp_kept sp_kept;

/*
 * Opens the session's file for writing; where there is none, `is_new` holds until sp_kept_start makes it. *out is NULL on failure: SP_ERR_ARGUMENT
 * (name), SP_ERR_BUSY (who holds it), and sp_session_open's.
 */
sp_status sp_kept_open(const char *store, const char *name, sp_kept **out, sp_error *err);
void sp_kept_close(sp_kept *kept);
bool sp_kept_is_new(const sp_kept *kept);
/* NULL: it is new, or was lost: a sync failed, and the file can't be opened again. The next commit tries to. */
sp_session *sp_kept_session(sp_kept *kept);

/* A command line that was parsed once: what it says about sampling is put over what the session had, so that what it does not say stays. */
typedef struct sp_kept_line {
    const sp_option *table;
    int argc;
    char **argv;
    sp_llm_settings *settings; /* what the table fills */
} sp_kept_line;

/*
 * Opens the model, begins or thaws. On failure *out is NULL. SP_ERR_ARGUMENT: a model that is not the session's, another guest, settings that can't
 * change; with what was expected and what was found. Strings in line->settings live as long as kept.
 */
sp_status sp_kept_start(sp_kept *kept, const sp_kept_line *line, sp_llm_client **out, sp_error *err);

/* Commits the actor after a request; durable when this returns. user and answer may be NULL: then those of the commit before. */
typedef struct sp_kept_turn {
    const char *kind, *user, *answer; /* sp_note's */
    uint32_t tokens;                  /* in the context */
} sp_kept_turn;
sp_status sp_kept_commit(sp_kept *kept, sp_llm_client *client, const sp_kept_turn *turn, sp_error *err);

/* Back to a commit, or by n steps (0: to the head, which leaves what could not be committed); what came after stays reachable. SP_ERR_NOT_FOUND,
 * SP_ERR_ARGUMENT; the actor stays on failure. */
sp_status sp_kept_goto(sp_kept *kept, sp_llm_client *client, uint64_t number, sp_error *err);
sp_status sp_kept_undo(sp_kept *kept, sp_llm_client *client, uint32_t n, sp_error *err);
/* A new session in the same store that begins with the head, or a commit (0: the head). */
sp_status sp_kept_fork(sp_kept *kept, const char *name, sp_error *err);

/* The commits as a list, the head marked, the newest `most` of them (0: all). */
void sp_kept_print_log(const sp_session *session, uint64_t most);

#endif
