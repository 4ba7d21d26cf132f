/*
 * `samepage chat`. On a terminal: line editing, history, a streamed answer, Ctrl-C. Otherwise each line of standard input is a message, and standard
 * output holds the answers alone, a line each (newlines inside of an answer become \n, a backslash \\).
 */
#include <editline/readline.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/kept.h"

enum { LAST_TURNS = 4, LAST_BYTES = 600 }; /* of the conversation, shown when it is continued */

typedef struct chat {
    sp_llm_client *client;
    sp_llm_settings settings;
    sp_kept *kept; /* NULL: nothing is kept */
    bool terminal;
    bool unsaved; /* the last commit failed */
    sp_llm_done last;
    char answer[2048]; /* the beginning of the last one, for the commit's note */
    size_t answer_length;
} chat;

/* On a terminal control characters stay out: a model, or a file from elsewhere, would command it. With no terminal an answer is one line. */
static void put_text(const chat *c, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (!c->terminal && (byte == '\n' || byte == '\\')) {
            fputs(byte == '\n' ? "\\n" : "\\\\", stdout);
        } else if (c->terminal && (byte < 0x20 || byte == 0x7f) && byte != '\n' && byte != '\t') {
            putchar('?');
        } else {
            putchar(byte);
        }
    }
}

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    chat *c = user;
    for (uint32_t i = 0; i < token->length && c->answer_length < sizeof c->answer - 1; i++) {
        c->answer[c->answer_length++] = text[i];
    }
    put_text(c, text, token->length);
    if (c->terminal) {
        fflush(stdout);
    }
}

/* What a request did is on the disk when this returns. A failure is told, and the conversation goes on: the next commit takes it along. */
static void keep(chat *c, uint32_t kind, const char *text) {
    if (!c->kept) {
        return;
    }
    bool talk = kind == SP_LLM_USER || kind == SP_LLM_REGENERATE;
    sp_kept_turn turn = {.kind = kind == SP_LLM_USER         ? "turn"
                                 : kind == SP_LLM_REGENERATE ? "regenerate"
                                 : kind == SP_LLM_SYSTEM     ? "system"
                                                             : "reset",
                         .user = talk && !text ? NULL
                                 : talk        ? text
                                               : "",
                         .answer = talk ? c->answer : "",
                         .tokens = c->last.n_past};
    sp_error err;
    if (sp_kept_commit(c->kept, c->client, &turn, &err) != SP_OK) {
        fflush(stdout);
        fprintf(stderr, "%ssamepage: this is not saved: %s\n", c->terminal ? "\n" : "", err.message);
        c->unsaved = true;
    } else {
        c->unsaved = false;
    }
}

/* The end of the line that ends an answer is printed when the answer is kept. */
static sp_status ask(chat *c, uint32_t kind, const char *text, sp_error *err) {
    sp_llm_events events = {.on_token = on_token, .user = c};
    c->answer_length = 0;
    sp_status status = sp_llm_ask(c->client, kind, text, text ? strlen(text) : 0, &events, &c->last, err);
    c->answer[c->answer_length] = 0;
    bool answered = status == SP_OK && c->last.reason != SP_LLM_END_NOTHING;
    if (status == SP_OK) {
        keep(c, kind, text);
    }
    if (answered || (status != SP_OK && !c->terminal)) {
        putchar('\n');
        fflush(stdout);
    }
    if (answered && c->terminal && c->last.reason != SP_LLM_END_TOKEN) {
        printf("[%s]\n", c->last.reason == SP_LLM_END_CONTEXT ? "the context is full: /reset begins anew" : sp_end_reason(c->last.reason));
    } else if (answered && c->last.reason == SP_LLM_END_CONTEXT) {
        fprintf(stderr, "samepage: the context of %u tokens is full: the answer ends here\n", sp_llm_ready_info(c->client)->n_ctx);
    }
    return status;
}

static double rate(uint32_t n, uint64_t ns) {
    return ns ? n / ((double)ns * 1e-9) : 0;
}

static void print_stats(const chat *c) {
    sp_actor_stats stats;
    sp_actor_get_stats(sp_llm_actor(c->client), &stats);
    const sp_llm_done *d = &c->last;
    const sp_llm_ready *r = sp_llm_ready_info(c->client);
    double total = (double)(stats.guest_ns + stats.device_ns + stats.prepare_ns);
    printf("context   %u of %u tokens; cache %.1f MiB of %.1f MiB of guest memory\n", d->n_past, r->n_ctx, (double)r->state_bytes / (1 << 20),
           (double)stats.memory_bytes / (1 << 20));
    printf("prompt    %u tokens read (%u were there), %.1f tokens/s\n", d->n_prompt, d->n_cached, rate(d->n_prompt, d->prompt_ns));
    printf("answer    %u tokens, %.1f tokens/s\n", d->n_answer, rate(d->n_answer, d->answer_ns));
    if (d->n_drafted) {
        printf("drafts    %u tokens, %u of them right\n", d->n_drafted, d->n_draft_right);
    }
    printf("time      %.1f %% device, %.1f %% guest, %.1f %% preparing programs; %llu steps, %llu runs\n",
           total > 0 ? 100 * (double)stats.device_ns / total : 0, total > 0 ? 100 * (double)stats.guest_ns / total : 0,
           total > 0 ? 100 * (double)stats.prepare_ns / total : 0, (unsigned long long)stats.steps, (unsigned long long)stats.runs);
}

