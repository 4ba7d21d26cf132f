/* See lookup.h. */
#include "lookup.h"

#include <string.h>

enum { SHORTEST = 2 };

/* Where the last place begins behind which `tail`, of `length` tokens, stood before; 0: nowhere. */
static uint32_t find(const int32_t *context, uint32_t n, const int32_t *tail, uint32_t length) {
    for (uint32_t end = n; end >= length; end--) {
        if (context[end - 1] == tail[length - 1] && memcmp(context + end - length, tail, length * sizeof *tail) == 0) {
            return end;
        }
    }
    return 0;
}

uint32_t lookup_draft(const int32_t *context, uint32_t n, int32_t next, uint32_t most, int32_t *draft) {
    for (uint32_t length = LOOKUP_LONGEST; length >= SHORTEST; length--) {
        if (n < length) {
            continue;
        }
        int32_t tail[LOOKUP_LONGEST];
        memcpy(tail, context + n - (length - 1), (length - 1) * sizeof *tail);
        tail[length - 1] = next;
        uint32_t from = find(context, n, tail, length);
        for (uint32_t i = 0; from && i < most; i++) {
            uint32_t at = from + i; /* beyond the context comes `next`, then the draft itself: what repeats goes on repeating */
            draft[i] = at < n ? context[at] : at == n ? next : draft[at - n - 1];
        }
        if (from) {
            return length;
        }
    }
    return 0;
}
