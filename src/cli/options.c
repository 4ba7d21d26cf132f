/* See options.h. */
#include "cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 96, LONG_BASE = 256 };

int sp_usage_error(const char *command, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("samepage: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (see: samepage help %s)\n", command);
    va_end(args);
    return SP_EXIT_USAGE;
}

static bool is_limit(const sp_option *o) {
    return strncmp(o->name, "limit-", 6) == 0;
}

/* The options, or those that limit the guest, which are many and stand last. */
static void print_rows(const sp_option *table, bool limits) {
    bool headed = !limits;
    for (const sp_option *o = table; o->name; o++) {
        char left[64], shorthand[8] = "    ";
        if (is_limit(o) != limits) {
            continue;
        }
        if (!headed) {
            puts("\nWhat the guest may use up; N may end in K, M, G or T:");
            headed = true;
        }
        if (o->short_name) {
            snprintf(shorthand, sizeof shorthand, "-%c, ", o->short_name);
        }
        snprintf(left, sizeof left, "%s--%s%s%s", shorthand, o->name, o->argument ? " " : "", o->argument ? o->argument : "");
        printf("  %-34s %s\n", left, o->help);
    }
}

static void print_help(const sp_option *table, const char *command, const char *usage, const char *about) {
    printf("usage: samepage %s %s\n\n%s\n\n", command, usage, about);
    print_rows(table, false);
    printf("  %-34s %s\n", "-h, --help", "this text");
    print_rows(table, true);
}

static bool parse_number(const char *text, double *out) {
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    return *text && !*end && errno == 0 && isfinite(*out);
}

/* A whole number that may end in K, M, G or T, times 1024 each. */
static bool parse_size(const char *text, uint64_t *out) {
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (*text < '0' || *text > '9' || errno || (*end && (!unit || end[1]))) {
        return false;
    }
    return !unit || !__builtin_mul_overflow(*out, 1ull << (10 * (unit - units + 1)), out);
}

/* Stores a value; NULL, or what is wrong with it. */
static const char *store(const sp_option *o, const char *text) {
    static char wrong[120];
    double number;
    switch (o->kind) {
    case SP_OPT_FLAG:
        *(bool *)o->value = true;
        return NULL;
    case SP_OPT_TEXT:
        *(const char **)o->value = text;
        return NULL;
    case SP_OPT_LIST: {
        sp_option_list *list = o->value;
        if (list->n == sizeof list->items / sizeof list->items[0]) {
            return "given too often";
        }
        list->items[list->n++] = text;
        return NULL;
    }
    case SP_OPT_SEED: {
        char *end;
        errno = 0;
        sp_seed_option *seed = o->value;
        seed->given = strcmp(text, "-1") != 0;
        seed->value = seed->given ? strtoull(text, &end, 10) : 0;
        return seed->given && (*text == '-' || !*text || *end || errno) ? "must be a whole number, 0 or more, or -1 for a random one" : NULL;
    }
    case SP_OPT_SIZE: {
        uint64_t size;
        if (!parse_size(text, &size) || (double)size < o->min || (double)size > o->max) {
            snprintf(wrong, sizeof wrong, "must be a whole number from %g to %g; K, M, G or T behind it are times 1024", o->min, o->max);
            return wrong;
        }
        *(uint64_t *)o->value = size;
        return NULL;
    }
    default:
        break;
    }
    bool whole = o->kind == SP_OPT_INT;
    if (!parse_number(text, &number) || (whole && number != floor(number))) {
        return whole ? "must be a whole number" : "must be a number";
    }
    if (number < o->min || number > o->max) {
        if (o->max >= 1e9) {
            snprintf(wrong, sizeof wrong, "must be %.10g or more", o->min);
        } else {
            snprintf(wrong, sizeof wrong, "must be %.10g to %.10g", o->min, o->max);
        }
        return wrong;
    }
    if (whole) {
        *(int32_t *)o->value = (int32_t)number;
    } else {
        *(float *)o->value = (float)number;
    }
    return NULL;
}

/* llama.cpp's names of several letters behind one dash. */
static void spell_out(const sp_option *table, int argc, char **argv) {
    static char *const names[][2] = {{"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (const sp_option *o = table; o->name; o++) {
            for (int at = 1; strcmp(o->name, names[i][1] + 2) == 0 && at < argc; at++) {
                argv[at] = strcmp(argv[at], names[i][0]) == 0 ? names[i][1] : argv[at];
            }
        }
    }
}

/* order: "+" ends the options at the first operand, "" does not. */
static int parse(const sp_option *table, const char *command, const char *usage, const char *about, int argc, char **argv, const char *order) {
    struct option long_options[MAX_OPTIONS + 2] = {0};
    char letters[MAX_OPTIONS * 2 + 4];
    size_t n = 0, at = (size_t)snprintf(letters, sizeof letters, "%s:h", order);
    memset(letters + at, 0, sizeof letters - at);
    for (; table[n].name && n < MAX_OPTIONS; n++) {
        int argument = table[n].kind == SP_OPT_FLAG ? no_argument : required_argument;
        long_options[n] = (struct option){table[n].name, argument, NULL, LONG_BASE + (int)n};
        if (table[n].short_name) {
            letters[at++] = table[n].short_name;
            if (argument == required_argument) {
                letters[at++] = ':';
            }
        }
    }
    long_options[n] = (struct option){"help", no_argument, NULL, 'h'};
    optind = 1;
    opterr = 0;
    spell_out(table, argc, argv);
    for (int c; (c = getopt_long(argc, argv, letters, long_options, NULL)) != -1;) {
        if (c == 'h') {
            print_help(table, command, usage, about);
            return -1 - SP_EXIT_OK;
        }
        const sp_option *o = NULL;
        for (size_t i = 0; i < n; i++) {
            o = c == LONG_BASE + (int)i || (c == table[i].short_name && c) ? &table[i] : o;
        }
        if (!o) {
            const char *word = argv[optind - 1];
            return -1 - (c == ':' ? sp_usage_error(command, "%s needs a value", word) : sp_usage_error(command, "%s: no such option", word));
        }
        const char *wrong = store(o, optarg);
        if (wrong) {
            return -1 - sp_usage_error(command, "--%s %s: %s", o->name, optarg, wrong);
        }
    }
    return optind;
}

int sp_options_parse(const sp_option *table, const char *command, const char *usage, const char *about, int argc, char **argv) {
    return parse(table, command, usage, about, argc, argv, "");
}

int sp_options_parse_first(const sp_option *table, const char *command, const char *usage, const char *about, int argc, char **argv) {
    return parse(table, command, usage, about, argc, argv, "+");
}
