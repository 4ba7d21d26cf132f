/*
 * cli: what a person touches. One file a command; each takes argv with its own name first and returns the exit code.
 * May call: everything.
 */
#ifndef SP_CLI_CMD_H
#define SP_CLI_CMD_H

#include "samepage.h"

int sp_cmd_chat(int argc, char **argv);
int sp_cmd_generate(int argc, char **argv);
int sp_cmd_cache(int argc, char **argv);
int sp_cmd_embed(int argc, char **argv);
int sp_cmd_perplexity(int argc, char **argv);
int sp_cmd_sessions(int argc, char **argv);
int sp_cmd_run(int argc, char **argv);
int sp_cmd_devices(int argc, char **argv);
int sp_cmd_inspect(int argc, char **argv);
int sp_cmd_proof(int argc, char **argv);
int sp_cmd_bench(int argc, char **argv);
int sp_cmd_version(int argc, char **argv);

/* Prints "samepage: message" to standard error and returns SP_EXIT_FAILED. */
int sp_failed(const sp_error *err);

/* Reads a whole file ("-": standard input); malloc'ed, with a NUL behind it. NULL with *err. */
char *sp_read_file(const char *path, size_t *size, sp_error *err);

/* Why an answer ended, for people. */
const char *sp_end_reason(uint32_t reason);

#endif
