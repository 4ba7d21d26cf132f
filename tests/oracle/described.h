/* Weights for tests: one called "TYPE NE0 NE1 NE2 NE3" (numbers) is just that; any other name of any other model is not found. */
#ifndef SP_TESTS_ORACLE_DESCRIBED_H
#define SP_TESTS_ORACLE_DESCRIBED_H

#include "program/program.h"

extern const sp_weight_source described_weights;

#endif
