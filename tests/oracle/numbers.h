/*
 * oracle/numbers: elements of every type as numbers and back, written from the published layouts of blocks. The types that only weights have (K- and
 * IQ-quants) are read with ggml's public to_float: their grids are tables that one can only copy.
 */
#ifndef SP_TESTS_ORACLE_NUMBERS_H
#define SP_TESTS_ORACLE_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

#include "program/program.h"

double number_from_half(uint16_t bits);
uint16_t number_to_half(double value); /* to nearest, ties to even */
double number_from_bf16(uint16_t bits);

/* A row of n elements (whole blocks) at `from`, whose blocks or elements lie nb0 bytes apart. */
void numbers_read_row(uint32_t type, const uint8_t *from, uint64_t nb0, int64_t n, double *out);

/* All elements of a tensor whose first byte is at `base`, dense, ne0 innermost. */
void numbers_read(const sp_spec_tensor *t, const uint8_t *base, double *out);

/* Do blocks of 32 elements have a least element beside their scale? Both are halves. */
bool numbers_have_minimum(uint32_t type);

/* Half the distance between neighbours around value (floats), or what quantising a block with this largest magnitude may lose. 0: integers. */
double number_rounding(uint32_t type, double value, double block_max);

/* The address of a row, for copying bytes. */
uint64_t numbers_row_offset(const sp_spec_tensor *t, int64_t i1, int64_t i2, int64_t i3);

#endif