static void print_help(const chat *c) {
    puts("/help            this text\n"
         "/stats           tokens, times and memory\n"
         "/system TEXT     set the system message and begin anew\n"
         "/regenerate      another answer to the last message\n"
         "/reset           forget the conversation\n"
         "/exit            leave (so does Ctrl-D); Ctrl-C stops an answer");
    puts(c->kept ? "/undo [N]        take back the last step, or N\n"
                   "/log [N]         the commits, the newest 20 or N; * is where this conversation is\n"
                   "/goto COMMIT     go to a commit, by number or name; nothing is lost\n"
                   "/name NAME       name this commit: named ones survive samepage sessions compact\n"
                   "/fork NAME       begin another session here; this one goes on"
                 : "samepage chat --session NAME keeps a conversation, with /undo, /log, /goto and /fork");
}

/* ---- the last lines ---- */

typedef struct last_turns {
    char *text[LAST_TURNS];
    uint32_t role[LAST_TURNS];
    size_t n; /* of all */
} last_turns;

static void on_turn(void *user, const void *bytes, size_t size) {
    last_turns *last = user;
    sp_llm_turn turn;
    if (size < sizeof turn) {
        return;
    }
    memcpy(&turn, bytes, sizeof turn);
    if (turn.kind == SP_LLM_TURN && turn.role != 0 && turn.length <= size - sizeof turn) {
        size_t at = last->n++ % LAST_TURNS;
        free(last->text[at]);
        last->text[at] = strndup((const char *)bytes + sizeof turn, turn.length);
        last->role[at] = turn.role;
    }
}

/* Learns where the conversation is; on a terminal shows its end as it stood on the screen, a long message from its end. */
static void look(chat *c) {
    last_turns last = {0};
    sp_llm_simple tell = {.kind = SP_LLM_HISTORY};
    sp_llm_events events = {.on_other = on_turn, .user = &last};
    if (sp_llm_ask_bytes(c->client, &tell, sizeof tell, &events, &c->last, NULL) == SP_OK && c->terminal) {
        if (last.n > LAST_TURNS) {
            printf("... %zu messages before\n", last.n - LAST_TURNS);
        }
        for (size_t i = last.n > LAST_TURNS ? last.n - LAST_TURNS : 0; i < last.n; i++) {
            const char *text = last.text[i % LAST_TURNS] ? last.text[i % LAST_TURNS] : "";
            size_t length = strlen(text), from = length > LAST_BYTES ? length - LAST_BYTES : 0;
            while (from && from < length && ((unsigned char)text[from] & 0xc0) == 0x80) {
                from++;
            }
            printf("%s%s", last.role[i % LAST_TURNS] == 1 ? "> " : "", from ? "..." : "");
            put_text(c, text + from, length - from);
            putchar('\n');
        }
    }
    for (size_t i = 0; i < LAST_TURNS; i++) {
        free(last.text[i]);
    }
}

/* ---- commands ---- */

/* The argument of a command: NULL if the line is another command, "" if there is none. */
static const char *argument_of(const char *line, const char *name) {
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || (line[n] && line[n] != ' ')) {
        return NULL;
    }
    line += n;
    return line + strspn(line, " ");
}

static sp_status number_of(const char *text, uint32_t usual, uint32_t *out, sp_error *err) {
    char *end;
    unsigned long n = *text ? strtoul(text, &end, 10) : usual;
    if (*text && (*text == '-' || *end || n == 0 || n > 1000000)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%s: must be a whole number, 1 or more", text);
    }
    *out = (uint32_t)n;
    return SP_OK;
}

/* After the actor was put back: sampling as this command line has it, and where the conversation is now. */
static sp_status show_place(chat *c, sp_error *err) {
    sp_status status = sp_llm_configure(c->client, &c->settings, err);
    if (status != SP_OK) {
        return status;
    }
    c->unsaved = false;
    look(c);
    if (c->terminal) {
        const sp_commit *at = sp_session_get(sp_kept_session(c->kept), 0);
        printf("[commit %llu, %u tokens]\n", (unsigned long long)(at ? at->number : 0), c->last.n_past);
    }
    return status;
}

