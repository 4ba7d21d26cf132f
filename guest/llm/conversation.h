/* conversation: who said what, and the prompt that it makes. */
#ifndef LLM_CONVERSATION_H
#define LLM_CONVERSATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT };

typedef struct turn {
    uint32_t role;
    uint32_t length;
    char *text;
} turn;

extern turn *turns;
extern uint32_t n_turns;

/* Copies the text. False: no memory. */
bool conversation_add(uint32_t role, const char *text, size_t length);
/* Forgets the turns from `from` on. */
void conversation_cut(uint32_t from);
/* 1 if the first turn is a system message, else 0. */
uint32_t conversation_start(void);

typedef struct prompt {
    int32_t *tokens;
    uint32_t n;
} prompt;

/* What is wrong, with the host's words; valid until the next call. */
const char *host_error(const char *what);

/* Renders the conversation for the assistant's turn and tokenises it. NULL, or what is wrong. out->tokens is malloc'ed. */
const char *conversation_prompt(prompt *out);
/* The same for a whole request, as sp_chat_format takes it. */
const char *request_prompt(const char *json, uint32_t length, prompt *out);
/* Texts that end an answer in the format of the last prompt, each with a NUL behind it. */
extern char *format_stops;
extern uint32_t format_stops_length;

/*
 * An answer to a request as a JSON message: content, reasoning_content,
 * tool_calls; all of it as content, and why, where its form is not the
 * format's. Malloc'ed; NULL: no memory.
 */
char *request_answer(const char *json, uint32_t length, const char *answer, uint32_t answer_length, bool partial, uint32_t *size);

/* Tokens of raw text. flags: SP_TOKENIZE_PARSE_SPECIAL or 0. */
const char *text_prompt(const char *text, uint32_t length, uint32_t flags, prompt *out);

#endif
