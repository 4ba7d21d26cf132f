/*
 * draft: how long a draft is worth its time. How often drafts are right is learned from every token, from those that were not evaluated with a draft
 * too; what a batch takes is measured. Only which tokens are evaluated together depends on it, and no token.
 */
#ifndef LLM_DRAFT_H
#define LLM_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

/* What to evaluate next: the number of a size of batches (alone_sizes), or -1: the token alone. compare: that size is to be compared first. */
typedef struct draft_plan {
    int size;
    bool compare;
} draft_plan;

/* n_past tokens are evaluated; a draft of at most `most` tokens is there, `wanted` of them can be of use; as many tokens as `match` were found again.
 */
draft_plan draft_choose(uint32_t n_past, uint32_t most, uint32_t wanted, uint32_t match);

/* The same without regard to time: as much as may be evaluated. */
draft_plan draft_largest(uint32_t n_past, uint32_t most);

/* A token came that had been drafted so, and it was the draft's or not. */
void draft_came(uint32_t match, bool right);

/* A batch is about to be submitted, was submitted, and is done. */
void draft_begin(void);
void draft_submitted(uint32_t n_tokens, bool compares);
void draft_done(void);

#endif
