/* See passphrase.h. */
#include "cli/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"

/* So that the read ends, and the terminal is put right. */
static void on_interrupt(int signal) {
    (void)signal;
}

/* A line without its end. SP_ERR_ARGUMENT: empty or too long. */
static sp_status read_line(int fd, char out[SP_PASSPHRASE_MAX], sp_error *err) {
    size_t n = 0;
    ssize_t got;
    char c = 0;
    while ((got = read(fd, &c, 1)) == 1 && c != '\n' && n < SP_PASSPHRASE_MAX) {
        out[n++] = c;
    }
    if (got < 0) {
        return errno == EINTR ? sp_fail(err, SP_ERR_INTERRUPTED, "interrupted") : sp_fail(err, SP_ERR_IO, "no passphrase: %s", strerror(errno));
    }
    if (n == 0 || n == SP_PASSPHRASE_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the passphrase is %s", n ? "too long" : "empty");
    }
    out[n] = 0;
    return SP_OK;
}

static sp_status ask(int terminal, const char *prompt, char out[SP_PASSPHRASE_MAX], sp_error *err) {
    if (write(terminal, prompt, strlen(prompt)) < 0) {
        return sp_fail(err, SP_ERR_IO, "the terminal can't be written: %s", strerror(errno));
    }
    sp_status status = read_line(terminal, out, err);
    return write(terminal, "\n", 1) < 0 ? SP_ERR_IO : status;
}

/* Echo is off meanwhile, and on again whatever happens: Ctrl-C ends the read. */
static sp_status ask_terminal(bool confirm, char out[SP_PASSPHRASE_MAX], sp_error *err) {
    int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC);
    struct termios before, silent;
    if (terminal < 0 || tcgetattr(terminal, &before) != 0) {
        if (terminal >= 0) {
            close(terminal);
        }
        return sp_fail(err, SP_ERR_NOT_FOUND, "no passphrase: set SAMEPAGE_PASSPHRASE, or name a file with --passphrase-file");
    }
    silent = before;
    silent.c_lflag &= ~(tcflag_t)ECHO;
    struct sigaction action = {.sa_handler = on_interrupt}, old;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old);
    tcsetattr(terminal, TCSAFLUSH, &silent);
    char again[SP_PASSPHRASE_MAX] = "";
    sp_status status = ask(terminal, "Passphrase: ", out, err);
    status = status || !confirm ? status : ask(terminal, "Once more: ", again, err);
    if (!status && confirm && strcmp(out, again) != 0) {
        status = sp_fail(err, SP_ERR_ARGUMENT, "the two passphrases differ");
    }
    sp_passphrase_wipe(again);
    tcsetattr(terminal, TCSAFLUSH, &before);
    sigaction(SIGINT, &old, NULL);
    close(terminal);
    return status;
}

sp_status sp_passphrase_read(const char *file, bool confirm, char out[SP_PASSPHRASE_MAX], sp_error *err) {
    const char *given = getenv("SAMEPAGE_PASSPHRASE");
    if (file) {
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            return sp_fail(err, errno == ENOENT ? SP_ERR_NOT_FOUND : SP_ERR_IO, "%s: %s", file, errno == ENOENT ? "no such file" : strerror(errno));
        }
        sp_status status = read_line(fd, out, err);
        close(fd);
        return status;
    }
    if (!given) {
        return ask_terminal(confirm, out, err);
    }
    if (!*given || strlen(given) >= SP_PASSPHRASE_MAX) {
        return sp_fail(err, SP_ERR_ARGUMENT, "SAMEPAGE_PASSPHRASE is %s", *given ? "too long" : "empty");
    }
    snprintf(out, SP_PASSPHRASE_MAX, "%s", given);
    return SP_OK;
}

void sp_passphrase_wipe(char passphrase[SP_PASSPHRASE_MAX]) {
    sodium_memzero(passphrase, SP_PASSPHRASE_MAX);
}