static sp_status undo(chat *c, const char *argument, sp_error *err) {
    uint32_t n = 0;
    sp_status status = number_of(argument, 1, &n, err);
    status = status ? status : sp_kept_undo(c->kept, c->client, c->unsaved ? n - 1 : n, err); /* the last step may have no commit */
    return status ? status : show_place(c, err);
}

static sp_status go_to(chat *c, const char *argument, sp_error *err) {
    uint64_t number = 0;
    if (!*argument) {
        return sp_fail(err, SP_ERR_ARGUMENT, "/goto: which commit? /log lists them");
    }
    sp_status status = sp_store_find(sp_kept_session(c->kept), argument, &number, err);
    status = status ? status : sp_kept_goto(c->kept, c->client, number, err);
    return status ? status : show_place(c, err);
}

static sp_status name_commit(chat *c, const char *argument, sp_error *err) {
    return *argument ? sp_store_label(sp_kept_session(c->kept), 0, argument, err) : sp_fail(err, SP_ERR_ARGUMENT, "/name: the name, please");
}

static sp_status fork_here(chat *c, const char *argument, sp_error *err) {
    sp_status status = *argument ? sp_kept_fork(c->kept, argument, err) : sp_fail(err, SP_ERR_ARGUMENT, "/fork: the new session's name, please");
    if (status == SP_OK && c->terminal) {
        printf("[forked: samepage chat --session %s]\n", argument);
    }
    return status;
}

static sp_status print_log(chat *c, const char *argument, sp_error *err) {
    uint32_t n = 0;
    sp_status status = number_of(argument, 20, &n, err);
    if (status == SP_OK) {
        sp_kept_print_log(sp_kept_session(c->kept), n);
    }
    return status;
}

/* Commands of a session. False: it is none of these. */
static bool session_command(chat *c, const char *line, sp_error *err, sp_status *status) {
    static const struct {
        const char *name;
        sp_status (*run)(chat *c, const char *argument, sp_error *err);
    } commands[] = {{"/undo", undo}, {"/goto", go_to}, {"/log", print_log}, {"/name", name_commit}, {"/fork", fork_here}};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const char *argument = argument_of(line, commands[i].name);
        if (argument) {
            if (!c->kept) {
                *status = sp_fail(err, SP_ERR_STATE, "%s needs a session: begin one with samepage chat --session NAME", commands[i].name);
            } else if (!sp_kept_session(c->kept)) {
                *status = sp_fail(err, SP_ERR_STATE, "the session's file is not open since it could not be synced; the next turn tries again");
            } else {
                *status = commands[i].run(c, argument, err);
            }
            return true;
        }
    }
    return false;
}

/* A line that begins with a slash. False: leave. */
static bool command(chat *c, const char *line, sp_error *err, sp_status *status) {
    *status = SP_OK;
    const char *system = argument_of(line, "/system");
    if (strcmp(line, "/exit") == 0) {
        return false;
    }
    if (strcmp(line, "/help") == 0) {
        print_help(c);
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(c);
    } else if (system) {
        *status = ask(c, SP_LLM_SYSTEM, system, err);
    } else if (strcmp(line, "/regenerate") == 0) {
        *status = ask(c, SP_LLM_REGENERATE, NULL, err);
    } else if (strcmp(line, "/reset") == 0) {
        *status = ask(c, SP_LLM_RESET, NULL, err);
    } else if (!session_command(c, line, err, status)) {
        *status = sp_fail(err, SP_ERR_ARGUMENT, "%.*s: no such command; /help lists them", (int)strcspn(line, " "), line);
    }
    return true;
}

/* One line of input. False: leave. A refused request is said and the chat goes on; a dead guest ends it. */
static bool take_line(chat *c, const char *line, int *exit_code) {
    sp_error err;
    sp_status status = SP_OK;
    bool go_on = true;
    if (line[0] == '/') {
        go_on = command(c, line, &err, &status);
    } else if (line[0]) {
        status = ask(c, SP_LLM_USER, line, &err);
    }
    if (status != SP_OK) {
        fprintf(stderr, "samepage: %s\n", err.message);
        *exit_code = SP_EXIT_FAILED;
        /* The actor lives on after a request that it refused; anything else is the end of it. */
        sp_llm_simple probe = {.kind = SP_LLM_HISTORY};
        go_on = go_on && sp_llm_ask_bytes(c->client, &probe, sizeof probe, NULL, NULL, NULL) == SP_OK;
    }
    *exit_code = c->unsaved ? SP_EXIT_FAILED : *exit_code;
    return go_on;
}

