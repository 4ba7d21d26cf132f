/* See expectation.h. */
#include "hostile/expectation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    sp_status status;
} statuses[] = {{"FORMAT", SP_ERR_FORMAT}, {"UNSUPPORTED", SP_ERR_UNSUPPORTED}, {"GUEST", SP_ERR_GUEST}, {"LIMIT", SP_ERR_LIMIT},
                {"RANGE", SP_ERR_RANGE},   {"NO_MEMORY", SP_ERR_NO_MEMORY}};
static const char *const phases[] = {"load", "spawn", "step", "fork"};

/* Short limits, so that a guest which the host fails to stop does not hold the test up. */
static const sp_limits defaults = {.step_ms = 5000, .memory_bytes = 4ull << 30};

static bool parse_expect(char *line, expectation *out) {
    char *rest = NULL, *word = strtok_r(line, " ", &rest), *status;
    if (word && strcmp(word, "done") == 0) {
        out->where = PHASE_DONE;
        return true;
    }
    for (int i = 0; word && i < 4; i++) {
        if (strcmp(word, phases[i]) == 0) {
            out->where = (phase)i;
            status = strtok_r(NULL, " ", &rest);
            for (size_t s = 0; status && s < sizeof statuses / sizeof statuses[0]; s++) {
                if (strcmp(status, statuses[s].name) == 0) {
                    out->status = statuses[s].status;
                    snprintf(out->words, sizeof out->words, "%s", rest ? rest : "");
                    return true;
                }
            }
        }
    }
    return false;
}

static bool parse_limits(char *line, expectation *out) {
    char *rest = NULL;
    for (char *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(word, '=');
        bool known = false;
        for (int i = 0; equals && i < SP_N_LIMITS; i++) {
            const char *name = sp_limit_get((sp_limit_id)i)->name;
            if (strncmp(name, word, (size_t)(equals - word)) == 0 && !name[equals - word]) {
                *sp_limit_field(&out->limits, (sp_limit_id)i) = strtoull(equals + 1, NULL, 10);
                known = true;
            }
        }
        if (!known) {
            return false;
        }
    }
    return true;
}

/* The rest of the line behind a word, without the end of a comment. */
static bool find_line(const char *source, const char *word, char *line, size_t capacity) {
    const char *found = strstr(source, word);
    if (!found) {
        return false;
    }
    found += strlen(word);
    snprintf(line, capacity, "%.*s", (int)strcspn(found, "\n"), found);
    char *end = strstr(line, "*/");
    end = end ? end : line + strlen(line);
    while (end > line && end[-1] == ' ') {
        end--;
    }
    *end = 0;
    return true;
}

bool expectation_parse(const char *name, const char *source, expectation *out) {
    char line[300];
    *out = (expectation){.limits = defaults};
    bool ok = find_line(source, "expect: ", line, sizeof line) && parse_expect(line, out);
    if (ok && find_line(source, "limits: ", line, sizeof line)) {
        ok = parse_limits(line, out);
    }
    if (!ok) {
        fprintf(stderr, "%s does not say what the host must do, or in words that are not known\n", name);
    }
    return ok;
}
