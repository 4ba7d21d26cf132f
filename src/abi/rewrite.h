/* What must be known and changed of a module's bytes before they are compiled, so that its actors can be frozen. Pure functions of untrusted bytes.
 */
#ifndef SP_ABI_REWRITE_H
#define SP_ABI_REWRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "samepage.h"

/* Mutable global number i, counted without the others, is exported under this name and i in decimal. No tool makes such names. */
#define SP_GLOBAL_EXPORT "\x01samepage.global."

typedef struct sp_rewritten {
    uint8_t *bytes; /* malloc'ed; NULL: the module stays as it is */
    size_t size;
    uint32_t n_globals; /* mutable ones, all exported in the rewritten module */
    bool freezable;
    char reason[200]; /* why not, and where */
} sp_rewritten;

/*
 * Exports every mutable global of a module and tells whether its actors can be frozen. A module that can't be, or whose bytes can't be followed (the
 * compiler says what is wrong with them), stays as it is. SP_ERR_NO_MEMORY alone is a failure.
 */
sp_status sp_wasm_rewrite(const uint8_t *bytes, size_t size, sp_rewritten *out, sp_error *err);

/*
 * Of a module that compiled: SP_ERR_UNSUPPORTED if its types are others than plain functions. Wasmtime 48.0.8 without its `gc` feature takes types
 * that may have subtypes, and ends the process where it compares them (GHSA-rc4p-x33f-vpr2).
 */
sp_status sp_wasm_check_types(const uint8_t *bytes, size_t size, sp_error *err);

#endif
