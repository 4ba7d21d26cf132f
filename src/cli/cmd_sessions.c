/* `samepage sessions`: commands that change what is in a store, or check it. Each opens, does one thing, and says what it did. */
#include "cli/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/passphrase.h"

sp_option sp_sessions_store_row(const char **store) {
    return (sp_option){0, "store", SP_OPT_TEXT, store, 0, 0, "DIR", "folder of sessions (default: XDG_DATA_HOME/samepage/sessions)"};
}

int sp_sessions_failed(const sp_error *err) {
    fprintf(stderr, "samepage: %s\n", err->message);
    return err->status == SP_ERR_ARGUMENT ? SP_EXIT_USAGE : SP_EXIT_FAILED;
}

sp_status sp_sessions_open(const char *store, const char *name, bool read_only, sp_session **out, sp_error *err) {
    char path[SP_STORE_PATH_MAX];
    sp_error why;
    sp_status status = sp_store_path(store, name, path, err);
    if (status != SP_OK) {
        return status;
    }
    status = sp_session_open(path, read_only, out, &why);
    if (status == SP_ERR_NOT_FOUND && access(path, F_OK) != 0) {
        return sp_fail(err, status, "there is no session %s in %s (samepage sessions lists what there is)", name, store);
    }
    return status ? sp_fail(err, status, "session %s: %s", name, why.message) : SP_OK;
}

/* What each command gets: where, and the words behind its options. */
typedef struct place {
    char store[SP_STORE_PATH_MAX];
    char **words;
    int n;
} place;

/* Parses; false: it is over, with *exit_code. A command has least to most words behind its options. */
static bool start(const sp_option *own, const char *name, const char *usage, const char *about, int least, int most, int argc, char **argv,
                  place *out, int *exit_code) {
    const char *store = NULL;
    sp_option table[8] = {sp_sessions_store_row(&store)};
    char command[64];
    snprintf(command, sizeof command, "sessions %s", name);
    for (size_t i = 0; own && own[i].name && i < 6; i++) {
        table[i + 1] = own[i];
    }
    int at = sp_options_parse(table, command, usage, about, argc, argv);
    if (at < 0) {
        *exit_code = -1 - at;
        return false;
    }
    if (argc - at < least || argc - at > most) {
        *exit_code = sp_usage_error(command, "%s: names are missing, or too many: samepage %s %s", name, command, usage);
        return false;
    }
    out->words = argv + at;
    out->n = argc - at;
    sp_error err;
    if (sp_store_open(store, strcmp(name, "import") == 0, out->store, &err) != SP_OK) {
        *exit_code = sp_sessions_failed(&err);
        return false;
    }
    return true;
}

/* Opens "NAME@COMMIT" and finds the commit: 0 where none is named. */
static sp_status open_at(const place *where, char *word, bool read_only, sp_session **out, uint64_t *number, sp_error *err) {
    const char *name, *commit;
    sp_store_split(word, &name, &commit);
    *number = 0;
    sp_status status = sp_sessions_open(where->store, name, read_only, out, err);
    if (status == SP_OK && commit) {
        status = sp_store_find(*out, commit, number, err);
    }
    return status;
}

static int run_fork(int argc, char **argv) {
    place where;
    int exit_code;
    if (!start(NULL, "fork", "FROM[@COMMIT] TO",
               "Begins a session that goes on where another one is, or was at a commit. Both share what is on the disk; neither knows of the other.",
               2, 2, argc, argv, &where, &exit_code)) {
        return exit_code;
    }
    sp_session *session = NULL;
    uint64_t number = 0;
    char path[SP_STORE_PATH_MAX];
    sp_error err;
    sp_status status = sp_store_path(where.store, where.words[1], path, &err);
    status = status ? status : open_at(&where, where.words[0], true, &session, &number, &err);
    status = status ? status : sp_session_fork(session, number, path, &err);
    sp_session_close(session);
    if (status == SP_ERR_STATE) {
        sp_fail(&err, status, "there is a session %s already: choose another name, or samepage sessions rm %s", where.words[1], where.words[1]);
    }
    return status ? sp_sessions_failed(&err) : SP_EXIT_OK;
}

