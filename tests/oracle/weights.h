/*
 * oracle/weights: weights for tests, called "TYPE NE0 NE1 NE2 NE3" (numbers). described_weights finds every name of that form, of model 0, whatever
 * it says: a program is loaded with it. Those of the pool exist too: their index is their place in it, and a table of their bytes can be made.
 */
#ifndef SP_TESTS_ORACLE_WEIGHTS_H
#define SP_TESTS_ORACLE_WEIGHTS_H

#include "device/device.h"

/* A weight that there is. */
typedef struct gen_weight {
    uint32_t type;
    int64_t ne[4];
} gen_weight;

extern const sp_weight_source described_weights;

/* Every type, in a few shapes. */
const gen_weight *weight_pool(uint32_t *count);

/* The pool's bytes: random numbers, quantised by ggml. Made once; NULL when out of memory. Not thread-safe. */
const sp_weight_table *weight_pool_table(void);

/* Types whose blocks are places in a grid, which takes a search to find. But any bits are a block: random ones, with a scale of a sensible size. */
bool weight_is_grid(uint32_t type);
void weight_fill_grid(uint32_t type, uint8_t *at, uint64_t bytes, uint64_t *state);

#endif
