/* The --limit-* options: one for each row of abi/limits.h. */
#ifndef SP_CLI_LIMIT_OPTIONS_H
#define SP_CLI_LIMIT_OPTIONS_H

#include "abi/limits.h"
#include "cli/options.h"

/* What a person can limit: the actor's limits, and the host's stack for Wasm. Zeros are the defaults. */
typedef struct sp_limit_settings {
    sp_limits limits;
    uint64_t wasm_stack_bytes;
} sp_limit_settings;

enum { SP_LIMIT_OPTION_ROWS = SP_N_LIMITS + 1 };

/* Fills rows of a table of options and returns how many. */
size_t sp_limit_option_rows(sp_limit_settings *settings, sp_option rows[SP_LIMIT_OPTION_ROWS]);

#endif
