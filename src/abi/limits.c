/* See limits.h. */
#include "abi/limits.h"

#include <stdio.h>

#include "base/error.h"

#define ROW(field, value, what) {#field, value, what},
static const sp_limit table[SP_N_LIMITS] = {SP_LIMITS(ROW)};

/* The table and the structure have the same fields in the same order, so a field is found by its number. */
#define IN_ORDER(field, value, what)                                                                                                                 \
    _Static_assert(offsetof(sp_limits, field) == sizeof(uint64_t) * SP_LIMIT_##field, "the order of sp_limits is the table's");
SP_LIMITS(IN_ORDER)
_Static_assert(sizeof(sp_limits) == sizeof(uint64_t) * SP_N_LIMITS, "the table has every field of sp_limits");

const sp_limit *sp_limit_get(sp_limit_id id) {
    return &table[id];
}

uint64_t *sp_limit_field(sp_limits *limits, sp_limit_id id) {
    return (uint64_t *)limits + id;
}

void sp_limits_fill(sp_limits *limits) {
    for (int i = 0; i < SP_N_LIMITS; i++) {
        uint64_t *field = sp_limit_field(limits, (sp_limit_id)i);
        *field = *field ? *field : table[i].value;
    }
}

sp_status sp_limit_reached(const sp_limits *limits, sp_limit_id id, uint64_t wanted, sp_error *err) {
    char option[40];
    snprintf(option, sizeof option, "%s", table[id].name);
    for (char *c = option; *c; c++) {
        *c = *c == '_' ? '-' : *c;
    }
    return sp_fail(err, SP_ERR_LIMIT, "%s: %llu; the limit is %llu (--limit-%s)", table[id].what, (unsigned long long)wanted,
                   (unsigned long long)((const uint64_t *)limits)[id], option);
}
