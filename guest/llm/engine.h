/*
 * engine: the model's program, its inputs and its state, all in this guest's linear memory. The only part that knows slots.
 * One batch at a time is submitted; its logits are there at the next step.
 */
#ifndef LLM_ENGINE_H
#define LLM_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "samepage/abi.h"

enum { MAX_BATCH = 512 };

/* What is known about the model. */
extern sp_model_info llm_model;

/*
 * Gets the model's program and allocates its state. embeddings: of the program that ends in embeddings of tokens; its context is one batch where the
 * model has no cache. NULL, or what is wrong (valid until the next call).
 */
const char *engine_open(uint32_t n_ctx, uint32_t n_batch, uint32_t type_k, uint32_t type_v, bool embeddings);
bool engine_is_open(void);
bool engine_embeds(void);

uint32_t engine_n_ctx(void);
uint32_t engine_n_batch(void);
/* Bytes of the cache and other state. */
uint64_t engine_state_bytes(void);

/*
 * How many of n_past evaluated tokens can stay when the first `wanted` are to stay: fewer, where a window's cells were used again or where state
 * can't go back.
 */
uint32_t engine_keep(uint32_t n_past, uint32_t wanted);

/*
 * Submits n tokens at positions n_past, n_past + 1, ...; logits of the last n_outputs of them, or
 * embeddings of all (n_outputs is n). The step must end with SP_AGAIN afterwards.
 * NULL, or what is wrong; then nothing was submitted.
 */
const char *engine_submit(const int32_t *tokens, uint32_t n, uint32_t n_past, uint32_t n_outputs);

/* Makes room for what engine_submit_alone submits, up to `most` tokens at once. False: there is none, or the program is refused. */
bool engine_allow_alone(uint32_t most);
/* The same for logits of all n tokens, each of which is to get the bytes that it would get alone, as far as the device can (SP_PROGRAM_ROWS_ALONE).
 */
const char *engine_submit_alone(const int32_t *tokens, uint32_t n, uint32_t n_past);

/* Cells are looked at in blocks: which one a position is in, and how many positions it has from there on. */
uint32_t engine_block(uint32_t position);
uint32_t engine_block_left(uint32_t position);

/* Bytes of state that belong to a token; 0: state is not kept token by token. */
uint32_t engine_cell_bytes(void);
/* Reads or writes the state of n tokens from position `from` on, n times engine_cell_bytes, or compares it. False: it is not the same, or can't be
 * had. */
enum { CELLS_READ, CELLS_WRITE, CELLS_COMPARE };
bool engine_cells(int use, uint32_t from, uint32_t n, uint8_t *cells);

/* After the step: output i of the last batch, logits or an embedding, engine_row() floats. They may be changed. */
float *engine_output(uint32_t i);
uint32_t engine_row(void);
/* The token of the largest logit of output i, the first of equal ones where the device takes care, without the logits. -1: look at them. */
int32_t engine_largest(uint32_t i);

/* A request is done: inputs and outputs become zeros, which cost nothing in a snapshot. */
void engine_rest(void);

#endif
