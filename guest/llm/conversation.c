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

static const char *failed(const char *what) {
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
        return failed("the text can't be tokenised");
    }
    out->n = (uint32_t)n;
    /* Templates often write the first token out, and the vocabulary adds it as well. */
    if (n > 1 && llm_model.token_bos >= 0 && out->tokens[0] == llm_model.token_bos && out->tokens[1] == llm_model.token_bos) {
        memmove(out->tokens, out->tokens + 1, (size_t)--out->n * sizeof *out->tokens);
    }
    return NULL;
}

const char *conversation_prompt(prompt *out) {
    size_t length;
    char *json = to_json(&length);
    if (!json) {
        return "out of memory";
    }
    int32_t n = sp_chat_format(0, json, (uint32_t)length, SP_CHAT_ADD_GENERATION_PROMPT, NULL, 0);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text) {
        n = sp_chat_format(0, json, (uint32_t)length, SP_CHAT_ADD_GENERATION_PROMPT, text, (uint32_t)n);
    }
    free(json);
    if (n < 0) {
        free(text);
        return failed("the conversation can't be rendered");
    }
    const char *wrong = text ? tokenise(text, (uint32_t)n, SP_TOKENIZE_ADD_SPECIAL | SP_TOKENIZE_PARSE_SPECIAL, out) : "out of memory";
    free(text);
    return wrong;
}

const char *text_prompt(const char *text, uint32_t length, prompt *out) {
    return tokenise(text, length, SP_TOKENIZE_ADD_SPECIAL, out);
}
