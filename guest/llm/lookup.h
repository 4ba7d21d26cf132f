/* lookup: drafts of what comes next, from what the context itself said after the same words. Pure. */
#ifndef LLM_LOOKUP_H
#define LLM_LOOKUP_H

#include <stdint.h>

enum { MAX_DRAFT = 32, LOOKUP_LONGEST = 4 };

/*
 * The context is n tokens and, behind them, `next`. Where its last few tokens stood before, what followed there is the draft: `most` tokens. Returns
 * how many tokens were found again; 0: those tokens are new.
 */
uint32_t lookup_draft(const int32_t *context, uint32_t n, int32_t next, uint32_t most, int32_t *draft);

#endif
