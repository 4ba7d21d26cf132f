/* See limit_options.h. */
#include "cli/limit_options.h"

#include <stdio.h>
#include <string.h>

enum { MAX_WASM_STACK = 64 << 20 };

/* As the options take it; with a unit where one fits and is usual: "4G". */
static void print_size(char *out, size_t capacity, uint64_t value, uint64_t step) {
    static const char units[] = {0, 'K', 'M', 'G'};
    int unit = 0;
    while (unit < 3 && value && value % step == 0) {
        value /= step;
        unit++;
    }
    snprintf(out, capacity, "%llu%.1s", (unsigned long long)value, unit ? &units[unit] : "");
}

size_t sp_limit_option_rows(sp_limit_settings *settings, sp_option rows[SP_LIMIT_OPTION_ROWS]) {
    static char names[SP_N_LIMITS][48], helps[SP_N_LIMITS][120];
    for (int i = 0; i < SP_N_LIMITS; i++) {
        const sp_limit *limit = sp_limit_get((sp_limit_id)i);
        char size[32];
        bool bytes = strlen(limit->name) > 6 && strcmp(limit->name + strlen(limit->name) - 6, "_bytes") == 0;
        print_size(size, sizeof size, limit->value, bytes ? 1024 : UINT64_MAX);
        snprintf(names[i], sizeof names[i], "limit-%s", limit->name);
        for (char *c = names[i]; *c; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        snprintf(helps[i], sizeof helps[i], "%s (default: %s)", limit->what, size);
        rows[i] = (sp_option){0, names[i], SP_OPT_SIZE, sp_limit_field(&settings->limits, (sp_limit_id)i), 1, 1e18, "N", helps[i]};
    }
    rows[SP_N_LIMITS] = (sp_option){0,    "limit-wasm-stack-bytes", SP_OPT_SIZE, &settings->wasm_stack_bytes,
                                    4096, MAX_WASM_STACK,           "N",         "bytes of stack of Wasm code (default: 1M)"};
    return SP_LIMIT_OPTION_ROWS;
}
