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

#include "cli/cmd.h"
#include "cli/llm_client.h"

typedef struct chat {
    sp_llm_client *client;
    sp_llm_settings settings;
    bool terminal;
    bool ended_line;
    sp_llm_done last;
} chat;

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    chat *c = user;
    for (uint32_t i = 0; i < token->length; i++) {
        if (!c->terminal && text[i] == '\n') {
            fputs("\\n", stdout);
        } else if (!c->terminal && text[i] == '\\') {
            fputs("\\\\", stdout);
        } else {
            putchar(text[i]);
        }
    }
    if (c->terminal) {
        fflush(stdout);
    }
}

static sp_status ask(chat *c, uint32_t kind, const char *text, sp_error *err) {
    sp_llm_events events = {.on_token = on_token, .user = c};
    sp_status status = sp_llm_ask(c->client, kind, text, text ? strlen(text) : 0, &events, &c->last, err);
    bool answered = status == SP_OK && c->last.reason != SP_LLM_END_NOTHING;
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
    printf("time      %.1f %% device, %.1f %% guest, %.1f %% preparing programs; %llu steps, %llu runs\n",
           total > 0 ? 100 * (double)stats.device_ns / total : 0, total > 0 ? 100 * (double)stats.guest_ns / total : 0,
           total > 0 ? 100 * (double)stats.prepare_ns / total : 0, (unsigned long long)stats.steps, (unsigned long long)stats.runs);
}

static void print_help(void) {
    puts("/help            this text\n"
         "/stats           tokens, times and memory\n"
         "/system TEXT     set the system message and begin anew\n"
         "/regenerate      another answer to the last message\n"
         "/reset           forget the conversation\n"
         "/exit            leave (so does Ctrl-D); Ctrl-C stops an answer");
}

/* A line that begins with a slash. False: leave. */
static bool command(chat *c, const char *line, sp_error *err, sp_status *status) {
    *status = SP_OK;
    if (strcmp(line, "/exit") == 0) {
        return false;
    }
    if (strcmp(line, "/help") == 0) {
        print_help();
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(c);
    } else if (strncmp(line, "/system", 7) == 0 && (line[7] == ' ' || !line[7])) {
        *status = ask(c, SP_LLM_SYSTEM, line[7] ? line + 8 : "", err);
    } else if (strcmp(line, "/regenerate") == 0) {
        *status = ask(c, SP_LLM_REGENERATE, NULL, err);
    } else if (strcmp(line, "/reset") == 0) {
        *status = ask(c, SP_LLM_RESET, NULL, err);
    } else {
        fprintf(stderr, "%s: no such command; /help lists them\n", line);
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
        if (ferror(stdout)) { /* nobody reads the answers */
            exit_code = SP_EXIT_FAILED;
            break;
        }
    }
    free(line);
    return exit_code;
}

int sp_cmd_chat(int argc, char **argv) {
    chat c = {.settings = sp_llm_defaults};
    const char *system = NULL;
    sp_option table[SP_LLM_OPTION_ROWS + 3] = {0};
    size_t n = sp_llm_option_rows(&c.settings, table);
    table[n] = (sp_option){0, "system-prompt", SP_OPT_TEXT, &system, 0, 0, "TEXT", "what the model is told first"};
    int at = sp_options_parse(
        table, "chat", "[OPTION...]",
        "Talks with a model. With no terminal, each line of standard input is a message and each line of standard output an answer.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("chat", "%s: chat takes no operands", argv[at]);
    }
    sp_error err;
    sp_status status = sp_llm_open(&c.settings, &c.client, &err);
    if (status != SP_OK) {
        return status == SP_ERR_ARGUMENT ? (fprintf(stderr, "samepage: %s\n", err.message), SP_EXIT_USAGE) : sp_failed(&err);
    }
    c.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    sp_llm_catch_interrupts(c.client);
    int exit_code = SP_EXIT_OK;
    if (system && ask(&c, SP_LLM_SYSTEM, system, &err) != SP_OK) {
        exit_code = sp_failed(&err);
    } else {
        exit_code = c.terminal ? terminal_loop(&c) : pipe_loop(&c);
    }
    sp_llm_close(c.client);
    return exit_code;
}
