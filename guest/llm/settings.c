/* See settings.h. */
#include "settings.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

sampler sampling;
const char *stops[MAX_STOPS];
uint32_t stop_lengths[MAX_STOPS], n_stops;
static uint8_t *message;
static uint32_t message_size;

enum { MAX_GIVEN = 64 };

static const char *check_stops(const uint8_t *at, const uint8_t *end, uint32_t n) {
    if (n > MAX_GIVEN) {
        return "at most 64 stop strings";
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length;
        if (end - at < (ptrdiff_t)sizeof length) {
            return "a stop string is missing";
        }
        memcpy(&length, at, sizeof length);
        at += sizeof length;
        if (length > (size_t)(end - at)) {
            return "a stop string is cut";
        }
        at += length;
    }
    return NULL;
}

static void take_stops(void) {
    const uint8_t *at = message + sizeof sampling.config + sampling.config.n_bias * sizeof(sp_llm_bias);
    for (n_stops = 0; n_stops < sampling.config.n_stop; n_stops++) {
        memcpy(&stop_lengths[n_stops], at, sizeof *stop_lengths);
        stops[n_stops] = (const char *)at + sizeof *stop_lengths;
        at += sizeof *stop_lengths + stop_lengths[n_stops];
    }
}

const char *settings_take(const uint8_t *bytes, uint32_t size) {
    sp_llm_config config;
    if (size < sizeof config) {
        return "the configuration is cut";
    }
    memcpy(&config, bytes, sizeof config);
    if (config.n_bias > (size - sizeof config) / sizeof(sp_llm_bias)) {
        return "a logit bias is missing";
    }
    const char *wrong = check_stops(bytes + sizeof config + config.n_bias * sizeof(sp_llm_bias), bytes + size, config.n_stop);
    uint8_t *kept = wrong ? NULL : malloc(size);
    if (!kept) {
        return wrong ? wrong : "out of memory";
    }
    memcpy(kept, bytes, size);
    free(message);
    message = kept;
    message_size = size;
    sampling.config = config;
    sampling.biases = (const sp_llm_bias *)(message + sizeof config);
    take_stops();
    return NULL;
}

const uint8_t *settings_bytes(uint32_t *size) {
    memcpy(message, &sampling.config, sizeof sampling.config);
    *size = message_size;
    return message;
}

void settings_add_stops(const char *texts, uint32_t length) {
    n_stops = sampling.config.n_stop;
    for (const char *at = texts, *end = texts + length; at < end && n_stops < MAX_STOPS; at += strlen(at) + 1) {
        stops[n_stops] = at;
        stop_lengths[n_stops++] = (uint32_t)strlen(at);
    }
}
