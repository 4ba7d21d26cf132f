/* Errors: a code for programs, one line for people. */
#include "base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/*
 * Names in messages come from guests and files, and messages go to terminals: control characters become blanks, as bytes (C0) and in UTF-8 (C1). A
 * character that was cut at the end is taken away.
 */
static void make_one_line(char *text) {
    unsigned char *s = (unsigned char *)text;
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        bool c1 = s[i] == 0xc2 && s[i + 1] >= 0x80 && s[i + 1] < 0xa0;
        if (s[i] < 0x20 || s[i] == 0x7f || c1) {
            s[i] = ' ';
            s[i + 1] = c1 ? ' ' : s[i + 1];
        }
    }
    size_t start = n;
    while (start && n - start < 4 && (s[start - 1] & 0xc0) == 0x80) {
        start--;
    }
    if (start && s[start - 1] >= 0xc0) {
        size_t length = s[start - 1] >= 0xf0 ? 4 : s[start - 1] >= 0xe0 ? 3 : 2;
        s[start - 1 + length <= n ? n : start - 1] = 0;
    }
}

sp_status sp_fail(sp_error *err, sp_status code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        make_one_line(err->message);
        err->status = code;
    }
    return code;
}

sp_status sp_fail_in(sp_error *err, const char *format, ...) {
    if (!err) {
        return SP_ERR_STATE;
    }
    char context[sizeof err->message], rest[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    memcpy(rest, err->message, sizeof rest);
    /* Cut the context before the cause: the cause is what the reader needs. */
    size_t cause = strlen(rest), most = sizeof err->message - 3;
    size_t room = most > cause ? most - cause : 0, length = strlen(context);
    length = length < room ? length : room;
    memcpy(err->message, context, length);
    memcpy(err->message + length, ": ", 2);
    memcpy(err->message + length + 2, rest, cause < most ? cause + 1 : most + 1);
    err->message[sizeof err->message - 1] = 0;
    return err->status;
}

const char *sp_status_name(sp_status status) {
    switch (status) {
    case SP_OK:
        return "ok";
    case SP_ERR_ARGUMENT:
        return "bad argument";
    case SP_ERR_NO_MEMORY:
        return "out of memory";
    case SP_ERR_IO:
        return "input/output error";
    case SP_ERR_FORMAT:
        return "malformed data";
    case SP_ERR_UNSUPPORTED:
        return "not supported";
    case SP_ERR_NOT_FOUND:
        return "not found";
    case SP_ERR_LIMIT:
        return "limit exceeded";
    case SP_ERR_DEVICE:
        return "device error";
    case SP_ERR_GUEST:
        return "guest fault";
    case SP_ERR_BUSY:
        return "busy";
    case SP_ERR_INTERRUPTED:
        return "interrupted";
    case SP_ERR_RANGE:
        return "out of range";
    case SP_ERR_STATE:
        return "wrong state";
    }
    return "unknown status";
}
