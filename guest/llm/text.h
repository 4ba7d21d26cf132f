/* text: tokens' bytes become a stream of whole UTF-8 characters that ends before a stop string. */
#ifndef LLM_TEXT_H
#define LLM_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct text_stream {
    char *bytes; /* all of the answer */
    size_t length, capacity;
    size_t sent; /* what has been streamed */
    bool failed; /* no memory */
} text_stream;

void text_reset(text_stream *t);
void text_append(text_stream *t, const char *bytes, size_t n);

/*
 * Where the answer may be streamed to now: before an unfinished character, and before anything that may become a stop string. *stopped: a whole stop
 * string is there; then the answer is cut before it. `last`: no more will come, so nothing is held back but a broken character.
 */
size_t text_ready(text_stream *t, const char *const *stops, const uint32_t *stop_lengths, uint32_t n_stops, bool last, bool *stopped);

#endif
