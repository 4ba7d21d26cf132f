/* Command lines: one table a command, from which getopt_long's options and the help text both come. */
#ifndef SP_CLI_OPTIONS_H
#define SP_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum sp_option_kind { SP_OPT_FLAG, SP_OPT_TEXT, SP_OPT_INT, SP_OPT_FLOAT, SP_OPT_SEED, SP_OPT_LIST, SP_OPT_SIZE } sp_option_kind;

/* Values of an option that may be given several times. */
typedef struct sp_option_list {
    const char *items[64];
    size_t n;
} sp_option_list;

typedef struct sp_option {
    char short_name; /* 0: none */
    const char *name;
    sp_option_kind kind;
    void *value; /* bool, const char *, int32_t, float, sp_seed_option, sp_option_list or uint64_t, by kind */
    double min, max;
    const char *argument; /* what the help calls it; NULL for flags */
    const char *help;
} sp_option;

typedef struct sp_seed_option {
    bool given;
    uint64_t value;
} sp_seed_option;

enum { SP_EXIT_OK = 0, SP_EXIT_FAILED = 1, SP_EXIT_USAGE = 2 };

/*
 * Parses argv[1..]; values that are not given stay as they are. Returns the index of the first operand, or -1 - exit code when the command is over:
 * help was asked for and printed, or the line is wrong and said so. The table ends with a NULL name. usage: what follows the command's name.
 */
int sp_options_parse(const sp_option *table, const char *command, const char *usage, const char *about, int argc, char **argv);
/* The same where what follows the first operand is somebody else's, options too; sp_options_parse takes options between operands, and moves them to
 * the front. */
int sp_options_parse_first(const sp_option *table, const char *command, const char *usage, const char *about, int argc, char **argv);

/* Says what is wrong with a command line, in one line, and returns SP_EXIT_USAGE. */
int sp_usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
