/* See conversation.h. */
#include "conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "samepage/abi.h"

turn *turns;
uint32_t n_turns;
static uint32_t capacity;
static char problem[400];

bool conversation_add(uint32_t role, const char *text, size_t length) {
    if (n_turns == capacity) {
        uint32_t more = capacity ? capacity * 2 : 16;
        turn *grown = realloc(turns, more * sizeof *grown);
        if (!grown) {
            return false;
        }
        turns = grown;
        capacity = more;
    }
    char *copy = malloc(length + 1);
    if (!copy) {
        return false;
    }
    memcpy(copy, text, length);
    copy[length] = 0;
    turns[n_turns++] = (turn){.role = role, .length = (uint32_t)length, .text = copy};
    return true;
}

void conversation_cut(uint32_t from) {
    while (n_turns > from) {
        free(turns[--n_turns].text);
    }
}

uint32_t conversation_start(void) {
    return n_turns && turns[0].role == ROLE_SYSTEM ? 1 : 0;
}

const char *host_error(const char *what) {
    char why[256];
    int32_t n = sp_last_error(why, sizeof why - 1);
    why[n < 0 ? 0 : n < (int32_t)sizeof why ? n : (int32_t)sizeof why - 1] = 0;
    snprintf(problem, sizeof problem, "%s: %s", what, why);
    return problem;
}

/* A JSON string, quotes and all. Returns the end. */
static char *quote(char *to, const char *text, uint32_t length) {
    *to++ = '"';
    for (uint32_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = (char)c;
        } else if (c < 0x20) {
            to += sprintf(to, "\\u%04x", c);
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    return to;
}

static char *to_json(size_t *length) {
    static const char *const roles[] = {"system", "user", "assistant"};
    size_t most = 16;
    for (uint32_t i = 0; i < n_turns; i++) {
        most += (size_t)turns[i].length * 6 + 64;
    }
    char *json = malloc(most), *at = json;
    if (!json) {
        return NULL;
    }
    *at++ = '[';
    for (uint32_t i = 0; i < n_turns; i++) {
        at += sprintf(at, "%s{\"role\":\"%s\",\"content\":", i ? "," : "", roles[turns[i].role]);
        at = quote(at, turns[i].text, turns[i].length);
        *at++ = '}';
    }
    *at++ = ']';
    *length = (size_t)(at - json);
    return json;
}

static const char *tokenise(const char *text, uint32_t length, uint32_t flags, prompt *out) {
    uint32_t most = length + 16; /* a token is at least a byte, but for those that the vocabulary adds */
    out->tokens = malloc(most * sizeof *out->tokens);
    if (!out->tokens) {
        return "out of memory";
    }
    int32_t n = sp_tokenize(0, text, length, flags, out->tokens, most);
    if (n < 0 || (uint32_t)n > most) {
        free(out->tokens);
        out->tokens = NULL;
        return host_error("the text can't be tokenised");
    }
    out->n = (uint32_t)n;
    /* Templates often write the first token out, and the vocabulary adds it as well. */
    if (n > 1 && llm_model.token_bos >= 0 && out->tokens[0] == llm_model.token_bos && out->tokens[1] == llm_model.token_bos) {
        memmove(out->tokens, out->tokens + 1, (size_t)--out->n * sizeof *out->tokens);
    }
    return NULL;
}

char *format_stops;
uint32_t format_stops_length;

static void take_stops(const char *json, uint32_t length) {
    int32_t n = sp_chat_format(0, json, length, SP_CHAT_STOPS, NULL, 0);
    free(format_stops);
    format_stops = n > 0 ? malloc((uint32_t)n) : NULL;
    format_stops_length = format_stops ? (uint32_t)n : 0;
    if (format_stops) {
        sp_chat_format(0, json, length, SP_CHAT_STOPS, format_stops, format_stops_length);
    }
}

const char *request_prompt(const char *json, uint32_t length, prompt *out) {
    int32_t n = sp_chat_format(0, json, length, SP_CHAT_ADD_GENERATION_PROMPT, NULL, 0);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (n < 0) {
        return host_error("the conversation can't be rendered");
    }
    if (!text) {
        return "out of memory";
    }
    sp_chat_format(0, json, length, SP_CHAT_ADD_GENERATION_PROMPT, text, (uint32_t)n);
    take_stops(json, length);
    const char *wrong = tokenise(text, (uint32_t)n, SP_TOKENIZE_ADD_SPECIAL | SP_TOKENIZE_PARSE_SPECIAL, out);
    free(text);
    return wrong;
}

const char *conversation_prompt(prompt *out) {
    size_t length;
    char *json = to_json(&length);
    if (!json) {
        return "out of memory";
    }
    const char *wrong = request_prompt(json, (uint32_t)length, out);
    free(json);
    return wrong;
}

static char *unparsed(const char *answer, uint32_t length, uint32_t *size) {
    const char *why = host_error("the answer is not in the format");
    char *out = malloc(128 + ((size_t)length + strlen(why)) * 6), *at = out;
    if (!out) {
        return NULL;
    }
    at += sprintf(at, "{\"role\":\"assistant\",\"content\":");
    at = quote(at, answer, length);
    at += sprintf(at, ",\"error\":");
    at = quote(at, why, (uint32_t)strlen(why));
    *at++ = '}';
    *size = (uint32_t)(at - out);
    return out;
}

char *request_answer(const char *json, uint32_t length, const char *answer, uint32_t answer_length, bool partial, uint32_t *size) {
    uint32_t flags = partial ? SP_CHAT_PARTIAL : 0, most = answer_length * 2 + 1024;
    char *out = malloc(most);
    int32_t n = out ? sp_chat_parse(0, json, length, answer, answer_length, flags, out, most) : 0;
    if (n > (int32_t)most) {
        free(out);
        out = malloc((uint32_t)n);
        n = out ? sp_chat_parse(0, json, length, answer, answer_length, flags, out, (uint32_t)n) : 0;
    }
    if (n < 0) {
        free(out);
        return unparsed(answer, answer_length, size);
    }
    *size = (uint32_t)n;
    return out;
}

const char *text_prompt(const char *text, uint32_t length, uint32_t flags, prompt *out) {
    return tokenise(text, length, SP_TOKENIZE_ADD_SPECIAL | flags, out);
}
