/* What a hostile guest's source says that the host must do with it: see hostile.h. */
#ifndef TESTS_EXPECTATION_H
#define TESTS_EXPECTATION_H

#include <stdbool.h>

#include "abi/limits.h"

typedef enum phase { PHASE_LOAD, PHASE_SPAWN, PHASE_STEP, PHASE_FORK, PHASE_DONE } phase;

typedef struct expectation {
    phase where;
    sp_status status;
    char words[128]; /* part of the error; "" for any */
    sp_limits limits;
} expectation;

/* Parses the text of a source. False, with what is wrong on standard error: it says nothing, or nothing that is known. */
bool expectation_parse(const char *name, const char *source, expectation *out);

#endif
