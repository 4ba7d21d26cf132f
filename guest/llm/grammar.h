/*
 * grammar: what may come next in an answer. The host keeps the state; this side
 * keeps the text and the tokens of the answer, and opens it anew where the host
 * does not know it any more (after a thaw or a fork).
 */
#ifndef LLM_GRAMMAR_H
#define LLM_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

/* The grammar of the answers from now on (SP_GRAMMAR_*); length 0: none. NULL, or what is wrong with it. */
const char *grammar_set(uint32_t kind, const char *text, uint32_t length);

/* An answer begins. request: the conversation, whose tools may want a grammar, or NULL; it must stay until the answer ends. NULL, or what is wrong.
 */
const char *grammar_begin(const char *request, uint32_t length);
/* Whether this answer is constrained. */
bool grammar_active(void);

bool grammar_allows(int32_t token);
/* Minus infinity for what may not come next. NULL, or what is wrong. */
const char *grammar_mask(float *logits, uint32_t n);
/* The answer goes on with this token. NULL, or what is wrong. */
const char *grammar_accept(int32_t token);

#endif
