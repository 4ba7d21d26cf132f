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

/* Renders the conversation for the assistant's turn and tokenises it. NULL, or what is wrong. out->tokens is malloc'ed. */
const char *conversation_prompt(prompt *out);
/* Tokens of raw text. */
const char *text_prompt(const char *text, uint32_t length, prompt *out);

#endif
