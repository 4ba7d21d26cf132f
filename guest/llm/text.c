/* See text.h. */
#include "text.h"

#include <stdlib.h>
#include <string.h>

void text_reset(text_stream *t) {
    t->length = t->sent = 0;
    t->failed = false;
}

void text_append(text_stream *t, const char *bytes, size_t n) {
    if (t->length + n > t->capacity) {
        size_t capacity = (t->length + n) * 2 + 256;
        char *grown = realloc(t->bytes, capacity);
        if (!grown) {
            t->failed = true;
            return;
        }
        t->bytes = grown;
        t->capacity = capacity;
    }
    memcpy(t->bytes + t->length, bytes, n);
    t->length += n;
}

/* Bytes at the end that begin a character which is not whole yet. */
static size_t unfinished(const char *bytes, size_t length) {
    for (size_t back = 1; back <= 4 && back <= length; back++) {
        unsigned char c = (unsigned char)bytes[length - back];
        if (c >= 0xc0) {
            size_t whole = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            return back < whole ? back : 0;
        }
        if (c < 0x80) {
            return 0;
        }
    }
    return 0;
}

size_t text_ready(text_stream *t, const char *const *stops, const uint32_t *stop_lengths, uint32_t n_stops, bool last, bool *stopped) {
    *stopped = false;
    size_t ready = t->length - (last ? 0 : unfinished(t->bytes, t->length));
    for (uint32_t s = 0; s < n_stops; s++) {
        size_t n = stop_lengths[s];
        for (size_t at = t->sent; n && at < t->length; at++) {
            size_t there = t->length - at < n ? t->length - at : n;
            if (memcmp(t->bytes + at, stops[s], there) != 0) {
                continue;
            }
            if (there == n && (!*stopped || at < t->length)) {
                *stopped = true;
                t->length = at; /* the answer ends before it */
                ready = ready < at ? ready : at;
                break;
            }
            ready = last || ready < at ? ready : at;
            break;
        }
    }
    return ready;
}
