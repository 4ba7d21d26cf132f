/* settings: the last SP_LLM_CONFIG, with what follows it: how to sample, and what ends an answer. */
#ifndef LLM_SETTINGS_H
#define LLM_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "sampler.h"

extern sampler sampling;

/* Texts that end an answer. */
enum { MAX_STOPS = 96 };
extern const char *stops[MAX_STOPS];
extern uint32_t stop_lengths[MAX_STOPS], n_stops;

/* Copies the message and takes it for all that follows. NULL, or what is wrong; then the settings are as before. */
const char *settings_take(const uint8_t *bytes, uint32_t size);
/* The message, with the values that hold now. */
const uint8_t *settings_bytes(uint32_t *size);
/* Adds the texts that end an answer in the format of the prompt, each with a NUL behind it; they stay until the next call. */
void settings_add_stops(const char *texts, uint32_t length);

#endif
