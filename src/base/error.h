/*
 * base: what every layer may use: errors, checked arithmetic. Calls nothing of the project.
 */
#ifndef SP_BASE_ERROR_H
#define SP_BASE_ERROR_H

#include "samepage.h"

/*
 * Writes a one-line message for a human into *err (which may be NULL) and returns code, so that a failing
 * function can say `return sp_fail(err, SP_ERR_FORMAT, "...")`. A message that is too long is cut, never overrun.
 */
sp_status sp_fail(sp_error *err, sp_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of a message that is already there and returns its code. */
sp_status sp_fail_in(sp_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