static char *history_path(void) {
    const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    static char path[4096];
    if (base && *base == '/') {
        snprintf(path, sizeof path, "%s/samepage", base);
    } else if (home && *home == '/') {
        snprintf(path, sizeof path, "%s/.local/state/samepage", home);
    } else {
        return NULL;
    }
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
    strncat(path, "/history", sizeof path - strlen(path) - 1);
    return path;
}

static int terminal_loop(chat *c) {
    int exit_code = SP_EXIT_OK;
    char *path = history_path();
    rl_initialize();
    using_history();
    if (path) {
        read_history(path);
    }
    puts("/help lists the commands; Ctrl-D leaves.");
    for (bool go_on = true; go_on;) {
        sp_llm_stop_asked = 0;
        char *line = readline("> ");
        if (!line && sp_llm_stop_asked) { /* Ctrl-C at the prompt: a fresh line */
            putchar('\n');
            continue;
        }
        if (!line) {
            putchar('\n');
            break;
        }
        if (*line) {
            add_history(line);
            if (path) {
                write_history(path);
            }
        }
        go_on = take_line(c, line, &exit_code);
        exit_code = SP_EXIT_OK; /* people saw what went wrong */
        free(line);
    }
    return exit_code;
}

static int pipe_loop(chat *c) {
    int exit_code = SP_EXIT_OK;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    while ((n = getline(&line, &capacity, stdin)) > 0) {
        line[n - (line[n - 1] == '\n')] = 0;
        if (!take_line(c, line, &exit_code)) {
            break;
        }
        if (ferror(stdout)) { /* nobody reads the answers: main says so */
            exit_code = SP_EXIT_OK;
            break;
        }
    }
    free(line);
    if (ferror(stdin) && !sp_llm_stop_asked) {
        fputs("samepage: standard input can't be read: chat takes its messages from there\n", stderr);
        exit_code = SP_EXIT_FAILED;
    }
    return exit_code;
}

static int talk(chat *c, const char *system, const char *session, bool is_new) {
    sp_error err;
    c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    sp_llm_catch_interrupts(c->client);
    if (system && is_new && ask(c, SP_LLM_SYSTEM, system, &err) != SP_OK) {
        return sp_failed(&err);
    }
    if (c->terminal && session) {
        printf("session %s, %s\n", session, is_new ? "new" : "continued");
    }
    if (session) {
        look(c);
    }
    return c->terminal ? terminal_loop(c) : pipe_loop(c);
}

int sp_cmd_chat(int argc, char **argv) {
    chat c = {.settings = sp_llm_defaults};
    const char *system = NULL, *session = NULL, *store = NULL;
    sp_option table[SP_LLM_OPTION_ROWS + 5] = {0};
    size_t n = sp_llm_option_rows(&c.settings, table);
    table[n++] = (sp_option){0, "system-prompt", SP_OPT_TEXT, &system, 0, 0, "TEXT", "what the model is told first"};
    table[n++] = (sp_option){0, "session", SP_OPT_TEXT, &session, 0, 0, "NAME", "keep the conversation under this name; continue it if there is one"};
    table[n++] = (sp_option){0, "store", SP_OPT_TEXT, &store, 0, 0, "DIR", "folder of sessions (default: XDG_DATA_HOME/samepage/sessions)"};
    int at = sp_options_parse(
        table, "chat", "[OPTION...]",
        "Talks with a model. With no terminal, each line of standard input is a message and each line of standard output an answer.\n"
        "With --session, each turn is on the disk before its last line ends; samepage sessions lists what there is.",
        argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("chat", "%s: chat takes no operands", argv[at]);
    }
    if (store && !session) {
        return sp_usage_error("chat", "--store needs --session NAME");
    }
    sp_error err;
    sp_kept_line line = {.table = table, .argc = argc, .argv = argv, .settings = &c.settings};
    sp_status status = session ? sp_kept_open(store, session, &c.kept, &err) : SP_OK;
    bool is_new = !c.kept || sp_kept_is_new(c.kept);
    if (status == SP_OK && system && !is_new) {
        status =
            sp_fail(&err, SP_ERR_ARGUMENT, "session %s has begun: --system-prompt is for new ones; /system TEXT in the chat begins anew", session);
    }
    if (status == SP_OK) {
        status = c.kept ? sp_kept_start(c.kept, &line, &c.client, &err) : sp_llm_open(&c.settings, &c.client, &err);
    }
    int exit_code = status == SP_OK             ? talk(&c, system, session, is_new)
                    : status == SP_ERR_ARGUMENT ? (fprintf(stderr, "samepage: %s\n", err.message), SP_EXIT_USAGE)
                                                : sp_failed(&err);
    sp_llm_close(c.client);
    sp_kept_close(c.kept);
    return exit_code;
}
