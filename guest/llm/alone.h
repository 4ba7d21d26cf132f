/*
 * alone: which batches give each of their tokens the bytes that it would get alone, so that what is drafted changes nothing. Kernels differ in the
 * order of their sums, so it is found out: the last tokens, whose logits and cells are known, are evaluated again in one batch. Where every byte is
 * the same, batches of that size may be used as long as the context lies in the same block of cells.
 */
#ifndef LLM_ALONE_H
#define LLM_ALONE_H

#include <stdbool.h>
#include <stdint.h>

/* Tokens of the batches that are tried. */
enum { ALONE_SIZES = 4 };
extern const uint32_t alone_sizes[ALONE_SIZES];

/* Another device may compute from now on: nothing is known any more. */
void alone_forget(void);
/* Tokens came into the context in other batches. */
void alone_restart(void);
/* The logits of the token at `position`, evaluated alone or in a batch that gives the same, before anything changes them. */
void alone_note(uint32_t position, const float *logits);

/* May a batch of size number `size` begin at n_past? */
bool alone_is_same(int size, uint32_t n_past);
/* Can that be found out now? */
bool alone_can_compare(int size, uint32_t n_past);
/* Submits the last tokens of the context once more. False: it can't be found out, and nothing was submitted. */
bool alone_compare(int size, const int32_t *context, uint32_t n_past);
/* After the step. False: nothing was compared. */
bool alone_compared(void);

#endif
