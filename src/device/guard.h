/* Calls of ggml and libllama that may assert or throw, turned into errors. */
#ifndef SP_DEVICE_GUARD_H
#define SP_DEVICE_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
/* Calls call(user). False, with the reason in why, if something in it asserted or threw: what it worked on is then good for nothing but being freed.
 * An assertion on another thread than the caller's ends the process all the same. Thread-safe; calls may be nested. */
bool sp_shim_guard(void (*call)(void *user), void *user, char *why, size_t capacity);
#ifdef __cplusplus
}
#endif

#endif
