/* The commands, and what they share. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/options.h"
#include "samepage/llm.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"chat", sp_cmd_chat, "talk with a model"},
    {"generate", sp_cmd_generate, "continue a text"},
    {"embed", sp_cmd_embed, "turn texts into vectors"},
    {"perplexity", sp_cmd_perplexity, "measure how well a model expects a text"},
    {"sessions", sp_cmd_sessions, "list, fork, move and check conversations that are kept"},
    {"run", sp_cmd_run, "run a WebAssembly guest"},
    {"devices", sp_cmd_devices, "list what can compute here"},
    {"cache", sp_cmd_cache, "show what is kept to start faster, and clear it"},
    {"inspect", sp_cmd_inspect, "show what is in a module, a program or a GGUF file"},
    {"proof", sp_cmd_proof, "show that guest and device have one set of pages"},
    {"bench", sp_cmd_bench, "measure against libllama on the same work"},
    {"version", sp_cmd_version, "say which version this is"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

int sp_failed(const sp_error *err) {
    fprintf(stderr, "samepage: %s\n", err->message);
    return SP_EXIT_FAILED;
}

char *sp_read_file(const char *path, size_t *size, sp_error *err) {
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file) {
        sp_fail(err, errno == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO, "%s: %s", path, errno == ENOENT ? "no such file" : strerror(errno));
        return NULL;
    }
    size_t capacity = 1 << 16, length = 0;
    char *bytes = malloc(capacity + 1);
    while (bytes) {
        length += fread(bytes + length, 1, capacity - length, file);
        if (length < capacity) {
            break;
        }
        char *grown = realloc(bytes, (capacity *= 2) + 1);
        if (!grown) {
            free(bytes);
        }
        bytes = grown;
    }
    bool failed = ferror(file);
    if (file != stdin) {
        fclose(file);
    }
    if (!bytes || failed) {
        free(bytes);
        sp_fail(err, SP_ERR_IO, "%s: can't be read", file == stdin ? "standard input" : path);
        return NULL;
    }
    bytes[length] = 0;
    *size = length;
    return bytes;
}

const char *sp_end_reason(uint32_t reason) {
    switch (reason) {
    case SP_LLM_END_TOKEN:
        return "end";
    case SP_LLM_END_STOP_STRING:
        return "stop";
    case SP_LLM_END_MAX_TOKENS:
        return "max-tokens";
    case SP_LLM_END_CONTEXT:
        return "context-full";
    case SP_LLM_END_INTERRUPTED:
        return "interrupted";
    default:
        return "nothing";
    }
}

int sp_cmd_version(int argc, char **argv) {
    bool json = false;
    const sp_option table[] = {{0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON"}, {0}};
    int at = sp_options_parse(table, "version", "[--json]", "Says which version this is, and of what it is made.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("version", "%s: version takes no operands", argv[at]);
    }
    printf(json ? "{\"version\": \"%s\", \"build\": \"%s\"}\n" : "samepage %s (%s)\n", sp_version(), sp_build_info());
    return SP_EXIT_OK;
}

static int print_commands(void) {
    puts("usage: samepage COMMAND [OPTION...]\n\nA WebAssembly guest and a compute device on the same pages.\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].about);
    }
    puts("  help       this text; help COMMAND: about a command");
    return SP_EXIT_OK;
}

static int dispatch(const char *name, int argc, char **argv) {
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return commands[i].run(argc, argv);
        }
    }
    fprintf(stderr, "samepage: %s: no such command (see: samepage help)\n", name);
    return SP_EXIT_USAGE;
}

/*
 * A standard stream that is closed would be given to the next file that is opened, and that file taken for it. It gets one instead on which each
 * read, or each write, fails.
 */
static void keep_standard_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd) {
            exit(SP_EXIT_FAILED);
        }
    }
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_commands();
        return SP_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        char *asked[] = {argc > 2 ? argv[2] : NULL, "--help", NULL};
        return argc > 2 ? dispatch(argv[2], 2, asked) : print_commands();
    }
    if (strcmp(name, "--version") == 0) {
        return dispatch("version", 1, argv);
    }
    return dispatch(name, argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    keep_standard_streams();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of write, as a full disk is */
    int exit_code = run(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && exit_code == SP_EXIT_OK) {
        fputs("samepage: standard output can't be written\n", stderr);
        return SP_EXIT_FAILED;
    }
    return exit_code;
}
