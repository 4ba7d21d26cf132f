#include "oracle/described.h"

#include <stdlib.h>

static bool find(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    (void)context;
    *out = (sp_weight_info){.index = 0};
    char *end;
    out->type = (uint32_t)strtoul(name, &end, 10);
    for (int i = 0; i < 4; i++) {
        if (*end != ' ') {
            return false;
        }
        out->ne[i] = strtoll(end, &end, 10);
    }
    return model == 0 && *end == 0;
}

const sp_weight_source described_weights = {.find = find};
