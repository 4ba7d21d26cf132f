/*
 * ggml and libllama check much with assertions, and throw. Both end here: ggml's abort callback throws an exception of ours, which unwinds them as
 * their own exceptions do, and no exception leaves this file. A crash by a wild pointer is not caught.
 */
#include "device/guard.h"

#include <cstdio>
#include <exception>
#include <ggml.h>
#include <mutex>
#include <stdexcept>

static thread_local bool guarded = false;
static ggml_abort_callback_t previous = nullptr;

/* The build's paths say nothing to whoever reads the message. */
static const char *without_folders(const char *message) {
    const char *from = message;
    for (const char *p = message; *p && *p != ':'; p++) {
        from = *p == '/' ? p + 1 : from;
    }
    return from;
}

/* Outside of a guarded call an assertion does what it did before. */
static void on_assertion(const char *message) {
    if (guarded) {
        throw std::runtime_error(without_folders(message));
    }
    if (previous) {
        previous(message);
    } else {
        std::fprintf(stderr, "%s\n", message);
    }
}

bool sp_shim_guard(void (*call)(void *user), void *user, char *why, size_t capacity) {
    static std::once_flag once;
    const bool before = guarded;
    bool ok = false;
    try {
        std::call_once(once, [] { previous = ggml_set_abort_callback(on_assertion); });
        guarded = true;
        call(user);
        ok = true;
    } catch (const std::exception &error) {
        std::snprintf(why, capacity, "%s", error.what());
    } catch (...) {
        std::snprintf(why, capacity, "an unknown exception");
    }
    guarded = before;
    return ok;
}
