/* Passphrases: from the environment, a file, or the terminal without echo; never from a command line, which others can read. */
#ifndef SP_CLI_PASSPHRASE_H
#define SP_CLI_PASSPHRASE_H

#include "samepage.h"

enum { SP_PASSPHRASE_MAX = 1024 };

/*
 * Reads one: the first line of `file`, if it is not NULL; else SAMEPAGE_PASSPHRASE; else the terminal, twice if `confirm`. SP_ERR_ARGUMENT: it is
 * empty, too long, or the two differ. SP_ERR_NOT_FOUND: there is none and no terminal to ask at. SP_ERR_INTERRUPTED. Wipe it when it was used.
 */
sp_status sp_passphrase_read(const char *file, bool confirm, char out[SP_PASSPHRASE_MAX], sp_error *err);
void sp_passphrase_wipe(char passphrase[SP_PASSPHRASE_MAX]);

#endif