static bool confirmed(int n, const char *first) {
    char line[16] = "";
    if (n == 1) {
        fprintf(stderr, "Remove session %s for good? [y/N] ", first);
    } else {
        fprintf(stderr, "Remove %d sessions for good? [y/N] ", n);
    }
    return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

static int run_rm(int argc, char **argv) {
    bool yes = false;
    const sp_option own[] = {{'y', "yes", SP_OPT_FLAG, &yes, 0, 0, NULL, "don't ask"}, {0}};
    place where;
    int exit_code;
    if (!start(own, "rm", "[-y] NAME...", "Removes sessions. What others share with them stays. On a terminal it asks first.", 1, 1000000, argc, argv,
               &where, &exit_code)) {
        return exit_code;
    }
    char path[SP_STORE_PATH_MAX];
    sp_session *session;
    sp_error err;
    for (int i = 0; i < where.n; i++) { /* all or none, as far as names go */
        sp_status status = sp_store_path(where.store, where.words[i], path, &err);
        if (status == SP_OK && access(path, F_OK) != 0) {
            status = sp_sessions_open(where.store, where.words[i], true, &session, &err);
        }
        if (status != SP_OK) {
            return sp_sessions_failed(&err);
        }
    }
    if (!yes && isatty(STDIN_FILENO) && !confirmed(where.n, where.words[0])) {
        fputs("samepage: nothing was removed\n", stderr);
        return SP_EXIT_FAILED;
    }
    exit_code = SP_EXIT_OK;
    for (int i = 0; i < where.n; i++) {
        sp_error why;
        sp_store_path(where.store, where.words[i], path, &why);
        if (sp_session_remove(path, &why) != SP_OK) {
            sp_fail(&err, why.status, "session %s: %s", where.words[i], why.message);
            exit_code = sp_sessions_failed(&err);
        }
    }
    return exit_code;
}

static int run_name(int argc, char **argv) {
    place where;
    int exit_code;
    if (!start(NULL, "name", "NAME[@COMMIT] LABEL",
               "Gives a commit a name, taken from whoever bore it; an empty LABEL takes its name away. Named commits survive compaction.", 2, 2, argc,
               argv, &where, &exit_code)) {
        return exit_code;
    }
    sp_session *session = NULL;
    uint64_t number = 0;
    sp_error err;
    sp_status status = open_at(&where, where.words[0], false, &session, &number, &err);
    status = status ? status : sp_store_label(session, number, where.words[1], &err);
    sp_session_close(session);
    return status ? sp_sessions_failed(&err) : SP_EXIT_OK;
}

static sp_status compact_one(const place *where, const char *name, sp_error *err) {
    sp_session *session;
    sp_progress_line progress = {0};
    sp_status status = sp_sessions_open(where->store, name, false, &session, err);
    if (status != SP_OK) {
        return status;
    }
    sp_session_info before, after;
    uint64_t count = sp_session_count(session);
    sp_session_get_info(session, &before);
    sp_progress_start(&progress);
    sp_session_set_progress(session, sp_progress_show, &progress);
    status = sp_session_compact(session, err);
    sp_progress_hide(&progress);
    if (status == SP_OK) {
        char from[16], to[16];
        sp_session_get_info(session, &after);
        sp_size_text(from, before.own_bytes);
        sp_size_text(to, after.own_bytes);
        printf("%s: %s to %s, %llu of %llu commits kept\n", name, from, to, (unsigned long long)sp_session_count(session), (unsigned long long)count);
    }
    sp_session_close(session);
    return status;
}

static int run_compact(int argc, char **argv) {
    place where;
    int exit_code;
    if (!start(NULL, "compact", "NAME...",
               "Makes sessions as small as they can be: keeps where each is, and the commits that have a name. Others can't be gone back to then.", 1,
               1000000, argc, argv, &where, &exit_code)) {
        return exit_code;
    }
    exit_code = SP_EXIT_OK;
    for (int i = 0; i < where.n; i++) {
        sp_error err;
        int one = compact_one(&where, where.words[i], &err) == SP_OK ? SP_EXIT_OK : sp_sessions_failed(&err);
        exit_code = one > exit_code ? one : exit_code;
    }
    return exit_code;
}

static sp_status verify_one(const place *where, const char *name, sp_error *err) {
    sp_session *session;
    sp_progress_line progress = {0};
    sp_error why;
    sp_status status = sp_sessions_open(where->store, name, true, &session, err);
    if (status != SP_OK) {
        return status;
    }
    sp_session_info info;
    sp_session_get_info(session, &info);
    sp_progress_start(&progress);
    sp_session_set_progress(session, sp_progress_show, &progress);
    status = sp_session_verify(session, &why);
    sp_progress_hide(&progress);
    if (status != SP_OK) {
        sp_fail(err, status, "session %s: %s", name, why.message);
    } else {
        uint64_t n = sp_session_count(session);
        printf(n == 1 ? "%s: %llu commit is whole\n" : "%s: %llu commits are whole\n", name, (unsigned long long)n);
        if (info.ignored_bytes) {
            printf("%s: %llu bytes behind the last commit, left by a crash, are ignored\n", name, (unsigned long long)info.ignored_bytes);
        }
    }
    sp_session_close(session);
    return status;
}

static int run_verify(int argc, char **argv) {
    place where;
    int exit_code;
    if (!start(NULL, "verify", "[NAME...]",
               "Reads everything and compares every checksum, of these sessions or of all. Exits with 1 if anything is damaged.", 0, 1000000, argc,
               argv, &where, &exit_code)) {
        return exit_code;
    }
    sp_error err;
    char **names = where.words;
    size_t n = (size_t)where.n;
    bool all = n == 0;
    if (all && sp_store_list(where.store, &names, &n, &err) != SP_OK) {
        return sp_sessions_failed(&err);
    }
    exit_code = SP_EXIT_OK;
    for (size_t i = 0; i < n; i++) {
        int one = verify_one(&where, names[i], &err) == SP_OK ? SP_EXIT_OK : sp_sessions_failed(&err);
        exit_code = one > exit_code ? one : exit_code;
    }
    for (size_t i = 0; all && i < n; i++) {
        free(names[i]);
    }
    if (all) {
        free(names);
    }
    return exit_code;
}

typedef struct export_options {
    bool compress, encrypt;
    int32_t level;
    const char *passphrase_file;
} export_options;

static sp_status export_session(const place *where, const export_options *o, sp_error *err) {
    char passphrase[SP_PASSPHRASE_MAX] = "";
    sp_export_options options = {.compression = o->compress ? o->level : 0};
    sp_progress_line progress = {0};
    sp_session *session = NULL;
    sp_status status = open_at(where, where->words[0], true, &session, &options.number, err);
    if (status == SP_OK && o->encrypt) {
        status = sp_passphrase_read(o->passphrase_file, true, passphrase, err);
        options.passphrase = passphrase;
    }
    if (status == SP_OK) {
        sp_progress_start(&progress);
        sp_session_set_progress(session, sp_progress_show, &progress);
        status = sp_session_export(session, where->words[1], &options, err);
        sp_progress_hide(&progress);
    }
    sp_passphrase_wipe(passphrase);
    sp_session_close(session);
    return status;
}

static int run_export(int argc, char **argv) {
    export_options o = {.level = 3};
    const sp_option own[] = {
        {'z', "compress", SP_OPT_FLAG, &o.compress, 0, 0, NULL, "compress with zstd"},
        {0, "level", SP_OPT_INT, &o.level, 1, 19, "N", "how hard: 1 to 19 (default: 3)"},
        {'e', "encrypt", SP_OPT_FLAG, &o.encrypt, 0, 0, NULL,
         "encrypt with a passphrase, asked for at the terminal or taken from SAMEPAGE_PASSPHRASE"},
        {0, "passphrase-file", SP_OPT_TEXT, &o.passphrase_file, 0, 0, "FILE", "its first line is the passphrase"},
        {0},
    };
    place where;
    int exit_code;
    if (!start(own, "export", "[OPTION...] NAME[@COMMIT] FILE",
               "Writes a session, or one commit of it, into a file that stands alone; import takes it, here or on another machine.", 2, 2, argc, argv,
               &where, &exit_code)) {
        return exit_code;
    }
    if (o.passphrase_file && !o.encrypt) {
        return sp_usage_error("sessions export", "--passphrase-file goes with --encrypt");
    }
    sp_error err;
    return export_session(&where, &o, &err) == SP_OK ? SP_EXIT_OK : sp_sessions_failed(&err);
}

/* A name from the file's: what is before the first dot. */
static void name_of(const char *file, char name[SP_STORE_NAME_MAX + 1]) {
    const char *base = strrchr(file, '/');
    base = base ? base + 1 : file;
    snprintf(name, SP_STORE_NAME_MAX + 1, "%.*s", (int)strcspn(base, "."), base);
}

static sp_status import_file(const char *file, const char *path, const char *passphrase_file, sp_error *err) {
    char passphrase[SP_PASSPHRASE_MAX] = "";
    sp_progress_line progress = {0};
    sp_progress_start(&progress);
    sp_status status = passphrase_file ? sp_passphrase_read(passphrase_file, false, passphrase, err) : SP_OK;
    status = status ? status : sp_session_import(file, path, passphrase_file ? passphrase : NULL, sp_progress_show, &progress, err);
    if (status == SP_ERR_ARGUMENT && !passphrase_file) { /* encrypted, as it turns out */
        status = sp_passphrase_read(NULL, false, passphrase, err);
        status = status ? status : sp_session_import(file, path, passphrase, sp_progress_show, &progress, err);
    }
    sp_progress_hide(&progress);
    sp_passphrase_wipe(passphrase);
    return status;
}

static int run_import(int argc, char **argv) {
    const char *passphrase_file = NULL;
    const sp_option own[] = {
        {0, "passphrase-file", SP_OPT_TEXT, &passphrase_file, 0, 0, "FILE",
         "its first line is the passphrase (default: SAMEPAGE_PASSPHRASE, or asked for)"},
        {0},
    };
    place where;
    int exit_code;
    if (!start(own, "import", "[OPTION...] FILE [NAME]", "Takes an exported session into the store; everything in it is verified first.", 1, 2, argc,
               argv, &where, &exit_code)) {
        return exit_code;
    }
    char path[SP_STORE_PATH_MAX], name[SP_STORE_NAME_MAX + 1];
    name_of(where.words[0], name);
    const char *as = where.n > 1 ? where.words[1] : name;
    sp_error err;
    sp_status status = sp_store_path(where.store, as, path, &err);
    status = status ? status : import_file(where.words[0], path, passphrase_file, &err);
    if (status == SP_ERR_STATE) {
        sp_fail(&err, status, "there is a session %s already: give another name behind the file", as);
    }
    if (status != SP_OK) {
        return sp_sessions_failed(&err);
    }
    printf("%s\n", as);
    return SP_EXIT_OK;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"list", sp_sessions_list, "what there is (also without a command)"},
    {"show", sp_sessions_show, "one session: where it is, its commits, its last lines"},
    {"tree", sp_sessions_tree, "who branched from whom"},
    {"fork", run_fork, "begin a session where another one is"},
    {"name", run_name, "name a commit"},
    {"rm", run_rm, "remove sessions"},
    {"export", run_export, "write a session into a file that stands alone"},
    {"import", run_import, "take an exported session in"},
    {"compact", run_compact, "drop what has no name and is not the head"},
    {"verify", run_verify, "compare every checksum"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int print_commands(void) {
    puts("usage: samepage sessions [COMMAND] [OPTION...]\n\nConversations that are kept: chat --session NAME begins and continues them.\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].about);
    }
    puts("\nA session is named NAME, or NAME@COMMIT for what it was at a commit (a number, a name, or head). Each command has --help.");
    return SP_EXIT_OK;
}

int sp_cmd_sessions(int argc, char **argv) {
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        return print_commands();
    }
    if (argc < 2 || argv[1][0] == '-') {
        return sp_sessions_list(argc, argv);
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, argv[1]) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return sp_usage_error("sessions", "%s: sessions has no such command", argv[1]);
}
