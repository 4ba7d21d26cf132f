/* Where sessions are kept: a folder of files NAME.session, what their names may be, and what the notes of their commits say. */
#ifndef SP_CLI_STORE_H
#define SP_CLI_STORE_H

#include "samepage.h"

enum { SP_STORE_NAME_MAX = 100, SP_STORE_PATH_MAX = 4096 };

/*
 * The store's folder into path: `folder`, or XDG_DATA_HOME/samepage/sessions, or ~/.local/share/samepage/sessions. It is made, mode 0700, if `make`.
 * SP_ERR_NOT_FOUND: there is none, or no home to have it in. SP_ERR_IO, SP_ERR_ARGUMENT (too long).
 */
sp_status sp_store_open(const char *folder, bool make, char path[SP_STORE_PATH_MAX], sp_error *err);

/* A session's file. SP_ERR_ARGUMENT: no such name can be. */
sp_status sp_store_path(const char *store, const char *name, char path[SP_STORE_PATH_MAX], sp_error *err);

/* Splits "NAME@COMMIT"; commit is NULL where there is none. Changes text. */
void sp_store_split(char *text, const char **name, const char **commit);

/* A commit by its number or name, or "head". SP_ERR_NOT_FOUND. */
sp_status sp_store_find(const sp_session *session, const char *commit, uint64_t *number, sp_error *err);

/* Gives a commit (0: the head) a name that sp_store_find finds and a terminal can show; "": none. SP_ERR_ARGUMENT, and sp_session_set_name's. */
sp_status sp_store_label(sp_session *session, uint64_t number, const char *label, sp_error *err);

/* The names in a store, sorted; free each and the list. */
sp_status sp_store_list(const char *store, char ***names, size_t *count, sp_error *err);

/* What the CLI stores with each commit, so that a list needs no model and no guest. Read from a file: anybody may have written it. */
typedef struct sp_note {
    char session[SP_STORE_NAME_MAX + 1]; /* by which name the commit was made, */
    uint64_t commit;                     /* and its number then */
    char origin[SP_STORE_NAME_MAX + 1];  /* whom the session branched from; "": from none */
    uint64_t origin_commit;
    char kind[16];      /* "begin", "turn", "regenerate", "system", "reset" */
    char model[1024];   /* path of the GGUF, a hint; "": the embedded one, or too long */
    char adapters[512]; /* as --lora and --lora-scaled named them, for people */
    uint32_t turns, tokens, context;
    char user[512], answer[1024]; /* the last ones, one line each, cut */
} sp_note;

/* Zeros where a commit has no note of ours. */
void sp_note_read(const sp_commit *commit, sp_note *out);
/* As JSON, at most SP_COMMIT_NOTE_MAX bytes; malloc'ed, NULL: no memory. */
char *sp_note_write(const sp_note *note);

/* Copies text as one line of at most capacity - 1 bytes: control characters become spaces, UTF-8 is cut between characters, with "..." where it was
 * cut. */
void sp_one_line(char *out, size_t capacity, const char *text, size_t length);

/* "1.5 MiB" */
void sp_size_text(char out[16], uint64_t bytes);

#endif
